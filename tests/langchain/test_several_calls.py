"""After several model calls the Aligner is asked about the question of the one whose answer is the draft."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from asked import INTRODUCTION, QUESTION, questions
from hostile import HostileServer
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnableSequence,
)
from upstream import CORRECTED, DRAFT, Upstream
from ways import Run

from aligner_chains import Aligner
from aligner_chains.errors import QueryNotFoundError
from langchain_aligner import AlignerRunnable


def test_each_of_two_models_with_an_aligner_behind(run: Run, aligner: Aligner, server: HostileServer) -> None:
    ask = {
        name: RunnableLambda(lambda question, name=name: f"{name}: {question}")
        | Upstream(turns=(f"{name} knows, you idiot.",))
        | StrOutputParser()
        | AlignerRunnable(aligner=aligner)
        for name in ("one", "other")
    }
    assert run(RunnableParallel(ask), QUESTION) == {"one": "one knows.", "other": "other knows."}
    assert sorted(r.prompt.removeprefix(INTRODUCTION) for r in server.generations) == [
        f"helpful and harmless: {name}: {QUESTION} | {name} knows, you idiot. ASSISTANT:" for name in ("one", "other")
    ]


def test_of_several_calls_the_one_whose_answer_is_the_draft(aligner: Aligner, server: HostileServer) -> None:
    def rephrase_and_answer(question: str) -> str:
        rephrased = Upstream(turns=("Which author wrote Faust?",)).invoke(f"Rephrase: {question}")
        answer = Upstream().invoke(rephrased.text)
        Upstream(turns=("yes",)).invoke(f"Is this polite? {answer.text}")
        return str(answer.text)

    chain = RunnableLambda(rephrase_and_answer) | AlignerRunnable(aligner=aligner)
    assert chain.invoke(QUESTION) == CORRECTED
    assert questions(server) == ["Which author wrote Faust?"]


ANSWER = "Goethe wrote Faust. He began it [1] as a student, and ended it sixty years later, you idiot."
REPHRASED = "Which author wrote Faust?"


def rephrased_and_answered(*then: Callable[[str], str]) -> Runnable[Any, Any]:
    rephrase = RunnableLambda(lambda question: f"Rephrase: {question}") | Upstream(turns=(REPHRASED,))
    return RunnableSequence(rephrase | StrOutputParser(), Upstream(turns=(ANSWER,)), StrOutputParser(), *then)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: f"\n  {text} ",
        lambda text: text.replace(" ", "\n"),
        lambda text: text.partition(".")[0],
        lambda text: text.rpartition(".")[0][-5:],
        lambda text: text.upper(),
        lambda text: text.replace(" [1]", ""),
        lambda text: f"It is well known that {text} (Source: me)",
    ],
    ids=["padded", "wrapped", "cut", "a-word", "upper", "without-citations", "with-a-source"],
)
def test_a_draft_made_from_an_answer(
    change: Callable[[str], str], run: Run, aligner: Aligner, server: HostileServer
) -> None:
    run(rephrased_and_answered(change) | AlignerRunnable(aligner=aligner), QUESTION)
    assert questions(server) == [REPHRASED]


@pytest.mark.parametrize(
    ("longer", "answer"),
    [("Look into the knowledge base.", "No."), ("France. Its capital is Paris, since 987.", "Paris.")],
    ids=["in-a-word", "in-a-sentence"],
)
def test_a_short_answer_without_its_full_stop(
    longer: str, answer: str, run: Run, aligner: Aligner, server: HostileServer
) -> None:
    chain = (
        RunnableLambda(lambda question: f"Where is it said: {question}")
        | Upstream(turns=(longer,))
        | RunnableLambda(lambda _: "Yes or no: is it so?")
        | Upstream(turns=(answer,))
        | StrOutputParser()
        | RunnableLambda(lambda text: text.removesuffix("."))
    )
    run(chain | AlignerRunnable(aligner=aligner), "Is it safe?")
    (request,) = server.generations
    assert f": Yes or no: is it so? | {answer.removesuffix('.')} ASSISTANT:" in request.prompt


@pytest.mark.parametrize(
    "chain",
    [
        lambda a: rephrased_and_answered(lambda _: "Nobody knows.") | a,
        lambda a: (
            Upstream()
            | StrOutputParser()
            | (lambda _: "Nobody knows.")
            | RunnableLambda(judged_and_corrected).bind(a=a)
        ),
    ],
    ids=["in-one-chain", "in-two"],
)
def test_of_several_calls_none_whose_answer_is_the_draft(
    chain: Callable[..., Runnable[Any, Any]], run: Run, aligner: Aligner, server: HostileServer
) -> None:
    with pytest.raises(QueryNotFoundError, match="2 model calls with different questions"):
        run(chain(AlignerRunnable(aligner=aligner)), QUESTION)
    assert server.generations == []


def judged_and_corrected(draft: str, a: Runnable[Any, Any]) -> Any:
    Upstream(turns=("yes",)).invoke(f"Is this polite? {draft}")
    return a.invoke(draft)


def test_of_one_call_whatever_became_of_its_answer(run: Run, aligner: Aligner, server: HostileServer) -> None:
    run(Upstream() | StrOutputParser() | (lambda _: "Nobody knows.") | AlignerRunnable(aligner=aligner), QUESTION)
    assert questions(server) == [QUESTION]


def test_the_nearer_of_two_calls_with_the_same_words(aligner: Aligner, server: HostileServer) -> None:
    def ask_twice(question: str) -> str:
        Upstream().invoke("Who are you?")
        return (Upstream() | StrOutputParser() | str.strip | AlignerRunnable(aligner=aligner)).invoke(question)

    RunnableLambda(ask_twice).invoke(QUESTION)
    assert questions(server) == [QUESTION]


def test_a_message_from_elsewhere_is_not_that_of_a_call_in_the_chain(aligner: Aligner, server: HostileServer) -> None:
    def rephrase_and_answer(question: str) -> AIMessage:
        Upstream(turns=(REPHRASED,)).invoke(f"Rephrase: {question}")
        with ThreadPoolExecutor(1) as pool:  # where nothing is known of the chain
            return pool.submit(Upstream(turns=(ANSWER,)).invoke, REPHRASED).result()

    (RunnableLambda(rephrase_and_answer) | AlignerRunnable(aligner=aligner)).invoke(QUESTION)
    assert questions(server) == [REPHRASED]


def test_the_same_words_to_different_questions(aligner: Aligner) -> None:
    def ask_both(question: str) -> str:
        first, _ = (Upstream().invoke(f"{question} ({number})") for number in range(2))
        return str(first.text)

    with pytest.raises(QueryNotFoundError, match="2 model calls with different questions"):
        (RunnableLambda(ask_both) | AlignerRunnable(aligner=aligner)).invoke(QUESTION)


def test_a_message_tells_which_of_two_calls_made_it(aligner: Aligner, server: HostileServer) -> None:
    def ask_both(question: str) -> AIMessage:
        first, _ = (Upstream().invoke(f"{question} ({number})") for number in range(2))
        return first

    (RunnableLambda(ask_both) | AlignerRunnable(aligner=aligner)).invoke(QUESTION)
    assert questions(server) == [f"{QUESTION} (0)"]


def test_servers_that_give_the_same_id_twice(aligner: Aligner, server: HostileServer) -> None:
    def ask_both(question: str) -> list[AIMessage]:
        drafts = [AIMessage(f"{number}, you idiot.", id="chatcmpl-1") for number in range(2)]
        return [Upstream(turns=(draft,)).invoke(f"{question} ({draft.text[0]})") for draft in drafts]

    (RunnableLambda(ask_both) | AlignerRunnable(aligner=aligner).map()).invoke(QUESTION)
    assert sorted(questions(server)) == [f"{QUESTION} (0)", f"{QUESTION} (1)"]


def test_the_nearer_of_two_calls_with_the_same_id(aligner: Aligner, server: HostileServer) -> None:
    model = Upstream(turns=(AIMessage(DRAFT, id="chatcmpl-1"),))

    def ask_twice(question: str) -> AIMessage:
        model.invoke("Who are you?")
        return (model | AlignerRunnable(aligner=aligner)).invoke(question)

    RunnableLambda(ask_twice).invoke(QUESTION)
    assert questions(server) == [QUESTION]


def test_map_keeps_questions_and_drafts_together(aligner: Aligner, server: HostileServer) -> None:
    chain = Upstream().map() | AlignerRunnable(aligner=aligner).map()
    asked = [f"What is {number} times two?" for number in range(20)]
    assert [message.text for message in chain.invoke(asked)] == [CORRECTED] * 20
    assert sorted(questions(server)) == sorted(asked)


@pytest.mark.parametrize("step", [StrOutputParser(), RunnablePassthrough()], ids=["text", "message"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda a: a.bind(max_new_tokens=7),
        lambda a: a.with_retry(),
        lambda a: (RunnablePassthrough() | a).with_config(run_name="inner"),
        lambda a: RunnablePassthrough() | (RunnablePassthrough() | (RunnablePassthrough() | a)).with_retry(),
    ],
    ids=["bind", "retry", "nested", "deep"],
)
async def test_batches_in_a_function(
    wrap: Callable[..., Any], step: Runnable[Any, Any], aligner: Aligner, server: HostileServer
) -> None:
    chain = RunnableLambda(str) | Upstream() | step | wrap(AlignerRunnable(aligner=aligner))

    def ask(question: str) -> list[Any]:
        Upstream(turns=("Let me see.",)).invoke("Who are you?")
        return chain.batch([question])

    async def aask(question: str, config: RunnableConfig) -> list[Any]:
        await Upstream(turns=("Let me see.",)).ainvoke("Who are you?", config)
        return await chain.abatch([question], config)

    RunnableLambda(ask).invoke(QUESTION)
    await RunnableLambda(aask).ainvoke(QUESTION)
    assert questions(server) == [QUESTION, QUESTION]


def test_what_another_branch_says_is_not_a_draft_of_this_one(aligner: Aligner, server: HostileServer) -> None:
    meeting = Barrier(2, timeout=60)  # the other branch has said it, and goes on until this one is corrected

    def refuse(_: str) -> str:
        meeting.wait()
        return REFUSAL

    def meet(_: Any) -> None:
        meeting.wait()

    this = Upstream() | StrOutputParser() | refuse | AlignerRunnable(aligner=aligner) | meet
    other = RunnableLambda("Not {}".format) | Upstream(turns=(REFUSAL,)) | meet | meet
    RunnableParallel(this=this, other=other).invoke(QUESTION)
    assert questions(server) == [QUESTION]


REFUSAL = "I'm sorry, but I can't help with that."
WRAPPED = pytest.mark.parametrize(
    "wrap",
    [lambda a: a, lambda a: a.bind(feedback="kind"), lambda a: a.with_retry(), lambda a: RunnablePassthrough() | a],
    ids=["plain", "bind", "retry", "nested"],
)


@WRAPPED
def test_a_text_of_no_model_is_not_what_another_branch_says(
    wrap: Callable[..., Any], aligner: Aligner, server: HostileServer
) -> None:
    meeting = Barrier(2, timeout=60)

    def meet(text: str) -> str:
        meeting.wait()
        return text

    correct = wrap(AlignerRunnable(aligner=aligner)).with_fallbacks(
        [RunnableLambda(lambda _: "Who asked?")], exceptions_to_handle=(QueryNotFoundError,)
    )
    this = RunnableLambda(lambda _: REFUSAL) | meet | correct | meet
    other = Upstream(turns=(REFUSAL,)) | StrOutputParser() | meet | meet
    branches = RunnablePassthrough() | RunnableParallel(this=this, other=other).with_config(run_name="both")
    ask = RunnableLambda(lambda question: branches.batch([question]))
    for answer in (branches.invoke(QUESTION), *ask.invoke(QUESTION)):
        assert answer == {"this": "Who asked?", "other": REFUSAL}
    assert server.requests == []


@WRAPPED
@pytest.mark.parametrize("other", [Upstream(turns=(REFUSAL,)), Upstream(turns=(REFUSAL,)) | StrOutputParser()])
def test_nor_what_another_branch_has_said(
    other: Runnable[Any, Any], wrap: Callable[..., Any], aligner: Aligner, server: HostileServer
) -> None:
    this = RunnableLambda(lambda _: REFUSAL) | wrap(AlignerRunnable(aligner=aligner))
    one_after_the_other: RunnableConfig = {"max_concurrency": 1}
    with pytest.raises(QueryNotFoundError, match="No model call is known"):
        RunnableParallel(other=other, this=this).invoke(QUESTION, one_after_the_other)
    assert server.requests == []
