"""One draft on its way to a correction, and what the dispatcher is told of it."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import aclosing, closing, contextmanager
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
from llama_index_aligner.options import AlignerFields, chosen

#: Where an answer says what became of its draft: `response.metadata["aligner"]`.
METADATA_KEY = "aligner"

dispatcher = get_dispatcher(__name__)

_CORRECT = inspect.signature(Aligner.correct)


@dataclass(frozen=True, slots=True)
class Corrector:
    """Corrects the drafts of one call, each in a span of its own with a start and an end event.

    Attributes:
        aligner: Corrects.
        options: What is said for this call: `Aligner.correct`'s keyword arguments.
        keep_draft: Whether the provenance holds the draft.
        span_id: The span of the call. A stream is read after its call has returned, so it would not find it.
    """

    aligner: Aligner
    options: Mapping[str, Any]
    keep_draft: bool
    span_id: str | None

    @classmethod
    def of(cls, fields: AlignerFields) -> Corrector:
        """A corrector for a call that is made now."""
        return cls(fields.aligner or default_aligner(), chosen(fields), fields.keep_draft, active_span_id.get())

    def correct(self, query: str, draft: str) -> Correction:
        """The correction of a draft."""
        with self._told(query, draft) as tell:
            return tell(self.aligner.correct(query, draft, **self.options))

    async def acorrect(self, query: str, draft: str) -> Correction:
        """The correction of a draft."""
        with self._told(query, draft) as tell:
            return tell(await self.aligner.acorrect(query, draft, **self.options))

    def stream(self, query: str, draft: str) -> Generator[CorrectionChunk, None, None]:
        """Yields the correction as it is written."""
        with (
            self._told(query, draft) as tell,
            closing(self.aligner.stream(query, draft, **self.options)) as chunks,
        ):
            for chunk in chunks:
                if chunk.correction is not None:
                    tell(chunk.correction)
                yield chunk

    async def astream(self, query: str, draft: str) -> AsyncGenerator[CorrectionChunk, None]:
        """Yields the correction as it is written."""
        with self._told(query, draft) as tell:
            async with aclosing(self.aligner.astream(query, draft, **self.options)) as chunks:
                async for chunk in chunks:
                    if chunk.correction is not None:
                        tell(chunk.correction)
                    yield chunk

    def provenance(self, correction: Correction) -> dict[str, Any]:
        """What became of a draft, for `metadata["aligner"]`."""
        told = correction.provenance()
        return {**told, "draft": correction.draft} if self.keep_draft else told

    @contextmanager
    def _told(self, query: str, draft: str) -> Iterator[Callable[[Correction], Correction]]:
        span_id = f"Aligner.correct-{uuid4()}"
        arguments = _CORRECT.bind(self.aligner, query, draft, **self.options)
        started = time.perf_counter()
        correction: Correction | None = None

        def tell(found: Correction) -> Correction:
            nonlocal correction
            correction = found
            return found

        dispatcher.span_enter(span_id, arguments, self.aligner, self.span_id)
        dispatcher.event(AlignerCorrectionStartEvent(query=query, draft=draft, span_id=span_id))
        try:
            yield tell
        except BaseException as error:
            # Who leaves a stream at its last piece has the whole correction: that is no failure.
            if correction is None:
                latency = time.perf_counter() - started
                dispatcher.event(
                    AlignerCorrectionEndEvent(query=query, draft=draft, latency=latency, error=error, span_id=span_id)
                )
                dispatcher.event(SpanDropEvent(span_id=span_id, err_str=str(error)))
                dispatcher.span_drop(span_id, arguments, self.aligner, error)
            raise
        finally:
            if correction is not None:
                dispatcher.event(
                    AlignerCorrectionEndEvent(
                        query=query,
                        draft=draft,
                        correction=correction.text,
                        outcome=correction.outcome,
                        latency=correction.latency,
                        model=correction.model,
                        error=correction.error,
                        span_id=span_id,
                    )
                )
                dispatcher.span_exit(span_id, arguments, self.aligner, correction)


def skipped(reason: str) -> dict[str, Any]:
    """The provenance of a draft that no Aligner was asked about."""
    return {"outcome": "skipped", "reason": reason}
