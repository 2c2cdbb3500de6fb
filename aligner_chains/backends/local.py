"""A model in this process, on transformers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aligner_chains.backends.base import Generation, GenerationChunk, GenerationRequest, ModelInfo
from aligner_chains.backends.worker import Worker
from aligner_chains.correction import Usage
from aligner_chains.errors import GenerationError
from aligner_chains.model_config import EMBEDDED_PATH, load_config
from aligner_chains.prompts import Prompt

if TYPE_CHECKING:
    from aligner_chains.decoding.causal_model import CausalModel, Sampling, StopReason, Token


# Where a model does not tell its context.
_NO_LIMIT = 4096
# From so many characters on, a prompt's tokens are found in a thread: it takes milliseconds.
_LONG = 10_000


class LocalBackend:
    """An Aligner in this process.

    Answers are written one after the other, in a thread of its own, so that the event loop is never blocked. For many
    users at once serve the model with TGI or vLLM.

    Args:
        model: The model.
        name: What to call it.
        path: The folder or hub id that it was loaded from.

    Attributes:
        name: What it is called.
    """

    def __init__(self, model: CausalModel, *, name: str, path: str | None = None) -> None:
        self.model = model
        self.name = name
        self._path = path
        self._worker = Worker("aligner-model")

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str | None = None, dtype: str | None = None) -> LocalBackend:
        """Loads a model.

        Args:
            path: A folder or hub id.
            device: Where it runs; by default the best device there is.
            dtype: A floating-point type by name; by default what suits the device.

        Raises:
            ModelLoadError: There is no causal language model at this path.
            MissingDependencyError: torch or transformers is not installed.
        """
        from aligner_chains.decoding.causal_model import CausalModel

        config = load_config(Path(path))
        name = config.name if config is not None and config.name else str(path)
        return cls(CausalModel.load(path, device=device, dtype=dtype), name=name, path=str(path))

    @classmethod
    def embedded(cls) -> LocalBackend:
        """The Aligner that comes with the package, on the CPU."""
        return cls.from_pretrained(EMBEDDED_PATH, device="cpu", dtype="float32")

    def __repr__(self) -> str:
        return f"LocalBackend({self.name!r})"

    async def info(self) -> ModelInfo:
        """The model and its context."""
        return ModelInfo(
            name=self.name,
            max_total_tokens=self.model.max_length,
            special_tokens=self.model.added_tokens,
            path=self._path,
        )

    async def count_tokens(self, prompt: Prompt) -> int:
        """The prompt's length by the model's tokenizer."""
        return len(await self._encode(prompt))

    async def generate(self, request: GenerationRequest) -> Generation:
        """The model's whole answer."""
        async with aclosing(self.stream(request)) as chunks:
            async for chunk in chunks:
                if chunk.generation is not None:
                    return chunk.generation
        raise GenerationError(f"{self.name!r} ended without an answer.")

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """The model's answer, token by token."""
        from aligner_chains.decoding.causal_model import Sampling, Token

        ids = await self._encode(request.prompt)
        pieces: list[str] = []
        logprobs: list[float] = []
        reason: StopReason = "eos_token"
        async with aclosing(self.write(ids, max_new_tokens=request.max_new_tokens, sampling=Sampling())) as tokens:
            async for token in tokens:
                if not isinstance(token, Token):
                    reason = token
                    continue
                logprobs.append(token.logprob)
                if not token.special:
                    pieces.append(token.text)
                    yield GenerationChunk(token.text)
        yield GenerationChunk(
            "",
            Generation(
                text="".join(pieces),
                model=self.name,
                finish_reason="length" if reason == "length" else "stop",
                usage=Usage(len(ids), len(logprobs)),
                logprobs=tuple(logprobs),
            ),
        )

    async def write(
        self, ids: Sequence[int], *, max_new_tokens: int | None, sampling: Sampling
    ) -> AsyncGenerator[Token | StopReason, None]:
        """Yields each token as it is written, and last why the model stopped. Closing the generator stops the model.

        Args:
            ids: The prompt's token ids, [S].
            max_new_tokens: The most tokens to write; `None` for what the context leaves.
            sampling: How to choose them.

        Raises:
            GenerationError: The model failed, or was closed.
        """
        loop = asyncio.get_running_loop()
        arriving: asyncio.Queue[Token | StopReason | Exception] = asyncio.Queue()
        abandoned = threading.Event()

        def hand_over(item: Token | StopReason | Exception) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(arriving.put_nowait, item)

        def is_cancelled() -> bool:
            return abandoned.is_set() or self._worker.ended.is_set()

        def generate() -> None:
            if is_cancelled():
                hand_over("cancelled")
                return
            try:
                reason = self.model.generate(
                    ids,
                    max_new_tokens=max_new_tokens or max(1, (self.model.max_length or _NO_LIMIT) - len(ids)),
                    sampling=sampling,
                    on_token=hand_over,
                    cancelled=is_cancelled,
                )
            except Exception as error:  # noqa: BLE001  # whatever it is, whoever waits has to know
                hand_over(error)
            else:
                hand_over(reason)

        self._worker.submit(generate)
        try:
            while True:
                item = await arriving.get()
                if isinstance(item, Exception):
                    raise GenerationError(f"{self.name!r} failed: {type(item).__name__}: {item}.") from item
                if item == "cancelled":
                    raise GenerationError(f"{self.name!r} was closed.", advice="Make a new Aligner.")
                yield item
                if isinstance(item, str):
                    return
        finally:
            abandoned.set()

    async def aclose(self) -> None:
        """Stops what the model is writing; it will write no more."""
        self._worker.ended.set()

    async def _encode(self, prompt: Prompt) -> list[int]:
        def encode() -> list[int]:
            if isinstance(prompt, str):
                return self.model.encode(prompt)
            return self.model.encode_chat(
                [{"role": message["role"], "content": message["content"]} for message in prompt]
            )

        length = len(prompt) if isinstance(prompt, str) else sum(len(message["content"]) for message in prompt)
        if length >= _LONG:
            with suppress(RuntimeError):  # no thread takes work any more: the interpreter is about to exit
                return await asyncio.to_thread(encode)
        return encode()
