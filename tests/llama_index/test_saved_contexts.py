"""Runs of agents that are saved as JSON and go on from that: what `Context.to_dict` holds is no draft."""

import json
from typing import Any

import pytest
from hostile import HostileServer
from llama_index.core.agent.workflow import AgentWorkflow
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.workflow import Context, HumanResponseEvent, InputRequiredEvent, JsonSerializer
from models import Model, calling
from rag import CORRECTED, DRAFT, QUERY
from workflows.errors import WorkflowCancelledByUser

from aligner_chains import Aligner
from llama_index_aligner import AlignerFunctionAgent, AlignerReActAgent

pytestmark = [  # of how LlamaIndex makes its agents, what they ask their contexts, and how it saves those between runs
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Skipping serialization of known unserializable key. memory"),
]


async def search(ctx: Context, title: str) -> str:
    """Who wrote a book, if somebody allows the search."""
    event = await ctx.wait_for_event(
        HumanResponseEvent, waiter_id="permission", waiter_event=InputRequiredEvent(prefix="May I?")
    )
    return f"{title}: {event.response}"


@pytest.fixture(params=[False, True], ids=["alone", "team"])
def is_team(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(params=["function", "react"])
def workflow(request: pytest.FixtureRequest, is_team: bool, aligner: Aligner) -> Any:
    if request.param == "function":
        llm = Model(turns=(calling("search", title="Faust"), DRAFT))
        agent: Any = AlignerFunctionAgent(llm=llm, tools=[search], aligner=aligner)
    else:
        action = 'Thought: I search.\nAction: search\nAction Input: {"title": "Faust"}'
        llm = Model(turns=(action, f"Thought: I know.\nAnswer: {DRAFT}"))
        agent = AlignerReActAgent(llm=llm, tools=[search], aligner=aligner)
    return AgentWorkflow([agent]) if is_team else agent


def saved(ctx: Context) -> dict[str, Any]:
    text = json.dumps(ctx.to_dict())
    assert "idiot" not in text
    return json.loads(text)


async def test_a_run_that_waits_for_somebody_and_the_next_one(workflow: Any, server: HostileServer) -> None:
    memory = ChatMemoryBuffer.from_defaults()
    handler = workflow.run(user_msg=QUERY, memory=memory)
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            break
    waiting = saved(handler.ctx)
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler

    handler = workflow.run(ctx=Context.from_dict(workflow, waiting))
    await handler.ctx.store.set("memory", memory)  # which LlamaIndex leaves to its owner
    handler.ctx.send_event(HumanResponseEvent(response="Goethe"))
    output = await handler
    assert (str(output), output["aligner"]["outcome"]) == (CORRECTED, "corrected")
    assert f": {QUERY} | {DRAFT} ASSISTANT:" in server.generations[0].prompt

    ctx = Context.from_dict(workflow, saved(handler.ctx))
    output = await workflow.run(user_msg="And when?", ctx=ctx, memory=memory)
    assert (str(output), output["aligner"]["outcome"]) == (CORRECTED, "corrected")
    assert f": And when? | {DRAFT} ASSISTANT:" in server.generations[1].prompt
    assert DRAFT not in str(memory.get_all())


async def test_an_output_keeps_what_became_of_its_draft(workflow: Any) -> None:
    handler = workflow.run(user_msg=QUERY)
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(HumanResponseEvent(response="Goethe"))
    output = await handler
    json_serializer = JsonSerializer()
    loaded = json_serializer.deserialize(json_serializer.serialize(output))
    assert loaded["aligner"] == output["aligner"]
    assert loaded["aligner"]["outcome"] == "corrected"
