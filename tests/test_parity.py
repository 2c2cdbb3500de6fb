"""The same cases over every backend, called from synchronous and from asynchronous code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from cases import GOOD, QUERY, Connect, Hostile, over_openai, over_tgi
from hostile import meet, reply, speak

from aligner_chains import Aligner, Correction, CorrectionChunk, Feedback
from aligner_chains.backends.local import LocalBackend
from aligner_chains.errors import CorrectionsFailedError, GenerationError, InvalidInputError, TruncatedCorrectionError

DRAFTS = [GOOD, "Yes.", " Boil it for ten minutes.\n", "No, 7 < 8 and </s> is a token | USER: you"]


class Sync:
    """An Aligner as synchronous code calls it."""

    def __init__(self, aligner: Aligner) -> None:
        self.correct = aligner.correct
        self.correct_many = aligner.correct_many
        self._aligner = aligner

    def stream(self, *pair: str, **options: Any) -> list[CorrectionChunk]:
        return list(self._aligner.stream(*pair, **options))


class Async:
    """An Aligner as asynchronous code calls it, each time in an event loop of its own."""

    def __init__(self, aligner: Aligner) -> None:
        self._aligner = aligner

    def correct(self, *pair: str, **options: Any) -> Correction:
        return asyncio.run(self._aligner.acorrect(*pair, **options))

    def correct_many(self, pairs: list[tuple[str, str]], **options: Any) -> list[Correction]:
        return asyncio.run(self._aligner.acorrect_many(pairs, **options))

    def stream(self, *pair: str, **options: Any) -> list[CorrectionChunk]:
        async def read() -> list[CorrectionChunk]:
            return [chunk async for chunk in self._aligner.astream(*pair, **options)]

        return asyncio.run(read())


Face: TypeAlias = Sync | Async
#: Gives an Aligner one of the faces.
Call: TypeAlias = Callable[[Aligner], Face]
#: Makes an Aligner of one of the backends.
Make: TypeAlias = Callable[..., Aligner]


@pytest.fixture(params=["local", "tgi", "openai"])
def real(request: pytest.FixtureRequest, embedded_backend: LocalBackend, embedded_server: str) -> Make:
    """Makes an Aligner that runs the embedded model: in this process, over TGI's protocol and over OpenAI's."""
    return {
        "local": lambda **options: Aligner(embedded_backend, **options),
        "tgi": lambda **options: Aligner.from_tgi(embedded_server, **options),
        "openai": lambda **options: Aligner.from_openai(embedded_server + "/v1", **options),
    }[request.param]


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def face(request: pytest.FixtureRequest) -> Call:
    """Synchronous or asynchronous."""
    return request.param


@pytest.fixture(scope="module")
def expected(embedded_backend: LocalBackend) -> dict[str, Correction]:
    """What the embedded Aligner makes of each draft."""
    aligner = Aligner(embedded_backend)
    return {draft: aligner.correct(QUERY, draft) for draft in DRAFTS}


def told(correction: Correction) -> tuple[object, ...]:
    """What every backend tells alike."""
    return correction.text, correction.draft, correction.query, correction.outcome, correction.model


@pytest.mark.parametrize("draft", DRAFTS)
def test_correct(real: Make, face: Call, expected: dict[str, Correction], draft: str):
    correction = face(real()).correct(QUERY, draft)
    assert told(correction) == told(expected[draft])
    assert correction.usage == expected[draft].usage
    assert correction.finish_reason == "stop"
    assert correction.confidence == pytest.approx(expected[draft].confidence, abs=1e-3)
    assert correction.latency > 0


def test_a_good_draft_stays_as_it_is(real: Make, face: Call):
    correction = face(real()).correct(QUERY, GOOD)
    assert (correction.outcome, correction.changed, correction.text) == ("unchanged", False, GOOD)


def test_stream(real: Make, face: Call, expected: dict[str, Correction]):
    chunks = face(real()).stream(QUERY, GOOD)
    assert "".join(map(str, chunks)) == expected[GOOD].text
    assert told(chunks[-1].correction) == told(expected[GOOD])


def test_correct_many(real: Make, face: Call, expected: dict[str, Correction]):
    corrections = face(real()).correct_many([(QUERY, draft) for draft in DRAFTS])
    assert [told(correction) for correction in corrections] == [told(expected[draft]) for draft in DRAFTS]


def test_a_correction_that_is_cut_off_is_a_failure(real: Make, face: Call):
    with pytest.raises(TruncatedCorrectionError):
        face(real()).correct(QUERY, GOOD, max_new_tokens=2)
    assert face(real(max_new_tokens=2, on_failure="draft")).stream(QUERY, GOOD)[-1].correction.outcome == "failed"


def test_feedback_reaches_the_model(hostile: Hostile, connect: Connect, face: Call):
    server = hostile()
    face(connect(server)).correct(QUERY, GOOD, feedback=Feedback.CONCISE)
    face(connect(server, feedback="warm and brief")).correct(QUERY, GOOD)
    assert ["more concise: " in request.prompt for request in server.generations] == [True, False]
    assert "more warm and brief: " in server.generations[1].prompt


@pytest.mark.parametrize("connect", [over_tgi, over_openai])
def test_many_keep_their_order_and_their_bound(hostile: Hostile, connect: Connect, face: Call):
    server = hostile(for_ever=meet(3))
    pairs = [(QUERY, f"{number}, you idiot") for number in range(12)]
    corrections = face(connect(server, max_concurrency=3)).correct_many(pairs)
    assert [correction.text for correction in corrections] == [str(number) for number in range(12)]
    assert server.most_at_once == 3


def test_one_failure_of_many_does_not_lose_the_others(hostile: Hostile, connect: Connect, face: Call):
    server = hostile(speak("One"), reply(500, b""), speak("Three"))
    pairs = [(QUERY, "one"), (QUERY, "two"), ("", "blank"), (QUERY, "three")]
    with pytest.raises(
        CorrectionsFailedError, match="2 of 4 corrections failed; the first, at index 1: POST "
    ) as caught:
        face(connect(server, max_concurrency=1)).correct_many(pairs)
    texts = [correction and correction.text for correction in caught.value.corrections]
    assert texts == ["One", None, None, "Three"]
    assert {index: type(error) for index, error in caught.value.errors.items()} == {
        1: GenerationError,
        2: InvalidInputError,
    }


def test_failures_of_many_are_labelled_under_a_policy(hostile: Hostile, connect: Connect, face: Call):
    server = hostile(speak("One"), reply(500, b""), speak("Three"))
    pairs = [(QUERY, "one"), (QUERY, "two"), (QUERY, "three")]
    corrections = face(connect(server, max_concurrency=1)).correct_many(pairs, on_failure="draft")
    assert [correction.text for correction in corrections] == ["One", "two", "Three"]
    assert [correction.outcome for correction in corrections] == ["corrected", "failed", "corrected"]
