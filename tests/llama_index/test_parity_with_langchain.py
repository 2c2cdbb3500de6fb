"""The same pair gives the same correction and the same metadata in LangChain and in LlamaIndex."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hostile import HostileServer, refuse, speak
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.response_synthesizers import get_response_synthesizer
from models import Model
from rag import CORRECTED, DRAFT, QUERY, Upstream, Way

from aligner_chains import Aligner
from aligner_chains.backends.local import LocalBackend
from langchain_aligner import AlignedChatModel, AlignerRunnable
from llama_index_aligner import AlignerLLM, AlignerSynthesizer


def in_langchain(way: Way, draft: str, **options: Any) -> tuple[str, dict[str, Any]]:
    runnable = AlignerRunnable(query=lambda _: QUERY, **options)
    message = AIMessage(draft)

    async def streamed() -> list[AIMessageChunk]:
        return [chunk async for chunk in runnable.astream(message)]

    if way.streams:
        first, *others = asyncio.run(streamed()) if way.is_async else runnable.stream(message)
        answer = first + others if others else first
    else:
        answer = asyncio.run(runnable.ainvoke(message)) if way.is_async else runnable.invoke(message)
    return answer.text, answer.response_metadata["aligner"]


def in_llama_index(way: Way, draft: str, **options: Any) -> tuple[str, dict[str, Any]]:
    inner = get_response_synthesizer(llm=Upstream(turns=(draft,)), streaming=way.streams)
    text, response = way.synthesize(AlignerSynthesizer(inner, **options))
    return text, response.metadata["aligner"]


def comparable(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name != "latency"}


def check(way: Way, draft: str, **options: Any) -> dict[str, Any]:
    (text, told), (other_text, other_told) = in_langchain(way, draft, **options), in_llama_index(way, draft, **options)
    assert (text, comparable(told)) == (other_text, comparable(other_told))
    assert ("latency" in told) == ("latency" in other_told)
    return told


@pytest.mark.parametrize("draft", [DRAFT, CORRECTED], ids=["corrected", "unchanged"])
@pytest.mark.parametrize("options", [{}, {"keep_draft": True}, {"feedback": "empathetic"}, {"max_new_tokens": 7}])
def test_corrections(draft: str, options: dict[str, Any], way: Way, aligner: Aligner, server: HostileServer) -> None:
    told = check(way, draft, aligner=aligner, **options)
    assert told["outcome"] == ("corrected" if draft == DRAFT else "unchanged")
    first, second = server.generations
    assert first.body == second.body


@pytest.mark.parametrize("policy", ["draft", "refuse"])
@pytest.mark.parametrize("behaviour", [refuse(424, "generation", "no"), speak("")], ids=["error", "nothing"])
def test_failures(policy: Any, behaviour: Any, way: Way, hostile: Callable[..., HostileServer]) -> None:
    server = hostile(behaviour, behaviour)
    with Aligner.from_tgi(server.url) as aligner:
        assert check(way, DRAFT, aligner=aligner, on_failure=policy)["outcome"] == "failed"


def test_the_embedded_aligner(way: Way, embedded_backend: LocalBackend) -> None:
    aligner = Aligner(embedded_backend)
    for draft in ("Paris, you idiot.", "Paris."):
        check(way, draft, aligner=aligner)


def test_no_text(aligner: Aligner) -> None:
    # An answer without a word is "Empty Response" to LlamaIndex's synthesizers.
    llm = AlignerLLM(llm=Model(turns=("",)), aligner=aligner)
    told = llm.chat([ChatMessage(QUERY)]).additional_kwargs["aligner"]
    assert told == AlignerRunnable(aligner=aligner).invoke(AIMessage("")).response_metadata["aligner"]


def test_models(aligner: Aligner) -> None:
    chat_model = AlignedChatModel(llm=GenericFakeChatModel(messages=iter([AIMessage(DRAFT)])), aligner=aligner)
    answer = chat_model.invoke([HumanMessage(QUERY)])
    response = AlignerLLM(llm=Model(), aligner=aligner).chat([ChatMessage(QUERY)])
    assert answer.text == response.message.content == CORRECTED
    assert comparable(answer.response_metadata["aligner"]) == comparable(response.additional_kwargs["aligner"])
