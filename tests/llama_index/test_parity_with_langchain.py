"""The same pair gives the same correction, the same metadata and the same errors in LangChain and in LlamaIndex."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
from hostile import HostileServer, refuse, speak
from langchain.agents import create_agent
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from models import Model, calling
from parts import Part, chat, function_agent, synthesizer
from rag import CORRECTED, DRAFT, QUERY, WAYS, Way

from aligner_chains import Aligner
from aligner_chains.backends.local import LocalBackend
from aligner_chains.errors import AlignerError, EmptyCorrectionError, GenerationError, StreamInterruptedError
from langchain_aligner import AlignedChatModel, AlignerMiddleware, AlignerRunnable
from llama_index_aligner import AlignerFunctionAgent

pytestmark = [  # of how LlamaIndex makes its agents, and what they ask their contexts
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]

#: A text that comes out, and what is told of it.
Told: TypeAlias = tuple[str, dict[str, Any]]


class Upstream(FakeMessagesListChatModel):
    """A chat model of LangChain's that takes tools."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


def _ask(way: Way, runnable: Any, value: Any) -> AIMessage:
    async def streamed() -> list[AIMessageChunk]:
        return [chunk async for chunk in runnable.astream(value)]

    if not way.streams:
        return asyncio.run(runnable.ainvoke(value)) if way.is_async else runnable.invoke(value)
    first, *others = asyncio.run(streamed()) if way.is_async else runnable.stream(value)
    return first + others if others else first


def in_runnable(way: Way, draft: str, **options: Any) -> Told:
    answer = _ask(way, AlignerRunnable(query=lambda _: QUERY, **options), AIMessage(draft))
    return answer.text, answer.response_metadata["aligner"]


def in_chat_model(way: Way, draft: str, **options: Any) -> Told:
    model = AlignedChatModel(llm=Upstream(responses=[AIMessage(draft)]), **options)
    answer = _ask(way, model, [HumanMessage(QUERY)])
    return answer.text, answer.response_metadata["aligner"]


def in_middleware(way: Way, draft: str, **options: Any) -> Told:
    agent = create_agent(Upstream(responses=[AIMessage(draft)]), [], middleware=[AlignerMiddleware(**options)])
    answer = asyncio.run(agent.ainvoke({"messages": [HumanMessage(QUERY)]}))["messages"][-1]
    return answer.text, answer.response_metadata["aligner"]


@dataclass(frozen=True)
class Both:
    """A part of LangChain's and one of LlamaIndex's that do the same, and a way to ask them."""

    in_langchain: Callable[..., Told]
    in_llama_index: Part
    way: Way

    def check(self, draft: str = DRAFT, **options: Any) -> dict[str, Any]:
        """What both tell, but for the time that it took; the texts are the same, too."""
        text, told = self.in_langchain(self.way, draft, **options)
        other_text, other_told = self.in_llama_index(self.way, Model(turns=(draft,)), QUERY, **options)
        assert other_told is not None
        assert (told.pop("latency", None) is None) == (other_told.pop("latency", None) is None)
        assert (text, told) == (other_text, other_told)
        return told

    def check_error(self, kind: type[AlignerError], **options: Any) -> None:
        with pytest.raises(kind) as caught:
            self.in_langchain(self.way, DRAFT, **options)
        with pytest.raises(kind) as other:
            self.in_llama_index(self.way, Model(), QUERY, **options)
        assert (type(caught.value), str(caught.value)) == (type(other.value), str(other.value))


ANSWERS = [(in_runnable, synthesizer, way) for way in WAYS.values()]
MODELS = [(in_chat_model, chat, way) for way in WAYS.values()]
AGENTS = [(in_middleware, function_agent, WAYS["aquery"])]


def _named(cases: list[tuple[Any, Any, Way]]) -> list[Any]:
    names = {way: name for name, way in WAYS.items()}
    return [pytest.param(Both(*case), id=f"{case[1].__name__}-{names[case[2]]}") for case in cases]


@pytest.fixture(params=_named(ANSWERS + MODELS + AGENTS))
def both(request: pytest.FixtureRequest) -> Both:
    return request.param


