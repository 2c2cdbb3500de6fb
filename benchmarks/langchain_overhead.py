"""What `langchain_aligner` costs: chains without an Aligner, the import, and the first token of a corrected answer.

    python benchmarks/langchain_overhead.py

Every figure is the median of rounds in which the compared things take turns. The chains have a model that answers at
once, so that all there is to measure is LangChain's own work. The server with the embedded Aligner runs in a process of
its own; its guard, which holds a stream back until it is whole, is off.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import aiohttp
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from rich.console import Console
from rich.table import Table

from aligner_chains import Aligner, Guard
from aligner_chains.prompts import PROMPT_FORMATS
from aligner_chains.testing import serve_embedded
from langchain_aligner import AlignedChatModel, AlignerRunnable
from langchain_aligner.recorder import RECORDER_IN_CONTEXT

ROUNDS = 21
CHAINS_A_ROUND = 200
STREAMS = 31
IMPORTS = 11

QUERY = "How do I bake bread?"
DRAFT = "Use 500 grams of flour and 350 grams of water, and let the dough rest for twelve hours before you bake it."
BODY = {
    "inputs": PROMPT_FORMATS["aligner-7b"].render(QUERY, DRAFT),
    "parameters": {"do_sample": False, "details": True, "max_new_tokens": 128, "return_full_text": False},
}
BARE = "import langchain_core.runnables, langchain_core.language_models"


def main() -> None:
    """Measures and prints the tables."""
    show("Chains without an Aligner, microseconds each", "bare", "with the recorder", chains(), unit=1e6)
    show("Import, milliseconds", "langchain_core", "and langchain_aligner", imports(), unit=1e3)
    show("First token of an answer, milliseconds", "the server's own stream", "corrected", first_tokens(), unit=1e3)


def show(title: str, base: str, ours: str, figures: dict[str, list[tuple[float, float]]], *, unit: float) -> None:
    """Prints pairs of seconds, by name, as medians and the median of their ratios."""
    table = Table("", base, ours, "ratio", title=title)
    for name, pairs in figures.items():
        medians = [f"{statistics.median(column) * unit:,.1f}" for column in zip(*pairs, strict=True)]
        table.add_row(name, *medians, f"{statistics.median(b / a for a, b in pairs):.3f}")
    Console().print(table)


def chains() -> dict[str, list[tuple[float, float]]]:
    """Seconds that chains take without the recorder and with it."""
    chain = ChatPromptTemplate.from_template("{question}") | FakeListChatModel(responses=[DRAFT]) | StrOutputParser()
    several = RunnableParallel(one=chain, two=chain) | RunnableLambda(lambda both: both["one"])
    question = {"question": QUERY}

    async def ainvoke() -> None:
        await chain.ainvoke(question)

    async def astream() -> None:
        async for _ in chain.astream(question):
            pass

    runs: dict[str, Callable[[], object]] = {
        "prompt | llm | parser, invoke": lambda: chain.invoke(question),
        "prompt | llm | parser, stream (106 tokens)": lambda: list(chain.stream(question)),
        "two of them in parallel, invoke": lambda: several.invoke(question),
    }
    figures = {name: [(timed(run, on=False), timed(run, on=True)) for _ in range(ROUNDS)] for name, run in runs.items()}
    for name, work in (("prompt | llm | parser, ainvoke", ainvoke), ("prompt | llm | parser, astream", astream)):

        async def many(work: Callable[[], object] = work) -> None:
            for _ in range(CHAINS_A_ROUND):
                await work()  # type: ignore[misc]

        figures[name] = [(atimed(many, on=False), atimed(many, on=True)) for _ in range(ROUNDS)]
    return figures


def timed(run: Callable[[], object], *, on: bool) -> float:
    """Seconds for one run of many, with the recorder on or off."""
    token = None if on else RECORDER_IN_CONTEXT.set(None)
    run()
    start = time.perf_counter()
    for _ in range(CHAINS_A_ROUND):
        run()
    seconds = time.perf_counter() - start
    if token is not None:
        RECORDER_IN_CONTEXT.reset(token)
    return seconds / CHAINS_A_ROUND


def atimed(many: Callable[[], object], *, on: bool) -> float:
    """Seconds for one of many asynchronous runs, with the recorder on or off."""
    token = None if on else RECORDER_IN_CONTEXT.set(None)
    start = time.perf_counter()
    asyncio.run(many())  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    if token is not None:
        RECORDER_IN_CONTEXT.reset(token)
    return seconds / CHAINS_A_ROUND


def imports() -> dict[str, list[tuple[float, float]]]:
    """Seconds that a new interpreter takes to import LangChain's core without us and with us."""
    programs = (BARE, f"{BARE}, langchain_aligner")
    return {"import": [(started(programs[0]), started(programs[1])) for _ in range(IMPORTS)]}


def started(program: str) -> float:
    """Seconds that an interpreter runs a program, without its own start."""
    timed = f"import time; start = time.perf_counter(); {program}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True).stdout)


def first_tokens() -> dict[str, list[tuple[float, float]]]:
    """Seconds to the first token of the server's own stream and of a corrected one, the draft being there."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    server.start()
    try:
        return asyncio.run(measure_first_tokens(ours.recv()))
    finally:
        ours.send("stop")
        server.join()


async def measure_first_tokens(url: str) -> dict[str, list[tuple[float, float]]]:
    """Asks the server in turns."""
    figures: dict[str, list[tuple[float, float]]] = {}
    async with aiohttp.ClientSession() as session, Aligner.from_tgi(url, guard=Guard()) as aligner:

        async def raw() -> float:
            start = time.perf_counter()
            async with session.post(f"{url}/generate_stream", json=BODY) as response:
                while not (await response.content.readline()).startswith(b"data:"):
                    pass
                return time.perf_counter() - start

        chain = FakeListChatModel(responses=[DRAFT]) | AlignerRunnable(aligner=aligner)
        model = AlignedChatModel(llm=FakeListChatModel(responses=[DRAFT]), aligner=aligner)
        for name, runnable in (("llm | AlignerRunnable", chain), ("AlignedChatModel", model)):

            async def corrected(runnable: AlignerRunnable = runnable) -> float:
                start = time.perf_counter()
                stream = runnable.astream(QUERY)
                await anext(stream)
                seconds = time.perf_counter() - start
                await stream.aclose()
                return seconds

            await raw(), await corrected()
            figures[name] = [(await raw(), await corrected()) for _ in range(STREAMS)]
    return figures


def serve(ready: Connection) -> None:
    """The embedded Aligner's server; tells its address."""
    with serve_embedded() as url:
        ready.send(url)
        ready.recv()


if __name__ == "__main__":
    main()
