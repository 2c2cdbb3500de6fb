"""Many things at once, a bounded number at a time, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

_A = TypeVar("_A")
_B = TypeVar("_B")


async def map_ordered(
    work: Callable[[_A], Awaitable[_B]], items: Iterable[_A], *, limit: int
) -> AsyncGenerator[_B, None]:
    """Yields `work`'s result for each item, in the items' order, with at most `limit` under way or waiting to be read.

    Items are taken as there is room for them, so they may be an endless or slow iterator. When the generator is
    closed, what is under way is cancelled.

    Args:
        work: What to do with an item.
        items: What to do it with.
        limit: How many at a time.
    """
    under_way: deque[asyncio.Task[_B]] = deque()

    async def one(item: _A) -> _B:
        return await work(item)

    try:
        for item in items:
            if len(under_way) >= limit:
                yield await under_way.popleft()
            under_way.append(asyncio.create_task(one(item)))
        while under_way:
            yield await under_way.popleft()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
