"""For the tests of applications that use an Aligner: a real server, without a GPU or a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from anyio.from_thread import start_blocking_portal

from aligner_chains.backends.local import LocalBackend
from aligner_chains.server import Limits, create_app, running


@contextmanager
def serve_embedded(
    *,
    backend: LocalBackend | None = None,
    api_key: str | None = None,
    limits: Limits | None = None,
    keep_alive: float = 15.0,
    grace: float = 5.0,
) -> Iterator[str]:
    """Serves the embedded Aligner on a free port of this machine while the block runs, and gives its address.

    It speaks TGI's HTTP API in a thread of its own, so that synchronous and asynchronous code can call it alike:

        with serve_embedded() as url:
            correction = Aligner.from_tgi(url).correct("What is the capital of France?", "Paris, you idiot.")

    Args:
        backend: Another model than the embedded one; it stays open.
        api_key: What POST requests have to bear; `None` for no key.
        limits: What is accepted, such as `Limits(max_concurrent_requests=1)`.
        keep_alive: Seconds between the comments in a stream.
        grace: Seconds that requests have to finish when the block ends.

    Raises:
        MissingDependencyError: The server's dependencies are not installed.
    """
    model = backend or LocalBackend.embedded()
    with start_blocking_portal(name="aligner-server") as portal:
        try:
            app = portal.call(lambda: create_app(model, api_key=api_key, limits=limits, keep_alive=keep_alive))
            server = running(app, host="127.0.0.1", port=0, grace=grace)
            with portal.wrap_async_context_manager(server) as url:
                yield url
        finally:
            if backend is None:
                portal.call(model.aclose)
