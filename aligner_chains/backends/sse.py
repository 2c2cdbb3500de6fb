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
    rest = b""
    async for chunk in body:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            field = line.removesuffix(b"\r")
            if field.startswith(b"data:"):
                data.append(field[5:].removeprefix(b" "))
            elif not field and data:
                yield b"\n".join(data).decode()
                data.clear()
    if rest.startswith(b"data:"):
        data.append(rest[5:].removeprefix(b" ").removesuffix(b"\r"))
    if data:
        yield b"\n".join(data).decode()
