"""Turns of a chat, and a memory for one chat engine with many users, as a service has it: a conversation for each."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.memory import BaseMemory
from pydantic import Field
from rag import QUERY, Way

#: Whose conversation the code that runs now is part of.
conversation: ContextVar[str] = ContextVar("conversation")


class Conversations(BaseMemory):
    """Keeps what each conversation has said to itself."""

    messages: dict[str, list[ChatMessage]] = Field(default_factory=dict)

    @classmethod
    def from_defaults(cls, **kwargs: Any) -> Conversations:
        return cls(**kwargs)

    def get(self, input: str | None = None, **kwargs: Any) -> list[ChatMessage]:  # noqa: A002
        return self.get_all()

    def get_all(self) -> list[ChatMessage]:
        return list(self.messages.get(conversation.get(), ()))

    def put(self, message: ChatMessage) -> None:
        self.messages.setdefault(conversation.get(), []).append(message)

    def set(self, messages: list[ChatMessage]) -> None:
        self.messages[conversation.get()] = list(messages)

    def reset(self) -> None:
        self.messages.clear()


async def atalk(way: Way, engine: BaseChatEngine, message: str = QUERY, **options: Any) -> tuple[str, Any]:
    """What a user reads, and the response."""
    if way.streams:
        response = await engine.astream_chat(message, **options)
        return "".join([token async for token in response.async_response_gen()]), response
    response = await engine.achat(message, **options)
    return str(response), response


def talk(way: Way, engine: BaseChatEngine, message: str = QUERY, **options: Any) -> tuple[str, Any]:
    """What a user reads, and the response."""
    if way.is_async:
        return asyncio.run(atalk(way, engine, message, **options))
    if way.streams:
        response = engine.stream_chat(message, **options)
        return "".join(response.response_gen), response
    response = engine.chat(message, **options)
    return str(response), response
