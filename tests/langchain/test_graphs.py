"""Chains with an Aligner in LangGraph nodes: who asked is known, and no token of a draft is streamed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from operator import itemgetter
from typing import Any

import pytest
from hostile import HostileServer
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnableSequence,
)
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel import Pregel
from upstream import CORRECTED, DRAFT, Upstream

from aligner_chains import Aligner
from langchain_aligner import AlignerRunnable

QUESTION = {"messages": [HumanMessage("Who wrote Faust?")]}
PIECES = ["That", " is", " well", " known.", ""]


def graph_of(chain: Runnable[Any, Any], way: str = "invoke") -> Any:
    def sync_node(state: MessagesState) -> MessagesState:
        if way == "stream":
            chunks = list(chain.stream(state["messages"]))
            return {"messages": [sum(chunks[1:], chunks[0])]}
        return {"messages": chain.batch([state["messages"]]) if way == "batch" else [chain.invoke(state["messages"])]}

    async def async_node(state: MessagesState, config: RunnableConfig) -> MessagesState:
        if way == "astream":
            chunks = [chunk async for chunk in chain.astream(state["messages"], config)]
            return {"messages": [sum(chunks[1:], chunks[0])]}
        if way == "abatch":
            return {"messages": await chain.abatch([state["messages"]], config)}
        return {"messages": [await chain.ainvoke(state["messages"], config)]}

    node = async_node if way.startswith("a") else sync_node
    return StateGraph(MessagesState).add_node("answer", node).add_edge(START, "answer").compile()


def streamed(graph: Any, *, is_async: bool) -> list[Any]:
    async def read() -> list[Any]:
        return [message async for message, _ in graph.astream(QUESTION, stream_mode="messages")]

    return asyncio.run(read()) if is_async else [m for m, _ in graph.stream(QUESTION, stream_mode="messages")]


@pytest.mark.parametrize("way", ["invoke", "stream", "batch", "ainvoke", "astream", "abatch"])
def test_only_the_aligners_tokens_are_streamed(way: str, aligner: Aligner, server: HostileServer) -> None:
    graph = graph_of(Upstream() | AlignerRunnable(aligner=aligner), way)
    messages = streamed(graph, is_async=way.startswith("a"))
    assert [message.content for message in messages] == PIECES
    assert len({message.id for message in messages}) == 1
    assert ": Who wrote Faust? | " in server.generations[0].prompt


def ask(messages: Any) -> AIMessage:
    return Upstream().invoke(messages)


CHAINS: dict[str, Callable[[Runnable[Any, Any]], Runnable[Any, Any]]] = {
    "with-config": lambda a: Upstream() | a.with_config(run_name="polish"),
    "with-retry": lambda a: Upstream() | a.with_retry(),
    "with-fallbacks": lambda a: Upstream() | a.with_fallbacks([RunnableLambda(lambda draft: draft)]),
    "bind": lambda a: Upstream() | a.bind(feedback="kind"),
    "model-with-retry": lambda a: Upstream().with_retry() | a,
    "model-with-tools": lambda a: Upstream().bind_tools([]) | a,
    "lambda": lambda a: RunnableLambda(ask) | a,
    "nested": lambda a: (RunnableLambda(lambda messages: messages) | Upstream()).with_config(run_name="inner") | a,
    "as-a-step": lambda a: RunnableLambda(lambda messages: messages) | (Upstream() | a).with_config(run_name="inner"),
    "in-a-chain": lambda a: Upstream() | RunnableSequence(RunnablePassthrough(), a).with_config(run_name="inner"),
    "in-a-branch": lambda a: Upstream() | RunnableBranch((lambda _: True, a), RunnablePassthrough()),
    "in-a-function": lambda a: Upstream() | function_with(a),
    "in-a-method": lambda a: Upstream() | RunnableLambda(Polisher(a).polish),
    "in-a-partial": lambda a: Upstream() | RunnableLambda(partial(polish, a)),
    "in-a-default": lambda a: Upstream() | function_with_default(a),
    "in-parallel": lambda a: Upstream() | RunnableParallel(answer=a) | itemgetter("answer"),
    "assigned": lambda a: (
        RunnableParallel(draft=Upstream())
        | RunnablePassthrough.assign(answer=itemgetter("draft") | a)
        | itemgetter("answer")
    ),
    "alternatives": lambda a: Upstream() | a.configurable_alternatives(ConfigurableField("a"), b=RunnablePassthrough()),
    "fields": lambda a: Upstream() | a.configurable_fields(feedback=ConfigurableField("tone")),
    "twice": lambda a: Upstream() | a | a,
    "twice-nested": lambda a: (Upstream() | a).with_config(run_name="inner") | RunnableLambda(lambda draft: draft) | a,
    "twice-retried": lambda a: (Upstream() | a).with_retry() | RunnableLambda(lambda draft: draft) | a.with_retry(),
    "another-draft": lambda a: Upstream(turns=("Who, you idiot?",)) | a | StrOutputParser() | Upstream() | a,
}


def function_with(aligner: Runnable[Any, Any]) -> Runnable[Any, Any]:
    def correct(draft: AIMessage) -> AIMessage:
        return aligner.invoke(draft)

    return RunnableLambda(correct)


class Polisher:
    def __init__(self, aligner: Runnable[Any, Any]) -> None:
        self.aligner = aligner

    def polish(self, draft: AIMessage) -> AIMessage:
        return self.aligner.invoke(draft)


def polish(aligner: Runnable[Any, Any], draft: AIMessage) -> AIMessage:
    return aligner.invoke(draft)


def function_with_default(aligner: Runnable[Any, Any]) -> Runnable[Any, Any]:
    def correct(draft: AIMessage, *, by: Runnable[Any, Any] = aligner) -> AIMessage:
        return by.invoke(draft)

    return RunnableLambda(correct)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("way", ["invoke", "ainvoke", "batch", "abatch"])
def test_in_chains_of_all_kinds(chain: Callable[..., Any], way: str, aligner: Aligner) -> None:
    graph = graph_of(chain(AlignerRunnable(aligner=aligner)), way)
    messages = streamed(graph, is_async=way.startswith("a"))
    assert [message.content for message in messages] == PIECES


def test_the_documents_of_a_retriever_are_not_looked_through(aligner: Aligner) -> None:
    class Documents(list[str]):
        def __iter__(self) -> Iterator[str]:
            yield "Goethe wrote Faust."
            raise AssertionError("somebody looks through the documents")

    class Retriever(RunnablePassthrough):
        documents: Any

    chain = Retriever(documents=Documents()) | Upstream() | AlignerRunnable(aligner=aligner)
    assert [message.content for message in streamed(graph_of(chain, "invoke"), is_async=False)] == PIECES


def test_a_function_that_knows_itself(aligner: Aligner) -> None:
    def answer(state: MessagesState) -> MessagesState:
        def again(draft: AIMessage) -> AIMessage:
            return draft if draft.text else step.invoke(draft)

        step = RunnableLambda(again)  # made here: LangGraph would look for graphs in it for ever
        return {"messages": [(Upstream() | step | AlignerRunnable(aligner=aligner)).invoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()
    assert [message.content for message in streamed(graph, is_async=False)] == PIECES


@pytest.mark.parametrize("number", [20, 1])
def test_batches_at_a_time(number: int, aligner: Aligner, server: HostileServer) -> None:
    chains = [Upstream(turns=(f"{each}, you idiot.",)) | AlignerRunnable(aligner=aligner) for each in range(3)]

    async def answer(state: MessagesState, config: RunnableConfig) -> MessagesState:
        batches = await asyncio.gather(*(chain.abatch([state["messages"]] * number, config) for chain in chains))
        return {"messages": [message for batch in batches for message in batch]}

    graph = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()
    texts = [message.text for message in streamed(graph, is_async=True) if message.text]
    assert sorted(texts) == sorted(f"{each}." for each in range(3) for _ in range(number))
    assert len(server.generations) == 3 * number


def test_a_chain_as_a_node(aligner: Aligner) -> None:
    chain = RunnableLambda(lambda state: state["messages"]) | Upstream() | AlignerRunnable(aligner=aligner)
    graph = StateGraph(MessagesState).add_node("answer", chain | (lambda message: {"messages": [message]}))
    graph = graph.add_edge(START, "answer").compile()
    for is_async in (False, True):
        assert [message.content for message in streamed(graph, is_async=is_async)] == PIECES


def test_models_that_write_no_draft_stream(aligner: Aligner) -> None:
    later = Upstream(turns=("You are welcome.",))
    chain = Upstream() | AlignerRunnable(aligner=aligner) | StrOutputParser() | later
    text = "".join(message.text for message in streamed(graph_of(chain), is_async=False))
    assert text == f"{CORRECTED}You are welcome."
    text = "".join(message.text for message in streamed(graph_of(Upstream()), is_async=False))
    assert text == DRAFT


def test_one_node_drafts_and_another_corrects(aligner: Aligner, server: HostileServer) -> None:
    def draft(state: MessagesState) -> MessagesState:
        return {"messages": [Upstream().with_config(tags=["nostream"]).invoke(state["messages"])]}

    def correct(state: MessagesState) -> MessagesState:
        return {"messages": [AlignerRunnable(aligner=aligner).invoke(state["messages"][-1])]}

    graph = StateGraph(MessagesState).add_node(draft).add_node(correct)
    graph = graph.add_edge(START, "draft").add_edge("draft", "correct").compile()
    messages = graph.invoke(QUESTION)["messages"]
    assert [message.text for message in messages] == ["Who wrote Faust?", CORRECTED]
    assert ": Who wrote Faust? | " in server.generations[0].prompt


@pytest.mark.skipif(not hasattr(Pregel, "stream_events"), reason="LangGraph has protocol events since 1.2")
@pytest.mark.filterwarnings("ignore:.*experimental", "ignore:.*in beta")
def test_protocol_events_tell_the_answer_once(aligner: Aligner) -> None:
    graph = graph_of(Upstream() | AlignerRunnable(aligner=aligner))
    assert [list(message.text) for message in graph.stream_events(QUESTION, version="v3").messages] == [PIECES[:-1]]

    async def read() -> list[list[str]]:
        agraph = graph_of(Upstream() | AlignerRunnable(aligner=aligner), "ainvoke")
        stream = await agraph.astream_events(QUESTION, version="v3")
        return [[piece async for piece in message.text] async for message in stream.messages]

    assert asyncio.run(read()) == [PIECES[:-1]]
