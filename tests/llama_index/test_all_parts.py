"""Every part in every way to ask it: answers, failures, blank queries, empty answers, and what it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hostile import HostileServer, hang, refuse
from models import Model
from parts import (
    PARTS,
    Outcome,
    Part,
    chat_engine,
    completion,
    condense_plus_context,
    context,
    nodes,
    prediction,
    query_engine,
    synthesizer,
    workflow_step,
)
from rag import CORRECTED, DRAFT, QUERY, TOLD, WAYS, Way

from aligner_chains import REFUSAL, Aligner
from aligner_chains.errors import CorrectionTimeoutError, GenerationError, InvalidInputError
from llama_index_aligner import aligner_options

pytestmark = [  # of how LlamaIndex makes its agents, and what they ask their contexts
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]
# What fails in the thread in which LlamaIndex's own chat engines write to memory is raised there as well.
FAILS_IN_A_THREAD_TOO = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@dataclass(frozen=True)
class Asked:
    """A part, and a way to ask it."""

    part: Part
    way: Way

    def __call__(self, draft: str = DRAFT, query: str = QUERY, **options: Any) -> Outcome:
        return self.part(self.way, Model(turns=(draft,)), query, **options)

    def text(self, **options: Any) -> str | None:
        return self(**options)[0]


@pytest.fixture(
    params=[pytest.param(Asked(part, WAYS[way]), id=f"{part.__name__}-{way}") for part in PARTS for way in PARTS[part]]
)
def ask(request: pytest.FixtureRequest) -> Asked:
    return request.param


@pytest.fixture
def never(hostile: Callable[..., HostileServer]) -> Any:
    """An Aligner that does not answer, and waits longer than these tests tell it to."""
    server = hostile(for_ever=hang)
    with Aligner.from_tgi(server.url, timeout=5) as aligner:
        yield aligner


@pytest.fixture
def broken(hostile: Callable[..., HostileServer]) -> Any:
    """An Aligner on fire."""
    server = hostile(for_ever=refuse(424, "generation", "the GPU is on fire"))
    with Aligner.from_tgi(server.url) as aligner:
        yield aligner


def test_an_answer(ask: Asked, aligner: Aligner, server: HostileServer) -> None:
    text, told = ask(aligner=aligner)
    assert text == CORRECTED
    if ask.part is not prediction:  # which gives a bare text
        assert told is not None
        assert told.pop("latency") > 0
        assert told == TOLD
    (request,) = server.generations
    assert f": {QUERY} | {DRAFT} ASSISTANT:" in request.prompt


def test_the_upstream_is_asked_in_the_same_way(ask: Asked, aligner: Aligner) -> None:
    llm = Model()
    ask.part(ask.way, llm, QUERY, aligner=aligner)
    # A chat reads its draft whole, since it goes into no stream.
    way = Way(streams=False, is_async=ask.way.is_async) if ask.part is chat_engine else ask.way
    expected = way.method("complete" if ask.part is completion else "chat")
    assert llm.called == ([] if ask.part is nodes else [expected])


@FAILS_IN_A_THREAD_TOO
def test_a_failure_raises_by_default(ask: Asked, broken: Aligner) -> None:
    with pytest.raises(GenerationError, match="on fire"):
        ask(aligner=broken)


@pytest.mark.parametrize(("policy", "text"), [("draft", DRAFT), ("refuse", REFUSAL)])
def test_what_to_do_about_a_failure(policy: Any, text: str, ask: Asked, broken: Aligner) -> None:
    if ask.part is nodes and policy == "refuse":
        assert ask(aligner=broken, on_failure=policy) == (None, None)
        return
    given, told = ask(aligner=broken, on_failure=policy)
    assert given == text
    if ask.part is not prediction:
        assert told is not None
        assert (told["outcome"], told["error"]["type"]) == ("failed", "GenerationError")


@FAILS_IN_A_THREAD_TOO
def test_a_blank_query_is_no_way_around_the_aligner(ask: Asked, aligner: Aligner, server: HostileServer) -> None:
    if ask.part is nodes:  # which nobody retrieves without a query
        assert ask(query=" ", aligner=aligner) == (DRAFT, None)
        return
    with pytest.raises(InvalidInputError, match="The query is blank"):
        ask(query=" ", aligner=aligner)
    assert ask.text(query=" ", aligner=aligner, on_failure="refuse") == REFUSAL
    assert server.generations == []


def test_an_answer_without_a_word(ask: Asked, aligner: Aligner, server: HostileServer) -> None:
    text, told = ask(draft="", aligner=aligner)
    engines = (synthesizer, query_engine, context, condense_plus_context, workflow_step)
    is_named = ask.part in engines and not ask.way.streams
    assert text == ("Empty Response" if is_named else "")
    if ask.part not in (nodes, prediction):
        assert told == {"outcome": "skipped", "reason": "no answer" if is_named else "no text"}
    assert server.requests == []


@FAILS_IN_A_THREAD_TOO
def test_the_time_for_all_calls(ask: Asked, never: Aligner) -> None:
    with pytest.raises(CorrectionTimeoutError, match=r"0\.05 s"):
        ask(aligner=never, timeout=0.05)


@FAILS_IN_A_THREAD_TOO
def test_the_time_for_one_call(ask: Asked, never: Aligner) -> None:
    with aligner_options(timeout=0.05), pytest.raises(CorrectionTimeoutError, match=r"0\.05 s"):
        ask(aligner=never, timeout=5)


@pytest.mark.parametrize(("always", "now"), [("refuse", "draft"), ("draft", "refuse")])
def test_what_to_do_about_a_failure_of_one_call(always: Any, now: Any, ask: Asked, broken: Aligner) -> None:
    texts = {"draft": DRAFT, "refuse": None if ask.part is nodes else REFUSAL}
    with aligner_options(on_failure=now):
        assert ask.text(aligner=broken, on_failure=always) == texts[now]
    assert ask.text(aligner=broken, on_failure=always) == texts[always]


def test_the_most_tokens_for_all_calls_and_for_one(ask: Asked, aligner: Aligner, server: HostileServer) -> None:
    with aligner_options(max_new_tokens=7):
        assert ask.text(aligner=aligner, max_new_tokens=9) == CORRECTED
    assert ask.text(aligner=aligner, max_new_tokens=9) == CORRECTED
    assert [request.body["parameters"]["max_new_tokens"] for request in server.generations] == [7, 9]


def test_feedback_for_all_calls_and_for_one(ask: Asked, aligner: Aligner, server: HostileServer) -> None:
    with aligner_options(feedback="concise"):
        ask(aligner=aligner, feedback="empathetic")
    ask(aligner=aligner, feedback="empathetic")
    said = [request.prompt.partition("make it more ")[2].split()[0].rstrip(":") for request in server.generations]
    assert said == ["concise", "empathetic"]
