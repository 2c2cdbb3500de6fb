"""Many things at once, a bounded number at a time, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from typing import TypeVar

_A = TypeVar("_A")
_B = TypeVar("_B")


async def map_ordered(
    work: Callable[[_A], Awaitable[_B]], items: Iterable[_A] | AsyncIterable[_A], *, limit: int
) -> AsyncGenerator[_B, None]:
    """Yields `work`'s result for each item, in the items' order, with at most `limit` under way or waiting to be read.

    Items are taken as there is room for them, so they may be endless; results come as soon as they and those before
    them are there, so the items may also be slow. When the generator is closed, what is under way is cancelled.

    Args:
        work: What to do with an item.
        items: What to do it with.
        limit: How many at a time.
    """
    room = asyncio.Semaphore(limit)
    started: asyncio.Queue[asyncio.Task[_B] | None] = asyncio.Queue()
    tasks: set[asyncio.Task[_B]] = set()

    async def one(item: _A) -> _B:
        return await work(item)

    async def start_all() -> None:
        try:
            async for item in _each(items):
                await room.acquire()
                task = asyncio.create_task(one(item))
                tasks.add(task)
                started.put_nowait(task)
        finally:
            started.put_nowait(None)

    starting = asyncio.create_task(start_all())
    try:
        while (task := await started.get()) is not None:
            result = await task
            tasks.discard(task)
            yield result
            room.release()
        await starting  # raises what the items raised
    finally:
        for unfinished in (starting, *tasks):
            unfinished.cancel()
        await asyncio.gather(starting, *tasks, return_exceptions=True)


async def _each(items: Iterable[_A] | AsyncIterable[_A]) -> AsyncGenerator[_A, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
