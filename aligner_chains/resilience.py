"""Trying again what may succeed the next time, inside one deadline."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio
import tenacity

from aligner_chains.errors import AlignerError, CorrectionTimeoutError, GatewayError, OverloadedError

_T = TypeVar("_T")

# An overloaded server is worth waiting for until the deadline; an address where nothing answers, or where answers break
# off, is soon known to be wrong.
_MAX_ATTEMPTS = 3
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 8.0


class Deadline:
    """A point in time by which a whole correction has to be there.

    Args:
        timeout: Seconds from now; `None` for no limit.
    """

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout

    @property
    def remaining(self) -> float | None:
        """Seconds left, not below zero; `None` for no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock while the block runs."""
        started = time.monotonic()
        try:
            yield
        finally:
            if self._end is not None:
                self._end += time.monotonic() - started

    async def bound(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """The result of `work`, which is cancelled at the deadline.

        Raises:
            CorrectionTimeoutError: The deadline came first.
        """
        try:
            return await _within(self.remaining, work)
        except _TooLateError:
            raise CorrectionTimeoutError(
                f"The correction was not there within its timeout of {self.timeout:g} s. "
                "Raise timeout=, or give the server room."
            ) from None


class _TooLateError(Exception):
    """The work of `_within` took too long."""


if sys.version_info >= (3, 11):

    async def _within(seconds: float | None, work: Callable[[], Awaitable[_T]]) -> _T:
        try:
            async with asyncio.timeout(seconds) as limit:
                return await work()
        except TimeoutError as error:
            if limit.expired():
                raise _TooLateError from error
            raise

else:
    # It takes two to three times as long, for every token of a stream.
    async def _within(seconds: float | None, work: Callable[[], Awaitable[_T]]) -> _T:
        with anyio.move_on_after(seconds):
            return await work()
        raise _TooLateError


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

    # tenacity costs as much as the request itself, so it is only set up once something has failed, and is told of that.
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
        remaining = deadline.remaining
        return remaining is not None and state.upcoming_sleep >= remaining

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, AlignerError) and error.retryable),
        wait=wait,
        stop=stop,
        reraise=True,
        sleep=anyio.sleep,
    )
    return await retrying(attempt)
