"""One draft on its way to a correction: what was asked for it, and what becomes of it."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from aligner_chains.backends.base import Generation, GenerationChunk
from aligner_chains.checks import check_type
from aligner_chains.correction import Correction, CorrectionChunk, Outcome
from aligner_chains.errors import AlignerError, EmptyCorrectionError, IncompleteResponseError, TruncatedCorrectionError
from aligner_chains.exchange import AnswerReader
from aligner_chains.feedback import Feedback
from aligner_chains.guard import Guard, RepetitionWatch, confidence
from aligner_chains.resilience import Deadline
from aligner_chains.settings import OnFailure, check_count, check_on_failure, check_positive

#: What a user reads in place of a correction that failed under `on_failure="refuse"`.
REFUSAL = "I'm sorry, but I can't give you a checked answer to this right now. Please try again later."

logger = logging.getLogger("aligner_chains")


@dataclass(frozen=True, slots=True)
class Options:
    """What may be said for all drafts, and for each."""

    feedback: Feedback
    on_failure: OnFailure
    timeout: float
    max_new_tokens: int | None

    def updated(
        self,
        *,
        feedback: Feedback | str | None = None,
        on_failure: OnFailure | None = None,
        timeout: float | None = None,
        max_new_tokens: int | None = None,
    ) -> Options:
        """These options with those that are given in place of them.

        Raises:
            ConfigurationError: One is not of its kind.
            InvalidTypeError: The feedback is neither a string nor a `Feedback`.
        """
        if feedback is None and on_failure is None and timeout is None and max_new_tokens is None:
            return self
        return Options(
            feedback=self.feedback if feedback is None else Feedback.of(feedback),
            on_failure=self.on_failure if on_failure is None else check_on_failure(on_failure),
            timeout=self.timeout if timeout is None else check_positive("timeout", timeout),
            max_new_tokens=self.max_new_tokens
            if max_new_tokens is None
            else check_count("max_new_tokens", max_new_tokens),
        )


@dataclass(frozen=True, slots=True)
class Job:
    """One draft on its way: everything of it is here, nothing is ever kept on the Aligner."""

    query: str
    draft: str
    options: Options
    deadline: Deadline
    started: float

    @classmethod
    def begin(cls, query: str, draft: str, options: Options) -> Job:
        """A job that begins now.

        Raises:
            InvalidTypeError: Query or draft is not a string.
        """
        check_type("query", query)
        check_type("draft", draft)
        return cls(query, draft, options, Deadline(options.timeout), time.perf_counter())

    def concluded(self, text: str, generation: Generation, guard: Guard) -> Correction:
        """The correction that a whole answer makes, or the error that it is."""
        if not text:
            raise EmptyCorrectionError(
                f"{generation.model!r} answered with nothing. Is it an Aligner of this prompt format?"
            )
        outcome: Outcome = "unchanged" if text == self.draft else "corrected"
        reason = guard.doubt(text, draft=self.draft, logprobs=generation.logprobs)
        if reason is not None:
            # Whether it was cut off is no matter then.
            text, outcome = self.draft, "skipped"
        elif generation.finish_reason == "length":
            raise TruncatedCorrectionError(
                f"{generation.model!r} reached a token limit before its correction ended, after {len(text)} "
                "characters. Raise max_new_tokens, or serve the Aligner with a longer context."
            )
        return Correction(
            text=text,
            draft=self.draft,
            query=self.query,
            outcome=outcome,
            reason=reason,
            model=generation.model,
            finish_reason=generation.finish_reason,
            usage=generation.usage,
            confidence=confidence(generation.logprobs) if generation.logprobs else None,
            latency=self._elapsed(),
        )

    def looped(self, repeated: str, *, model: str) -> Correction:
        """The draft, in place of an answer that was not heard to its end because it repeats itself."""
        return Correction(
            text=self.draft,
            draft=self.draft,
            query=self.query,
            outcome="skipped",
            reason=f"repeats itself: {repeated!r}",
            model=model,
            latency=self._elapsed(),
        )

    def failed(self, error: AlignerError) -> Correction:
        """What `on_failure` makes of an error."""
        policy = self.options.on_failure
        if policy == "raise":
            raise error
        logger.warning("No correction, on_failure=%r: %s", policy, error)
        return Correction(
            text=self.draft if policy == "draft" else REFUSAL,
            draft=self.draft,
            query=self.query,
            outcome="failed",
            latency=self._elapsed(),
            error=error,
        )

    def _elapsed(self) -> float:
        return time.perf_counter() - self.started


class IncomingAnswer:
    """A model's answer to a job, as it comes in.

    Args:
        job: The draft that it corrects.
        reader: Turns its pieces into pieces of the correction.
        guard: Decides whether to trust it.
        model: The name of the model that writes it.
    """

    def __init__(self, job: Job, reader: AnswerReader, guard: Guard, *, model: str) -> None:
        self.guard = guard
        self._job, self._reader, self._model = job, reader, model
        self._repetitions = RepetitionWatch(job.draft) if guard.reject_repetition else None

    def conclude(self, generation: Generation) -> Correction:
        """The correction that an answer makes which came at once.

        Raises:
            AlignerError: It is no valid correction.
        """
        self._reader.read(generation.text)
        self._reader.finish()
        return self._job.concluded(self._reader.text, generation, self.guard)

    async def next_chunk(self, stream: AsyncGenerator[GenerationChunk, None]) -> CorrectionChunk:
        """What can be shown next of an answer that is streamed; with a guard, all at the end.

        Raises:
            AlignerError: It is no valid correction.
        """
        while True:
            try:
                chunk = await anext(stream)
            except StopAsyncIteration as error:
                raise IncompleteResponseError(
                    f"{self._model!r} ended its stream without a whole generation."
                ) from error
            piece = self._reader.read(chunk.text)
            if chunk.generation is not None:
                piece += self._reader.finish()
                correction = self._job.concluded(self._reader.text, chunk.generation, self.guard)
                return CorrectionChunk(correction.text if self.guard.is_on else piece, correction)
            if self._repetitions is not None and (repeated := self._repetitions.read(piece)):
                correction = self._job.looped(repeated, model=self._model)
                return CorrectionChunk(correction.text, correction)
            if piece and not self.guard.is_on:
                return CorrectionChunk(piece)
