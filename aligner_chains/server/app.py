"""The server: routes, keys, errors, and its life from the first connection to the last."""

from __future__ import annotations

import asyncio
import hmac
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from aiohttp import web

from aligner_chains.backends.local import LocalBackend
from aligner_chains.errors import ConfigurationError
from aligner_chains.server import completions, tgi
from aligner_chains.server.engine import Engine
from aligner_chains.server.refusals import RequestError
from aligner_chains.server.responses import ENGINE, KEEP_ALIVE, json_response
from aligner_chains.server.validation import Limits

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

# A connection that was accepted a moment before the end has to reach its handler: until then aiohttp's shutdown waits
# for it in vain. And no time at all means to aiohttp that there is no limit.
_SETTLING_SECONDS = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def create_app(
    backend: LocalBackend, *, api_key: str | None = None, limits: Limits | None = None, keep_alive: float = 15.0
) -> web.Application:
    """An application that serves a local model over TGI's HTTP API.

    Run it with `handler_cancellation=True`, or a client that goes leaves the model working for nobody.

    Args:
        backend: The model. The server must be its only user.
        api_key: What POST requests have to bear; `None` for no key.
        limits: What is accepted; by default TGI's limits, and the model's context.
        keep_alive: Seconds between the comments in a stream.

    Raises:
        ConfigurationError: The limits do not fit the model.
    """
    limits = limits or Limits()
    app = web.Application(client_max_size=limits.payload_limit, middlewares=[_key_check(api_key), _errors])
    app[ENGINE] = Engine(backend, await backend.info(), limits)
    app[KEEP_ALIVE] = keep_alive
    app.add_routes(
        [
            web.post("/", tgi.generate_either),
            web.post("/generate", tgi.generate),
            web.post("/generate_stream", tgi.generate_stream),
            web.post("/tokenize", tgi.tokenize),
            web.post("/v1/completions", completions.completions),
            web.get("/v1/models", completions.models),
            web.get("/info", tgi.info),
            web.get("/health", tgi.health),
            web.get("/metrics", tgi.metrics),
        ]
    )
    return app


@asynccontextmanager
async def running(app: web.Application, *, host: str, port: int, grace: float) -> AsyncGenerator[str, None]:
    """Serves an application while the block runs, and gives its address.

    At the end nothing new is accepted, and what is under way is finished.

    Args:
        app: The application.
        host: The interface to listen on.
        port: The port to listen on; 0 for a free one.
        grace: Seconds that requests have to finish at the end; then they are broken off.

    Raises:
        ConfigurationError: It cannot listen there.
    """
    runner = web.AppRunner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=max(grace, _SETTLING_SECONDS)
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except (OSError, OverflowError) as error:  # a port above 65535 is the latter
            reason = getattr(error, "strerror", None) or error
            raise ConfigurationError(
                f"Cannot listen on {host!r}, port {port}: {reason}. Choose another port or host."
            ) from error
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{runner.addresses[0][1]}"
    finally:
        for site in runner.sites:
            await site.stop()
        await asyncio.sleep(_SETTLING_SECONDS)
        await runner.cleanup()


async def serve(
    backend: LocalBackend,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    api_key: str | None = None,
    limits: Limits | None = None,
    grace: float = 30.0,
    on_ready: Callable[[str], object] | None = None,
) -> None:
    """Serves a local model over TGI's HTTP API until SIGINT or SIGTERM.

    The first signal stops the server from accepting requests and lets those under way finish; a second one has its
    usual effect. To be run in the main thread, for that is where signals arrive. The backend stays open.

    Args:
        backend: The model. The server must be its only user.
        host: The interface to listen on.
        port: The port to listen on; 0 for a free one.
        api_key: What POST requests have to bear; `None` for no key.
        limits: What is accepted; by default TGI's limits, and the model's context.
        grace: Seconds that requests have to finish at the end; then they are broken off.
        on_ready: Called with the server's address once it answers there.

    Raises:
        ConfigurationError: The limits do not fit the model, or it cannot listen there.
    """
    app = await create_app(backend, api_key=api_key, limits=limits)
    async with running(app, host=host, port=port, grace=grace) as url:
        if on_ready is not None:
            on_ready(url)
        await _signal_arrives()


async def _signal_arrives() -> None:
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    # Windows has no signal handlers in its loops: there Ctrl-C cancels the task, which ends the server as well.
    with suppress(NotImplementedError):
        for number in _SIGNALS:
            loop.add_signal_handler(number, arrived.set)
    try:
        await arrived.wait()
    finally:
        with suppress(NotImplementedError):
            for number in _SIGNALS:
                loop.remove_signal_handler(number)


def _key_check(api_key: str | None) -> Middleware:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_route = request.match_info.http_exception is None
        if api_key is not None and request.method == "POST" and is_route:
            scheme, _, key = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(
                key.encode(errors="surrogateescape"), api_key.encode()
            ):
                return web.Response(status=401)
        return await handler(request)

    return check


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RequestError as error:
        return json_response(error.body, status=error.status)
