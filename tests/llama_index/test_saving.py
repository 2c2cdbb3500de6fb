"""What is pickled, as task queues and process pools do, comes back with the same Aligner."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hostile import HostileServer
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.response_synthesizers import get_response_synthesizer
from rag import CORRECTED, QUERY, Upstream, found

from aligner_chains import Aligner
from aligner_chains.errors import ConfigurationError
from llama_index_aligner import (
    AlignerChatEngine,
    AlignerCondensePlusContextChatEngine,
    AlignerContextChatEngine,
    AlignerPostprocessor,
    AlignerQueryEngine,
    AlignerSynthesizer,
)


def an_index() -> VectorStoreIndex:
    return VectorStoreIndex([node.node for node in found()], embed_model=MockEmbedding(embed_dim=1))


def synthesizer(**options: Any) -> Any:
    return AlignerSynthesizer(get_response_synthesizer(llm=Upstream()), **options)


def query_engine(**options: Any) -> Any:
    return AlignerQueryEngine(an_index().as_query_engine(llm=Upstream()), **options)


def context(**options: Any) -> Any:
    memory = ChatMemoryBuffer.from_defaults()
    return AlignerContextChatEngine.from_defaults(an_index().as_retriever(), llm=Upstream(), memory=memory, **options)


def condense_plus_context(**options: Any) -> Any:
    memory = ChatMemoryBuffer.from_defaults()
    retriever = an_index().as_retriever()
    return AlignerCondensePlusContextChatEngine.from_defaults(retriever, llm=Upstream(), memory=memory, **options)


def chat_engine(**options: Any) -> Any:
    inner = SimpleChatEngine.from_defaults(llm=Upstream(), memory=ChatMemoryBuffer.from_defaults())
    return AlignerChatEngine(inner, **options)


def ask(engine: Any) -> str:
    if isinstance(engine, AlignerSynthesizer):
        return str(engine.synthesize(QUERY, found()))
    return str(engine.query(QUERY) if isinstance(engine, AlignerQueryEngine) else engine.chat(QUERY))


@pytest.mark.parametrize("make", [synthesizer, query_engine, context, condense_plus_context, chat_engine])
def test_it_is_pickled_without_the_key(
    make: Callable[..., Any], server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNER_API_KEY", "top-secret")
    with Aligner.from_tgi(server.url, api_key="top-secret") as aligner:
        engine = make(aligner=aligner, feedback="concise")
        assert ask(engine) == CORRECTED  # what holds connections cannot be pickled
        saved = pickle.dumps(engine)
    assert b"top-secret" not in saved
    loaded = pickle.loads(saved)
    with loaded._options.aligner:
        assert ask(loaded) == CORRECTED
    assert ["more concise" in request.prompt for request in server.generations] == [True, True]
    assert {request.headers["authorization"] for request in server.generations} == {"Bearer top-secret"}


def is_rude(metadata: dict[str, Any]) -> bool:
    return bool(metadata["rude"])


def test_a_filter_is_never_lost_in_silence(aligner: Aligner) -> None:
    postprocessor = AlignerPostprocessor(aligner=aligner, metadata_filter=is_rude)
    assert pickle.loads(pickle.dumps(postprocessor)).metadata_filter is is_rude
    postprocessor = AlignerPostprocessor(aligner=aligner, metadata_filter=lambda metadata: metadata["rude"])
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(postprocessor)


def test_values_do_not_lose_a_filter_in_silence(aligner: Aligner) -> None:
    postprocessor = AlignerPostprocessor(aligner=aligner, metadata_filter=is_rude)
    for save in (postprocessor.to_dict, postprocessor.to_json):
        with pytest.raises(ConfigurationError, match=r"is_rude.* cannot be saved as a value"):
            save()
    saved = postprocessor.model_copy(update={"metadata_filter": None}).to_json()  # as the message says
    assert AlignerPostprocessor.from_json(saved, metadata_filter=is_rude).metadata_filter is is_rude
