"""The drafts of one call on their way to corrections, and what the dispatcher is told of it."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.events.span import SpanDropEvent
from llama_index_instrumentation.span import active_span_id

from aligner_chains.aligner import Aligner
from aligner_chains.correction import Correction, CorrectionChunk
from aligner_chains.default import default_aligner
from llama_index_aligner.events import AlignerCorrectionEndEvent, AlignerCorrectionStartEvent
from llama_index_aligner.options import CorrectionOptions, said_now
from llama_index_aligner.passages import acorrect_beside, astream_beside, number_read

#: Where an answer says what became of its draft: `response.metadata["aligner"]`.
METADATA_KEY = "aligner"

dispatcher = get_dispatcher(__name__)

_CORRECT = inspect.signature(Aligner.correct)


@dataclass(frozen=True, slots=True)
class Corrector:
    """Corrects the drafts of one call, each in a span of its own with a start and an end event.

    Attributes:
        aligner: Corrects.
        query: What the user asked.
        options: What is said for this call: `Aligner.correct`'s keyword arguments.
        keep_draft: Whether the provenance holds the draft.
        span_id: The span of the call. A stream is read after its call has returned, so it would not find it.
        passages: What the answer has to agree with, each behind its node's id, which several may share: as many as fit
            are shown to the Aligner.
    """

    aligner: Aligner
    query: str
    options: Mapping[str, Any]
    keep_draft: bool
    span_id: str | None
    passages: Sequence[tuple[str, str]] | None

    @classmethod
    def of(cls, options: CorrectionOptions, query: str, passages: Sequence[tuple[str, str]] | None = None) -> Corrector:
        """A corrector for a call that is made now."""
        aligner = options.aligner or default_aligner()
        return cls(aligner, query, said_now(options), options.keep_draft, active_span_id.get(), passages)

    async def acorrect(
        self, draft: str, *, check: Callable[[Correction], Correction] = lambda correction: correction
    ) -> Correction:
        """The correction of a draft.

        Args:
            draft: The answer to correct.
            check: Gets the correction and returns what is to be made of it.
        """
        with self._told(draft) as tell:
            correction = await acorrect_beside(self._passages, self.aligner, self.query, draft, self.options)
            return tell(check(correction))

    async def astream(self, draft: str) -> AsyncGenerator[CorrectionChunk, None]:
        """Yields the correction of a draft as it is written."""
        with self._told(draft) as tell:
            async with aclosing(
                astream_beside(self._passages, self.aligner, self.query, draft, self.options)
            ) as chunks:
                async for chunk in chunks:
                    if chunk.correction is not None:
                        tell(chunk.correction)
                    yield chunk

    async def atext(self, draft: str, *, skip: str | None = None) -> tuple[str, dict[str, Any]]:
        """The text to use for a draft, and what became of it, for `metadata["aligner"]`.

        Args:
            draft: The answer to correct.
            skip: Why there is nothing to correct, if that is so; where there is no text that is known.
        """
        if reason := skip or _no_text(draft):
            return draft, skipped(reason)
        correction = await self.acorrect(draft)
        return correction.text, self.provenance(correction)

    async def atokens(
        self, draft: str, metadata: dict[str, Any], *, skip: str | None = None
    ) -> AsyncGenerator[str, None]:
        """Yields the text to use for a draft, piece by piece.

        Args:
            draft: The answer to correct.
            metadata: Gets what became of the draft, before the last piece.
            skip: As for `atext`.
        """
        if reason := skip or _no_text(draft):
            metadata[METADATA_KEY] = skipped(reason)
            if draft:
                yield draft
            return
        async with aclosing(self.astream(draft)) as chunks:
            async for chunk in chunks:
                if chunk.correction is not None:
                    metadata[METADATA_KEY] = self.provenance(chunk.correction)
                if chunk.text:
                    yield chunk.text

    def provenance(self, correction: Correction) -> dict[str, Any]:
        """What became of a draft, for `metadata["aligner"]`."""
        told = correction.provenance()
        if self.keep_draft:
            told["draft"] = correction.draft
        if self.passages is not None:
            read = self.passages[: number_read(self._passages, self.query, correction)]
            told["context"] = [node_id for node_id, _ in read]
        return told

    @property
    def _passages(self) -> list[str]:
        return [text for _, text in self.passages or ()]

    @contextmanager
    def _told(self, draft: str) -> Iterator[Callable[[Correction], Correction]]:
        span_id = f"Aligner.correct-{uuid4()}"
        arguments = _CORRECT.bind(self.aligner, self.query, draft, **self.options)
        started = time.perf_counter()
        correction: Correction | None = None

        def tell(found: Correction) -> Correction:
            nonlocal correction
            correction = found
            return found

        dispatcher.span_enter(span_id, arguments, self.aligner, self.span_id)
        dispatcher.event(AlignerCorrectionStartEvent(query=self.query, draft=draft, span_id=span_id))
        try:
            yield tell
        except BaseException as error:
            # Who leaves a stream at its last piece has the whole correction: that is no failure.
            if correction is None:
                latency = time.perf_counter() - started
                dispatcher.event(
                    AlignerCorrectionEndEvent(
                        query=self.query, draft=draft, latency=latency, error=error, span_id=span_id
                    )
                )
                dispatcher.event(SpanDropEvent(span_id=span_id, err_str=str(error)))
                dispatcher.span_drop(span_id, arguments, self.aligner, error)
            raise
        finally:
            if correction is not None:
                dispatcher.event(
                    AlignerCorrectionEndEvent(
                        query=self.query,
                        draft=draft,
                        latency=correction.latency,
                        correction=correction.text,
                        outcome=correction.outcome,
                        model=correction.model,
                        error=correction.error,
                        span_id=span_id,
                    )
                )
                dispatcher.span_exit(span_id, arguments, self.aligner, correction)


def skipped(reason: str) -> dict[str, Any]:
    """The provenance of a draft that no Aligner was asked about."""
    return {"outcome": "skipped", "reason": reason}


def _no_text(draft: str) -> str | None:
    return None if draft.strip() else "no text"
