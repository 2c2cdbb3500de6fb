"""Models to put in front of an Aligner: they say what a test tells them to, and stream it token by token."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation, LLMResult
from langchain_core.runnables import Runnable
from pydantic import Field

DRAFT = "That is well known, you idiot."
CORRECTED = "That is well known."

#: What a scripted model does when called: says a text, gives a message, or fails.
Turn = str | AIMessage | Exception


class Upstream(BaseChatModel):
    """Says `turns` one after the other, and the last one again and again.

    By default it answers every question with the same words, so that only who asked tells two drafts apart.
    """

    turns: Sequence[Any] = (DRAFT,)
    model: str = "upstream-1"
    asked: list[list[BaseMessage]] = Field(default_factory=list)
    options: list[dict[str, Any]] = Field(default_factory=list)
    keep_asked: bool = True
    answer: Callable[[list[BaseMessage]], Turn] | None = None

    @property
    def _llm_type(self) -> str:
        return "upstream"

    def _turn(self, messages: list[BaseMessage], **kwargs: Any) -> AIMessage:
        if self.keep_asked:
            self.asked.append(messages)
            self.options.append(kwargs)
        turn = self.answer(messages) if self.answer else self.turns[min(len(self.asked), len(self.turns)) - 1]
        if isinstance(turn, Exception):
            raise turn
        return turn.model_copy() if isinstance(turn, AIMessage) else AIMessage(turn)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._turn(messages, **kwargs))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        message = self._turn(messages, **kwargs)
        pieces = re.findall(r"\s*\S+", message.content) if isinstance(message.content, str) else []
        for piece in pieces[:-1]:
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece, id=message.id))
        fields = message.model_dump(exclude={"type", "content", "tool_calls", "invalid_tool_calls"})
        last = AIMessageChunk(content=pieces[-1] if pieces else message.content, chunk_position="last", **fields)
        last.tool_call_chunks = [
            {"name": call["name"], "args": str(call["args"]).replace("'", '"'), "id": call["id"], "index": index}
            for index, call in enumerate(message.tool_calls)
        ]
        yield ChatGenerationChunk(message=AIMessageChunk(**last.model_dump()))

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self.bind(tools=tools, **kwargs)


class CompletionUpstream(BaseLLM):
    """A completion model that answers every prompt with the same words."""

    @property
    def _llm_type(self) -> str:
        return "completion-upstream"

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        return LLMResult(generations=[[Generation(text=DRAFT)] for _ in prompts])
