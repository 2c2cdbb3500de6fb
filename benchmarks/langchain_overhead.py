"""What `langchain_aligner` costs: chains without an Aligner, the import, and the first token of a corrected answer.

    python benchmarks/langchain_overhead.py

Every figure is the median of rounds in which the compared things take turns. The chains have a model that answers at
once, so that all there is to measure is LangChain's own work, and one that takes 5 milliseconds, where real ones take
more. A handler that does nothing shows what LangChain itself takes for having one. The server with the embedded Aligner
runs in a process of its own; its guard, which holds a stream back until it is whole, is off.
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
from typing import Any

import aiohttp
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel, FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel
from rich.console import Console
from rich.table import Table

from aligner_chains import Aligner, Guard
from aligner_chains.prompts import PROMPT_FORMATS
from aligner_chains.testing import serve_embedded
from langchain_aligner import AlignedChatModel, AlignerRunnable
from langchain_aligner.recorder import RECORDER, RECORDER_IN_CONTEXT
from langchain_aligner.streams import closing_stream

ROUNDS = 11
CHAINS_A_ROUND = 100
STREAMS = 31
IMPORTS = 11

QUERY = "How do I bake bread?"
DRAFT = "Use 500 grams of flour and 350 grams of water, and let the dough rest for twelve hours before you bake it."
BODY = {
    "inputs": PROMPT_FORMATS["aligner-7b"].render(QUERY, DRAFT),
    "parameters": {"do_sample": False, "details": True, "max_new_tokens": 128, "return_full_text": False},
}
# By themselves these modules import nothing before somebody asks for one of their classes.
BARE = "from langchain_core.runnables import Runnable; from langchain_core.language_models import BaseChatModel"


def main() -> None:
    """Measures and prints the tables."""
    handlers = ("bare", "a handler that does nothing", "the recorder")
    show("Chains without an Aligner, microseconds each", handlers, chains(), unit=1e6)
    show("Import, milliseconds", ("langchain_core", "and langchain_aligner"), imports(), unit=1e3)
    columns = ("the server's own stream", "corrected")
    show("First token of an answer, milliseconds", columns, first_tokens(), unit=1e3)


def show(title: str, columns: tuple[str, ...], figures: dict[str, list[tuple[float, ...]]], *, unit: float) -> None:
    """Prints rounds of seconds, by name, as medians and the median of the ratios of the last to the first."""
    table = Table("", *columns, "ratio", title=title)
    for name, rounds in figures.items():
        medians = [f"{statistics.median(column) * unit:,.1f}" for column in zip(*rounds, strict=True)]
        table.add_row(name, *medians, f"{statistics.median(each[-1] / each[0] for each in rounds):.3f}")
    Console().print(table)


class Nothing(BaseCallbackHandler):
    """What any handler costs that follows the same runs."""

    run_inline = True
    ignore_agent = ignore_retriever = ignore_custom_event = True

    def on_chat_model_start(self, *_: object, **__: object) -> None:
        """Does nothing; what this class has by default asks for `on_llm_start` instead."""


def chains() -> dict[str, list[tuple[float, ...]]]:
    """Seconds that chains take without a handler, with one that does nothing, and with the recorder."""
    chain = chain_of(FakeListChatModel(responses=[DRAFT]))
    slower = chain_of(FakeListChatModel(responses=[DRAFT], sleep=0.005))
    several = RunnableParallel(one=chain, two=chain) | RunnableLambda(lambda both: both["one"])
    question = {"question": QUERY}

    def often(run: Callable[[], object]) -> Callable[[], object]:
        return lambda: [run() for _ in range(CHAINS_A_ROUND)]

    async def ainvoke() -> None:
        for _ in range(CHAINS_A_ROUND):
            await chain.ainvoke(question)

    async def astream() -> None:
        for _ in range(CHAINS_A_ROUND):
            async for _ in chain.astream(question):
                pass

    rounds: dict[str, Callable[[], object]] = {
        "prompt | llm | parser, invoke": often(lambda: chain.invoke(question)),
        "the same, ainvoke": lambda: asyncio.run(ainvoke()),
        "the same, stream (106 tokens)": often(lambda: list(chain.stream(question))),
        "the same, astream (106 tokens)": lambda: asyncio.run(astream()),
        "two of them in parallel, invoke": often(lambda: several.invoke(question)),
        "a model of 5 milliseconds, invoke": often(lambda: slower.invoke(question)),
    }
    handlers = (None, Nothing(), RECORDER)
    return {
        name: [tuple(timed(run, handler) for handler in handlers) for _ in range(ROUNDS)]
        for name, run in rounds.items()
    }


def chain_of(llm: FakeListChatModel) -> Runnable[dict[str, str], str]:
    """The chain that everybody has."""
    return ChatPromptTemplate.from_template("{question}") | llm | StrOutputParser()


def timed(run: Callable[[], object], handler: BaseCallbackHandler | None) -> float:
    """Seconds for one chain of a round, with this in the place of the recorder."""
    token = RECORDER_IN_CONTEXT.set(handler)  # type: ignore[arg-type]
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    RECORDER_IN_CONTEXT.reset(token)
    return seconds / CHAINS_A_ROUND


def imports() -> dict[str, list[tuple[float, ...]]]:
    """Seconds that a new interpreter takes to import LangChain's core without us and with us."""
    programs = (BARE, f"{BARE}; import langchain_aligner")
    return {"import": [(started(programs[0]), started(programs[1])) for _ in range(IMPORTS)]}


def started(program: str) -> float:
    """Seconds that an interpreter runs a program, without its own start."""
    timed = f"import time; start = time.perf_counter(); {program}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True).stdout)


def first_tokens() -> dict[str, list[tuple[float, ...]]]:
    """Seconds to the first token of the server's own stream and of a corrected one, the draft being there."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    server.start()
    try:
        return asyncio.run(measure_first_tokens(ours.recv()))
    finally:
        ours.send("stop")
        server.join()


class Drafting(FakeMessagesListChatModel):
    """A model that answers at once, in one piece, and knows when it last did."""

    done: float = 0.0

    def _generate(self, *arguments: Any, **options: Any) -> ChatResult:
        result = super()._generate(*arguments, **options)
        self.done = time.perf_counter()
        return result


async def measure_first_tokens(url: str) -> dict[str, list[tuple[float, ...]]]:
    """Asks the server in turns."""
    figures: dict[str, list[tuple[float, ...]]] = {}
    async with aiohttp.ClientSession() as session, Aligner.from_tgi(url, guard=Guard()) as aligner:

        async def raw() -> float:
            start = time.perf_counter()
            async with session.post(f"{url}/generate_stream", json=BODY) as response:
                while not (await response.content.readline()).startswith(b"data:"):
                    pass
                return time.perf_counter() - start

        llm = Drafting(responses=[AIMessage(DRAFT)])
        chain = llm | AlignerRunnable(aligner=aligner)
        model = AlignedChatModel(llm=llm, aligner=aligner)
        for name, runnable in (("llm | AlignerRunnable", chain), ("AlignedChatModel", model)):

            async def corrected(runnable: Runnable[str, Any] = runnable) -> float:
                async with closing_stream(runnable.astream(QUERY)) as stream:
                    await anext(stream)
                    return time.perf_counter() - llm.done

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
