"""Trying again what may succeed the next time, inside one deadline."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from aligner_chains.errors import AlignerError, CorrectionTimeoutError, GatewayError, OverloadedError

if TYPE_CHECKING:
    import tenacity

if sys.version_info >= (3, 11):
    from asyncio import Timeout, timeout

    _has_expired = Timeout.expired
else:
    from async_timeout import Timeout, timeout

    _has_expired = Timeout.expired.fget

_T = TypeVar("_T")

# An overloaded server is worth waiting for until the deadline; an address where nothing answers, or where answers break
# off, is soon known to be wrong.
_MAX_ATTEMPTS = 3
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 8.0


class Deadline:
    """The time in which a whole correction has to be there.

    It runs only while something is `bound` by it, and not while a reader takes its time between two chunks.

    Args:
        timeout: Seconds; `math.inf` for no limit.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._left = timeout
        self._end = 0.0

    @property
    def remaining(self) -> float:
        """Seconds left to what is bound, not below zero."""
        return max(0.0, self._end - time.monotonic())

    async def bound(self, work: Awaitable[_T]) -> _T:
        """The result of `work`, which is cancelled at the deadline.

        Raises:
            CorrectionTimeoutError: The deadline came first.
        """
        self._end = time.monotonic() + self._left
        try:
            async with timeout(self._left) as limit:
                return await work
        except asyncio.TimeoutError:
            if not _has_expired(limit):
                raise  # one of the work's own
            raise CorrectionTimeoutError(
                f"The correction was not there within its timeout of {self.timeout:g} s. "
                "Raise timeout=, or give the server room."
            ) from None
        finally:
            self._left = self.remaining


async def with_retries(work: Callable[[], Awaitable[_T]], deadline: Deadline) -> _T:
    """The result of `work`, tried again with growing, jittered pauses while it raises an error that is `retryable`.

    A pause that would outlast the deadline is not begun: the last error is raised instead.
    """
    try:
        return await work()
    except AlignerError as error:
        if not error.retryable:
            raise
        failure: AlignerError | None = error

    # tenacity costs as much as the request itself and imports Tornado where there is one, so it is only set up once
    # something has failed, and is told of that.
    import tenacity

    async def attempt() -> _T:
        nonlocal failure
        if failure is not None:
            first, failure = failure, None
            raise first
        return await work()

    jittered = tenacity.wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return max(jittered(state), getattr(error, "retry_after", None) or 0.0)

    def stop(state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        patient = isinstance(error, OverloadedError | GatewayError)
        if not patient and state.attempt_number >= _MAX_ATTEMPTS:
            return True
        return state.upcoming_sleep >= deadline.remaining

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, AlignerError) and error.retryable),
        wait=wait,
        stop=stop,
        reraise=True,
        sleep=asyncio.sleep,
    )
    return await retrying(attempt)
