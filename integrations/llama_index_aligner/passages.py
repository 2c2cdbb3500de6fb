"""Corrections beside retrieved text: as many whole passages as fit are part of what the Aligner reads as the query."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from aligner_chains.aligner import Aligner
from aligner_chains.correction import Correction, CorrectionChunk
from aligner_chains.errors import AlignerError, ContextLengthError, StreamInterruptedError

# What passages have to leave for a correction, in tokens; no token has less than a byte of the draft.
_LEAST_ROOM, _ROOM_BY_DRAFT = 256, 2

_DELIMITER = re.compile(r"<(?=\s*/?\s*passage)", re.IGNORECASE)


async def acorrect_beside(
    passages: Sequence[str], aligner: Aligner, query: str, draft: str, options: Mapping[str, Any]
) -> Correction:
    """The correction of a draft; its `query` is what the Aligner read, the passages in it included.

    Args:
        passages: What the answer has to agree with, the most important first.
        aligner: Corrects.
        query: What the user asked.
        draft: The answer to correct.
        options: `Aligner.correct`'s keyword arguments.
    """
    if not passages:
        return await aligner.acorrect(query, draft, **options)
    try:
        return await aligner.acorrect(_with_passages(query, passages), draft, **_raising(options, draft))
    except ContextLengthError:
        return await acorrect_beside(passages[:-1], aligner, query, draft, options)
    except AlignerError as error:
        return aligner.fallback(query, draft, error, on_failure=options.get("on_failure"))


async def astream_beside(
    passages: Sequence[str], aligner: Aligner, query: str, draft: str, options: Mapping[str, Any]
) -> AsyncGenerator[CorrectionChunk, None]:
    """Yields what `acorrect_beside` returns as it is written."""
    if passages:
        stream = aligner.astream(_with_passages(query, passages), draft, **_raising(options, draft))
    else:
        stream = aligner.astream(query, draft, **options)
    try:
        async with aclosing(stream):
            async for chunk in stream:
                yield chunk
        return
    except AlignerError as error:
        if not passages or isinstance(error, StreamInterruptedError):
            raise
        failure = error
    if not isinstance(failure, ContextLengthError):
        correction = aligner.fallback(query, draft, failure, on_failure=options.get("on_failure"))
        yield CorrectionChunk(correction.text, correction)
        return
    async with aclosing(astream_beside(passages[:-1], aligner, query, draft, options)) as stream:
        async for chunk in stream:
            yield chunk


def number_read(passages: Sequence[str], query: str, correction: Correction) -> int:
    """How many of the passages, from the first on, the Aligner read for a correction."""
    counts = range(len(passages), 0, -1)
    return next((count for count in counts if correction.query == _with_passages(query, passages[:count])), 0)


def _with_passages(query: str, passages: Sequence[str]) -> str:
    # A passage that holds the delimiter must not end before its end.
    shown = "\n".join(f"<passage>\n{_DELIMITER.sub('< ', passage)}\n</passage>" for passage in passages)
    return f"{query}\n\nThe answer has to agree with these passages:\n{shown}"


def _raising(options: Mapping[str, Any], draft: str) -> dict[str, Any]:
    room = _LEAST_ROOM + _ROOM_BY_DRAFT * len(draft.encode())
    return {"max_new_tokens": room, **options, "on_failure": "raise"}
