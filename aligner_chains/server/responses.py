"""Responses: JSON, and streams of server-sent events."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from aiohttp import web

from aligner_chains.server.engine import Answer, Engine

ENGINE = web.AppKey("engine", Engine)
#: Seconds between the comments that keep a silent stream from being taken for a dead one.
KEEP_ALIVE = web.AppKey("keep_alive", float)


def to_json(value: object) -> str:
    """Compact JSON, with text as it is: U+2028 and its like are not escaped, nor does TGI escape them."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def json_response(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON response."""
    return web.json_response(value, status=status, headers=headers, dumps=to_json)


async def event_stream(
    request: web.Request, events: AsyncGenerator[str, None], *, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Sends each event's data as it comes, and comments in between; stops asking for more when the client goes."""
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            **headers,
        }
    )
    await response.prepare(request)

    async def send_comments() -> None:
        while True:
            await asyncio.sleep(request.app[KEEP_ALIVE])
            await response.write(b":\n\n")

    comments = asyncio.create_task(send_comments())
    try:
        async with aclosing(events):
            async for data in events:
                await response.write(f"data: {data}\n\n".encode())
    finally:
        comments.cancel()
        await asyncio.gather(comments, return_exceptions=True)
    await response.write_eof()
    return response


def compute_headers(engine: Engine, prompts: tuple[str, ...]) -> dict[str, str]:
    """TGI's headers that are known before an answer is."""
    return {
        "x-compute-type": str(engine.model.model.device.type),
        "x-compute-characters": str(sum(map(len, prompts))),
    }


def answer_headers(answers: list[Answer], *, total_seconds: float) -> dict[str, str]:
    """TGI's headers about answers: their tokens, and how long they took, in milliseconds."""
    inference = sum(answer.inference_seconds for answer in answers)
    generated = sum(len(answer.tokens) for answer in answers)
    return {
        "x-compute-time": f"{total_seconds:.6f}",
        "x-total-time": _milliseconds(total_seconds),
        "x-validation-time": _milliseconds(sum(answer.request.validation_seconds for answer in answers)),
        "x-queue-time": _milliseconds(sum(answer.queue_seconds for answer in answers)),
        "x-inference-time": _milliseconds(inference),
        "x-time-per-token": _milliseconds(inference / generated),
        "x-prompt-tokens": str(sum(len(answer.request.ids) for answer in answers)),
        "x-generated-tokens": str(generated),
    }


def finite(value: float | None) -> float | None:
    """The number, or nothing: JSON has no infinity, which is the logarithm of a probability of zero."""
    return value if value is not None and math.isfinite(value) else None


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
