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
    while passages:
        try:
            return await aligner.acorrect(_with_passages(query, passages), draft, **_raising(options, draft))
        except ContextLengthError as error:  # noqa: PERF203 - the next try has fewer of them
            passages = _fewer(passages, error)
        except AlignerError as error:
            return aligner.fallback(query, draft, error, on_failure=options.get("on_failure"))
    return await aligner.acorrect(query, draft, **options)


async def astream_beside(
    passages: Sequence[str], aligner: Aligner, query: str, draft: str, options: Mapping[str, Any]
) -> AsyncGenerator[CorrectionChunk, None]:
    """Yields what `acorrect_beside` returns as it is written."""
    while passages:
        stream = aligner.astream(_with_passages(query, passages), draft, **_raising(options, draft))
        try:
            async with aclosing(stream):
                async for chunk in stream:
                    yield chunk
            return
        except StreamInterruptedError:
            raise
        except ContextLengthError as error:
            passages = _fewer(passages, error)
        except AlignerError as error:
            correction = aligner.fallback(query, draft, error, on_failure=options.get("on_failure"))
            yield CorrectionChunk(correction.text, correction)
            return
    async with aclosing(aligner.astream(query, draft, **options)) as stream:
        async for chunk in stream:
            yield chunk


def number_read(passages: Sequence[str], query: str, correction: Correction) -> int:
    """How many of the passages, from the first on, the Aligner read for a correction."""
    count, read = 0, _with_passages(query, ())
    while read != correction.query and count < len(passages):
        read += _shown(passages[count])
        count += 1
    return count if read == correction.query else 0


def _fewer(passages: Sequence[str], error: ContextLengthError) -> Sequence[str]:
    # No token has less than a byte: at least so many bytes have to go, and to count tokens may be a request.
    count, gone = len(passages), 0
    while count and gone < error.prompt_tokens - error.limit:
        count -= 1
        gone += len(_shown(passages[count]).encode())
    return passages[:count]


def _shown(passage: str) -> str:
    # A passage that holds the delimiter must not end before its end.
    return f"<passage>\n{_DELIMITER.sub('< ', passage)}\n</passage>\n"


def _with_passages(query: str, passages: Sequence[str]) -> str:
    shown = "".join(map(_shown, passages))
    return f"{query}\n\nThe answer has to agree with these passages:\n{shown}"


def _raising(options: Mapping[str, Any], draft: str) -> dict[str, Any]:
    room = _LEAST_ROOM + _ROOM_BY_DRAFT * len(draft.encode())
    return {"max_new_tokens": room, **options, "on_failure": "raise"}
