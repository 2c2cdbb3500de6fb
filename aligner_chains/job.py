"""One draft on its way to a correction: what was asked for it, and what becomes of it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from aligner_chains.backends.base import Generation
from aligner_chains.checks import check_type
from aligner_chains.correction import Correction, Outcome
from aligner_chains.errors import AlignerError, EmptyCorrectionError, TruncatedCorrectionError
from aligner_chains.exchange import AnswerReader
from aligner_chains.feedback import Feedback
from aligner_chains.guard import Guard, confidence
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
        """A job whose deadline runs from now.

        Raises:
            InvalidTypeError: Query or draft is not a string.
        """
        check_type("query", query)
        check_type("draft", draft)
        return cls(query, draft, options, Deadline(options.timeout), time.perf_counter())

    def concluded(self, reader: AnswerReader, generation: Generation, guard: Guard) -> Correction:
        """The correction that a whole answer makes, or the error that it is."""
        text = reader.text
        if not text:
            raise EmptyCorrectionError(
                f"{generation.model!r} answered with nothing. Is it an Aligner of this prompt format?"
            )
        outcome: Outcome = "unchanged" if text == self.draft else "corrected"
        reason = guard.doubt(text, draft=self.draft, logprobs=generation.logprobs)
        if reason is not None:
            # Whether it was cut off is no matter then: a model that loops always ends at a limit.
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
