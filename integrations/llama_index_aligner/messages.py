"""Texts of LlamaIndex's model responses and messages: what is corrected in them, and how they are built anew."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ContentBlock,
    MessageRole,
    TextBlock,
)

from llama_index_aligner.corrector import METADATA_KEY, Corrector

_R = TypeVar("_R", ChatResponse, CompletionResponse)


def last_question(messages: Sequence[ChatMessage]) -> str:
    """The text of the last message of a user; empty if there is none."""
    return "" if (message := _last_of_user(messages)) is None else message.content or ""


def question_without_text(messages: Sequence[ChatMessage]) -> str | None:
    """Why an answer cannot be corrected whose question is only an image, a sound or a file; `None` if it can be.

    A blank text is no such question: who corrects decides about it.
    """
    message = _last_of_user(messages)
    if message is None or (message.content or "").strip():
        return None
    has_more = any(not isinstance(block, TextBlock | CachePoint) for block in message.blocks)
    return "no text in the question" if has_more else None


def text_of(response: ChatResponse | CompletionResponse) -> str:
    """What a model says."""
    return response.text if isinstance(response, CompletionResponse) else response.message.content or ""


def with_text(message: ChatMessage, text: str) -> ChatMessage:
    """The same message with another text.

    Blocks that are not text (thinking, images, citations) stay where they are; of several texts the first takes it all.

    Args:
        message: A message with text.
        text: What to put in its place.
    """
    if text == (message.content or ""):
        return message
    blocks: list[ContentBlock] = []
    is_placed = False
    for block in message.blocks:
        if not isinstance(block, TextBlock):
            blocks.append(block)
        elif not is_placed:
            blocks.append(TextBlock(text=text))
            is_placed = True
    return message.model_copy(update={"blocks": blocks})


async def acorrected(corrector: Corrector, response: _R, *, skip: str | None) -> _R:
    """A model's response with corrected text, and what became of the draft in `additional_kwargs["aligner"]`.

    Args:
        corrector: Corrects.
        response: The response with the draft.
        skip: Why there is nothing to correct, if that is so.
    """
    text, provenance = await corrector.atext(text_of(response), skip=skip)
    delta = None if response.delta is None else text
    return _revised(response, text, delta, additional_kwargs={**response.additional_kwargs, METADATA_KEY: provenance})


async def astreamed(corrector: Corrector, response: _R, *, skip: str | None) -> AsyncGenerator[_R, None]:
    """Yields what a model would stream that says what `acorrected` returns; the last piece is the whole, and no more.

    Args:
        corrector: Corrects.
        response: The last response of the model's own stream, which has the whole draft.
        skip: Why there is nothing to correct, if that is so.
    """
    text = ""
    additional_kwargs: dict[str, Any] = dict(response.additional_kwargs)
    async with aclosing(corrector.atokens(text_of(response), additional_kwargs, skip=skip)) as tokens:
        async for token in tokens:
            text += token
            yield _revised(response, text, token)
    yield _revised(response, text, "", additional_kwargs=additional_kwargs)


def _last_of_user(messages: Sequence[ChatMessage]) -> ChatMessage | None:
    return next((message for message in reversed(messages) if message.role == MessageRole.USER), None)


def _revised(response: _R, text: str, delta: str | None, **fields: Any) -> _R:
    fields["delta"] = delta
    if text != text_of(response):
        fields["logprobs"] = None  # of the draft's tokens
    if isinstance(response, CompletionResponse):
        return response.model_copy(update={**fields, "text": text})
    return response.model_copy(update={**fields, "message": with_text(response.message, text)})
