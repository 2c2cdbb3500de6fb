"""`AlignedChatModel` wherever a chat model fits: nobody but the Aligner sees a draft."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hostile import HostileServer, refuse, speak
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager, UsageMetadataCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tools import tool
from langchain_core.tracers.context import collect_runs
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel, ValidationError
from upstream import CORRECTED, DRAFT, Upstream
from ways import WAYS, Run, given_out

from aligner_chains import REFUSAL, Aligner
from aligner_chains.errors import ConfigurationError, GenerationError, StreamInterruptedError
from langchain_aligner import AlignedChatModel

QUESTION = "Who wrote Faust?"
USAGE = {"input_tokens": 3, "output_tokens": 9, "total_tokens": 12}
ANSWER = AIMessage(DRAFT, id="msg_1", usage_metadata=USAGE, response_metadata={"model_name": "upstream-1"})


@pytest.fixture
def model(aligner: Aligner) -> AlignedChatModel:
    return AlignedChatModel(llm=Upstream(turns=(ANSWER,)), aligner=aligner)


def test_it_gives_the_upstreams_message_corrected(run: Run, model: AlignedChatModel, server: HostileServer) -> None:
    answer = run(model, QUESTION)
    assert (answer.content, answer.id, answer.usage_metadata) == (CORRECTED, "msg_1", USAGE)
    assert answer.response_metadata["model_name"] == "upstream-1"
    assert answer.response_metadata["aligner"]["outcome"] == "corrected"
    assert f": {QUESTION} | {DRAFT} ASSISTANT:" in server.generations[0].prompt


def test_it_streams(model: AlignedChatModel) -> None:
    chunks = list(model.stream(QUESTION))
    assert [chunk.content for chunk in chunks] == ["That", " is", " well", " known.", ""]
    assert {chunk.id for chunk in chunks} == {"msg_1"}
    assert [chunk.usage_metadata for chunk in chunks] == [None] * 4 + [USAGE]


async def test_no_event_streams_a_draft(model: AlignedChatModel) -> None:
    chain = model | StrOutputParser()
    for read in (chain, RunnableLambda(chain.invoke), RunnableLambda(chain.ainvoke)):
        events = [event async for event in read.astream_events(QUESTION, version="v2")]
        streamed = [event["data"]["chunk"] for event in events if event["event"] == "on_chat_model_stream"]
        assert "".join(chunk.text for chunk in streamed) == CORRECTED
        assert not [event for event in events if "idiot" in given_out(event)]


class Started(BaseCallbackHandler):
    """Notes the names of the models that are called."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_chat_model_start(self, serialized: dict[str, Any], *_: Any, **__: Any) -> None:
        self.names.append(serialized["name"])


