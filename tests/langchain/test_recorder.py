"""The bookkeeping behind the question: it ends with the runs, and is out of the way otherwise."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections import deque
from typing import Any
from uuid import uuid4

import pytest
from hostile import HostileServer
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from upstream import Upstream

from aligner_chains import Aligner
from aligner_chains.errors import QueryNotFoundError
from langchain_aligner import AlignerRunnable, recorder
from langchain_aligner.recorder import RECORDER, QueryRecorder

PROMPT = ChatPromptTemplate.from_template("{question}")


def remembered() -> int:
    gc.collect()
    return RECORDER.size


def fail(_: Any) -> None:
    raise ValueError("no")


class Chains:
    """Chains of all kinds: every thirteenth corrects, every third is asynchronous.

    Of ten one ends badly: it fails, or is left in mid-stream. Nobody has to let go of a stream at once that he left, so
    the last fifty are still held.
    """

    def __init__(self, aligner: Aligner) -> None:
        self.plain = chain_of()
        self.corrected = self.plain | AlignerRunnable(aligner=aligner)
        self.left: deque[Any] = deque(maxlen=50)

    def run(self, number: int) -> None:
        asyncio.run(self._run(number))

    async def _run(self, number: int) -> None:
        for first in range(0, number, 20):
            await asyncio.gather(*map(self._one, range(first, first + 20)))
        self.left.clear()
        for _ in range(20):  # one layer of a stream is closed by the other
            gc.collect()
            await asyncio.sleep(0)

    async def _one(self, number: int) -> None:
        chain = self.plain if number % 13 else self.corrected
        if number % 10 == 0 and number % 20:
            with pytest.raises(ValueError, match="no"):
                await self._ask(number, chain | RunnableLambda(fail))
        else:
            await self._ask(number, chain)

    async def _ask(self, number: int, chain: Runnable[Any, Any]) -> None:
        question = {"question": f"What is {number} times two?"}
        if number % 20 == 0:
            self.left.append(chain.stream(question) if number % 3 else chain.astream(question))
            next(self.left[-1]) if number % 3 else await anext(self.left[-1])
        elif number % 3:
            chain.invoke(question)
        else:
            await chain.ainvoke(question)


def chain_of(parser: bool = True) -> Runnable[Any, Any]:
    # Without a memory of its own; else it is what grows.
    model = Upstream(answer=lambda _: "That is well known.", keep_asked=False)
    return PROMPT | model | StrOutputParser() if parser else PROMPT | model


def test_nothing_is_left_of_chains_that_ended_failed_or_were_abandoned(aligner: Aligner, server: HostileServer) -> None:
    before = remembered()
    Chains(aligner).run(1000)
    assert remembered() == before
    assert len(server.generations) == len(range(0, 1000, 13))


def test_nothing_is_left_of_async_chains() -> None:
    before = remembered()

    async def leave_them() -> None:
        for _ in range(20):
            stream = chain_of().astream({"question": "Who?"})
            await anext(stream)
            await stream.aclose()
        tasks = [asyncio.create_task(chain_of().ainvoke({"question": "Who?"})) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(leave_them())  # at its end it closes what is still open of a stream that was left
    assert remembered() == before


def test_an_answer_is_remembered_as_long_as_it_lives() -> None:
    before = remembered()
    answers = [chain_of(parser=False).invoke({"question": "Who?"}) for _ in range(3)]
    assert remembered() == before + 3
    assert RECORDER.call_that_answered(answers[0].id) is not None
    del answers
    assert remembered() == before


def test_runs_that_never_end_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_MAX_RUNS", 10)
    own = QueryRecorder()
    for _ in range(1000):
        run_id = uuid4()
        own.on_chain_start({}, {}, run_id=run_id)
        own.on_chat_model_start({}, [[AIMessage("x")]], run_id=uuid4(), parent_run_id=run_id)
    assert own.size == 20


def test_of_messages_that_live_on_the_last_are_remembered(
    aligner: Aligner, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_MAX_ANSWERS", 3)
    answers = [chain_of(parser=False).invoke({"question": f"Who is {number}?"}) for number in range(5)]
    runnable = AlignerRunnable(aligner=aligner)
    for forgotten in answers[:2]:
        with pytest.raises(QueryNotFoundError, match="No model call is known"):
            runnable.invoke(forgotten)
    runnable.batch(answers[2:])
    asked = {request.prompt.rpartition(": ")[2].partition(" | ")[0] for request in server.generations}
    assert asked == {"Who is 2?", "Who is 3?", "Who is 4?"}


def test_of_the_calls_of_a_run_the_last_are_remembered(
    aligner: Aligner, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_MAX_CALLS_PER_RUN", 3)

    def ask_five(index: int) -> str:
        answers = [Upstream(turns=(f"{number} it is, no doubt.",)).invoke(f"Who is {number}?") for number in range(5)]
        return str(answers[index].text)

    chain = RunnableLambda(ask_five) | AlignerRunnable(aligner=aligner)
    chain.invoke(2)
    assert ": Who is 2? | 2 it is, no doubt." in server.generations[0].prompt
    with pytest.raises(QueryNotFoundError, match="3 model calls with different questions"):
        chain.invoke(1)
    assert len(server.generations) == 1


def test_a_message_that_is_gone_is_not_known_by_chance(aligner: Aligner) -> None:
    copy_of_it = chain_of(parser=False).invoke({"question": "Who?"}).model_copy()
    with pytest.raises(QueryNotFoundError):
        AlignerRunnable(aligner=aligner).invoke(copy_of_it)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forking is for POSIX")
def test_a_forked_child_does_not_wait_for_a_thread_of_its_parent() -> None:
    program = """
import os, threading
from langchain_core.runnables import RunnableLambda
from langchain_aligner.recorder import RECORDER
held, forked = threading.Event(), threading.Event()
def hold():
    with RECORDER._lock:
        held.set()
        forked.wait()
holding = threading.Thread(target=hold)
holding.start()
held.wait()
child = os.fork()
if child:
    forked.set()
    print(os.waitpid(child, 0)[1])
else:
    (RunnableLambda(str) | str).invoke(7)
    os._exit(0)
"""
    # From Python 3.12 on it warns of a fork with threads; here that is the point.
    run = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    assert subprocess.run(run, capture_output=True, text=True, timeout=60, check=True).stdout == "0\n"


def test_there_is_one_recorder_whatever_happens_to_a_config() -> None:
    assert copy.deepcopy(RECORDER) is RECORDER
    assert pickle.loads(pickle.dumps(RECORDER)) is RECORDER


@pytest.mark.slow
def test_100_000_chains_leave_the_process_no_larger(aligner: Aligner, server: HostileServer) -> None:
    chains = Chains(aligner)
    chains.run(1000)  # what is made once is made now
    server.requests.clear()
    before = remembered()
    tracemalloc.start()
    chains.run(100_000)
    server.requests.clear()
    gc.collect()
    grown, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"100,000 chains: {grown:,} bytes more than before them, {most:,} at most")
    assert remembered() == before
    # Bytes: not five a chain. asyncio forgets the timers of requests that ended only when there are a hundred of them.
    assert grown < 500_000


def test_importing_it_brings_no_framework_along() -> None:
    # Before 1.6 LangChain's chat models bring transformers, where it is installed.
    program = (
        "import sys; from langchain_core.language_models import BaseChatModel\n"
        "before = set(sys.modules)\n"
        "import langchain_aligner; langchain_aligner.AlignedChatModel\n"
        "unwanted = {'torch', 'transformers', 'llama_index', 'langchain', 'langgraph', 'aiohttp'}\n"
        "print(sorted(unwanted & {name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"
