"""Sessions of aiohttp, one for each event loop, which nobody has to close."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import ClassVar, TypeAlias

import aiohttp

from aligner_chains.fork import abandon

Sessions: TypeAlias = "dict[asyncio.AbstractEventLoop, Session]"


class Session:
    """A session of aiohttp that closes with its loop, or before that when whoever uses it is dropped.

    Args:
        client: The session, of the loop that this runs in.
        siblings: Where it is entered while it is open.
    """

    # So that a loop closes its session, and never the garbage collector.
    _open: ClassVar[set[Session]] = set()

    def __init__(self, client: aiohttp.ClientSession, siblings: Sessions) -> None:
        self.client = client
        self._siblings = siblings
        self._loop = asyncio.get_running_loop()
        self._closing: asyncio.Task[None] | None = None
        self._end_of_loop = self._wait_for_end_of_loop()

    async def open(self) -> None:
        """Enters it among its siblings and tells the loop of it."""
        self._open.add(self)
        self._siblings[self._loop] = self
        await anext(self._end_of_loop)
        for session in list(self._open):
            if session._loop.is_closed():  # noqa: SLF001
                await session._forget()  # noqa: SLF001

    async def close(self) -> None:
        """Closes its connections; any number of tasks may call this."""
        self._siblings.pop(self._loop, None)
        if self._closing is None or self._closing.cancelled():
            self._closing = self._loop.create_task(self.client.close())
        await self._closing
        self._open.discard(self)

    def close_soon(self) -> None:
        """Closes from whichever thread notices that nobody uses the session any more."""
        with suppress(RuntimeError):  # the loop is closed, and the session with it
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self.close()))

    async def _forget(self) -> None:
        # Some close a loop without shutting it down, LlamaIndex where its synchronous code runs in a loop. Then nothing
        # can close the connections any more but the garbage collector, with a ResourceWarning for each.
        self._siblings.pop(self._loop, None)
        self._open.discard(self)
        with suppress(RuntimeError):  # a host was being looked up, and to cancel that takes the loop
            await self.client.close()

    async def _wait_for_end_of_loop(self) -> AsyncGenerator[None, None]:
        # A loop closes its unfinished async generators when it shuts down (asyncio.run and the like): nobody has to
        # close an Aligner by hand to leave without a warning.
        try:
            yield
        finally:
            await self.close()

    @classmethod
    def abandon_those_of_parent(cls) -> None:
        """Leaves the parent process's sessions to it, in a forked child."""
        abandon(cls._open)
        cls._open = set()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Session.abandon_those_of_parent)


def close_soon(sessions: Sessions) -> None:
    """Closes sessions that nobody uses any more, from whichever thread."""
    for session in list(sessions.values()):
        session.close_soon()
