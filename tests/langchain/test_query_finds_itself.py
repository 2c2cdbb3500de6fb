"""In every kind of chain the Aligner is asked about the right question: read off what arrives at the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asked import QUESTION, question_in, questions
from hostile import Call, HostileServer, speak
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import (
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnableSequence,
)
from langchain_core.runnables.history import RunnableWithMessageHistory
from upstream import CORRECTED, DRAFT, CompletionUpstream, Upstream
from ways import WAYS, Run

from aligner_chains import Aligner
from aligner_chains.errors import QueryNotFoundError
from langchain_aligner import AlignerRunnable

PROMPT = ChatPromptTemplate.from_messages([("system", "You know books."), ("human", "{question}")])


def ask_model(question: str) -> Any:
    return Upstream().invoke(question)


async def ask_model_async(question: str, config: Any) -> Any:
    return await Upstream().ainvoke(question, config)


def pass_on(chunks: Iterator[Any]) -> Iterator[Any]:
    yield from chunks


async def apass_on(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for chunk in chunks:
        yield chunk


def with_failing_first_try() -> Runnable[Any, Any]:
    model = Upstream(turns=(ValueError("no"), DRAFT))
    return model.with_retry(retry_if_exception_type=(ValueError,), wait_exponential_jitter=False)


def with_fallback() -> Runnable[Any, Any]:
    return Upstream(turns=(ValueError("no"),)).with_fallbacks([Upstream()])


CHAINS: dict[str, Callable[[Runnable[Any, Any]], Runnable[Any, Any]]] = {
    "model": lambda a: Upstream() | a,
    "parser": lambda a: Upstream() | StrOutputParser() | a,
    "nested": lambda a: Upstream() | RunnableSequence(StrOutputParser(), a).with_config(run_name="inner"),
    "nested-model": lambda a: (RunnablePassthrough() | Upstream()).with_config(run_name="inner") | a,
    "named": lambda a: Upstream() | a.with_config(run_name="inner"),
    "retry": lambda a: Upstream().with_retry() | a,
    "fallbacks": lambda a: with_fallback() | a,
    "lambda": lambda a: RunnableLambda(ask_model) | a,
    "async-lambda": lambda a: RunnableLambda(ask_model, afunc=ask_model_async) | a,
    "lambda-that-returns-a-runnable": lambda a: RunnableLambda(lambda _: Upstream()) | a,
    "branch": lambda a: RunnableBranch((lambda _: True, Upstream()), RunnablePassthrough()) | a,
    "aligner-in-branch": lambda a: Upstream() | RunnableBranch((lambda _: True, a), RunnablePassthrough()),
    "aligner-with-retry": lambda a: Upstream() | a.with_retry(),
    "aligner-with-fallbacks": lambda a: Upstream() | a.with_fallbacks([RunnablePassthrough()]),
    "assign": lambda a: {"question": RunnablePassthrough()} | RunnablePassthrough.assign(draft=PROMPT | Upstream()) | a,
    "pick": lambda a: RunnableParallel(one=Upstream()) | (lambda both: both["one"]) | a,
    "changed-on-the-way": lambda a: Upstream() | StrOutputParser() | (lambda text: f"{text} (Source: me)") | a,
    "generator": lambda a: Upstream() | RunnableGenerator(pass_on, apass_on) | a,
    "completion-model": lambda a: CompletionUpstream() | a,
    "twice": lambda a: Upstream() | a | a,
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_in_every_kind_of_chain(
    chain: Callable[..., Runnable[Any, Any]], run: Run, aligner: Aligner, server: HostileServer
) -> None:
    answer = run(chain(AlignerRunnable(aligner=aligner)), QUESTION)
    text = answer if isinstance(answer, str) else str(answer.text)
    assert text.startswith(CORRECTED.removesuffix("."))
    assert set(questions(server)) == {QUESTION}


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "batch", "abatch"])  # LangChain does not retry streams
def test_when_the_first_try_failed(way: str, aligner: Aligner, server: HostileServer) -> None:
    assert WAYS[way](with_failing_first_try() | AlignerRunnable(aligner=aligner), QUESTION).text == CORRECTED
    assert questions(server) == [QUESTION]


def test_a_completion_prompt_is_the_question(run: Run, aligner: Aligner, server: HostileServer) -> None:
    chain = ChatPromptTemplate.from_template("{question}") | CompletionUpstream() | AlignerRunnable(aligner=aligner)
    run(chain, {"question": QUESTION})
    assert questions(server) == [f"Human: {QUESTION}"]  # what LangChain makes of a chat prompt for such a model


def test_a_message_is_recognised_outside_of_a_chain(aligner: Aligner, server: HostileServer) -> None:
    draft = (PROMPT | Upstream()).invoke({"question": QUESTION})
    assert AlignerRunnable(aligner=aligner).invoke(draft).text == CORRECTED
    assert questions(server) == [QUESTION]


async def test_an_async_function_that_keeps_its_config_to_itself(aligner: Aligner, server: HostileServer) -> None:
    # On Python 3.10 the context of a chain does not reach such a function: its model call is a root of its own.
    async def ask(question: str) -> AIMessage:
        return await Upstream().ainvoke(question)

    await (RunnableLambda(ask) | AlignerRunnable(aligner=aligner)).ainvoke(QUESTION)
    assert questions(server) == [QUESTION]


DIALOGUE = [
    SystemMessage("You know books."),
    HumanMessage("Who wrote Faust?"),
    AIMessage("", tool_calls=[{"name": "search", "args": {}, "id": "1"}]),
    ToolMessage("Goethe", tool_call_id="1"),
    AIMessage("Goethe."),
    HumanMessage("When?"),
]


def test_of_a_dialogue_the_last_human_turn(run: Run, aligner: Aligner, server: HostileServer) -> None:
    run(Upstream() | AlignerRunnable(aligner=aligner), DIALOGUE)
    assert questions(server) == ["When?"]


def test_or_the_whole_dialogue(run: Run, aligner: Aligner, server: HostileServer) -> None:
    run(Upstream() | AlignerRunnable(aligner=aligner, conversation="full"), DIALOGUE)
    assert questions(server) == ["Human: Who wrote Faust?\n\nAssistant: Goethe.\n\nHuman: When?"]


def test_the_whole_of_a_single_turn_is_that_turn(aligner: Aligner, server: HostileServer) -> None:
    (PROMPT | Upstream() | AlignerRunnable(aligner=aligner, conversation="full")).invoke({"question": QUESTION})
    assert questions(server) == [QUESTION]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("question", QUESTION),
        ("Who, then?", "Who, then?"),
        (lambda draft: f"What is behind {draft.text!r}?", f"What is behind {DRAFT!r}?"),
        (lambda _: DIALOGUE, "When?"),
    ],
    ids=["key", "text", "callable", "callable-with-messages"],
)
def test_query_wins_over_what_was_found(
    query: Any, found: str, run: Run, aligner: Aligner, server: HostileServer
) -> None:
    prompt = ChatPromptTemplate.from_template("Context: {context}\nQuestion: {question}")
    run(prompt | Upstream() | AlignerRunnable(aligner=aligner, query=query), {"context": "...", "question": QUESTION})
    assert questions(server) == [found]


def test_query_for_one_call(aligner: Aligner, server: HostileServer) -> None:
    runnable = AlignerRunnable(aligner=aligner, query="never asked for this")
    runnable.invoke(DRAFT, query=QUESTION)
    runnable.bind(query=lambda _: QUESTION).invoke(DRAFT)
    assert questions(server) == [QUESTION] * 2


@pytest.mark.parametrize(
    "value",
    [
        {"query": QUESTION, "draft": DRAFT},
        [HumanMessage(QUESTION), AIMessage(DRAFT)],
        ChatPromptTemplate.from_messages([("human", QUESTION), ("ai", DRAFT)]).invoke({}),
    ],
)
def test_query_wins_over_what_came_along(value: Any, run: Run, aligner: Aligner, server: HostileServer) -> None:
    run(AlignerRunnable(aligner=aligner, query="Who, then?"), value)
    assert questions(server) == ["Who, then?"]


def test_a_key_of_the_input(run: Run, aligner: Aligner, server: HostileServer) -> None:
    assert run(AlignerRunnable(aligner=aligner, query="ask"), {"ask": QUESTION, "draft": DRAFT}) == CORRECTED
    assert run(AlignerRunnable(aligner=aligner, query="the ask"), {"the ask": QUESTION, "draft": DRAFT}) == CORRECTED
    assert questions(server) == [QUESTION, QUESTION]


def test_a_dict_and_a_list_bring_their_question(run: Run, aligner: Aligner, server: HostileServer) -> None:
    run(AlignerRunnable(aligner=aligner), {"query": QUESTION, "draft": DRAFT})
    run(AlignerRunnable(aligner=aligner), {"query": DIALOGUE, "draft": AIMessage(DRAFT)})
    run(AlignerRunnable(aligner=aligner), [*DIALOGUE, AIMessage(DRAFT)])
    assert questions(server) == [QUESTION, "When?", "When?"]


# LangChain has deprecated both, and keeps them until 2.0.
@pytest.mark.filterwarnings("ignore:.*(InMemoryChatMessageHistory|RunnableWithMessageHistory).* deprecated")
def test_message_history(run: Run, aligner: Aligner, server: HostileServer) -> None:
    history = InMemoryChatMessageHistory()
    prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{question}")])
    chain = RunnableWithMessageHistory(
        prompt | Upstream() | AlignerRunnable(aligner=aligner),
        lambda session_id: history,
        input_messages_key="question",
        history_messages_key="history",
    ).with_config(configurable={"session_id": "1"})
    run(chain, {"question": QUESTION})
    run(chain, {"question": "And when?"})
    assert questions(server) == [QUESTION, "And when?"]
    assert [message.text for message in history.messages] == [QUESTION, CORRECTED, "And when?", CORRECTED]


@pytest.mark.parametrize("value", [DRAFT, AIMessage(DRAFT), AIMessage(DRAFT, id="unheard-of"), [AIMessage(DRAFT)]])
@pytest.mark.parametrize("query", [None, "question"])
def test_no_question_is_an_error_that_says_how_to_give_one(
    value: Any, query: str | None, run: Run, aligner: Aligner, server: HostileServer
) -> None:
    with pytest.raises(QueryNotFoundError, match=r'"query".*list of messages.*AlignerRunnable\(query=') as caught:
        run(AlignerRunnable(aligner=aligner, query=query), value)
    assert isinstance(caught.value, LookupError)
    assert server.generations == []


@pytest.mark.parametrize("asked", [" ", [SystemMessage("Be kind.")], [HumanMessage([{"type": "image", "url": "x:"}])]])
def test_never_an_empty_question(asked: Any, run: Run, aligner: Aligner, server: HostileServer) -> None:
    with pytest.raises(QueryNotFoundError):
        run(Upstream() | AlignerRunnable(aligner=aligner), asked)
    assert server.generations == []


@pytest.fixture
def echoing(hostile: Callable[..., HostileServer]) -> Iterator[Aligner]:
    """Corrects every draft into its question, so that each answer shows which one it was corrected with."""

    async def echo(call: Call) -> None:
        await speak(f" {question_in(call.request.prompt)}")(call)

    with Aligner.from_tgi(hostile(for_ever=echo).url) as aligner:
        yield aligner


def questions_and_chain(number: int, aligner: Aligner) -> tuple[list[str], Runnable[Any, str]]:
    chain = Upstream() | StrOutputParser() | AlignerRunnable(aligner=aligner)  # the same draft for all
    return [f"What is {each} times two?" for each in range(number)], chain


async def test_500_at_a_time(echoing: Aligner) -> None:
    asked, chain = questions_and_chain(500, echoing)
    assert await asyncio.gather(*map(chain.ainvoke, asked)) == asked


def test_in_threads(echoing: Aligner) -> None:
    asked, chain = questions_and_chain(50, echoing)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(chain.invoke, asked)) == asked
        assert list(pool.map(lambda question: "".join(chain.stream(question)), asked)) == asked
        assert list(pool.map(lambda question: asyncio.run(chain.ainvoke(question)), asked[:8])) == asked[:8]


async def test_batches(echoing: Aligner) -> None:
    asked, chain = questions_and_chain(20, echoing)
    some_at_a_time: RunnableConfig = {"max_concurrency": 4}
    assert chain.batch(asked, some_at_a_time) == asked
    assert await chain.abatch(asked, some_at_a_time) == asked
    assert dict(chain.batch_as_completed(asked)) == dict(enumerate(asked))


async def test_batches_in_which_one_fails(echoing: Aligner) -> None:
    def odd(question: str) -> str:
        if question == "odd":
            raise ValueError(question)
        return question

    asked, chain = questions_and_chain(3, echoing)
    for answers in (
        (odd | chain).batch(["odd", *asked], return_exceptions=True),
        await (odd | chain).abatch(["odd", *asked], return_exceptions=True),
    ):
        assert isinstance(answers[0], ValueError)
        assert answers[1:] == asked


async def test_batches_of_completions(echoing: Aligner) -> None:
    asked, _ = questions_and_chain(3, echoing)
    chain = CompletionUpstream() | AlignerRunnable(aligner=echoing)  # all prompts in one call
    assert chain.batch(asked) == asked
    assert await chain.abatch(asked) == asked