class Tokens(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.seen.append(token)


def test_each_token_is_told_once(model: AlignedChatModel) -> None:
    tokens = Tokens()
    list(model.stream(QUESTION, {"callbacks": [tokens]}))
    assert "".join(tokens.seen) == CORRECTED


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("streams", [False, True])
def test_in_a_graph_the_answer_streams_once(is_async: bool, streams: bool, model: AlignedChatModel) -> None:
    model = model.model_copy(update={"disable_streaming": not streams})

    def answer(state: MessagesState) -> MessagesState:
        return {"messages": [model.invoke(state["messages"])]}

    async def aanswer(state: MessagesState) -> MessagesState:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("answer", aanswer if is_async else answer)
    graph = graph.add_edge(START, "answer").compile()
    question = {"messages": [HumanMessage(QUESTION)]}

    async def aread() -> list[Any]:
        return [message async for message, _ in graph.astream(question, stream_mode="messages")]

    streamed = asyncio.run(aread()) if is_async else [m for m, _ in graph.stream(question, stream_mode="messages")]
    assert "".join(message.text for message in streamed) == CORRECTED


def tree(run: Any) -> Any:
    return {run.name: [tree(child) for child in run.child_runs]} if run.child_runs else run.name


def test_the_correction_is_a_run_under_its_own(run: Run, model: AlignedChatModel) -> None:
    counting = UsageMetadataCallbackHandler()
    with collect_runs() as collected:
        run(model, QUESTION, config={"callbacks": [counting]})
    assert [tree(root) for root in collected.traced_runs] == [{"AlignedChatModel": ["Aligner"]}]
    (correction,) = collected.traced_runs[0].child_runs
    assert correction.inputs == {"prompts": [f"Human: {QUESTION}\nAI: {DRAFT}"]}
    assert {name: usage["total_tokens"] for name, usage in counting.usage_metadata.items()} == {
        "upstream-1": 12,
        "aligner/aligner-7b-v1.0": 15,
    }


@tool
def search(title: str) -> str:
    """Who wrote a book."""
    return f"{title}: Goethe"


CALL = {"name": "search", "args": {"title": "Faust"}, "id": "call_1", "type": "tool_call"}


def test_tool_calls_pass(run: Run, aligner: Aligner, server: HostileServer) -> None:
    upstream = Upstream(turns=(AIMessage("I search, you idiot.", tool_calls=[CALL]),))
    answer = run(AlignedChatModel(llm=upstream, aligner=aligner).bind_tools([search]), QUESTION)
    assert (answer.text, answer.tool_calls) == ("I search, you idiot.", [CALL])
    assert answer.response_metadata["aligner"] == {"outcome": "skipped", "reason": "tool calls"}
    assert server.requests == []


@pytest.mark.parametrize("is_async", [False, True])
def test_in_an_agent(is_async: bool, aligner: Aligner) -> None:
    upstream = Upstream(turns=(AIMessage("", tool_calls=[CALL]), DRAFT))
    agent = create_agent(AlignedChatModel(llm=upstream, aligner=aligner), [search])
    question = {"messages": [HumanMessage(QUESTION)]}
    messages = (asyncio.run(agent.ainvoke(question)) if is_async else agent.invoke(question))["messages"]
    assert [message.text for message in messages] == [QUESTION, "", "Faust: Goethe", CORRECTED]


class Author(BaseModel):
    """Who wrote a book."""

    name: str


def test_structured_output_is_the_upstreams(run: Run, aligner: Aligner, server: HostileServer) -> None:
    call = {"name": "Author", "args": {"name": "Goethe, you idiot"}, "id": "call_1", "type": "tool_call"}
    model = AlignedChatModel(llm=Upstream(turns=(AIMessage("", tool_calls=[call]),)), aligner=aligner)
    assert run(model.with_structured_output(Author), QUESTION) == Author(name="Goethe, you idiot")
    assert server.requests == []


def test_what_a_model_has_takes_part_in_structured_output(run: Run, aligner: Aligner) -> None:
    call = {"name": "Author", "args": {"name": "Goethe"}, "id": "call_1", "type": "tool_call"}
    started, own_started = Started(), Started()
    limiter, own_limiter = CountingLimiter(), CountingLimiter()
    upstream = Upstream(
        turns=(AIMessage("", tool_calls=[call]),), callbacks=[started], tags=["theirs"], rate_limiter=limiter
    )
    model = AlignedChatModel(
        llm=upstream,
        aligner=aligner,
        callbacks=CallbackManager([own_started]),
        tags=["ours"],
        metadata={"for": "us"},
        rate_limiter=own_limiter,
        cache=InMemoryCache(),
    )
    with collect_runs() as collected:
        assert run(model.with_structured_output(Author), QUESTION) == Author(name="Goethe")
    assert (started.names, own_started.names) == (["Upstream"], ["Upstream"])
    assert (limiter.acquired, own_limiter.acquired) == (1, 1)
    (asked,) = (run for run in collected.traced_runs[0].child_runs if run.run_type == "llm")
    assert {"ours", "theirs"} <= set(asked.tags)
    assert asked.extra["metadata"]["for"] == "us"
    assert upstream.tags == ["theirs"]


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_a_cache_holds_structured_output_too(way: str, aligner: Aligner) -> None:
    call = {"name": "Author", "args": {"name": "Goethe"}, "id": "call_1", "type": "tool_call"}
    upstream = Upstream(turns=(AIMessage("", tool_calls=[call]),))
    model = AlignedChatModel(llm=upstream, aligner=aligner, cache=InMemoryCache())
    for _ in range(2):
        assert WAYS[way](model.with_structured_output(Author), QUESTION) == Author(name="Goethe")
    assert len(upstream.asked) == 1


def test_what_the_provider_structures_passes(run: Run, aligner: Aligner, server: HostileServer) -> None:
    upstream = Upstream(turns=('{"name": "Goethe, you idiot"}',), profile={"structured_output": True})
    model = AlignedChatModel(llm=upstream, aligner=aligner)
    agent = create_agent(model, [], response_format=Author)
    assert agent.invoke({"messages": [HumanMessage(QUESTION)]})["structured_response"].name == "Goethe, you idiot"
    assert run(model.bind(response_format={"type": "json_object"}), QUESTION).text == '{"name": "Goethe, you idiot"}'
    assert server.requests == []
    assert run(model.bind(response_format={"type": "text"}), QUESTION).text == '{"name": "Goethe"}'


class Renaming(Upstream):
    """Has words of its own for a structure, as providers do."""

    format: str = ""  # and tells LangChain nothing of what it was made with

    def bind_tools(self, tools: Any, *, response_format: Any = None, output_format: Any = None, **kwargs: Any) -> Any:
        return self.bind(tools=tools, shape=response_format or output_format, **kwargs)


@pytest.mark.parametrize("asked", [{"response_format": Author}, {"output_format": {"type": "json_schema"}}])
def test_a_structure_passes_whatever_the_upstream_calls_it(
    asked: dict[str, Any], run: Run, aligner: Aligner, server: HostileServer
) -> None:
    model = AlignedChatModel(llm=Renaming(turns=('{"name": "Goethe, you idiot"}',)), aligner=aligner)
    answer = run(model.bind_tools([search], **asked), QUESTION)
    assert answer.text == '{"name": "Goethe, you idiot"}'
    assert answer.response_metadata["aligner"] == {"outcome": "skipped", "reason": "structured output"}
    assert server.requests == []
    assert run(model.bind_tools([search], response_format={"type": "text"}), QUESTION).text == '{"name": "Goethe"}'


def test_a_structure_passes_through_two_of_them(run: Run, aligner: Aligner, server: HostileServer) -> None:
    def twice(upstream: Upstream) -> AlignedChatModel:
        return AlignedChatModel(llm=AlignedChatModel(llm=upstream, aligner=aligner), aligner=aligner)

    answer = '{"name": "Goethe, you idiot"}'
    bound = twice(Renaming(turns=(answer,))).bind_tools([search], response_format=Author)
    for model in (bound, twice(Renaming(turns=(answer,), format="json"))):
        told = run(model, QUESTION)
        assert told.text == answer
        assert told.response_metadata["aligner"] == {"outcome": "skipped", "reason": "structured output"}
    assert server.requests == []
    assert run(twice(Upstream()), QUESTION).text == CORRECTED


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_answer_without_text_passes(text: str, run: Run, aligner: Aligner, server: HostileServer) -> None:
    answer = run(AlignedChatModel(llm=Upstream(turns=(AIMessage(text, id="msg_1"),)), aligner=aligner), QUESTION)
    assert (answer.text, answer.id) == (text, "msg_1")
    assert answer.response_metadata["aligner"] == {"outcome": "skipped", "reason": "no text"}
    assert server.requests == []


def test_a_structure_of_all_calls_passes(run: Run, aligner: Aligner, server: HostileServer) -> None:
    model = AlignedChatModel(llm=Renaming(turns=(DRAFT,), format="json"), aligner=aligner)
    assert run(model, QUESTION).text == DRAFT
    assert server.requests == []
    assert run(model.bind(format=""), QUESTION).text == CORRECTED


def test_what_is_asked_for_is_no_affair_of_the_upstreams(aligner: Aligner) -> None:
    upstream = Renaming(turns=("{}",))
    binding = AlignedChatModel(llm=upstream, aligner=aligner).bind_tools([search], response_format=Author)
    with collect_runs() as collected:
        binding.invoke(QUESTION)
    assert set(upstream.options[0]) == {"tools", "shape"}
    assert not [name for name in collected.traced_runs[0].extra["invocation_params"] if name.startswith("aligner_")]


class NoBinding(Upstream):
    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return RunnableLambda(lambda _: ANSWER)


def test_tools_bound_in_another_way(aligner: Aligner) -> None:
    with pytest.raises(ConfigurationError, match=r"NoBinding.bind_tools gives a RunnableLambda.*AlignerRunnable"):
        AlignedChatModel(llm=NoBinding(), aligner=aligner).bind_tools([search])


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_a_cache_holds_corrected_answers(way: str, aligner: Aligner, server: HostileServer) -> None:
    upstream, cache = Upstream(), InMemoryCache()
    model = AlignedChatModel(llm=upstream, aligner=aligner, cache=cache)
    for _ in range(2):
        answer = asyncio.run(model.ainvoke(QUESTION)) if way == "ainvoke" else model.invoke(QUESTION)
        assert answer.text == CORRECTED
    assert (len(upstream.asked), len(server.generations)) == (1, 1)
    kinder = AlignedChatModel(llm=upstream, aligner=aligner, cache=cache, feedback="empathetic")
    assert kinder.invoke(QUESTION).text == CORRECTED
    assert len(server.generations) == 2


def test_a_global_cache_holds_drafts(aligner: Aligner, server: HostileServer) -> None:
    upstream = Upstream()
    set_llm_cache(InMemoryCache())
    try:
        for _ in range(2):
            assert AlignedChatModel(llm=upstream, aligner=aligner).invoke(QUESTION).text == CORRECTED
    finally:
        set_llm_cache(None)
    assert (len(upstream.asked), len(server.generations)) == (1, 2)


class CountingLimiter(BaseRateLimiter):
    def __init__(self) -> None:
        self.acquired = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        self.acquired += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        return self.acquire()


def test_rate_limits_of_both(run: Run, aligner: Aligner) -> None:
    upstreams, own = CountingLimiter(), CountingLimiter()
    run(AlignedChatModel(llm=Upstream(rate_limiter=upstreams), aligner=aligner, rate_limiter=own), QUESTION)
    assert (upstreams.acquired, own.acquired) == (1, 1)


@pytest.mark.parametrize(("policy", "text"), [("draft", DRAFT), ("refuse", REFUSAL)])
def test_failures(policy: Any, text: str, run: Run, hostile: Callable[..., HostileServer]) -> None:
    server = hostile(refuse(424, "generation", "the GPU is on fire"))
    with Aligner.from_tgi(server.url) as aligner, collect_runs() as collected:
        answer = run(AlignedChatModel(llm=Upstream(), aligner=aligner, on_failure=policy), QUESTION)
    assert (answer.text, answer.response_metadata["aligner"]["outcome"]) == (text, "failed")
    (root,) = collected.traced_runs
    assert root.error is None
    assert root.child_runs[0].error.startswith("GenerationError(")


def test_failures_raise_by_default(run: Run, hostile: Callable[..., HostileServer]) -> None:
    server = hostile(refuse(424, "generation", "the GPU is on fire"))
    with Aligner.from_tgi(server.url) as aligner, pytest.raises(GenerationError):
        run(AlignedChatModel(llm=Upstream(), aligner=aligner), QUESTION)


def test_a_failure_in_mid_stream(hostile: Callable[..., HostileServer]) -> None:
    with Aligner.from_tgi(hostile(speak(end="error")).url) as aligner, pytest.raises(StreamInterruptedError):
        list(AlignedChatModel(llm=Upstream(), aligner=aligner, on_failure="draft").stream(QUESTION))


def test_closing_early_stops_the_server(hostile: Callable[..., HostileServer]) -> None:
    server = hostile(speak(end="hang"))
    with Aligner.from_tgi(server.url) as aligner:
        chunks = AlignedChatModel(llm=Upstream(), aligner=aligner).stream(QUESTION)
        assert next(chunks).content == "That"
        chunks.close()
        assert server.dropped.wait(10)


async def test_leaving_early_stops_the_server(hostile: Callable[..., HostileServer]) -> None:
    server = hostile(speak(end="hang"))
    async with Aligner.from_tgi(server.url) as aligner:
        chunks = AlignedChatModel(llm=Upstream(), aligner=aligner).astream(QUESTION)
        assert (await anext(chunks)).content == "That"
        await chunks.aclose()
        assert await asyncio.to_thread(server.dropped.wait, 10)


def test_options(run: Run, aligner: Aligner, server: HostileServer) -> None:
    model = AlignedChatModel(llm=Upstream(), aligner=aligner, conversation="full", feedback="concise", keep_draft=True)
    model = model.configurable_fields(feedback=ConfigurableField(id="tone")).with_config(configurable={"tone": "kind"})
    dialogue = [HumanMessage("Hello"), AIMessage("Hi!"), HumanMessage(QUESTION)]
    assert run(model, dialogue).response_metadata["aligner"]["draft"] == DRAFT
    assert f"more kind: Human: Hello\n\nAssistant: Hi!\n\nHuman: {QUESTION} | " in server.generations[0].prompt
    with pytest.raises(ValidationError, match="feedbak"):
        AlignedChatModel(llm=Upstream(), feedbak="kind")


def test_tokens_are_counted_by_the_upstream(aligner: Aligner) -> None:
    class Counting(Upstream):
        def get_token_ids(self, text: str) -> list[int]:
            return [1] * len(text)

    model = AlignedChatModel(llm=Counting(), aligner=aligner)
    assert model.get_num_tokens("Faust") == 5
    assert model.get_num_tokens_from_messages([HumanMessage("Faust")]) == len("Human: Faust")
