"""What can go wrong, as one tree.

AlignerError
├── InvalidInputError (ValueError)           a query, draft or feedback that cannot be corrected as it is
│   └── ContextLengthError                   query and draft do not fit into the model's context
├── InvalidTypeError (TypeError)             not a string where a string belongs
├── QueryNotFoundError (LookupError)         a draft came down a chain, but not the question behind it
├── ConfigurationError (ValueError)          the Aligner is set up in a way that cannot work
│   ├── PromptFormatError                    unknown prompt format, or none known for this model
│   ├── FeedbackNotSupportedError            the model's prompt format has no place for feedback
│   └── ModelLoadError (OSError)             a path or hub id that holds no causal language model
├── MissingDependencyError (ImportError)     an optional part is not installed
├── DataError (ValueError)                   a data file that cannot be read as what it should be
├── CorrectionTimeoutError (TimeoutError)    the deadline passed before the whole correction was there
├── TruncatedCorrectionError                 the model ran into a token limit before its answer ended
├── EmptyCorrectionError                     the model answered with nothing
├── StreamInterruptedError                   a stream failed after part of the correction was handed out
├── CorrectionsFailedError                   some of many corrections failed; carries the others
└── BackendError                             the server that runs the model
    ├── BackendConnectionError (ConnectionError)   cannot be reached, or hung up
    ├── BackendAuthenticationError (PermissionError)   401 or 403
    ├── BackendNotFoundError                 404: no such route or model there
    ├── RequestRejectedError                 400, 413, 422: it will not take this request
    ├── OverloadedError                      429 or 503: too busy
    ├── GatewayError                         502 or 504: a proxy answered in place of the server
    ├── GenerationError                      424 or 500: the model failed
    ├── IncompleteResponseError              the response ended before the answer did
    └── ProtocolError                        what answers there does not speak the expected protocol
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aligner_chains.correction import Correction


class AlignerError(Exception):
    """The root of every error that aligner-chains raises on purpose."""

    #: Whether the same request may succeed when it is sent again.
    retryable: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross processes in labelled results and worker pools, those that are made from more than a message too.
        return _remade, (type(self), *self.args), self.__dict__


def _remade(kind: type[AlignerError], *args: object) -> AlignerError:
    # An OSError can only be made by OSError's own __new__, which another builtin base may hide.
    error: AlignerError = (OSError if issubclass(kind, OSError) else kind).__new__(kind)
    error.args = args
    return error


class InvalidInputError(AlignerError, ValueError):
    """A query, draft or feedback cannot be corrected as it is."""


class ContextLengthError(InvalidInputError):
    """Query and draft do not fit into the model's context.

    Attributes:
        prompt_tokens: Length of the prompt made of query and draft, in tokens.
        limit: The most tokens that the prompt may have.
    """

    def __init__(self, message: str, *, prompt_tokens: int, limit: int) -> None:
        super().__init__(message)
        self.prompt_tokens = prompt_tokens
        self.limit = limit


class InvalidTypeError(AlignerError, TypeError):
    """Something other than a string was given where a string belongs."""


class QueryNotFoundError(AlignerError, LookupError):
    """A draft came down a chain, but the question behind it is not known."""


class ConfigurationError(AlignerError, ValueError):
    """The Aligner is set up in a way that cannot work."""


class PromptFormatError(ConfigurationError):
    """The prompt format is unknown, or none is known for this model."""


class FeedbackNotSupportedError(ConfigurationError):
    """The model's prompt format has no place for feedback."""


class ModelLoadError(ConfigurationError, OSError):
    """A path or hub id does not hold a causal language model that can be loaded."""


class MissingDependencyError(AlignerError, ImportError):
    """An optional part of aligner-chains is not installed."""


class DataError(AlignerError, ValueError):
    """A data file cannot be read as what it should be."""


class CorrectionTimeoutError(AlignerError, TimeoutError):
    """The deadline passed before the whole correction was there."""


class TruncatedCorrectionError(AlignerError):
    """The model ran into a token limit before its answer ended."""


class EmptyCorrectionError(AlignerError):
    """The model answered with nothing."""


class StreamInterruptedError(AlignerError):
    """A stream failed after part of the correction had been handed out.

    Attributes:
        sent: The text that was handed out; it is not a whole correction.
    """

    def __init__(self, message: str, *, sent: str) -> None:
        super().__init__(message)
        self.sent = sent


class CorrectionsFailedError(AlignerError):
    """Some of many corrections failed; the others are here.

    Attributes:
        corrections: One entry for each pair, in order; `None` where it failed.
        errors: The error of each pair that failed, by its index.
    """

    def __init__(self, corrections: Sequence[Correction | None], errors: Mapping[int, AlignerError]) -> None:
        first = min(errors)
        super().__init__(
            f"{len(errors)} of {len(corrections)} corrections failed; the first, at index {first}: {errors[first]} "
            "The others are in `.corrections` of this error. "
            'To get a labelled result for the failed ones as well, pass on_failure="draft" or "refuse".'
        )
        self.corrections = corrections
        self.errors = errors


_CHECK_THE_ADDRESS = (
    "Check the address. Aligner.from_tgi takes the server's root (http://host:8080), "
    "Aligner.from_openai an address that ends in /v1."
)


class BackendError(AlignerError):
    """The server that runs the model did not give a usable answer.

    Attributes:
        status: The HTTP status, where there was one.
        retry_after: Seconds that the server asked to wait, where it did.
        advice: What to do about it; the last part of what is shown.
    """

    advice: str = "What runs the model may say more in its log."

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        advice: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        if advice is not None:
            self.advice = advice

    def __str__(self) -> str:
        return f"{self.args[0]} {self.advice}"


class BackendConnectionError(BackendError, ConnectionError):
    """The server cannot be reached, or hung up."""

    retryable = True
    advice = "Is it running, and is the address right?"


class BackendAuthenticationError(BackendError, PermissionError):
    """The server wants a key, or another one (401, 403)."""

    advice = (
        "Give the key that the server was started with: api_key=, on the command line --api-key, or beside ALIGNER_URL "
        "ALIGNER_API_KEY."
    )


class BackendNotFoundError(BackendError):
    """The server has no such route or model (404)."""

    advice = _CHECK_THE_ADDRESS


class RequestRejectedError(BackendError):
    """The server will not take this request (400, 413, 422)."""

    advice = "Compare what it says with parameters=, max_new_tokens= and how the server was started."


class OverloadedError(BackendError):
    """The server is too busy (429, 503)."""

    retryable = True
    advice = "Lower max_concurrency, raise timeout, or give the server more room (TGI: --max-concurrent-requests)."


class GatewayError(BackendError):
    """A proxy answered in place of the server (502, 504)."""

    retryable = True
    advice = "A proxy in front of the server answered: look whether the server behind it is up."


class GenerationError(BackendError):
    """The model failed while it generated (424, 500)."""


class IncompleteResponseError(BackendError):
    """The response ended before the answer did."""

    retryable = True
    advice = "Look into the logs and the time limits of the server, and of a proxy in front of it."


class ProtocolError(BackendError):
    """What answers at this address does not speak the expected protocol."""

    advice = _CHECK_THE_ADDRESS
