"""An Aligner behind a server that records what it is asked, and what the dispatcher is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from hostile import HostileServer
from listening import Listener
from llama_index_instrumentation import get_dispatcher
from models import Model
from rag import DRAFT, WAYS, Way
from variants import CHATS, COMPLETIONS, MakeLLM, Variant

from aligner_chains import Aligner
from llama_index_aligner import AlignerLLM


@pytest.fixture(autouse=True)
def _no_loop_without_an_owner() -> None:
    # Unless told that there is none, asyncio makes a loop for LlamaIndex's synchronous code, which never closes it.
    asyncio.set_event_loop(None)


@pytest.fixture
def server(hostile: Callable[..., HostileServer]) -> HostileServer:
    """Takes ", you idiot" out of drafts."""
    return hostile()


@pytest.fixture
def aligner(server: HostileServer) -> Iterator[Aligner]:
    """An Aligner behind the server."""
    with Aligner.from_tgi(server.url) as aligner:
        yield aligner


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Listener:
    """What the dispatcher is told while the test runs."""
    listener = Listener()
    root = get_dispatcher()
    monkeypatch.setattr(root, "event_handlers", [listener.events])
    monkeypatch.setattr(root, "span_handlers", [listener.spans])
    return listener


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    """Every way to ask an engine."""
    return request.param


@pytest.fixture
def make_llm(aligner: Aligner) -> MakeLLM:
    """Makes an `AlignerLLM` whose upstream says these turns."""
    return lambda *turns, **options: AlignerLLM(
        **{"llm": Model(turns=turns or (DRAFT,)), "aligner": aligner, **options}
    )


@pytest.fixture(params=[*CHATS, *COMPLETIONS], ids=lambda variant: variant.name)
def variant(request: pytest.FixtureRequest) -> Variant:
    """Each of the eight ways to ask a model."""
    return request.param


@pytest.fixture(params=CHATS, ids=lambda variant: variant.name)
def chat(request: pytest.FixtureRequest) -> Variant:
    """Each of the four ways to chat with a model."""
    return request.param
