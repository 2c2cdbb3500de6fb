"""Every part of the package, and how to ask it in each of the ways that it has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

from conversations import talk
from llama_index.core import MockEmbedding, PromptTemplate, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.base.response.schema import AsyncStreamingResponse
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step
from models import Model
from rag import WAYS, Way, found
from variants import PREDICTIONS, Variant

from llama_index_aligner import (
    AlignerChatEngine,
    AlignerCondensePlusContextChatEngine,
    AlignerContextChatEngine,
    AlignerFunctionAgent,
    AlignerLLM,
    AlignerPostprocessor,
    AlignerQueryEngine,
    AlignerReActAgent,
    AlignerSynthesizer,
)

#: What comes out of a part, `None` for a node that is left out, and what the part says became of the draft, if it does.
Outcome: TypeAlias = tuple[str | None, dict[str, Any] | None]
#: Asks a part that is made with the options behind: the way, the model that writes the draft, the question.
Part: TypeAlias = Callable[..., Outcome]


def an_index() -> VectorStoreIndex:
    return VectorStoreIndex([node.node for node in found()], embed_model=MockEmbedding(embed_dim=1))


def nodes(way: Way, llm: Model, query: str, **options: Any) -> Outcome:
    postprocessor, given = AlignerPostprocessor(**options), found(*llm.turns)
    if way.is_async:
        left = asyncio.run(postprocessor.apostprocess_nodes(given, query_str=query))
    else:
        left = postprocessor.postprocess_nodes(given, query_str=query)
    return (left[0].node.get_content(), left[0].node.metadata.get("aligner")) if left else (None, None)


def synthesizer(way: Way, llm: Model, query: str, **options: Any) -> Outcome:
    inner = get_response_synthesizer(llm=llm, streaming=way.streams)
    text, response = way.synthesize(AlignerSynthesizer(inner, **options), query)
    return text, response.metadata["aligner"]


def query_engine(way: Way, llm: Model, query: str, **options: Any) -> Outcome:
    inner = an_index().as_query_engine(llm=llm, streaming=way.streams)
    text, response = way.query(AlignerQueryEngine(inner, **options), query)
    return text, response.metadata["aligner"]


def _chat(way: Way, engine: Any, query: str) -> Outcome:
    text, response = talk(way, engine, query)
    return text, response.metadata["aligner"]


def context(way: Way, llm: Model, query: str, **options: Any) -> Outcome:
    engine = AlignerContextChatEngine.from_defaults(
        an_index().as_retriever(), llm=llm, memory=ChatMemoryBuffer.from_defaults(), **options
    )
    return _chat(way, engine, query)


def condense_plus_context(way: Way, llm: Model, query: str, **options: Any) -> Outcome:
    engine = AlignerCondensePlusContextChatEngine.from_defaults(
        an_index().as_retriever(), llm=llm, memory=ChatMemoryBuffer.from_defaults(), **options
    )
    return _chat(way, engine, query)


def chat_engine(way: Way, llm: Model, query: str, **options: Any) -> Outcome:
    inner = SimpleChatEngine.from_defaults(llm=llm, memory=ChatMemoryBuffer.from_defaults())
    return _chat(way, AlignerChatEngine(inner, **options), query)


def _model(name: str, asked: Any, llm: Model, **options: Any) -> Outcome:
    variant = Variant(name)
    *_, response = variant.ask(AlignerLLM(llm=llm, **options), asked)
    return variant.text(response), response.additional_kwargs["aligner"]


def chat(way: Way, llm: Model, query: str, **options: Any) -> Outcome:
    return _model(way.method("chat"), [ChatMessage(query)], llm, **options)


def completion(way: Way, llm: Model, query: str, **options: Any) -> Outcome:
    return _model(way.method("complete"), query, llm, **options)


def prediction(way: Way, llm: Model, query: str, **options: Any) -> Outcome:
    name = f"{'a' if way.is_async else ''}{'stream' if way.streams else 'predict'}"
    return PREDICTIONS[name](AlignerLLM(llm=llm, **options), PromptTemplate("{query_str}"), query_str=query), None


def _run(workflow: Any, query: str) -> Outcome:
    async def run() -> Any:
        return await workflow.run(user_msg=query)

    output = asyncio.run(run())
    return str(output), output["aligner"]


def _timed(options: dict[str, Any]) -> dict[str, Any]:
    # An agent's `timeout` is that of its run.
    return {{"timeout": "correction_timeout"}.get(name, name): value for name, value in options.items()}


def function_agent(way: Way, llm: Model, query: str, **options: Any) -> Outcome:
    return _run(AlignerFunctionAgent(llm=llm, streaming=way.streams, **_timed(options)), query)


def react_agent(way: Way, llm: Model, query: str, **options: Any) -> Outcome:
    llm.turns = [f"Thought: I know.\nAnswer: {turn}" for turn in llm.turns]
    return _run(AlignerReActAgent(llm=llm, streaming=way.streams, **_timed(options)), query)


def team(way: Way, llm: Model, query: str, **options: Any) -> Outcome:
    agent = AlignerFunctionAgent(llm=llm, streaming=way.streams, **_timed(options))
    return _run(AgentWorkflow([agent]), query)


class Token(Event):
    """A piece of an answer."""

    text: str


class Answering(Workflow):
    """A workflow of one's own whose only step answers."""

    def __init__(self, synthesizer: AlignerSynthesizer) -> None:
        super().__init__()
        self._synthesizer = synthesizer

    @step
    async def answer(self, ctx: Context, ev: StartEvent) -> StopEvent:
        response = await self._synthesizer.asynthesize(ev.question, found())
        if isinstance(response, AsyncStreamingResponse):
            async for text in response.async_response_gen():
                ctx.write_event_to_stream(Token(text=text))
            response = await response.get_response()
        return StopEvent(response)


def workflow_step(way: Way, llm: Model, query: str, **options: Any) -> Outcome:
    inner = get_response_synthesizer(llm=llm, streaming=way.streams)
    workflow = Answering(AlignerSynthesizer(inner, **options))

    async def run() -> Any:
        return await workflow.run(question=query)

    response = asyncio.run(run())
    return response.response, response.metadata["aligner"]


_WHOLE = [name for name in WAYS if not WAYS[name].streams]
_ASYNC = [name for name in WAYS if WAYS[name].is_async]

#: Every part, with the ways to ask it.
PARTS: dict[Part, list[str]] = {
    nodes: _WHOLE,
    synthesizer: [*WAYS],
    query_engine: [*WAYS],
    context: [*WAYS],
    condense_plus_context: [*WAYS],
    chat_engine: [*WAYS],
    chat: [*WAYS],
    completion: [*WAYS],
    prediction: [*WAYS],
    function_agent: _ASYNC,
    react_agent: _ASYNC,
    team: _ASYNC,
    workflow_step: _ASYNC,
}
