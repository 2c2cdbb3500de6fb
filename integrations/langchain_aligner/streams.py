"""Streams of LangChain: how they end, and what their chunks make together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import reduce
from typing import Any, TypeVar, cast

from langchain_core.messages import AIMessageChunk

#: The tag of a model call that LangGraph does not stream: `langgraph.constants.TAG_NOSTREAM`.
NOT_STREAMED = "nostream"

_T = TypeVar("_T")


def closing_stream(stream: AsyncIterator[_T]) -> aclosing[AsyncGenerator[_T, None]]:
    """Closes a stream at the end of a block, and so the model that writes it."""
    # LangChain's types say less than its streams are: generators.
    return aclosing(cast("AsyncGenerator[_T, None]", stream))


def joined(chunks: list[Any]) -> Any:
    """What the chunks make together; the last one, where they cannot be added."""
    if not chunks:
        return ""
    if all(isinstance(chunk, str) for chunk in chunks):
        return "".join(chunks)
    first, *others = chunks
    if others and all(isinstance(chunk, AIMessageChunk) for chunk in chunks):
        return first + others  # at once: one by one is quadratic
    return reduce(_added, others, first)


def _added(left: Any, right: Any) -> Any:
    try:
        return left + right
    except TypeError:
        return right
