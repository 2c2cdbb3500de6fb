"""LlamaIndex's older callbacks: every part does without a manager of its own, and takes nobody's away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conversations import talk
from hostile import HostileServer
from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import TreeSummarize, get_response_synthesizer
from models import Model
from parts import an_index
from rag import CORRECTED, Way

from aligner_chains import Aligner
from llama_index_aligner import (
    AlignerChatEngine,
    AlignerCondensePlusContextChatEngine,
    AlignerContextChatEngine,
    AlignerLLM,
    AlignerPostprocessor,
    AlignerQueryEngine,
    AlignerSynthesizer,
)


def rag(way: Way, llm: Any, aligner: Aligner) -> Any:
    synthesizer = get_response_synthesizer(llm=llm, callback_manager=None, streaming=way.streams)
    return RetrieverQueryEngine(
        an_index().as_retriever(),
        AlignerSynthesizer(synthesizer, aligner=aligner),
        node_postprocessors=[AlignerPostprocessor(aligner=aligner, callback_manager=None)],
        callback_manager=None,
    )


def any_engine(way: Way, llm: Any, aligner: Aligner) -> Any:
    synthesizer = get_response_synthesizer(llm=llm, callback_manager=None, streaming=way.streams)
    engine = RetrieverQueryEngine(an_index().as_retriever(), synthesizer, callback_manager=None)
    return AlignerQueryEngine(engine, aligner=aligner)


def model(way: Way, llm: Any, aligner: Aligner) -> Any:
    return rag(way, AlignerLLM(llm=llm, aligner=aligner, callback_manager=None), aligner)


@pytest.mark.parametrize("make", [rag, any_engine, model])
def test_queries_without_a_callback_manager(make: Callable[..., Any], way: Way, aligner: Aligner) -> None:
    assert way.query(make(way, Model(callback_manager=None), aligner))[0] == CORRECTED


@pytest.mark.parametrize("kind", [AlignerContextChatEngine, AlignerCondensePlusContextChatEngine])
def test_chats_without_a_callback_manager(
    kind: Any, way: Way, aligner: Aligner, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNER_URL", server.url)  # LlamaIndex's own constructor knows no Aligner
    options = {"prefix_messages": []} if kind is AlignerContextChatEngine else {}
    engine = kind(
        an_index().as_retriever(), Model(), memory=ChatMemoryBuffer.from_defaults(), callback_manager=None, **options
    )
    assert talk(way, engine)[0] == CORRECTED


def test_a_chat_around_an_engine_without_a_callback_manager(way: Way, aligner: Aligner) -> None:
    inner = SimpleChatEngine(Model(), ChatMemoryBuffer.from_defaults(), prefix_messages=[], callback_manager=None)
    assert talk(way, AlignerChatEngine(inner, aligner=aligner))[0] == CORRECTED


def test_the_upstream_keeps_its_own(aligner: Aligner) -> None:
    llm = Model(callback_manager=CallbackManager())
    own = llm.callback_manager
    AlignerSynthesizer(TreeSummarize(llm), aligner=aligner)  # `get_response_synthesizer` would replace it
    AlignerLLM(llm=llm, aligner=aligner)
    assert llm.callback_manager is own
