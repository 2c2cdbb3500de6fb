"""Many things at once: in order, bounded, and nothing left behind."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_chains.concurrency import map_ordered


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 5))
async def test_results_keep_the_order_of_the_items_and_their_bound(naps: list[int], limit: int):
    under_way, most = 0, 0

    async def work(numbered: tuple[int, int]) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(numbered[1]):
            await asyncio.sleep(0)
        under_way -= 1
        return numbered[0]

    results = [result async for result in map_ordered(work, enumerate(naps), limit=limit)]
    assert results == list(range(len(naps)))
    assert most <= limit


async def test_items_may_be_endless_and_are_taken_as_there_is_room():
    taken = []

    def items() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    async def double(number: int) -> int:
        return 2 * number

    results = map_ordered(double, items(), limit=3)
    assert [await anext(results) for _ in range(5)] == [0, 2, 4, 6, 8]
    await results.aclose()
    assert len(taken) <= 5 + 3 + 1


async def test_a_result_does_not_wait_for_the_next_item():
    go_on = asyncio.Event()

    async def items() -> AsyncIterator[int]:
        yield 1
        await go_on.wait()
        yield 2

    async def same(number: int) -> int:
        return number

    results = map_ordered(same, items(), limit=1)
    assert await anext(results) == 1
    go_on.set()
    assert [result async for result in results] == [2]


async def test_closing_cancels_what_is_under_way():
    cancelled = []

    async def work(number: int) -> int:
        try:
            await asyncio.sleep(3600 * number)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    results = map_ordered(work, [0, 1, 2, 3], limit=3)
    assert await anext(results) == 0
    await results.aclose()
    assert sorted(cancelled) == [1, 2]


@pytest.mark.parametrize("where", ["work", "items"])
async def test_an_error_comes_out_and_nothing_goes_on(where: str):
    async def work(number: int) -> int:
        if where == "work" and number == 1:
            raise LookupError(number)
        return number

    def items() -> Iterator[int]:
        yield from (0, 1)
        if where == "items":
            raise LookupError(2)

    before = asyncio.all_tasks()
    with pytest.raises(LookupError):
        [result async for result in map_ordered(work, items(), limit=2)]
    assert asyncio.all_tasks() == before
