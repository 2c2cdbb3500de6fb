"""A server on loopback that misbehaves on purpose.

It speaks TGI's and OpenAI's protocols where it behaves, and otherwise does what a test's script says: one behaviour for
each request that asks for text, in order; when the script is used up, it behaves. It runs in a thread of its own, so
that synchronous and asynchronous tests use it alike.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from http import HTTPStatus
from itertools import chain, repeat
from typing import Any, Literal, TypeAlias

import shapes
from shapes import Answer, Request


class Call:
    """One request that is being answered."""

    def __init__(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: HostileServer
    ) -> None:
        self.request, self.reader, self.writer, self.server = request, reader, writer, server

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int, headers: Mapping[str, object]) -> None:
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {headers[name]}" for name in headers)]
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def begin_stream(self) -> None:
        await self.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})

    async def chunk(self, data: bytes) -> None:
        """A piece of a stream; an empty one ends it."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def until_dropped(self) -> None:
        """Waits for the client to hang up, and notes it."""
        self.server.waiting.set()
        while await self.reader.read(2**16):
            pass
        self.server.dropped.set()
        self.writer.close()


Behaviour: TypeAlias = Callable[[Call], Awaitable[None]]
#: How a text ends: whole; as if it were whole, but in the middle; with a broken connection; in silence; with an error.
End: TypeAlias = Literal["whole", "early", "cut", "hang", "error"]


def reply(
    status: int, body: object, *, content_type: str = "application/json", headers: Mapping[str, str] | None = None
) -> Behaviour:
    """Answers with this status and body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def behave(call: Call) -> None:
        await call.head(status, {"Content-Type": content_type, "Content-Length": len(data), **(headers or {})})
        await call.send(data)

    return behave


def refuse(status: int, kind: str, message: str = "no", headers: Mapping[str, str] | None = None) -> Behaviour:
    """Answers with an error in the protocol's shape."""

    async def behave(call: Call) -> None:
        await reply(status, shapes.error(call.request, kind, message), headers=headers)(call)

    return behave


def page(status: int = 200) -> Behaviour:
    """Answers with a web page."""
    return reply(status, b"<html><body>Welcome to nginx</body></html>", content_type="text/html")


#: 429, as TGI gives it over its `--max-concurrent-requests`.
too_busy = refuse(429, "overloaded", "Model is overloaded")


async def hang(call: Call) -> None:
    """Says nothing at all."""
    await call.until_dropped()


async def hang_up(call: Call) -> None:
    """Closes the connection without a word."""
    call.writer.transport.abort()


def noise(data: bytes) -> Behaviour:
    """Answers with something that is not HTTP."""

    async def behave(call: Call) -> None:
        await call.send(data)
        call.writer.close()

    return behave


def speak(
    *tokens: str,
    end: End = "whole",
    finish_reason: str = "stop",
    logprob: Any = -0.01,
    wire: Callable[[bytes], Iterable[bytes]] = lambda data: [data],
) -> Behaviour:
    """Writes a text, as a stream or at once.

    Args:
        tokens: Its tokens; the corrected draft if there are none.
        end: How it ends.
        finish_reason: What the server says about that.
        logprob: What it gives as the log-probability of each token.
        wire: Cuts a stream's bytes into the pieces that are sent, or changes them.
    """

    async def behave(call: Call) -> None:
        texts = tokens or tuple(
            re.findall(r"\s*\S+\s*$|\s*\S+", " " + call.server.correct(_draft(call.request.prompt)))
        )
        answer = Answer(texts, finish_reason, logprob)
        if call.request.is_streamed:
            await _speak_events(call, answer, end, wire)
        else:
            await _speak_whole(call, answer, end)

    return behave


def say(*chunks: bytes) -> Behaviour:
    """Streams these bytes, each on its own."""

    async def behave(call: Call) -> None:
        await call.begin_stream()
        for data in (*chunks, b""):
            await call.chunk(data)

    return behave


def meet(number: int) -> Behaviour:
    """Waits until so many requests are under way at once, then answers."""
    under_way = 0
    all_here = asyncio.Event()

    async def behave(call: Call) -> None:
        nonlocal under_way
        under_way += 1
        call.server.most_at_once = max(call.server.most_at_once, under_way)
        if under_way >= number:
            all_here.set()
        await all_here.wait()
        await asyncio.sleep(0.01)  # in which one more than allowed could come in
        under_way -= 1
        await speak()(call)

    return behave


