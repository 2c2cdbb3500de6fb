"""From a request to its answer: admitted, validated, queued for the one model, written, counted."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass

from aligner_chains.backends.base import ModelInfo
from aligner_chains.backends.local import LocalBackend
from aligner_chains.decoding.causal_model import Sampling, StopReason, Token
from aligner_chains.errors import GenerationError
from aligner_chains.server.bodies import GenerateParameters
from aligner_chains.server.metrics import Metrics
from aligner_chains.server.refusals import RequestError, generation_failed, overloaded
from aligner_chains.server.validation import Limits, check_inputs, check_length, check_sampling


@dataclass(frozen=True, slots=True)
class ValidRequest:
    """A prompt that the model can answer.

    Attributes:
        ids: The prompt's token ids, [S].
        max_new_tokens: The most tokens to write.
        sampling: How to choose them.
        wants_prompt_logprobs: Whether to score the prompt as well.
        validation_seconds: How long it took to find that out.
    """

    ids: Sequence[int]
    max_new_tokens: int
    sampling: Sampling
    wants_prompt_logprobs: bool
    validation_seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        request: What it answers.
        tokens: What was written, token by token.
        finish_reason: `eos_token`, `length` or `stop_sequence`.
        prompt_logprobs: The log-probability of each prompt token but the first, where asked for. [S]
        queue_seconds: How long the request waited for the model.
        inference_seconds: How long the model worked.
    """

    request: ValidRequest
    tokens: tuple[Token, ...]
    finish_reason: StopReason
    prompt_logprobs: Sequence[float | None] | None
    queue_seconds: float
    inference_seconds: float

    @property
    def text(self) -> str:
        """The answer without special tokens."""
        return "".join(token.text for token in self.tokens if not token.special)

    @property
    def mean_logprob(self) -> float:
        """How likely the model finds it: the mean log-probability of its tokens."""
        return math.fsum(token.logprob for token in self.tokens) / len(self.tokens)


@dataclass(frozen=True, slots=True)
class Step:
    """A token as it is handed out; the last one carries the whole answer."""

    token: Token
    answer: Answer | None


class Engine:
    """Answers requests with one model, one prompt at a time.

    Args:
        backend: The model.
        info: Its name and context.
        limits: What is accepted.

    Raises:
        ConfigurationError: The limits do not fit the model.
    """

    def __init__(self, backend: LocalBackend, info: ModelInfo, limits: Limits) -> None:
        self.model = backend.model
        self.model_name = info.name
        self.limits = limits
        self.lengths = limits.lengths(info.max_total_tokens)
        self.metrics = Metrics(self.lengths)
        self._backend = backend
        self._free_places = limits.max_concurrent_requests
        self._turn = asyncio.Lock()
        self._has_failed = False

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a request and holds its place.

        Raises:
            RequestError: All places are taken.
        """
        with self.metrics.request():
            if not self._free_places:
                raise overloaded()
            self._free_places -= 1
            try:
                yield
            finally:
                self._free_places += 1

    async def validate(self, inputs: str, parameters: GenerateParameters) -> ValidRequest:
        """What the model is to do.

        Raises:
            RequestError: It cannot be done.
        """
        started = time.perf_counter()
        sampling = check_sampling(parameters, self.limits)
        check_inputs(inputs, parameters, self.lengths)
        # Megabytes of text take a tokenizer a while, during which others are to be served.
        ids = await asyncio.to_thread(self.model.encode, inputs)
        ids_to_read, max_new_tokens = check_length(ids, parameters, self.lengths)
        self.metrics.input_length.observe(len(ids_to_read))
        return ValidRequest(
            ids_to_read,
            max_new_tokens,
            sampling,
            wants_prompt_logprobs=parameters.decoder_input_details,
            validation_seconds=time.perf_counter() - started,
        )

    async def write(self, request: ValidRequest) -> AsyncGenerator[Step, None]:
        """Yields the answer token by token. Closing the generator stops the model, or leaves the queue.

        Raises:
            RequestError: The model failed.
        """
        # A client that reads slowly must not keep the model from others, so the model's work does not wait for it.
        steps: asyncio.Queue[Step | None] = asyncio.Queue()
        working = asyncio.create_task(self._work(request, steps.put_nowait))
        working.add_done_callback(lambda _: steps.put_nowait(None))
        try:
            while (step := await steps.get()) is not None:
                yield step
            await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def answer(self, request: ValidRequest) -> Answer:
        """The whole answer.

        Raises:
            RequestError: The model failed.
        """
        answer = None
        async with aclosing(self.write(request)) as steps:
            async for step in steps:
                answer = step.answer
        assert answer is not None
        return answer

    async def is_healthy(self) -> bool:
        """Whether the model answers: after a failure it has to write a token to prove it."""
        if self._has_failed:
            self._has_failed = False
            probe = ValidRequest(
                self.model.encode("a"), 1, Sampling(), wants_prompt_logprobs=False, validation_seconds=0.0
            )
            with suppress(RequestError):
                await self.answer(probe)
        return not self._has_failed

    async def _work(self, request: ValidRequest, hand_over: Callable[[Step], None]) -> None:
        queued = time.perf_counter()
        with self.metrics.queue_size.track_inprogress():
            await self._turn.acquire()
        started = time.perf_counter()
        tokens: list[Token] = []
        prompt_logprobs = None
        try:
            if request.wants_prompt_logprobs:
                prompt_logprobs = await asyncio.to_thread(self.model.prompt_logprobs, request.ids)
            writing = self._backend.write(request.ids, max_new_tokens=request.max_new_tokens, sampling=request.sampling)
            async with aclosing(writing) as items:
                async for item in items:
                    if isinstance(item, Token):
                        # Only the model knows, afterwards, which token was the last one; so one is held back.
                        if tokens:
                            hand_over(Step(tokens[-1], None))
                        tokens.append(item)
                        continue
                    answer = Answer(
                        request,
                        tuple(tokens),
                        item,
                        prompt_logprobs,
                        queue_seconds=started - queued,
                        inference_seconds=time.perf_counter() - started,
                    )
                    self._record(answer)
                    hand_over(Step(tokens[-1], answer))
        except (GenerationError, RuntimeError) as error:
            self._has_failed = True
            # Without the advice that an error of ours ends with: the client's error has its own.
            reason = str(error.args[0]) if error.args else type(error).__name__
            raise generation_failed(reason) from error
        finally:
            self._turn.release()

    def _record(self, answer: Answer) -> None:
        self.metrics.queue_duration.observe(answer.queue_seconds)
        self.metrics.inference_duration.observe(answer.inference_seconds)
        self.metrics.generated_tokens.observe(len(answer.tokens))
