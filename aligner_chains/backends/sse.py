"""Server-sent events (WHATWG HTML, section 9.2) from a stream of bytes."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator


async def events(body: AsyncIterable[bytes]) -> AsyncIterator[str]:
    r"""Yields the data of each event.

    Lines end at the byte `\n` only (with an optional `\r` before it), never at U+2028, U+2029 or U+0085, which text
    may hold raw. An event that the stream ends within counts too: a server may close right after its last line.

    Args:
        body: The response's bytes, cut anywhere.

    Raises:
        UnicodeDecodeError: An event is not UTF-8.
    """
    data: list[bytes] = []
    async for line in _lines(body):
        if not line:
            if data:
                yield b"\n".join(data).decode()
                data.clear()
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
    if data:
        yield b"\n".join(data).decode()


async def _lines(body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    rest: list[bytes] = []
    async for chunk in body:
        first, *others = chunk.split(b"\n")
        rest.append(first)
        for following in others:
            yield b"".join(rest).removesuffix(b"\r")
            rest = [following]
    if last := b"".join(rest):
        yield last.removesuffix(b"\r")
