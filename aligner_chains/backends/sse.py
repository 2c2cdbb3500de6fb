"""Server-sent events (WHATWG HTML, section 9.2) from a stream of bytes."""

from __future__ import annotations

from collections.abc import Iterator


class EventReader:
    r"""Finds events in a response's bytes, cut anywhere.

    Lines end at the byte `\n` only (with an optional `\r` before it), never at U+2028, U+2029 or U+0085, which text
    may hold raw. An event that the stream ends within counts too: a server may close right after its last line.
    """

    def __init__(self) -> None:
        self._data: list[bytes] = []
        self._rest = b""

    def read(self, chunk: bytes) -> Iterator[str]:
        """Yields the data of each event that ends in the next bytes; no bytes are the stream's end.

        Raises:
            UnicodeDecodeError: An event is not UTF-8.
        """
        *lines, self._rest = (self._rest + (chunk or b"\n\n")).split(b"\n")
        for line in lines:
            field = line.removesuffix(b"\r")
            if field.startswith(b"data:"):
                self._data.append(field[5:].removeprefix(b" "))
            elif not field and self._data:
                yield b"\n".join(self._data).decode()
                self._data.clear()
