"""What all tests share: a clean environment, the embedded Aligner, servers that misbehave."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from cases import Connect, Hostile, over_openai, over_tgi
from hostile import HostileServer
from hypothesis import HealthCheck, settings

from aligner_chains import Aligner, Guard
from aligner_chains.backends.local import LocalBackend
from aligner_chains.model_config import EMBEDDED_PATH
from aligner_chains.testing import serve_embedded

# How long an example takes is the machine's affair.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ALIGNER_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def embedded_backend() -> LocalBackend:
    """The embedded model, loaded once."""
    return LocalBackend.from_pretrained(EMBEDDED_PATH, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def embedded_server(embedded_backend: LocalBackend) -> Iterator[str]:
    """The address of the embedded model behind its own server."""
    with serve_embedded(backend=embedded_backend) as url:
        yield url


@pytest.fixture
def embedded(embedded_backend: LocalBackend) -> Aligner:
    """The embedded Aligner, as it comes."""
    return Aligner(embedded_backend)


@pytest.fixture
def unguarded(embedded_backend: LocalBackend) -> Aligner:
    """The embedded Aligner without its guard: it streams what it writes as it writes it."""
    return Aligner(embedded_backend, guard=Guard())


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    """Starts a server with a script: `hostile(too_busy, too_busy)` refuses twice and then behaves."""
    with ExitStack() as stack:
        yield lambda *script, **options: stack.enter_context(HostileServer(*script, **options))


@pytest.fixture(params=[over_tgi, over_openai], ids=["tgi", "openai"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Makes an Aligner that asks a server, once for each protocol."""
    return request.param
