"""HTTP for the backends: one aiohttp session an event loop, and every way a server can fail as an error of ours."""

from __future__ import annotations

import asyncio
import json
import weakref
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import anyio

from aligner_chains.backends.proxy import proxy_for
from aligner_chains.backends.session import Session, Sessions, close_soon
from aligner_chains.backends.sse import EventReader
from aligner_chains.checks import is_http_address, without_password
from aligner_chains.correction import FinishReason
from aligner_chains.errors import (
    AlignerError,
    BackendAuthenticationError,
    BackendConnectionError,
    BackendError,
    BackendNotFoundError,
    ConfigurationError,
    GatewayError,
    GenerationError,
    IncompleteResponseError,
    OverloadedError,
    ProtocolError,
    RequestRejectedError,
)
from aligner_chains.settings import check_count

_ERROR_BY_STATUS: dict[int, type[BackendError]] = {
    400: RequestRejectedError,
    401: BackendAuthenticationError,
    403: BackendAuthenticationError,
    404: BackendNotFoundError,
    405: BackendNotFoundError,
    413: RequestRejectedError,
    415: RequestRejectedError,
    422: RequestRejectedError,
    424: GenerationError,
    429: OverloadedError,
    500: GenerationError,
    502: GatewayError,
    503: OverloadedError,
    504: GatewayError,
}
_EXCERPT_LENGTH = 200
# Seconds that a server may take to end a response after its last event, before the connection is dropped.
_LINGER = 0.05


class HttpClient:
    """Requests to one server.

    Args:
        url: The server's address, `http://` or `https://`; the proxies in the environment hold for it, unless it is a
            loopback address.
        api_key: Sent as a bearer token with every request.
        max_concurrency: The most requests under way at once in an event loop; more wait their turn.

    Attributes:
        was_lost: Set when the server cannot be reached: what comes back at its address may be another one.

    Raises:
        ConfigurationError: The address is not one.
    """

    def __init__(self, url: str, *, api_key: str | None, max_concurrency: int) -> None:
        shown = without_password(url) if isinstance(url, str) else url
        if not isinstance(url, str) or not is_http_address(url):
            advice = " Before its @ write / as %2F, ? as %3F, # as %23." if shown != url else ""
            raise ConfigurationError(
                f"{shown!r} is not a server's address. Give one like 'http://localhost:8080'.{advice}"
            )
        if api_key and not api_key.isprintable():
            raise ConfigurationError("The api_key holds a line break or another character that no header can carry.")
        parts = urlsplit(url)
        self.url = shown.rstrip("/")
        self.was_lost = False
        self._proxy = proxy_for(parts)
        self._headers = {}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        elif parts.username:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {b64encode(user.encode()).decode()}"
        self._max_concurrency = check_count("max_concurrency", max_concurrency)
        self._sessions: Sessions = {}
        weakref.finalize(self, close_soon, self._sessions).atexit = False

    async def get(self, path: str) -> Any:
        """The JSON that the server answers to a GET."""
        async with self._request("GET", path, None) as response:
            return await self._json(response)

    async def post(self, path: str, body: object) -> tuple[Any, Mapping[str, str]]:
        """The JSON that the server answers to a POST, and its headers."""
        async with self._request("POST", path, body) as response:
            return await self._json(response), response.headers

    async def post_stream(
        self, path: str, body: object, *, is_last: Callable[[Any], bool] = lambda _: False
    ) -> AsyncGenerator[Any, None]:
        """Yields the JSON of each server-sent event that answers a POST; ends at `[DONE]` or with the response.

        Closing the generator drops the connection, which tells the server to stop; after an event that `is_last` the
        connection is kept for another request.
        """
        async with self._request("POST", path, body) as response:
            if response.content_type != "text/event-stream":
                raise ProtocolError(
                    f"POST {self.url}{path} should stream events, but answered {response.content_type!r}: "
                    f"{_excerpt(await response.text(encoding='utf-8', errors='replace'))}.",
                    status=response.status,
                )
            reader = EventReader()
            chunk = None
            try:
                while chunk != b"":
                    chunk = await response.content.readany()
                    for data in reader.read(chunk):
                        if data.strip() == "[DONE]":
                            await _read_to_the_end(response)
                            return
                        event = _loads(data)
                        if is_last(event):
                            await _read_to_the_end(response)
                        yield event
            except ValueError as error:
                raise ProtocolError(
                    f"POST {self.url}{path} streamed an event that is not JSON in UTF-8: {error}."
                ) from error

    async def aclose(self) -> None:
        """Closes the connections of the event loop that this runs in."""
        session = self._sessions.get(asyncio.get_running_loop())
        if session is not None:
            await session.close()

    async def _client(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if loop not in self._sessions:
            client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_concurrency),
                # The deadline is the Aligner's, around everything; limits of aiohttp's own would only get in its way.
                timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None),
                headers=self._headers,
            )
            await Session(client, self._sessions).open()
        return self._sessions[loop].client

    @asynccontextmanager
    async def _request(self, method: str, path: str, body: object) -> AsyncIterator[aiohttp.ClientResponse]:
        client = await self._client()
        where = f"{method} {self.url}{path}"
        try:
            # What asks about the server must not cost the request after it: uvicorn hangs up after a failure without
            # saying so, and a POST on that connection would be lost.
            headers = {"Connection": "close"} if body is None else {"Content-Type": "application/json"}
            # Given as bytes, a body costs aiohttp less than as `json`.
            data = None if body is None else _dumps(body)
            async with client.request(
                method, self.url + path, data=data, headers=headers, allow_redirects=False, proxy=self._proxy
            ) as response:
                if response.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and self._proxy is not None:
                    raise self._unreachable(where, f"{response.status} {response.reason}")
                if response.status != HTTPStatus.OK:
                    raise await self._error(response, where)
                yield response
        except AlignerError:
            raise  # some of ours are OSErrors too
        except aiohttp.ClientPayloadError as error:
            raise IncompleteResponseError(
                f"{where}: the connection broke before the response was whole ({error})."
            ) from error
        except aiohttp.InvalidURL as error:
            # The text of aiohttp's error is the whole address, password and all.
            raise ConfigurationError(f"{without_password(str(error.url))!r} is not a server's address.") from None
        except aiohttp.ClientHttpProxyError as error:
            raise self._unreachable(where, f"{error.status} {error.message}") from error
        except aiohttp.ClientResponseError as error:
            raise ProtocolError(f"{where}: what answers there does not speak HTTP: {error.message}.") from error
        except (aiohttp.ClientConnectionError, OSError, RuntimeError) as error:
            # A RuntimeError at the interpreter's exit: no thread looks names up any more.
            raise self._unreachable(where, str(error) or type(error).__name__) from error

    def _unreachable(self, where: str, reason: str) -> BackendConnectionError:
        self.was_lost = True
        if self._proxy is None:
            return BackendConnectionError(f"{where}: cannot reach the server ({reason}).")
        return BackendConnectionError(
            f"{where}: cannot reach the server by the proxy {without_password(self._proxy)!r} ({reason}).",
            advice="Look at HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, or name the server in NO_PROXY.",
        )

    async def _json(self, response: aiohttp.ClientResponse) -> Any:
        body = await response.read()
        try:
            return _loads(body)
        except ValueError as error:
            raise ProtocolError(
                f"{response.method} {response.url} should answer JSON, but answered {response.content_type!r}: "
                f"{_excerpt(body.decode(errors='replace'))}.",
                status=response.status,
            ) from error

    async def _error(self, response: aiohttp.ClientResponse, where: str) -> BackendError:
        text = await response.text(encoding="utf-8", errors="replace")
        return error_for_status(
            response.status,
            f"{where} answered {response.status}: {message_in(text)}.",
            retry_after=_seconds(response.headers.get("Retry-After")),
        )


