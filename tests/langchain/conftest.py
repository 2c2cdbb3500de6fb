"""An Aligner behind a server that records what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hostile import HostileServer
from ways import WAYS, Run

from aligner_chains import Aligner
from langchain_aligner.recorder import RECORDER


@pytest.fixture
def server(hostile: Callable[..., HostileServer]) -> HostileServer:
    """Takes ", you idiot" out of drafts."""
    return hostile()


@pytest.fixture
def aligner(server: HostileServer) -> Iterator[Aligner]:
    """An Aligner behind the server."""
    with Aligner.from_tgi(server.url) as aligner:
        yield aligner


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def run(request: pytest.FixtureRequest) -> Run:
    """Every way to run a chain."""
    return request.param


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    yield
    assert not RECORDER.runs_under_way
