"""Agents and teams of them: the last answer is corrected before anybody gets it, and nothing else is touched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hostile import HostileServer, hang, refuse
from listening import Listener
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.agent.workflow import AgentOutput, AgentStream, AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock, ThinkingBlock
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool, QueryEngineTool
from llama_index.core.workflow import Context
from models import Model, calling
from rag import CORRECTED, DRAFT, QUERY, Upstream, found

from aligner_chains import REFUSAL, Aligner
from aligner_chains.errors import ConfigurationError, CorrectionTimeoutError, GenerationError, InvalidInputError
from llama_index_aligner import (
    AlignerFunctionAgent,
    AlignerLLM,
    AlignerQueryEngine,
    AlignerReActAgent,
    aligner_options,
)

pytestmark = [  # of how LlamaIndex makes its agents, what they ask their contexts, and how it saves those between runs
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Skipping serialization of known unserializable key. memory"),
]

ACTION = 'Thought: I search, you idiot.\nAction: search\nAction Input: {"title": "Faust, you idiot"}'
ANSWER = f"Thought: I know, you idiot.\nAnswer: {DRAFT}"


def search(title: str) -> str:
    """Who wrote a book."""
    return f"{title}: Goethe"


def functions(*, turns: Any = None, tools: Any = (search,), **options: Any) -> AlignerFunctionAgent:
    turns = turns or (calling("search", "I search, you idiot.", title="Faust, you idiot"), DRAFT)
    return AlignerFunctionAgent(llm=Model(turns=turns), tools=list(tools), **options)


def react(*, turns: Any = None, tools: Any = (search,), **options: Any) -> AlignerReActAgent:
    return AlignerReActAgent(llm=Model(turns=turns or (ACTION, ANSWER)), tools=list(tools), **options)


Make = Callable[..., Any]


@pytest.fixture(params=[functions, react], ids=["function", "react"])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param


@pytest.fixture(params=[True, False], ids=["streaming", "whole"])
def streaming(request: pytest.FixtureRequest) -> bool:
    return request.param


async def run(workflow: Any, question: str | ChatMessage = QUERY, **options: Any) -> tuple[AgentOutput, list[Any]]:
    """What the run returns, and the events that it streams."""
    handler = workflow.run(user_msg=question, **options)
    events = [event async for event in handler.stream_events()]
    return await handler, events


def streamed(events: list[Any]) -> list[str]:
    return [event.delta for event in events if isinstance(event, AgentStream)]


async def test_an_answer(make: Make, streaming: bool, aligner: Aligner, server: HostileServer) -> None:
    memory = ChatMemoryBuffer.from_defaults()
    agent = make(aligner=aligner, streaming=streaming)
    output, events = await run(agent, memory=memory)
    assert (str(output), output["aligner"]["outcome"]) == (CORRECTED, "corrected")
    assert [call.tool_kwargs for call in output.tool_calls] == [{"title": "Faust, you idiot"}]
    assert len(server.generations) == 1  # the step with the tool is not touched
    assert f": {QUERY} | {DRAFT} ASSISTANT:" in server.generations[0].prompt
    assert DRAFT not in str(memory.get_all())
    assert str(memory.get_all()[-1].content).endswith(CORRECTED)
    # The output before the last one is that of the step with the tool.
    assert [event.response.content for event in events if isinstance(event, AgentOutput)][1].endswith(CORRECTED)
    for event in events:
        if isinstance(event, AgentStream):
            assert not {"Faust, you idiot.", DRAFT} & {event.delta.strip(), event.response.strip()}


async def test_drafts_do_not_stream(make: Make, aligner: Aligner) -> None:
    _, events = await run(make(aligner=aligner))
    deltas = streamed(events)
    if make is functions:
        assert deltas == ["I", " search,", " you", " idiot.", "Goethe", " wrote", " Faust."]
    else:
        assert "".join(deltas) == f"{ACTION}Thought: I know, you idiot.\nAnswer: {CORRECTED}"
        assert deltas[-4:] == ["Thought: I know, you idiot.\nAnswer: ", "Goethe", " wrote", " Faust."]
    lead = "" if make is functions else "Thought: I know, you idiot.\nAnswer: "
    assert [event.response for event in events if isinstance(event, AgentStream)][-1] == lead + CORRECTED
    assert {event.current_agent_name for event in events if isinstance(event, AgentStream)} == {"Agent"}


async def test_without_tools(make: Make, streaming: bool, aligner: Aligner) -> None:
    output, _ = await run(make(turns=(DRAFT,), tools=(), aligner=aligner, streaming=streaming))
    assert str(output) == CORRECTED


async def test_the_next_run_sees_the_corrected_answer(make: Make, aligner: Aligner) -> None:
    agent, memory = make(aligner=aligner), ChatMemoryBuffer.from_defaults()
    ctx = Context(agent)
    await run(agent, ctx=ctx, memory=memory)
    output, _ = await run(agent, "And when?", ctx=ctx, memory=memory)
    assert str(output) == CORRECTED
    assert CORRECTED in agent.llm.asked[-1]
    assert DRAFT not in agent.llm.asked[-1]


@pytest.mark.parametrize(("policy", "text"), [("draft", DRAFT), ("refuse", REFUSAL)])
async def test_failures(policy: Any, text: str, make: Make, streaming: bool, hostile: Callable[..., Any]) -> None:
    server = hostile(refuse(424, "generation", "the GPU is on fire"))
    async with Aligner.from_tgi(server.url) as aligner:
        output, _ = await run(make(aligner=aligner, on_failure=policy, streaming=streaming))
    assert (str(output), output["aligner"]["outcome"]) == (text, "failed")


async def test_a_draft_that_fails_is_forgotten(make: Make, streaming: bool, hostile: Callable[..., Any]) -> None:
    server = hostile(refuse(424, "generation", "the GPU is on fire"))
    async with Aligner.from_tgi(server.url) as aligner:
        agent = make(turns=(DRAFT,), aligner=aligner, streaming=streaming)
        ctx, memory = Context(agent), ChatMemoryBuffer.from_defaults()
        with pytest.raises(GenerationError, match="on fire"):
            await agent.run(user_msg=QUERY, ctx=ctx, memory=memory)
        output, _ = await run(agent, "Again?", ctx=ctx, memory=memory)
    assert str(output) == CORRECTED
    assert DRAFT not in agent.llm.asked[-1]
    assert DRAFT not in str(memory.get_all())


async def test_the_time_of_a_correction_and_that_of_a_run(make: Make, hostile: Callable[..., HostileServer]) -> None:
    async with Aligner.from_tgi(hostile(hang).url) as aligner:
        agent = make(aligner=aligner, correction_timeout=0.05, timeout=600)
        with pytest.raises(CorrectionTimeoutError, match=r"0\.05 s"):
            await agent.run(user_msg=QUERY)


async def test_feedback_for_all_runs_and_for_one(make: Make, aligner: Aligner, server: HostileServer) -> None:
    agent = make(turns=(DRAFT,), aligner=aligner, feedback="empathetic")
    with aligner_options(feedback="concise"):
        handler = agent.run(user_msg=QUERY)
    await handler
    await run(agent)
    assert ["more concise" in request.prompt for request in server.generations] == [True, False]
    assert "more empathetic" in server.generations[1].prompt


async def test_thinking_streams_while_the_draft_does_not(aligner: Aligner) -> None:
    class Thinker(Model):
        async def astream_chat(self, *args: Any, **kwargs: Any) -> Any:
            responses = await super().astream_chat(*args, **kwargs)

            async def read() -> Any:
                async for response in responses:
                    thought = response.model_copy(
                        update={
                            "message": ChatMessage([ThinkingBlock(content="Hm.")], role=MessageRole.ASSISTANT),
                            "delta": "",
                            "additional_kwargs": {"thinking_delta": "Hm."},
                        }
                    )
                    yield thought
                    yield response

            return read()

    agent = AlignerFunctionAgent(llm=Thinker(), aligner=aligner)
    _, events = await run(agent)
    streams = [event for event in events if isinstance(event, AgentStream)]
    assert [event.thinking_delta for event in streams if event.thinking_delta] == ["Hm."] * 5
    assert "".join(event.delta for event in streams) == CORRECTED


async def test_what_is_not_text_stays(aligner: Aligner) -> None:
    blocks = [ThinkingBlock(content="Hm."), TextBlock(text=DRAFT)]
    output, _ = await run(functions(turns=(ChatMessage(blocks, role=MessageRole.ASSISTANT),), aligner=aligner))
    assert output.response.blocks == [ThinkingBlock(content="Hm."), TextBlock(text=CORRECTED)]


async def test_a_model_that_says_nothing(aligner: Aligner, server: HostileServer) -> None:
    output, _ = await run(functions(turns=("",), aligner=aligner))
    assert (str(output), output["aligner"]) == ("", {"outcome": "skipped", "reason": "no text"})
    assert server.requests == []


async def test_a_step_that_has_to_be_tried_again(aligner: Aligner, server: HostileServer) -> None:
    output, _ = await run(react(turns=("Thought: I do not know what to do.", ANSWER), aligner=aligner))
    assert str(output) == CORRECTED
    assert len(server.generations) == 1


async def test_an_answer_of_a_tool_is_no_draft(make: Make, aligner: Aligner, server: HostileServer) -> None:
    tool = FunctionTool.from_defaults(search, return_direct=True)
    output, _ = await run(make(tools=(tool,), aligner=aligner))
    assert str(output) == "Faust, you idiot: Goethe"
    assert server.requests == []


async def test_too_many_steps(make: Make, streaming: bool, aligner: Aligner) -> None:
    first = calling("search", title="Faust") if make is functions else ACTION
    agent = make(turns=(first, DRAFT), aligner=aligner, early_stopping_method="generate", streaming=streaming)
    memory = ChatMemoryBuffer.from_defaults()
    output, events = await run(agent, max_iterations=1, memory=memory)
    assert str(output) == CORRECTED
    assert DRAFT not in str(memory.get_all())
    assert not any(DRAFT.startswith(delta) and delta.endswith("idiot.") for delta in streamed(events))


def a_team(aligner: Aligner, **options: Any) -> AgentWorkflow:
    clerk = AlignerFunctionAgent(
        name="clerk",
        description="Hands over.",
        llm=Model(turns=(calling("handoff", to_agent="poet", reason="A poet knows, you idiot."),)),
        aligner=aligner,
        can_handoff_to=["poet"],
    )
    poet = react(name="poet", description="Knows.", aligner=aligner)
    return AgentWorkflow([clerk, poet], root_agent="clerk", **options)


async def test_a_team(aligner: Aligner, server: HostileServer) -> None:
    memory = ChatMemoryBuffer.from_defaults()
    output, events = await run(a_team(aligner), memory=memory)
    assert (str(output), output.current_agent_name) == (CORRECTED, "poet")
    assert len(server.generations) == 1
    assert f": {QUERY} | {DRAFT}" in server.generations[0].prompt
    assert DRAFT not in "".join(streamed(events)) + str(memory.get_all())


async def test_a_team_that_would_pass_by_its_agents(aligner: Aligner) -> None:
    team = a_team(aligner, early_stopping_method="generate")
    with pytest.raises(ConfigurationError, match="asks the model itself"):
        await team.run(user_msg=QUERY)


async def test_structured_output_is_made_from_the_corrected_answer(aligner: Aligner) -> None:
    seen: list[str] = []

    def structured(messages: list[ChatMessage]) -> dict[str, Any]:
        seen.append(str(messages[-1].content))
        return {"name": "Goethe"}

    output, _ = await run(functions(aligner=aligner, structured_output_fn=structured))
    assert (output.structured_response, seen) == ({"name": "Goethe"}, [CORRECTED])


async def test_an_engine_as_its_tool(make: Make, aligner: Aligner) -> None:
    index = VectorStoreIndex([node.node for node in found()], embed_model=MockEmbedding(embed_dim=1))
    engine = AlignerQueryEngine(index.as_query_engine(llm=Upstream()), aligner=aligner)
    tool = QueryEngineTool.from_defaults(engine, name="books", description="About books.")
    call = (
        calling("books", input=QUERY)
        if make is functions
        else (f'Thought: I look.\nAction: books\nAction Input: {{"input": "{QUERY}"}}')
    )
    agent = make(turns=(call, DRAFT), tools=(tool,), aligner=aligner)
    output, _ = await run(agent)
    assert str(output) == CORRECTED
    assert CORRECTED in agent.llm.asked[1]


async def test_runs_do_not_mix(make: Make, aligner: Aligner) -> None:
    def answer(asked: str) -> str:
        return f"An answer to {asked.rpartition('Q')[2][:3]}, you idiot."

    agent = make(aligner=aligner, keep_draft=True)
    agent.llm.answer = answer
    outputs = await asyncio.gather(*(run(agent, f"Q{number}") for number in range(100, 120)))
    for number, (output, _) in enumerate(outputs, start=100):
        assert str(output) == f"An answer to {number}."
        assert output["aligner"]["draft"] == f"An answer to {number}, you idiot."


@pytest.mark.parametrize("is_team", [False, True])
async def test_spans(is_team: bool, make: Make, streaming: bool, aligner: Aligner, told: Listener) -> None:
    agent = make(aligner=aligner, streaming=streaming)
    await run(AgentWorkflow([agent]) if is_team else agent)
    ((start,), (end,)) = told.starts, told.ends
    assert (start.query, end.correction) == (QUERY, CORRECTED)
    run_span, step_span, correction_span = told.path(start.span_id)
    assert run_span == f"{'AgentWorkflow' if is_team else type(agent).__name__}.run"
    assert step_span.endswith(".run_agent_step")
    assert correction_span == "Aligner.correct"


@pytest.mark.parametrize("turns", [(ACTION, ANSWER), (calling("search", title="Faust, you idiot"), DRAFT)])
async def test_an_aligned_model_in_an_ordinary_agent(turns: Any, aligner: Aligner, server: HostileServer) -> None:
    llm = AlignerLLM(llm=Model(turns=turns), aligner=aligner)
    is_react = turns[0] == ACTION
    agent = (ReActAgent if is_react else FunctionAgent)(tools=[search], llm=llm)
    for workflow in (agent, AgentWorkflow([agent])):
        llm.llm.asked.clear()
        output, events = await run(workflow)
        assert [call.tool_kwargs for call in output.tool_calls] == [{"title": "Faust, you idiot"}]
        # Of ReAct's texts the model knows no more than that they are a program's.
        assert str(output) == (DRAFT if is_react else CORRECTED)
        if not is_react:
            assert "idiot" not in "".join(streamed(events))
    assert len(server.generations) == (0 if is_react else 2)


IMAGE = ChatMessage([ImageBlock(image=b"\x89PNG", image_mimetype="image/png")])


async def test_a_question_that_is_only_an_image(
    make: Make, streaming: bool, aligner: Aligner, server: HostileServer
) -> None:
    memory = ChatMemoryBuffer.from_defaults()
    output, _ = await run(make(aligner=aligner, streaming=streaming), IMAGE, memory=memory)
    assert str(output) == DRAFT
    assert output["aligner"] == {"outcome": "skipped", "reason": "no text in the question"}
    assert server.requests == []


async def test_a_step_that_has_to_be_tried_again_for_an_image(aligner: Aligner, server: HostileServer) -> None:
    agent = react(turns=("Thought: I do not know what to do.", ANSWER), aligner=aligner)
    output, _ = await run(agent, IMAGE)
    assert (str(output), output["aligner"]["reason"]) == (DRAFT, "no text in the question")
    assert server.requests == []


async def test_too_many_steps_for_an_image(make: Make, aligner: Aligner, server: HostileServer) -> None:
    first = calling("search", title="Faust") if make is functions else ACTION
    agent = make(turns=(first, DRAFT), aligner=aligner, early_stopping_method="generate")
    assert str((await run(agent, IMAGE, max_iterations=1))[0]) == DRAFT
    assert server.requests == []


async def test_a_blank_question_is_no_way_around_the_aligner(make: Make, aligner: Aligner) -> None:
    for question in ("", " "):
        with pytest.raises(InvalidInputError, match="The query is"):
            await make(aligner=aligner).run(user_msg=ChatMessage(question))
