"""An Aligner behind a server that records what it is asked, and what the dispatcher is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from hostile import HostileServer
from listening import Listener
from llama_index_instrumentation import get_dispatcher
from rag import WAYS, Way

from aligner_chains import Aligner


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
