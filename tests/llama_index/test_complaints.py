"""What users of LlamaIndex have complained about, with the numbers of the issues in its repository: a test for each."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
from hostile import HostileServer, meet, refuse
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ThinkingBlock
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.response_synthesizers import get_response_synthesizer
from models import Model, calling
from pydantic import BaseModel
from rag import CORRECTED, DRAFT, QUERY, Upstream, Way, found

from aligner_chains import Aligner
from aligner_chains.errors import GenerationError
from llama_index_aligner import (
    AlignerChatEngine,
    AlignerLLM,
    AlignerPostprocessor,
    AlignerQueryEngine,
    AlignerSynthesizer,
)


def an_index(*texts: str) -> VectorStoreIndex:
    return VectorStoreIndex([node.node for node in found(*texts)], embed_model=MockEmbedding(embed_dim=1))


def test_a_streaming_query_engine_cannot_be_guarded(way: Way, aligner: Aligner) -> None:
    """#7704, #8803, #16162."""
    inner = get_response_synthesizer(llm=Upstream(), streaming=way.streams)
    guarded = an_index().as_query_engine(Upstream(), response_synthesizer=AlignerSynthesizer(inner, aligner=aligner))
    engine = an_index().as_query_engine(llm=Upstream(), streaming=way.streams)
    for guard in (guarded, AlignerQueryEngine(engine, aligner=aligner)):
        text, response = way.query(guard)
        assert text == CORRECTED
        assert response.source_nodes[0].node_id == "node-0"


def test_async_postprocessors_are_ignored(way: Way, aligner: Aligner) -> None:
    """#16911, #19379."""
    llm = Upstream()
    engine = an_index(DRAFT).as_query_engine(
        llm=llm, node_postprocessors=[AlignerPostprocessor(aligner=aligner)], streaming=way.streams
    )
    _, response = way.query(engine)
    assert response.source_nodes[0].node.get_content() == CORRECTED
    assert CORRECTED in llm.asked[0]
    assert DRAFT not in llm.asked[0]
    assert "outcome" not in llm.asked[0]


def test_postprocessors_work_on_one_node_after_the_other(way: Way, hostile: Callable[..., HostileServer]) -> None:
    """#20973, #22849."""
    server = hostile(for_ever=meet(3))
    with Aligner.from_tgi(server.url) as aligner:
        engine = an_index(*[f"{number}, you idiot." for number in range(3)]).as_query_engine(
            llm=Upstream(), similarity_top_k=3, node_postprocessors=[AlignerPostprocessor(aligner=aligner)]
        )
        Way(streams=False, is_async=way.is_async).query(engine)
    assert server.most_at_once == 3


async def test_models_block_the_event_loop(hostile: Callable[..., HostileServer]) -> None:
    """#21968."""
    server = hostile(for_ever=meet(20))
    async with Aligner.from_tgi(server.url) as aligner:
        llm = AlignerLLM(llm=Model(), aligner=aligner)
        responses = await asyncio.gather(*(llm.achat([ChatMessage(QUERY)]) for _ in range(20)))
    assert {response.message.content for response in responses} == {CORRECTED}
    assert server.most_at_once == 20


def test_streams_drop_thinking_and_tool_calls(aligner: Aligner) -> None:
    """#23151."""
    blocks = [ThinkingBlock(content="Hm."), TextBlock(text=DRAFT)]
    call = calling("search", title="Faust")
    llm = AlignerLLM(llm=Model(turns=(ChatMessage(blocks, role=MessageRole.ASSISTANT), call)), aligner=aligner)
    *_, answer = llm.stream_chat([ChatMessage(QUERY)])
    assert answer.message.blocks == [blocks[0], TextBlock(text=CORRECTED)]
    *_, wish = llm.stream_chat([ChatMessage(QUERY)])
    assert wish.message.blocks == call.blocks


def test_streamed_chats_remember_only_text(way: Way, aligner: Aligner) -> None:
    """#23151, in the memory of a chat."""
    blocks = [ThinkingBlock(content="Hm."), TextBlock(text=DRAFT)]
    llm = Model(turns=(ChatMessage(blocks, role=MessageRole.ASSISTANT),))
    inner = SimpleChatEngine.from_defaults(llm=llm, memory=ChatMemoryBuffer.from_defaults())
    engine = AlignerChatEngine(inner, aligner=aligner)

    async def achat() -> None:
        async for _ in (await engine.astream_chat(QUERY)).async_response_gen():
            pass

    if way.is_async:
        asyncio.run(achat())
    else:
        list(engine.stream_chat(QUERY).response_gen)
    assert engine.chat_history[-1].blocks == [blocks[0], TextBlock(text=CORRECTED)]


class Author(BaseModel):
    name: str
    books: list[str] = []


def test_pydantic_responses_are_blank(aligner: Aligner) -> None:
    """#12333, #13953."""
    llm = Upstream(turns=('{"name": "Goethe, you idiot", "books": ["Faust"]}',))
    index, author = an_index(), Author(name="Goethe", books=["Faust"])
    for mode in ("compact", "refine", "tree_summarize"):
        inner = get_response_synthesizer(llm=llm, output_cls=Author, response_mode=mode)
        response = index.as_query_engine(llm, response_synthesizer=AlignerSynthesizer(inner, aligner=aligner)).query(
            QUERY
        )
        assert (response.response, response.name, str(response)) == (author, "Goethe", author.model_dump_json())
    structured = index.as_query_engine(llm=llm.as_structured_llm(Author))
    assert AlignerQueryEngine(structured, aligner=aligner).query(QUERY).response == author


def test_a_guard_turns_every_error_into_a_runtime_error(way: Way, hostile: Callable[..., HostileServer]) -> None:
    """Of the Guardrails query engine."""
    server = hostile(refuse(424, "generation", "the GPU is on fire"))

    def broken(_: str) -> str:
        raise ZeroDivisionError("the upstream")

    with Aligner.from_tgi(server.url) as aligner:
        for llm, kind in ((Upstream(), GenerationError), (Upstream(answer=broken), ZeroDivisionError)):
            engine = an_index().as_query_engine(llm=llm, streaming=way.streams)
            with pytest.raises(kind) as caught:
                way.query(AlignerQueryEngine(engine, aligner=aligner))
            assert type(caught.value) is kind


async def test_a_guard_mixes_the_answers_of_concurrent_queries(aligner: Aligner) -> None:
    """Of the Guardrails query engine, which keeps the response in flight on itself."""

    def answer(prompt: str) -> str:
        return DRAFT.replace("Faust", prompt.rpartition("Query: ")[2].partition("?")[0])

    engine = AlignerQueryEngine(an_index().as_query_engine(llm=Upstream(answer=answer)), aligner=aligner)
    titles = [f"Book {number}" for number in range(30)]
    responses: list[Any] = await asyncio.gather(*(engine.aquery(f"{title}?") for title in titles))
    assert [str(response) for response in responses] == [f"Goethe wrote {title}." for title in titles]


def test_an_integration_breaks_the_namespace_of_llama_index() -> None:
    """A package with a `llama_index/__init__.py` of its own hides `llama_index.core`."""
    spec = importlib.util.find_spec("llama_index")
    assert spec is not None
    assert spec.origin is None
