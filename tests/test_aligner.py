"""The Aligner itself, on the embedded model."""

import asyncio
import copy
import gc
import threading
from collections.abc import AsyncGenerator

import pytest
from cases import GOOD, QUERY, Hostile

from aligner_chains import PROMPT_FORMATS, Aligner, Feedback, Guard, PromptFormat
from aligner_chains.backends.base import Generation, GenerationChunk, GenerationRequest, ModelInfo
from aligner_chains.backends.local import LocalBackend
from aligner_chains.decoding.causal_model import CausalModel, Sampling, Token
from aligner_chains.errors import (
    BackendError,
    CorrectionTimeoutError,
    FeedbackNotSupportedError,
    GenerationError,
    IncompleteResponseError,
)
from aligner_chains.model_config import EMBEDDED_PATH
from aligner_chains.prompts import Prompt

LONG = "The moon is far away. " * 30


def test_a_prompt_format_of_ones_own_is_used(embedded_backend: LocalBackend):
    mine = PromptFormat(name="mine", template="{query} | {draft}", markers=())
    with pytest.raises(FeedbackNotSupportedError, match="'mine' has no place for feedback"):
        Aligner(embedded_backend, prompt_format=mine).correct(QUERY, GOOD, feedback=Feedback.HONEST)


def test_its_model_is_named_as_soon_as_anybody_knows_it(embedded_backend: LocalBackend, hostile: Hostile):
    assert Aligner(embedded_backend).model == "aligner-chains/aligner-nano"
    assert Aligner(FailingBackend()).model == "FailingBackend()"
    server = hostile()
    assert Aligner.from_openai(server.url + "/v1", model="aligner-7b").model == "aligner-7b"
    with Aligner.from_tgi(server.url) as aligner:
        assert aligner.model == f"TgiBackend({server.url!r})"
        aligner.correct(QUERY, GOOD)
        assert aligner.model == "aligner/aligner-7b-v1.0"


