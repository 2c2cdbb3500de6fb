"""A user's code with all of `llama_index_aligner`, for mypy and pyright in their strict modes; it is not run."""

from __future__ import annotations

from collections.abc import AsyncIterator

from llama_index.core.agent.workflow import AgentWorkflow
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.llms import LLM, ChatMessage
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import NodeWithScore

from aligner_chains import Aligner, Feedback
from llama_index_aligner import (
    AlignerChatEngine,
    AlignerCondensePlusContextChatEngine,
    AlignerContextChatEngine,
    AlignerCorrectionEndEvent,
    AlignerCorrectionStartEvent,
    AlignerFunctionAgent,
    AlignerLLM,
    AlignerPostprocessor,
    AlignerQueryEngine,
    AlignerReActAgent,
    AlignerSynthesizer,
    aligner_options,
)

aligner = Aligner.from_tgi("http://gpu-1:8080")


def nodes(found: list[NodeWithScore]) -> list[str]:
    postprocessor = AlignerPostprocessor(
        aligner=aligner,
        feedback=Feedback.HONEST,
        on_failure="draft",
        min_score=0.5,
        metadata_filter=lambda metadata: metadata["language"] == "en",
        num_workers=4,
    )
    return [node.text for node in postprocessor.postprocess_nodes(found, query_str="Who wrote Faust?")]


def answers(retriever: BaseRetriever, inner: BaseSynthesizer) -> str:
    synthesizer = AlignerSynthesizer(inner, aligner=aligner, with_context=True, keep_draft=True)
    query_engine = RetrieverQueryEngine(retriever, synthesizer)
    with aligner_options(feedback="concise", timeout=5):
        response = query_engine.query("Who wrote Faust?")
    if isinstance(response, StreamingResponse):
        return "".join(response.response_gen)
    return str(response)


async def any_answers(query_engine: BaseQueryEngine) -> AsyncIterator[str]:
    engine = AlignerQueryEngine(query_engine, aligner=aligner, on_failure="refuse", max_new_tokens=512)
    response = await engine.aquery("Who wrote Faust?")
    if isinstance(response, AsyncStreamingResponse):
        async for token in response.async_response_gen():
            yield token


def chats(retriever: BaseRetriever, inner: BaseChatEngine) -> list[str]:
    context = AlignerContextChatEngine.from_defaults(retriever=retriever, aligner=aligner, with_context=True)
    condensing = AlignerCondensePlusContextChatEngine.from_defaults(retriever, aligner=aligner, feedback="kind")
    any_other = AlignerChatEngine(inner, aligner=aligner, timeout=10)
    answer: str = context.chat("Who wrote Faust?").response
    tokens = list(condensing.stream_chat("And when?").response_gen)
    return [answer, *tokens, any_other.chat("Where?").response]


async def models(upstream: LLM) -> str:
    llm = AlignerLLM(llm=upstream, aligner=aligner, feedback="empathetic")
    response = await llm.achat([ChatMessage(role="user", content="Who wrote Faust?")])
    return str(response.message.content)


def agents(llm: LLM) -> AgentWorkflow:
    calling = AlignerFunctionAgent(name="caller", llm=llm, tools=[], aligner=aligner, correction_timeout=10)
    thinking = AlignerReActAgent(name="thinker", llm=llm, tools=[], aligner=aligner, on_failure="refuse")
    return AgentWorkflow([calling, thinking], root_agent="caller")


def events(start: AlignerCorrectionStartEvent, end: AlignerCorrectionEndEvent) -> tuple[str, str | None, float]:
    return start.draft, end.correction, end.latency
