"""Workflows of one's own: a step corrects with a part of this package, or with an Aligner itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hostile import HostileServer, refuse, speak
from listening import Listener
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeWithScore
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step
from models import Model
from parts import Answering, Token
from rag import CORRECTED, DRAFT, QUERY, Upstream, found

from aligner_chains import REFUSAL, Aligner
from aligner_chains.errors import GenerationError, InvalidInputError, StreamInterruptedError
from llama_index_aligner import AlignerLLM, AlignerPostprocessor, AlignerSynthesizer, aligner_options


def answering(aligner: Aligner, **options: Any) -> Answering:
    inner = get_response_synthesizer(llm=Upstream(), **options)
    return Answering(AlignerSynthesizer(inner, aligner=aligner))


async def test_a_run_keeps_what_was_said_when_it_began(aligner: Aligner, server: HostileServer) -> None:
    with aligner_options(feedback="concise"):
        handler = answering(aligner).run(question=QUERY)
    assert str(await handler) == CORRECTED
    assert "more concise" in server.generations[0].prompt


async def test_drafts_do_not_stream(aligner: Aligner) -> None:
    handler = answering(aligner, streaming=True).run(question=QUERY)
    events = [event async for event in handler.stream_events(expose_internal=True)]
    assert [event.text for event in events if isinstance(event, Token)] == ["Goethe", " wrote", " Faust."]
    assert "idiot" not in str(events)


@pytest.mark.parametrize("streaming", [False, True])
async def test_spans(streaming: bool, aligner: Aligner, told: Listener) -> None:
    await answering(aligner, streaming=streaming).run(question=QUERY)
    (start,) = told.starts
    assert told.path(start.span_id)[-3:] == ["Answering.answer", "AlignerSynthesizer.asynthesize", "Aligner.correct"]


class Retrieved(Event):
    """What the first step hands to the second."""

    question: str
    nodes: list[NodeWithScore]


class Rag(Workflow):
    """One step retrieves, the next one answers."""

    def __init__(self, llm: Upstream, aligner: Aligner) -> None:
        super().__init__()
        self._postprocessor = AlignerPostprocessor(aligner=aligner)
        self._synthesizer = AlignerSynthesizer(get_response_synthesizer(llm=llm), aligner=aligner)

    @step
    async def retrieve(self, ev: StartEvent) -> Retrieved:
        nodes = await self._postprocessor.apostprocess_nodes(found("A play, you idiot."), query_str=ev.question)
        return Retrieved(question=ev.question, nodes=nodes)

    @step
    async def answer(self, ev: Retrieved) -> StopEvent:
        return StopEvent(await self._synthesizer.asynthesize(ev.question, ev.nodes))


async def test_nodes_go_from_one_step_to_the_next(aligner: Aligner, server: HostileServer) -> None:
    llm = Upstream()
    response = await Rag(llm, aligner).run(question=QUERY)
    assert (str(response), response.metadata["aligner"]["outcome"]) == (CORRECTED, "corrected")
    assert "A play." in llm.asked[0]
    assert [f": {QUERY} | " in request.prompt for request in server.generations] == [True, True]


class Talking(Workflow):
    """Keeps a conversation in its state."""

    def __init__(self, llm: AlignerLLM) -> None:
        super().__init__()
        self._llm = llm

    @step
    async def answer(self, ctx: Context, ev: StartEvent) -> StopEvent:
        messages = [*await ctx.store.get("messages", default=[]), ChatMessage(ev.question)]
        await ctx.store.set("messages", messages)
        async for response in await self._llm.astream_chat(messages):
            ctx.write_event_to_stream(Token(text=response.delta))
        await ctx.store.set("messages", [*messages, response.message])
        return StopEvent(response.message.content)


async def test_the_next_run_sees_the_corrected_answer(aligner: Aligner, server: HostileServer) -> None:
    upstream = Model()
    workflow = Talking(AlignerLLM(llm=upstream, aligner=aligner))
    handler = workflow.run(question=QUERY)
    assert await handler == CORRECTED
    saved = json.dumps(handler.ctx.to_dict())
    assert CORRECTED in saved
    assert "idiot" not in saved
    ctx = Context.from_dict(workflow, json.loads(saved))
    assert await workflow.run(question="And when?", ctx=ctx) == CORRECTED
    assert upstream.asked[1] == f"user: {QUERY}\nassistant: {CORRECTED}\nuser: And when?"
    assert f": And when? | {DRAFT} ASSISTANT:" in server.generations[1].prompt


@pytest.mark.parametrize("failure", [refuse(424, "generation", "on fire"), speak(" Goethe", " wrote", end="error")])
async def test_a_draft_that_fails_is_not_kept(failure: Any, hostile: Callable[..., HostileServer]) -> None:
    async with Aligner.from_tgi(hostile(failure).url) as aligner:
        workflow = Talking(AlignerLLM(llm=Model(), aligner=aligner))
        handler = workflow.run(question=QUERY)
        with pytest.raises((GenerationError, StreamInterruptedError), match="on fire"):
            await handler
        assert "idiot" not in json.dumps(handler.ctx.to_dict())
        messages = await handler.ctx.store.get("messages")
    assert [message.role for message in messages] == [MessageRole.USER]


class Bare(Workflow):
    """Corrects with an Aligner itself."""

    def __init__(self, aligner: Aligner, **options: Any) -> None:
        super().__init__()
        self._aligner, self._options = aligner, options

    @step
    async def answer(self, ev: StartEvent) -> StopEvent:
        return StopEvent(await self._aligner.acorrect(ev.question, ev.draft, **self._options))


async def test_an_aligner_by_itself(aligner: Aligner, server: HostileServer, told: Listener) -> None:
    with aligner_options(feedback="empathetic"):  # which is for parts of this package
        correction = await Bare(aligner, feedback="concise").run(question=QUERY, draft=DRAFT)
    assert (correction.text, correction.outcome) == (CORRECTED, "corrected")
    assert "more concise" in server.generations[0].prompt
    assert told.starts == []


async def test_an_aligner_by_itself_that_fails(hostile: Callable[..., HostileServer]) -> None:
    async with Aligner.from_tgi(hostile(for_ever=refuse(424, "generation", "on fire")).url) as aligner:
        with pytest.raises(GenerationError, match="on fire"):
            await Bare(aligner).run(question=QUERY, draft=DRAFT)
        for policy, text in (("draft", DRAFT), ("refuse", REFUSAL)):
            correction = await Bare(aligner, on_failure=policy).run(question=QUERY, draft=DRAFT)
            assert (correction.text, correction.outcome) == (text, "failed")
        with pytest.raises(InvalidInputError, match="The query is"):
            await Bare(aligner).run(question=" ", draft=DRAFT)