class FailingBackend:
    """A backend of somebody's own: its stream breaks off, by an error or without one."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def name(self) -> str:
        raise NotImplementedError

    def __repr__(self) -> str:
        return "FailingBackend()"

    async def info(self) -> ModelInfo:
        return ModelInfo("mine")

    async def count_tokens(self, prompt: Prompt) -> None:
        return None

    async def generate(self, request: GenerationRequest) -> Generation:
        raise NotImplementedError

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        yield GenerationChunk("One")
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None: ...


class QueueTimeoutError(BackendError, TimeoutError):
    pass


@pytest.mark.parametrize("error", [None, QueueTimeoutError("The queue is full.")])
def test_what_breaks_off_a_stream_of_a_backend_of_ones_own_is_named(error: QueueTimeoutError | None):
    aligner = Aligner(FailingBackend(error), prompt_format="aligner-7b", guard=Guard(reject_repetition=True))
    kind, message = (
        (QueueTimeoutError, "queue is full") if error else (IncompleteResponseError, "'mine' ended its stream")
    )
    with pytest.raises(kind, match=message):
        aligner.correct(QUERY, GOOD)
    with pytest.raises(kind, match=message):
        list(aligner.stream(QUERY, GOOD))


def test_a_chat_format_needs_a_chat_model(embedded_backend: LocalBackend):
    with pytest.raises(OSError, match="has no chat template, so it is no chat model"):
        Aligner(embedded_backend, prompt_format=PROMPT_FORMATS["instruct"]).correct(QUERY, GOOD)


def test_a_local_correction_ends_at_the_deadline_and_the_next_one_works(unguarded: Aligner):
    with pytest.raises(CorrectionTimeoutError, match=r"timeout of 0\.01 s"):
        unguarded.correct(QUERY, LONG, timeout=0.01)
    assert unguarded.correct(QUERY, GOOD).text == GOOD


async def test_the_loop_goes_on_while_the_model_writes(unguarded: Aligner):
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    await unguarded.acorrect(QUERY, GOOD)
    ticking.cancel()
    assert ticks > 3


@pytest.mark.parametrize("prompt", ["a" * 20_000, ({"role": "user", "content": "a" * 20_000},)], ids=["text", "chat"])
async def test_a_long_prompt_is_read_beside_the_loop(prompt: Prompt):
    readers: list[int] = []

    class Reading:
        def encode(self, _: object) -> list[int]:
            readers.append(threading.get_ident())
            return [1, 2, 3]

        encode_chat = encode

    assert await LocalBackend(Reading(), name="reading").count_tokens(prompt) == 3
    assert threading.get_ident() not in readers


async def test_a_cancelled_correction_lets_the_next_one_through(unguarded: Aligner):
    long = asyncio.create_task(unguarded.acorrect(QUERY, LONG))
    waiting = asyncio.create_task(unguarded.acorrect(QUERY, LONG))
    await asyncio.sleep(0.05)
    long.cancel()
    waiting.cancel()
    assert (await unguarded.acorrect(QUERY, GOOD)).text == GOOD


def shared(backend: LocalBackend) -> LocalBackend:
    """Another backend of the same weights, which may be closed."""
    return LocalBackend(backend.model, name="shared")


async def test_closing_ends_what_is_written_and_what_waits_and_what_comes_after(embedded_backend: LocalBackend):
    aligner = Aligner(shared(embedded_backend), prompt_format="aligner-7b")
    under_way = [asyncio.create_task(aligner.acorrect(QUERY, LONG)) for _ in range(3)]
    await asyncio.sleep(0.05)
    await aligner.aclose()
    for error in await asyncio.gather(*under_way, return_exceptions=True):
        assert isinstance(error, GenerationError)
    with pytest.raises(GenerationError, match=r"'shared' was closed\. Make a new Aligner\.$"):
        await aligner.acorrect(QUERY, GOOD)
    assert (await aligner.acorrect(QUERY, GOOD, on_failure="draft")).outcome == "failed"


class BrokenModel(CausalModel):
    """A model that fails as a GPU does."""

    def generate(self, *arguments: object, **options: object) -> str:
        raise self.failure


@pytest.mark.parametrize("failure", [RuntimeError("CUDA out of memory"), IndexError("index out of range in self")])
def test_a_model_that_fails_is_a_generation_error(embedded_backend: LocalBackend, failure: Exception):
    broken = copy.copy(embedded_backend.model)
    broken.__class__ = BrokenModel
    broken.failure = failure
    aligner = Aligner(LocalBackend(broken, name="broken"), prompt_format="aligner-7b")
    for _ in range(2):
        with pytest.raises(GenerationError, match=f"'broken' failed: {type(failure).__name__}: {failure}"):
            aligner.correct(QUERY, GOOD)


def test_a_dropped_model_takes_its_thread_along(embedded_backend: LocalBackend):
    def model_threads() -> int:
        gc.collect()
        return [thread.name for thread in threading.enumerate()].count("aligner-model")

    before = model_threads()
    aligner = Aligner(shared(embedded_backend), prompt_format="aligner-7b", guard=Guard())
    aligner.correct(QUERY, GOOD)
    assert model_threads() == before + 1
    del aligner
    assert model_threads() == before


async def test_the_text_is_what_its_tokens_are(embedded_backend: LocalBackend):
    prompt = PROMPT_FORMATS["aligner-7b"].render(QUERY, "Grüße 🏔, 1\u00a0000 km\u2028weit")
    ids = embedded_backend.model.encode(prompt)
    tokens = [token async for token in embedded_backend.write(ids, max_new_tokens=200, sampling=Sampling())]
    assert tokens.pop() == "eos_token"
    assert all(isinstance(token, Token) and token.logprob <= 0 for token in tokens)
    generation = await embedded_backend.generate(GenerationRequest(prompt, max_new_tokens=200))
    written = [token.id for token in tokens]
    assert generation.text == embedded_backend.model.tokenizer.decode(written, skip_special_tokens=True)
    assert generation.usage.output_tokens == len(written)
    assert generation.logprobs == pytest.approx([token.logprob for token in tokens])


def test_the_embedded_model_is_small_and_complete():
    (weights,) = EMBEDDED_PATH.glob("*.safetensors")
    assert weights.stat().st_size < 16_000_000
    assert {"config.json", "tokenizer.json", "aligner_config.json"} <= {path.name for path in EMBEDDED_PATH.iterdir()}
