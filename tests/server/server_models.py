"""A model that does what a test says, for what cannot be asked of a real one: to wait, or to fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from aligner_chains.decoding.causal_model import CausalModel, Sampling, StopReason, Token


class ScriptedModel(CausalModel):
    """Writes a word each time that it is allowed one, until it is stopped; it has a real model's tokenizer."""

    def __init__(self, tokenizer_of: CausalModel, *, context: int = 4096, padding: str = " ") -> None:
        super().__init__(tokenizer_of.model, tokenizer_of.tokenizer)
        self.error: RuntimeError | None = None
        self.began: list[int] = []
        self.ended: list[StopReason] = []
        self._context, self._padding = context, padding
        self._allowed = threading.Semaphore(0)

    @property
    def max_length(self) -> int:
        return self._context

    def allow(self, words: int) -> None:
        self._allowed.release(words)

    def generate(
        self,
        ids: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        on_token: Callable[[Token], None],
        cancelled: Callable[[], bool],
    ) -> StopReason:
        self.began.append(max_new_tokens)
        if self.error is not None:
            raise self.error
        reason = self._write(max_new_tokens, on_token, cancelled)
        self.ended.append(reason)
        return reason

    def _write(
        self, max_new_tokens: int, on_token: Callable[[Token], None], cancelled: Callable[[], bool]
    ) -> StopReason:
        for number in range(max_new_tokens):
            while not self._allowed.acquire(timeout=0.01):
                if cancelled():
                    return "cancelled"
            on_token(Token(number, f"{number}{self._padding}", -0.5, special=False))
        return "length"


class WatchedModel(CausalModel):
    """A real model that keeps count of the tokens that it writes, and of why it stopped."""

    def __init__(self, watched: CausalModel) -> None:
        super().__init__(watched.model, watched.tokenizer)
        self.written: list[int] = []
        self.ended: list[StopReason] = []

    def generate(
        self,
        ids: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        on_token: Callable[[Token], None],
        cancelled: Callable[[], bool],
    ) -> StopReason:
        self.written.append(0)

        def count(token: Token) -> None:
            self.written[-1] += 1
            on_token(token)

        reason = super().generate(
            ids, max_new_tokens=max_new_tokens, sampling=sampling, on_token=count, cancelled=cancelled
        )
        self.ended.append(reason)
        return reason
