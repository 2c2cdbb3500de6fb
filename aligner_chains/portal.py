"""The synchronous face of asynchronous code: one event loop in a background thread for the whole process.

It works where `asyncio.run` does not: inside a running loop (notebooks), from any number of threads, in a forked
child, and in functions that run at the interpreter's exit if they were registered after this module was imported (in
Python 3.12, which starts no thread then, if something was corrected before); there a server that goes by a name can be
out of reach (`BackendConnectionError`), as no thread looks names up any more.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import Future
from contextlib import AbstractContextManager, aclosing
from typing import TYPE_CHECKING, TypeVar

from aligner_chains.fork import abandon

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

_T = TypeVar("_T")


class _Background:
    """The process's background loop, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: tuple[BlockingPortal, AbstractContextManager[BlockingPortal]] | None = None

    def portal(self) -> BlockingPortal:
        with self._lock:
            if self._running is None:
                # Asynchronous code has no use for it, and would pay a good part of the package's import for nothing.
                from anyio.from_thread import start_blocking_portal

                manager = start_blocking_portal(name="aligner-chains")
                self._running = manager.__enter__(), manager
            return self._running[0]

    def stop(self) -> None:
        # An orderly end of the loop closes its connections; as a daemon the thread would be cut off in mid-request.
        with self._lock:
            if self._running is not None:
                portal, manager = self._running
                self._running = None
                portal.call(portal.stop, True)
                manager.__exit__(None, None, None)

    def forget_parent(self) -> None:
        # Threads do not survive a fork.
        abandon(self._running)
        self._running, self._lock = None, threading.Lock()


_background = _Background()
atexit.register(_background.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_background.forget_parent)


def run(work: Callable[[], Awaitable[_T]]) -> _T:
    """Runs `work` in the background loop and returns what it returns; an interrupt (Ctrl-C) cancels it.

    Raises:
        RuntimeError: Called from within the background loop itself, where waiting would never end.
    """
    running = _background.portal().start_task_soon(work)
    try:
        return running.result()
    except BaseException:
        running.cancel()
        raise


def iterate(open_stream: Callable[[], AsyncGenerator[_T, None]]) -> Generator[_T, None, None]:
    """Yields what an asynchronous generator yields, read in the background loop; closing this one closes that one."""
    handed_over: queue.SimpleQueue[_T | Future[None]] = queue.SimpleQueue()

    async def read() -> None:
        async with aclosing(open_stream()) as stream:
            async for item in stream:
                handed_over.put(item)

    reading = _background.portal().start_task_soon(read)
    reading.add_done_callback(handed_over.put)
    try:
        while not isinstance(item := handed_over.get(), Future):
            yield item
        item.result()
    finally:
        reading.cancel()
