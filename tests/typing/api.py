"""The public API as a user's type checker sees it: mypy --strict and pyright's strict mode accept this file."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Literal

from typing_extensions import assert_type

from aligner_chains import (
    PROMPT_FORMATS,
    Aligner,
    AlignerError,
    Correction,
    CorrectionChunk,
    DiffPart,
    Feedback,
    Guard,
    PromptFormat,
    Settings,
    Usage,
)
from aligner_chains.errors import ContextLengthError, CorrectionsFailedError, StreamInterruptedError

assert_type(PROMPT_FORMATS["aligner-7b"], PromptFormat)
assert_type(Feedback.EMPATHETIC | Feedback("brief", instruction="One sentence."), Feedback)
assert_type(Settings.from_env({"ALIGNER_URL": "http://gpu:8080"}).url, str | None)


def make() -> Aligner:
    """Every way to an Aligner."""
    assert_type(Aligner(), Aligner)
    assert_type(Aligner.from_tgi("http://gpu:8080", api_key="key", parameters={"top_k": 3}, feedback="kind"), Aligner)
    assert_type(Aligner.from_openai("http://gpu:8000/v1", model="aligner-7b", timeout=3.5), Aligner)
    assert_type(Aligner.from_pretrained("aligner/aligner-7b-v1.0", device="cuda", dtype="bfloat16"), Aligner)
    mine = PromptFormat(name="mine", template="{query} {draft}", markers=())
    return Aligner.embedded(guard=Guard(min_confidence=0.5), on_failure="refuse", prompt_format=mine)


def use(aligner: Aligner) -> None:
    """What synchronous code does with one."""
    correction = aligner.correct("query", "draft", feedback=Feedback.CONCISE, on_failure="draft", timeout=1)
    assert_type(correction, Correction)
    assert_type(correction.text, str)
    assert_type(correction.outcome, Literal["corrected", "unchanged", "skipped", "failed"])
    assert_type(correction.finish_reason, Literal["stop", "length"] | None)
    assert_type(correction.usage, Usage | None)
    assert_type(correction.error, AlignerError | None)
    assert_type(correction.edit_ratio, float)
    assert_type(correction.diff(), list[DiffPart])
    stream = aligner.stream("query", "draft", max_new_tokens=10)
    assert_type(stream, Generator[CorrectionChunk, None, None])
    for chunk in stream:
        assert_type(chunk.correction, Correction | None)
    assert_type(aligner.correct_many([("query", "draft")], feedback="kind"), list[Correction])
    with aligner as same:
        assert_type(same, Aligner)


async def use_async(aligner: Aligner) -> None:
    """What asynchronous code does with one."""
    assert_type(await aligner.acorrect("query", "draft"), Correction)
    assert_type(aligner.astream("query", "draft"), AsyncGenerator[CorrectionChunk, None])
    async for chunk in aligner.astream("query", "draft"):
        assert_type(chunk.text, str)
    assert_type(await aligner.acorrect_many([("query", "draft")]), list[Correction])
    async with aligner as same:
        assert_type(same, Aligner)


def fail(aligner: Aligner) -> None:
    """What errors tell."""
    try:
        aligner.correct("query", "draft")
    except ContextLengthError as error:
        assert_type(error.prompt_tokens, int)
    except StreamInterruptedError as error:
        assert_type(error.sent, str)
    except CorrectionsFailedError as error:
        assert_type(error.errors[0], AlignerError)
    except TimeoutError:
        pass