@pytest.mark.parametrize("draft", [DRAFT, CORRECTED], ids=["corrected", "unchanged"])
@pytest.mark.parametrize("options", [{}, {"keep_draft": True}, {"feedback": "empathetic"}, {"max_new_tokens": 7}])
def test_corrections(draft: str, options: dict[str, Any], both: Both, aligner: Aligner, server: HostileServer) -> None:
    told = both.check(draft, aligner=aligner, **options)
    assert told["outcome"] == ("corrected" if draft == DRAFT else "unchanged")
    first, second = server.generations
    assert first.body == second.body


FAILURES = {"error": refuse(424, "generation", "no"), "nothing": speak("")}


@pytest.mark.parametrize("policy", ["draft", "refuse"])
@pytest.mark.parametrize("failure", FAILURES)
def test_failures(failure: str, policy: Any, both: Both, hostile: Callable[..., HostileServer]) -> None:
    server = hostile(for_ever=FAILURES[failure])
    with Aligner.from_tgi(server.url) as aligner:
        assert both.check(aligner=aligner, on_failure=policy)["outcome"] == "failed"


@pytest.mark.parametrize("failure", FAILURES)
def test_errors(failure: str, both: Both, hostile: Callable[..., HostileServer]) -> None:
    server = hostile(for_ever=FAILURES[failure])
    with Aligner.from_tgi(server.url) as aligner:
        both.check_error(GenerationError if failure == "error" else EmptyCorrectionError, aligner=aligner)


@pytest.mark.parametrize("policy", ["raise", "draft", "refuse"])
@pytest.mark.parametrize("both", _named([case for case in ANSWERS + MODELS if case[2].streams]))
def test_streams_that_break_off(policy: Any, both: Both, hostile: Callable[..., HostileServer]) -> None:
    server = hostile(for_ever=speak(" Goethe", " wrote", end="error"))
    with Aligner.from_tgi(server.url) as aligner:
        both.check_error(StreamInterruptedError, aligner=aligner, on_failure=policy)


def test_the_embedded_aligner(both: Both, embedded_backend: LocalBackend) -> None:
    aligner = Aligner(embedded_backend)
    for draft in ("Paris, you idiot.", "Paris."):
        both.check(draft, aligner=aligner)


# To LlamaIndex's synthesizers an answer without a word is "Empty Response"; LangChain's agents tell nothing of it.
@pytest.mark.parametrize("both", _named(MODELS))
def test_no_text(both: Both, aligner: Aligner) -> None:
    assert both.check("", aligner=aligner) == {"outcome": "skipped", "reason": "no text"}


CALL = AIMessage("I search, you idiot.", tool_calls=[{"name": "search", "args": {"title": "Faust"}, "id": "call-1"}])
SAME_CALL = calling("search", "I search, you idiot.", title="Faust")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_tool_calls(way: Way, aligner: Aligner, server: HostileServer) -> None:
    answer = _ask(way, AlignedChatModel(llm=Upstream(responses=[CALL]), aligner=aligner), [HumanMessage(QUERY)])
    text, told = chat(way, Model(turns=(SAME_CALL,)), QUERY, aligner=aligner)
    assert answer.text == text == "I search, you idiot."
    assert answer.response_metadata["aligner"] == told == {"outcome": "skipped", "reason": "tool calls"}
    assert server.requests == []


def search(title: str) -> str:
    """Who wrote a book."""
    return f"{title}: Goethe"


@pytest.mark.parametrize("streaming", [False, True])
async def test_agents_that_call_tools(streaming: bool, aligner: Aligner, server: HostileServer) -> None:
    model = Upstream(responses=[CALL, AIMessage(DRAFT)])
    agent = create_agent(model, [search], middleware=[AlignerMiddleware(aligner=aligner)])
    messages = (await agent.ainvoke({"messages": [HumanMessage(QUERY)]}))["messages"]
    other = AlignerFunctionAgent(
        llm=Model(turns=(SAME_CALL, DRAFT)), tools=[search], aligner=aligner, streaming=streaming
    )
    output = await other.run(user_msg=QUERY)
    told, other_told = messages[-1].response_metadata["aligner"], output["aligner"]
    assert told.pop("latency") > 0
    assert other_told.pop("latency") > 0
    assert (messages[-1].text, told) == (str(output), other_told)
    assert messages[1].tool_calls[0]["args"] == output.tool_calls[0].tool_kwargs == {"title": "Faust"}
    first, second = server.generations
    assert first.body == second.body
