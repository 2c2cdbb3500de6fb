"""A model that calls tools: it says what a test tells it to, natively in all eight ways, and notes how it was asked."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LLMMetadata,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from pydantic import Field
from rag import DRAFT

#: What a model says: a text, or a message.
Turn = str | ChatMessage


def calling(tool: str, text: str = "", **arguments: Any) -> ChatMessage:
    """A message that calls a tool."""
    blocks = [TextBlock(text=text)] if text else []
    call = ToolCallBlock(tool_name=tool, tool_kwargs=arguments, tool_call_id=f"call-{tool}")
    return ChatMessage([*blocks, call], role=MessageRole.ASSISTANT)


class Model(FunctionCallingLLM):
    """Says `turns` one after the other, and the last one again and again, or what `answer` makes of the question."""

    turns: Sequence[Any] = (DRAFT,)
    answer: Callable[[str], Turn] | None = None
    asked: list[str] = Field(default_factory=list)
    called: list[str] = Field(default_factory=list)
    options: list[dict[str, Any]] = Field(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="upstream-1", is_function_calling_model=True, is_chat_model=True)

    def _turn(self, called: str, asked: str, options: dict[str, Any]) -> ChatMessage:
        self.called.append(called)
        self.asked.append(asked)
        self.options.append(options)
        turn = self.answer(asked) if self.answer else self.turns[min(len(self.asked), len(self.turns)) - 1]
        return ChatMessage(turn, role=MessageRole.ASSISTANT) if isinstance(turn, str) else turn.model_copy()

    def _chat(self, called: str, messages: Sequence[ChatMessage], options: dict[str, Any]) -> ChatResponse:
        message = self._turn(called, "\n".join(str(message) for message in messages), options)
        return ChatResponse(message=message, raw={"id": 7}, delta=message.content, additional_kwargs={"tokens": 3})

    def _complete(self, called: str, prompt: str, options: dict[str, Any]) -> CompletionResponse:
        text = self._turn(called, prompt, options).content or ""
        return CompletionResponse(text=text, raw={"id": 7}, additional_kwargs={"tokens": 3})

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._chat("chat", messages, kwargs)

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._chat("achat", messages, kwargs)

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Generator[ChatResponse, None, None]:
        yield from _streamed(self._chat("stream_chat", messages, kwargs))

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> AsyncGenerator[ChatResponse, None]:
        async def read() -> AsyncGenerator[ChatResponse, None]:
            for response in _streamed(self._chat("astream_chat", messages, kwargs)):
                yield response

        return read()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return self._complete("complete", prompt, {"formatted": formatted, **kwargs})

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return self._complete("acomplete", prompt, {"formatted": formatted, **kwargs})

    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> Generator[CompletionResponse, None, None]:
        response = self._complete("stream_complete", prompt, {"formatted": formatted, **kwargs})
        for text, delta in _extents(response.text):
            yield response.model_copy(update={"text": text, "delta": delta})

    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> AsyncGenerator[CompletionResponse, None]:
        response = self._complete("astream_complete", prompt, {"formatted": formatted, **kwargs})

        async def read() -> AsyncGenerator[CompletionResponse, None]:
            for text, delta in _extents(response.text):
                yield response.model_copy(update={"text": text, "delta": delta})

        return read()

    def _prepare_chat_with_tools(
        self, tools: Any, user_msg: Any = None, chat_history: Any = None, *, tool_required: bool = False, **kwargs: Any
    ) -> Any:
        messages = [*(chat_history or []), *([ChatMessage(user_msg)] if isinstance(user_msg, str) else [])]
        names = [tool.metadata.name for tool in tools]
        return {"messages": messages, "tools": names, "tool_required": tool_required, **kwargs}

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        calls = [
            ToolSelection(tool_id=block.tool_call_id, tool_name=block.tool_name, tool_kwargs=block.tool_kwargs)
            for block in response.message.blocks
            if isinstance(block, ToolCallBlock)
        ]
        if error_on_no_tool_call and not calls:
            raise ValueError("No tool calls.")
        return calls


def _extents(text: str) -> Iterator[tuple[str, str]]:
    extent = ""
    for token in re.findall(r"\s*\S+", text) or [""]:
        extent += token
        yield extent, token


def _streamed(response: ChatResponse) -> Iterator[ChatResponse]:
    others = [block for block in response.message.blocks if not isinstance(block, TextBlock)]
    if response.message.content is None:
        yield response
        return
    for text, delta in _extents(response.message.content):
        blocks = [*others, TextBlock(text=text)]
        yield response.model_copy(
            update={"message": response.message.model_copy(update={"blocks": blocks}), "delta": delta}
        )
