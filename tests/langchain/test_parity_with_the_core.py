"""The same pair gives the same correction and the same metadata in every form of LangChain as without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hostile import Behaviour, HostileServer, refuse, speak
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from upstream import CORRECTED, DRAFT, Upstream
from ways import WAYS

from aligner_chains import Aligner
from langchain_aligner import AlignedChatModel, AlignerMiddleware, AlignerRunnable

QUESTION = "Who wrote Faust?"


def as_a_step(way: str, draft: str, **options: Any) -> AIMessage:
    return WAYS[way](Upstream(turns=(draft,)) | AlignerRunnable(**options), QUESTION)


def as_a_model(way: str, draft: str, **options: Any) -> AIMessage:
    return WAYS[way](AlignedChatModel(llm=Upstream(turns=(draft,)), **options), QUESTION)


def as_middleware(way: str, draft: str, **options: Any) -> AIMessage:
    agent = create_agent(Upstream(turns=(draft,)), [], middleware=[AlignerMiddleware(**options)])
    return WAYS[way](agent, {"messages": [("user", QUESTION)]})["messages"][-1]


#: A graph streams its states, of which its middleware knows nothing.
FORMS = [(form, way) for form in (as_a_step, as_a_model) for way in WAYS] + [
    (as_middleware, way) for way in ("invoke", "ainvoke", "batch", "abatch")
]


@pytest.fixture(params=FORMS, ids=[f"{form.__name__}-{way}" for form, way in FORMS])
def check(request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    """Corrects a draft in a form and without one, compares, and gives the metadata."""
    form, way = request.param

    def checked(draft: str, aligner: Aligner, *, keep_draft: bool = False, **options: Any) -> dict[str, Any]:
        if "stream" in way:
            correction = list(aligner.stream(QUESTION, draft, **options))[-1].correction
        else:
            correction = aligner.correct(QUESTION, draft, **options)
        answer = form(way, draft, aligner=aligner, keep_draft=keep_draft, **options)
        told, expected = answer.response_metadata["aligner"], correction.provenance()
        assert told.pop("latency") > 0
        assert expected.pop("latency") > 0
        assert (answer.text, told) == (correction.text, expected | ({"draft": draft} if keep_draft else {}))
        return told

    return checked


@pytest.mark.parametrize("draft", [DRAFT, CORRECTED], ids=["corrected", "unchanged"])
@pytest.mark.parametrize("options", [{}, {"keep_draft": True}, {"feedback": "empathetic"}, {"max_new_tokens": 7}])
def test_corrections(
    draft: str, options: dict[str, Any], check: Callable[..., Any], aligner: Aligner, server: HostileServer
) -> None:
    assert check(draft, aligner, **options)["outcome"] == ("corrected" if draft == DRAFT else "unchanged")
    first, second = server.generations
    assert (first.path, first.body) == (second.path, second.body)


@pytest.mark.parametrize("policy", ["draft", "refuse"])
@pytest.mark.parametrize("behaviour", [refuse(424, "generation", "no"), speak("")], ids=["error", "nothing"])
def test_failures(
    policy: Any, behaviour: Behaviour, check: Callable[..., Any], hostile: Callable[..., HostileServer]
) -> None:
    with Aligner.from_tgi(hostile(for_ever=behaviour).url) as aligner:
        assert check(DRAFT, aligner, on_failure=policy)["outcome"] == "failed"


@pytest.mark.parametrize("draft", ["Paris, you idiot.", "Paris."])
def test_the_embedded_aligner(draft: str, check: Callable[..., Any], embedded: Aligner) -> None:
    check(draft, embedded)
