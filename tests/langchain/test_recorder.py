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
from typing import Any
from uuid import uuid4

import pytest
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


def one_of_ten(number: int, chain: Runnable[Any, Any]) -> None:
    """Runs a chain to its end nine times out of ten; the tenth time it fails, or is left in mid-stream."""
    question = {"question": f"What is {number} times two?"}
    if number % 20 == 0:
        next(chain.stream(question))
    elif number % 10 == 0:
        with pytest.raises(ValueError, match="no"):
            (chain | RunnableLambda(fail)).invoke(question)
    else:
        chain.invoke(question)


def chain_of(parser: bool = True) -> Runnable[Any, Any]:
    # Without a memory of its own; else it is what grows.
    model = Upstream(answer=lambda _: "That is well known.", keep_asked=False)
    return PROMPT | model | StrOutputParser() if parser else PROMPT | model


def test_nothing_is_left_of_chains_that_ended_failed_or_were_abandoned() -> None:
    before = remembered()
    for number in range(200):
        one_of_ten(number, chain_of())
    assert remembered() == before


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
def test_100_000_chains_leave_the_process_no_larger() -> None:
    chain = chain_of()
    for number in range(1000):
        one_of_ten(number, chain)  # what is made once is made now
    before = remembered()
    tracemalloc.start()
    for number in range(100_000):
        one_of_ten(number, chain)
    gc.collect()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert remembered() == before
    assert grown < 100_000  # bytes: not one a chain


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