async def _read_to_the_end(response: aiohttp.ClientResponse) -> None:
    """Reads what still comes of a response that has said everything, so that its connection can be used again."""
    with anyio.move_on_after(_LINGER), suppress(aiohttp.ClientError, OSError):
        while await response.content.readany():
            pass


def error_for_status(status: int, message: str, *, retry_after: float | None = None) -> BackendError:
    """The error that an HTTP status stands for."""
    kind = _ERROR_BY_STATUS.get(status)
    if kind is None:
        kind = GenerationError if status >= HTTPStatus.INTERNAL_SERVER_ERROR else ProtocolError
    return kind(message, status=status, retry_after=retry_after)


def message_in(text: str) -> str:
    """The human part of an error's body in the shapes of TGI, OpenAI and FastAPI; else its beginning."""
    try:
        body = _loads(text)
    except ValueError:
        return _excerpt(text)
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and body.get(name):
            body = body[name]
    return body[:_EXCERPT_LENGTH] if isinstance(body, str) else _excerpt(json.dumps(body))


@contextmanager
def parsing(where: str) -> Iterator[None]:
    """Turns what goes wrong while an answer is taken apart into a `ProtocolError`: it is not as the protocol says."""
    try:
        yield
    except AlignerError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ProtocolError(
            f"{where} answered in a shape that its protocol does not have "
            f"({type(error).__name__}: {_excerpt(str(error))})."
        ) from error


def finish_reason(value: object, where: str) -> FinishReason:
    """The reason why a model stopped, in our words.

    Raises:
        GenerationError: It did not stop, it was stopped: by a content filter, say.
    """
    if value == "length":
        return "length"
    if value in ("stop", "eos_token", "stop_sequence"):
        return "stop"
    raise GenerationError(f"{where}: the answer was broken off (finish_reason {value!r}).")


def logprob(value: Any) -> float:
    """A natural log-probability as a number, at most 0."""
    return min(float(value), 0.0)


def _dumps(body: object) -> bytes:
    try:
        return json.dumps(body).encode()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"parameters= must be what JSON can hold: {error}.") from error


def _loads(data: str | bytes) -> Any:
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _excerpt(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= _EXCERPT_LENGTH else text[:_EXCERPT_LENGTH] + "...") if text else "an empty body"


def _seconds(retry_after: str | None) -> float | None:
    # Retry-After may also be a date; servers of language models send seconds.
    return float(retry_after) if retry_after and retry_after.isdecimal() else None
