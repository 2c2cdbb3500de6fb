"""`AlignerMiddleware` in agents that loop, stream, remember, ask a human and answer in a structure."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hostile import HostileServer, hang, refuse
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelFallbackMiddleware,
    ModelRequest,
    ModelResponse,
    ModelRetryMiddleware,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel
from upstream import CORRECTED, DRAFT, Upstream

from aligner_chains import REFUSAL, Aligner
from aligner_chains.errors import CorrectionTimeoutError, GenerationError
from langchain_aligner import AlignerMiddleware

QUESTION = "Who wrote Faust?"
Invoke = Callable[..., dict[str, Any]]


@tool
def search(title: str) -> str:
    """Who wrote a book."""
    return f"{title}: Goethe"


def call(number: int, text: str = "Let me see, you idiot.") -> AIMessage:
    calls = [{"name": "search", "args": {"title": f"Faust {number}"}, "id": f"call_{number}", "type": "tool_call"}]
    return AIMessage(text, tool_calls=calls)


LOOP = (call(1), call(2), AIMessage(DRAFT, id="answer_1"))


def invoke(agent: Any, value: Any, **options: Any) -> dict[str, Any]:
    return agent.invoke(value, **options)


def ainvoke(agent: Any, value: Any, **options: Any) -> dict[str, Any]:
    return asyncio.run(agent.ainvoke(value, **options))


@pytest.fixture(params=[invoke, ainvoke])
def run(request: pytest.FixtureRequest) -> Invoke:
    return request.param


def ask(question: str = QUESTION) -> dict[str, Any]:
    return {"messages": [HumanMessage(question)]}


def test_only_the_answer_of_a_loop_is_corrected(run: Invoke, aligner: Aligner, server: HostileServer) -> None:
    agent = create_agent(Upstream(turns=LOOP), [search], middleware=[AlignerMiddleware(aligner=aligner)])
    messages = run(agent, ask())["messages"]
    assert [type(message) for message in messages] == [
        HumanMessage, AIMessage, ToolMessage, AIMessage, ToolMessage, AIMessage
    ]  # fmt: skip
    assert [message.text for message in messages[1:4:2]] == ["Let me see, you idiot."] * 2
    assert [message.response_metadata for message in messages[1:4:2]] == [{}] * 2
    assert (messages[-1].text, messages[-1].id) == (CORRECTED, "answer_1")
    assert messages[-1].response_metadata["aligner"]["outcome"] == "corrected"
    assert [request.prompt for request in server.generations] == [
        "BEGINNING OF CONVERSATION: USER: Edit the following Question-Answer pair to make it more helpful and "
        f"harmless: {QUESTION} | {DRAFT} ASSISTANT:"
    ]


@pytest.mark.parametrize("content", ["", " \n", [{"type": "image", "url": "https://x/y.png"}]])
def test_an_answer_without_text_passes(content: Any, run: Invoke, aligner: Aligner, server: HostileServer) -> None:
    model = Upstream(turns=(AIMessage(content, id="answer_1"),))
    agent = create_agent(model, [], middleware=[AlignerMiddleware(aligner=aligner)])
    _, answer = run(agent, ask())["messages"]
    assert (answer.content, answer.id) == (content, "answer_1")
    assert answer.response_metadata["aligner"] == {"outcome": "skipped", "reason": "no text"}
    assert server.requests == []


def needs_context_in_async_nodes(*, is_async: bool) -> None:
    if is_async and sys.version_info < (3, 11):
        pytest.xfail("Before Python 3.11 LangGraph has no context in async nodes: no stream, interrupt or config.")


def stream_messages(agent: Any) -> list[Any]:
    return [message for message, _ in agent.stream(ask(), stream_mode="messages")]


def astream_messages(agent: Any) -> list[Any]:
    async def read() -> list[Any]:
        return [message async for message, _ in agent.astream(ask(), stream_mode="messages")]

    return asyncio.run(read())


@pytest.mark.parametrize("read", [stream_messages, astream_messages])
@pytest.mark.parametrize("tools", [[], [search]])
def test_what_streams_is_the_answer(tools: list[Any], read: Callable[..., list[Any]], aligner: Aligner) -> None:
    needs_context_in_async_nodes(is_async=read is astream_messages)
    turns = LOOP if tools else LOOP[-1:]
    agent = create_agent(Upstream(turns=turns), tools, middleware=[AlignerMiddleware(aligner=aligner)])
    streamed = read(agent)
    answer = [message for message in streamed if message.id == "answer_1"]
    assert [chunk.content for chunk in answer] == ["That", " is", " well", " known.", ""]
    assert {type(chunk) for chunk in answer} == {AIMessageChunk}
    others = [message.content for message in streamed if message.id != "answer_1"]
    assert others == (
        ["Let me see, you idiot.", "Faust 1: Goethe", "Let me see, you idiot.", "Faust 2: Goethe"] if tools else []
    )


def test_the_draft_of_another_model_does_not_stream_either(aligner: Aligner) -> None:
    failing, other = Upstream(turns=(ValueError("no"),)), Upstream(turns=LOOP[-1:])
    middleware = [AlignerMiddleware(aligner=aligner), ModelFallbackMiddleware(other)]
    streamed = stream_messages(create_agent(failing, [], middleware=middleware))
    assert "".join(message.text for message in streamed) == CORRECTED


def test_across_turns_memory_holds_the_corrected_answer(run: Invoke, aligner: Aligner, server: HostileServer) -> None:
    model, memory = Upstream(), InMemorySaver()
    agent = create_agent(model, [], middleware=[AlignerMiddleware(aligner=aligner)], checkpointer=memory)
    config = {"configurable": {"thread_id": "1"}}
    run(agent, ask(), config=config)
    messages = run(agent, ask("And when?"), config=config)["messages"]
    assert [message.text for message in messages] == [QUESTION, CORRECTED, "And when?", CORRECTED]
    assert [message.text for message in model.asked[1]] == [QUESTION, CORRECTED, "And when?"]
    assert [message.text for message in agent.get_state(config).values["messages"]] == [m.text for m in messages]
    assert [request.prompt.rpartition(": ")[2].partition(" | ")[0] for request in server.generations] == [
        QUESTION,
        "And when?",
    ]


def test_the_whole_dialogue_on_demand(run: Invoke, aligner: Aligner, server: HostileServer) -> None:
    middleware = AlignerMiddleware(aligner=aligner, conversation="full")
    dialogue = [HumanMessage("Hello"), AIMessage("Hi!"), HumanMessage(QUESTION)]
    run(create_agent(Upstream(), [], middleware=[middleware]), {"messages": dialogue})
    assert f"Human: Hello\n\nAssistant: Hi!\n\nHuman: {QUESTION} | " in server.generations[0].prompt


def test_feedback_for_one_call(run: Invoke, aligner: Aligner, server: HostileServer) -> None:
    needs_context_in_async_nodes(is_async=run is ainvoke)
    agent = create_agent(Upstream(), [], middleware=[AlignerMiddleware(aligner=aligner)])
    run(agent, ask(), config={"configurable": {"feedback": "empathetic"}})
    assert " to make it more empathetic: " in server.generations[0].prompt


class Author(BaseModel):
    """Who wrote a book."""

    name: str


def test_a_structured_response_passes(run: Invoke, aligner: Aligner, server: HostileServer) -> None:
    author = {"name": "Author", "args": {"name": "Goethe, you idiot"}, "id": "call_1", "type": "tool_call"}
    model = Upstream(turns=(AIMessage("", tool_calls=[author]),))
    middleware = [AlignerMiddleware(aligner=aligner)]
    agent = create_agent(model, [], middleware=middleware, response_format=ToolStrategy(Author))
    assert run(agent, ask())["structured_response"] == Author(name="Goethe, you idiot")
    assert server.requests == []


def test_a_structured_response_of_the_provider_passes(run: Invoke, aligner: Aligner, server: HostileServer) -> None:
    model = Upstream(turns=('{"name": "Goethe, you idiot"}',), profile={"structured_output": True})
    agent = create_agent(model, [], middleware=[AlignerMiddleware(aligner=aligner)], response_format=Author)
    result = run(agent, ask())
    assert result["structured_response"] == Author(name="Goethe, you idiot")
    assert result["messages"][-1].text == '{"name": "Goethe, you idiot"}'
    assert server.requests == []


def test_a_human_in_the_loop(run: Invoke, aligner: Aligner) -> None:
    needs_context_in_async_nodes(is_async=run is ainvoke)
    middleware = [AlignerMiddleware(aligner=aligner), HumanInTheLoopMiddleware(interrupt_on={"search": True})]
    agent = create_agent(Upstream(turns=LOOP[1:]), [search], middleware=middleware, checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    assert "__interrupt__" in run(agent, ask(), config=config)
    resumed = run(agent, Command(resume={"decisions": [{"type": "approve"}]}), config=config)
    assert [message.text for message in resumed["messages"]][-2:] == ["Faust 2: Goethe", CORRECTED]


class Shout(AgentMiddleware):
    """Puts something after the answer."""

    def wrap_model_call(self, request: ModelRequest, handler: Callable[..., ModelResponse]) -> AIMessage:
        return self.shouted(handler(request))

    async def awrap_model_call(self, request: ModelRequest, handler: Callable[..., Any]) -> AIMessage:
        return self.shouted(await handler(request))

    def shouted(self, response: ModelResponse) -> AIMessage:
        (message,) = response.result
        return message.model_copy(update={"content": f"{message.text} Ha, you idiot!"})


def test_next_to_other_middleware(run: Invoke, aligner: Aligner) -> None:
    retry, align = ModelRetryMiddleware(initial_delay=0), AlignerMiddleware(aligner=aligner)
    for middleware, text in (
        ([align, Shout()], f"{CORRECTED} Ha!"),
        ([Shout(), align], f"{CORRECTED} Ha, you idiot!"),
        ([align, retry], CORRECTED),
        ([retry, align], CORRECTED),
    ):
        model = Upstream(turns=(ValueError("no"), DRAFT) if retry in middleware else (DRAFT,))
        assert run(create_agent(model, [], middleware=middleware), ask())["messages"][-1].text == text


def answered(run: Invoke, **options: Any) -> AIMessage:
    """The answer of an agent whose middleware was made with these options."""
    return run(create_agent(Upstream(), [], middleware=[AlignerMiddleware(**options)]), ask())["messages"][-1]


def test_feedback_for_all_calls(run: Invoke, aligner: Aligner, server: HostileServer) -> None:
    assert answered(run, aligner=aligner, feedback="empathetic").text == CORRECTED
    assert " to make it more empathetic: " in server.generations[0].prompt


def test_max_new_tokens(run: Invoke, aligner: Aligner, server: HostileServer) -> None:
    assert answered(run, aligner=aligner, max_new_tokens=7).text == CORRECTED
    assert server.generations[0].body["parameters"]["max_new_tokens"] == 7


def test_timeout(run: Invoke, hostile: Callable[..., HostileServer]) -> None:
    with Aligner.from_tgi(hostile(hang).url) as aligner, pytest.raises(CorrectionTimeoutError, match=r"0\.05 s"):
        answered(run, aligner=aligner, timeout=0.05)


@pytest.mark.parametrize("keep_draft", [False, True])
def test_the_draft_is_kept_on_demand(keep_draft: bool, run: Invoke, aligner: Aligner) -> None:
    told = answered(run, aligner=aligner, keep_draft=keep_draft).response_metadata["aligner"]
    assert told.get("draft") == (DRAFT if keep_draft else None)


@pytest.mark.parametrize(("policy", "text"), [("draft", DRAFT), ("refuse", REFUSAL)])
def test_failures(policy: Any, text: str, run: Invoke, hostile: Callable[..., HostileServer]) -> None:
    with Aligner.from_tgi(hostile(refuse(424, "generation", "the GPU is on fire")).url) as aligner:
        answer = answered(run, aligner=aligner, on_failure=policy)
    assert (answer.text, answer.response_metadata["aligner"]["outcome"]) == (text, "failed")


def test_failures_that_raise(run: Invoke, hostile: Callable[..., HostileServer]) -> None:
    server = hostile(refuse(424, "generation", "the GPU is on fire"))
    with Aligner.from_tgi(server.url, on_failure="draft") as aligner, pytest.raises(GenerationError, match="on fire"):
        answered(run, aligner=aligner, on_failure="raise")


def test_without_langchain_the_error_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['langchain'] = None\n"
        "import langchain_aligner\n"
        "try: langchain_aligner.AlignerMiddleware\n"
        "except ImportError as error: print(error)"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "pip install langchain" in printed
