"""The eight ways to ask a model, and the four to ask it with a prompt template."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from rag import QUERY

from llama_index_aligner import AlignerLLM

ASKED = [ChatMessage("Be brief.", role=MessageRole.SYSTEM), ChatMessage(QUERY)]
#: Makes an `AlignerLLM` whose upstream says these turns.
MakeLLM: TypeAlias = Callable[..., AlignerLLM]
#: Asks a model with a prompt template and its variables, and gives the text that comes out.
Predict: TypeAlias = Callable[..., str]


@dataclass(frozen=True)
class Variant:
    """One of the eight; gives all responses, of which there are several if it streams."""

    name: str

    @property
    def chats(self) -> bool:
        return "chat" in self.name

    def ask(self, llm: Any, asked: Any = None, **options: Any) -> list[Any]:
        asked = asked or (ASKED if self.chats else QUERY)
        method = getattr(llm, self.name)
        if "stream" in self.name:
            return (
                asyncio.run(self._astream(method, asked, options))
                if self.name[0] == "a"
                else [*method(asked, **options)]
            )
        return [asyncio.run(method(asked, **options))] if self.name[0] == "a" else [method(asked, **options)]

    async def _astream(self, method: Any, asked: Any, options: dict[str, Any]) -> list[Any]:
        return [response async for response in await method(asked, **options)]

    def text(self, response: Any) -> str | None:
        return response.message.content if self.chats else response.text


async def _joined(stream: Any) -> str:
    return "".join([token async for token in await stream])


CHATS = [Variant(name) for name in ("chat", "achat", "stream_chat", "astream_chat")]
COMPLETIONS = [Variant(name) for name in ("complete", "acomplete", "stream_complete", "astream_complete")]
STREAMS = [variant for variant in (*CHATS, *COMPLETIONS) if "stream" in variant.name]

PREDICTIONS: dict[str, Predict] = {
    "predict": lambda llm, *args, **kwargs: llm.predict(*args, **kwargs),
    "apredict": lambda llm, *args, **kwargs: asyncio.run(llm.apredict(*args, **kwargs)),
    "stream": lambda llm, *args, **kwargs: "".join(llm.stream(*args, **kwargs)),
    "astream": lambda llm, *args, **kwargs: asyncio.run(_joined(llm.astream(*args, **kwargs))),
}
