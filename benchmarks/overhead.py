"""What an Aligner costs beside the bare HTTP request it makes.

A server that answers at once runs in a process of its own; this one sends it the same requests by aiohttp and by an
`Aligner`, in turns, and prints calls a second and the time to the first token of a stream, which is then read to its
end, each as the median of the rounds.

    python benchmarks/overhead.py
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from multiprocessing.connection import Connection

import aiohttp
from aiohttp import web
from rich.console import Console
from rich.table import Table

from aligner_chains import Aligner
from aligner_chains.prompts import PROMPT_FORMATS

CONCURRENCY = 64
CALLS_A_ROUND = 1_000
STREAMS_A_ROUND = 200
# Seconds before each stream. Without it the server has slept since the last token of an Aligner's stream, but not since
# that of the bare client, which is through with it sooner; waking up takes as long as an answer does.
PAUSE = 0.005
ROUNDS = 7

QUERY = "How do I bake bread?"
DRAFT = "Use 500 grams of flour and 350 grams of water, and let the dough rest for twelve hours before you bake it."
PROMPT = PROMPT_FORMATS["aligner-7b"].render(QUERY, DRAFT)
BODY = {
    "inputs": PROMPT,
    "parameters": {"do_sample": False, "details": True, "max_new_tokens": 512, "return_full_text": False},
}


def main() -> None:
    """Measures and prints the table."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ours.recv()}"
    calls, streams = asyncio.run(measure(url))
    server.terminate()

    table = Table(title=f"Overhead of Aligner, {CONCURRENCY} at a time, medians of {ROUNDS} rounds")
    for heading in ("", "calls a second", "of raw", "first streamed token, ms", "of raw"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name in calls:
        table.add_row(
            name,
            f"{statistics.median(calls[name]):,.0f}",
            f"{statistics.median(a / b for a, b in zip(calls[name], calls['raw aiohttp'], strict=True)):.2f}",
            f"{statistics.median(streams[name]) * 1000:.2f}",
            f"{statistics.median(a / b for a, b in zip(streams[name], streams['raw aiohttp'], strict=True)):.2f}",
        )
    Console().print(table)


async def measure(url: str) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Calls a second and seconds to the first streamed token, by client, a number a round."""
    calls: dict[str, list[float]] = {}
    streams: dict[str, list[float]] = {}
    connector = aiohttp.TCPConnector(limit=CONCURRENCY)
    async with aiohttp.ClientSession(connector=connector) as session, Aligner.from_tgi(url) as aligner:

        async def raw() -> None:
            async with session.post(f"{url}/generate", json=BODY) as response:
                await response.json()

        async def corrected() -> None:
            await aligner.acorrect(QUERY, DRAFT)

        async def raw_stream() -> float:
            await asyncio.sleep(PAUSE)
            start = time.perf_counter()
            async with session.post(f"{url}/generate_stream", json=BODY) as response:
                event = b""
                while not event.startswith(b"data:"):
                    event = await response.content.readline()
                json.loads(event[5:])
                first = time.perf_counter()
                await response.read()
                return first - start

        async def corrected_stream() -> float:
            await asyncio.sleep(PAUSE)
            start = time.perf_counter()
            async with aclosing(aligner.astream(QUERY, DRAFT)) as chunks:
                await anext(chunks)
                first = time.perf_counter()
                async for _ in chunks:
                    pass
                return first - start

        clients = (("raw aiohttp", raw, raw_stream), ("Aligner", corrected, corrected_stream))
        for name, call, stream in clients:
            await call()
            await stream()
            calls[name], streams[name] = [], []
        for _ in range(ROUNDS):
            for name, call, stream in clients:
                calls[name].append(await calls_a_second(call))
                streams[name].append(statistics.median([await stream() for _ in range(STREAMS_A_ROUND)]))
    return calls, streams


async def calls_a_second(call: Callable[[], Awaitable[None]]) -> float:
    """How many calls a second come through, `CONCURRENCY` at a time."""
    left = iter(range(CALLS_A_ROUND))

    async def worker() -> None:
        for _ in left:
            await call()

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    return CALLS_A_ROUND / (time.perf_counter() - start)


def serve(ready: Connection) -> None:
    """A server that speaks TGI and answers at once; tells its port."""
    tokens = [
        {"id": number, "text": f" {word}", "logprob": -0.01, "special": False}
        for number, word in enumerate(DRAFT.split())
    ]
    details = {"finish_reason": "eos_token", "generated_tokens": len(tokens), "input_length": 60, "seed": None}
    answer = json.dumps(
        {"generated_text": f" {DRAFT}", "details": {**details, "prefill": [], "tokens": tokens}}
    ).encode()
    info = {"model_id": "aligner/aligner-7b-v1.0", "max_input_tokens": 4095, "max_total_tokens": 4096}

    async def generate(_: web.Request) -> web.Response:
        return web.Response(body=answer, content_type="application/json", headers={"x-prompt-tokens": "60"})

    async def generate_stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for index, token in enumerate(tokens):
            last = index == len(tokens) - 1
            event = {
                "index": index,
                "token": token,
                "generated_text": f" {DRAFT}" if last else None,
                "details": details if last else None,
            }
            await response.write(f"data:{json.dumps(event)}\n\n".encode())
        return response

    async def get_info(_: web.Request) -> web.Response:
        return web.json_response(info)

    async def run() -> None:
        app = web.Application()
        app.add_routes(
            [
                web.post("/generate", generate),
                web.post("/generate_stream", generate_stream),
                web.get("/info", get_info),
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        ready.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    main()
