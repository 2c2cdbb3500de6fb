"""The embedded server, and servers of models that do what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import aiohttp
import pytest
import torch
from server_models import ScriptedModel

from aligner_chains.backends.local import LocalBackend
from aligner_chains.decoding.causal_model import CausalModel
from aligner_chains.feedback import Feedback
from aligner_chains.prompts import PROMPT_FORMATS
from aligner_chains.testing import serve_embedded

ServeModel = Callable[..., str]

# `make test-slow` installs what the fuzzing needs; it is slow, and nothing else needs it.
collect_ignore = [] if find_spec("schemathesis") else ["test_conformance.py"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # On few cores the threads of so small a model wait for each other more than they work.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def url(embedded_backend: LocalBackend) -> Iterator[str]:
    """The embedded server."""
    with serve_embedded(backend=embedded_backend) as address:
        yield address


@pytest.fixture(scope="session")
def prompt() -> str:
    """A question and a rude draft, as an Aligner reads them."""
    rendered = PROMPT_FORMATS["aligner-7b"].render(
        "What is the capital of France?", "Paris, you idiot.", Feedback.HELPFUL_AND_HARMLESS
    )
    assert isinstance(rendered, str)
    return rendered


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client without wishes of its own."""
    async with aiohttp.ClientSession() as client:
        yield client


@pytest.fixture
def scripted(embedded_backend: LocalBackend) -> ScriptedModel:
    """A model that writes when it is allowed to."""
    return ScriptedModel(embedded_backend.model)


@pytest.fixture
def serve_model() -> Iterator[ServeModel]:
    """Serves a model as `serve_embedded` does and gives its address."""
    with ExitStack() as stack:

        def serve(model: CausalModel, **options: Any) -> str:
            backend = LocalBackend(model, name="scripted")
            stack.callback(lambda: asyncio.run(backend.aclose()))
            return stack.enter_context(serve_embedded(backend=backend, **options))

        yield serve


@pytest.fixture
def count(session: aiohttp.ClientSession) -> Callable[..., Any]:
    """The value of a metric: `await count(url, "tgi_queue_size")`."""

    async def read(address: str, metric: str) -> float:
        async with session.get(f"{address}/metrics") as response:
            lines = (await response.text()).splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{metric} ")), 0.0)

    return read
