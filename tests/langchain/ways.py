"""Every way to run a chain, as functions of the chain and its input."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import reduce
from typing import Any

from langchain_core.runnables import Runnable

Run = Callable[..., Any]


async def _astream(chain: Runnable[Any, Any], value: Any, **options: Any) -> list[Any]:
    return [chunk async for chunk in chain.astream(value, **options)]


async def _astream_events(chain: Runnable[Any, Any], value: Any, **options: Any) -> Any:
    return [event async for event in chain.astream_events(value, version="v2", **options)][-1]["data"]["output"]


def whole(chunks: list[Any]) -> Any:
    """The chunks of a stream, joined."""
    return reduce(lambda left, right: left + right, chunks)


def given_out(event: Any) -> str:
    """What an event of `astream_events` tells but for what its run was given, which for an Aligner's is the draft."""
    return str({**event, "data": {name: value for name, value in event["data"].items() if name != "input"}})


WAYS: dict[str, Run] = {
    "invoke": lambda chain, value, **options: chain.invoke(value, **options),
    "ainvoke": lambda chain, value, **options: asyncio.run(chain.ainvoke(value, **options)),
    "batch": lambda chain, value, **options: chain.batch([value], **options)[0],
    "abatch": lambda chain, value, **options: asyncio.run(chain.abatch([value], **options))[0],
    "stream": lambda chain, value, **options: whole(list(chain.stream(value, **options))),
    "astream": lambda chain, value, **options: whole(asyncio.run(_astream(chain, value, **options))),
    "astream_events": lambda chain, value, **options: asyncio.run(_astream_events(chain, value, **options)),
}