class HostileServer:
    """The server, as a context manager.

    Args:
        script: What to do when text is asked for, one for each time.
        for_ever: What to do after that.
        info: What to do when asked for the model and its limits.
        tokenize: What to do when asked to count tokens; by default each word is one.

    Attributes:
        requests: What came in, in order.
        waiting: Set once a client is kept waiting in the middle of an answer.
        dropped: Set once a client hung up on an answer.
        left: Set once a client closed a connection between two requests.
        info: What to do when asked for the model and its limits.
        connections: How many connections there have been.
        most_at_once: The most requests that were under way at a time, as `meet` saw it.
    """

    def __init__(
        self,
        *script: Behaviour,
        for_ever: Behaviour | None = None,
        info: Behaviour | None = None,
        tokenize: Behaviour | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self.waiting, self.dropped, self.left = threading.Event(), threading.Event(), threading.Event()
        self.connections = self.most_at_once = 0
        self._script: Iterator[Behaviour] = chain(script, repeat(for_ever or speak()))
        self.info = info
        self._tokenize = tokenize
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> HostileServer:
        self._thread.start()
        self._loop, self._stop, port = self._started.result()
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def correct(self, draft: str) -> str:
        """What this Aligner makes of a draft."""
        return draft.replace(", you idiot", "")

    @property
    def generations(self) -> list[Request]:
        """The requests that asked for text."""
        return [request for request in self.requests if request.wants_text]

    async def _serve(self) -> None:
        stop = asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            task = asyncio.create_task(self._answer_all(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)
            # Not in the task: one that is cancelled before it begins does nothing at all.
            task.add_done_callback(lambda _: writer.close())

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self._started.set_result((asyncio.get_running_loop(), stop, server.sockets[0].getsockname()[1]))
        await stop.wait()
        # A server that is closed forgets the connections that it has accepted and not set up yet; nobody closes them.
        for listener in server.sockets:
            asyncio.get_running_loop().remove_reader(listener)
        for _ in range(3):
            await asyncio.sleep(0)
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing() and (request := await _read_request(reader)) is not None:
                self.requests.append(request)
                await self._behaviour(request)(Call(request, reader, writer, self))
            self.left.set()
        except ConnectionError:
            self.dropped.set()

    def _behaviour(self, request: Request) -> Behaviour:
        if request.wants_text:
            return next(self._script)
        if request.path in ("/info", "/v1/models"):
            return self.info or reply(200, shapes.OPENAI_MODELS if request.is_openai else shapes.TGI_INFO)
        if request.path == "/tokenize":
            count = len(request.prompt.split())
            return self._tokenize or reply(200, [{"id": 7}] * count if "inputs" in request.body else {"count": count})
        return refuse(404, "not_found")


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode().strip().split("\r\n")
    method, target, _ = first.split(" ")
    path = re.sub("^http://[^/]+", "", target)  # a proxy is asked for the whole address
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, json.loads(body) if body else {})


def _draft(prompt: str) -> str:
    """The draft in a prompt of the formats aligner-7b and instruct."""
    if "<draft>\n" in prompt:
        return prompt.rpartition("<draft>\n")[2].removesuffix("\n</draft>")
    return prompt.removesuffix(" ASSISTANT:").rpartition(" | ")[2]


async def _speak_whole(call: Call, answer: Answer, end: End) -> None:
    if end == "error":
        await refuse(424, "generation", "the GPU is on fire")(call)
        return
    data = json.dumps(shapes.whole(call.request, answer)).encode()
    sent = data if end == "whole" else data[: len(data) // 2]
    told = len(sent) if end in ("whole", "early") else len(data)
    await call.head(
        200, {"Content-Type": "application/json", "Content-Length": told, "x-prompt-tokens": shapes.INPUT_LENGTH}
    )
    await call.send(sent)
    await _leave(call, end)


async def _speak_events(call: Call, answer: Answer, end: End, wire: Callable[[bytes], Iterable[bytes]]) -> None:
    await call.begin_stream()
    events = shapes.events(call.request, answer, to_the_end=end == "whole")
    if end == "error":
        events.append(shapes.event(shapes.error(call.request, "generation", "the GPU is on fire")))
    for data in (piece for event in events for piece in wire(event)):
        await call.chunk(data)
    if end in ("whole", "early", "error"):
        await call.chunk(b"")
    await _leave(call, end)


async def _leave(call: Call, end: End) -> None:
    if end == "hang":
        await call.until_dropped()
    elif end == "cut":
        call.writer.close()
