"""A model in this process, on transformers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from aligner_chains.backends.base import Generation, GenerationChunk, GenerationRequest, ModelInfo
from aligner_chains.correction import Usage
from aligner_chains.errors import GenerationError
from aligner_chains.model_config import EMBEDDED_PATH, load_config
from aligner_chains.prompts import Prompt

if TYPE_CHECKING:
    from aligner_chains.decoding.causal_model import CausalModel, Sampling, StopReason, Token


# Where a model does not tell its context.
_NO_LIMIT = 4096


class LocalBackend:
    """An Aligner in this process.

    Answers are written one after the other, in a thread of its own, so that the event loop is never blocked. For many
    users at once serve the model with TGI or vLLM.

    Args:
        model: The model.
        name: What to call it.
    """

    def __init__(self, model: CausalModel, *, name: str) -> None:
        self.model = model
        self._name = name
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="aligner-model")
        self._closed = threading.Event()

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
        return cls(CausalModel.load(path, device=device, dtype=dtype), name=(config and config.name) or str(path))

    @classmethod
    def embedded(cls) -> LocalBackend:
        """The Aligner that comes with the package, on the CPU."""
        return cls.from_pretrained(EMBEDDED_PATH, device="cpu", dtype="float32")

    def __repr__(self) -> str:
        return f"LocalBackend({self._name!r})"

    async def info(self) -> ModelInfo:
        """The model and its context."""
        return ModelInfo(
            name=self._name, max_total_tokens=self.model.max_length, special_tokens=self.model.added_tokens
        )

    async def count_tokens(self, prompt: Prompt) -> int:
        """The prompt's length by the model's tokenizer."""
        return len(self._encode(prompt))

    async def generate(self, request: GenerationRequest) -> Generation:
        """The model's whole answer."""
        async with aclosing(self.stream(request)) as chunks:
            async for chunk in chunks:
                if chunk.generation is not None:
                    return chunk.generation
        raise GenerationError(f"{self._name!r} ended without an answer.")

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """The model's answer, token by token."""
        from aligner_chains.decoding.causal_model import Sampling, Token

        ids = self._encode(request.prompt)
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
                model=self._name,
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
            GenerationError: The model failed.
        """
        loop = asyncio.get_running_loop()
        arriving: asyncio.Queue[Token | None] = asyncio.Queue()
        abandoned = threading.Event()

        def hand_over(item: Token | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(arriving.put_nowait, item)

        def is_cancelled() -> bool:
            # The interpreter waits for this thread when it exits; what nobody will read must not keep it.
            return abandoned.is_set() or self._closed.is_set() or not threading.main_thread().is_alive()

        def generate() -> StopReason:
            try:
                return self.model.generate(
                    ids,
                    max_new_tokens=max_new_tokens or max(1, (self.model.max_length or _NO_LIMIT) - len(ids)),
                    sampling=sampling,
                    on_token=hand_over,
                    cancelled=is_cancelled,
                )
            finally:
                hand_over(None)

        generating = loop.run_in_executor(self._thread, generate)
        try:
            while (token := await arriving.get()) is not None:
                yield token
            yield await generating
        except RuntimeError as error:
            raise GenerationError(f"The model failed: {error}") from error
        finally:
            abandoned.set()
            generating.cancel()

    async def aclose(self) -> None:
        """Ends the thread, and what it is writing."""
        self._closed.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _encode(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.model.encode(prompt)
        return self.model.encode_chat([{"role": message["role"], "content": message["content"]} for message in prompt])
