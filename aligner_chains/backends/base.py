"""What an Aligner needs of whatever runs its model."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from aligner_chains.correction import FinishReason, Usage
from aligner_chains.prompts import Prompt


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model and its limits.

    Attributes:
        name: The model's name: a hub id or a path.
        path: The folder or hub id that it was loaded from, if that was in this process.
        max_input_tokens: The most tokens that a prompt may have, where known.
        max_total_tokens: The most tokens that prompt and answer may have together, where known.
        special_tokens: Texts that the tokenizer takes for a single added token, where known.
    """

    name: str
    max_input_tokens: int | None = None
    max_total_tokens: int | None = None
    special_tokens: tuple[str, ...] = ()
    path: str | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to answer.

    Attributes:
        prompt: What the model reads, without a token that starts the sequence: servers add it.
        max_new_tokens: The most tokens to write; `None` leaves it to the server.
        logprobs: Whether the log-probability of each token is needed.
    """

    prompt: Prompt
    max_new_tokens: int | None = None
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model wrote, whole.

    Attributes:
        text: The text, without special tokens.
        model: The name of the model that wrote it.
        finish_reason: `stop` if the model ended it, `length` if a limit did.
        usage: Tokens read and written, where the server tells.
        logprobs: The natural log-probability of each token, where asked for and told.
    """

    text: str
    model: str
    finish_reason: FinishReason
    usage: Usage | None = None
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """A piece of text as it is written; the last one carries the whole generation.

    Attributes:
        text: What comes next.
        generation: On the last chunk, the whole. Its text is the texts of all chunks joined.
    """

    text: str
    generation: Generation | None = None


class Backend(Protocol):
    """Runs an Aligner's model: a client of a server, or the model itself.

    One object serves any number of concurrent requests and event loops, and keeps nothing of a request on itself.
    Whatever fails is an `AlignerError`; one with `retryable = True` may be tried again.
    """

    async def info(self) -> ModelInfo:
        """The model and its limits."""

    async def count_tokens(self, prompt: Prompt) -> int | None:
        """The prompt's length in tokens, as the model will see it; `None` if there is no way to know."""

    async def generate(self, request: GenerationRequest) -> Generation:
        """The model's whole answer."""

    def stream(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """The model's answer as it is written. Closing the generator stops the model."""

    async def aclose(self) -> None:
        """Lets go of connections, threads and memory."""
