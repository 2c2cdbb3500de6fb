"""A RAG engine whose model says what a test tells it to, and every way to ask it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from llama_index.core.schema import NodeWithScore, TextNode
from pydantic import Field

QUERY = "Who wrote Faust?"
DRAFT = "Goethe wrote Faust, you idiot."
CORRECTED = "Goethe wrote Faust."
#: What a server's correction of this tells, beside its latency.
TOLD = {
    "outcome": "corrected",
    "model": "aligner/aligner-7b-v1.0",
    "edit_ratio": 0.2727,
    "confidence": 0.99,
    "usage": {"input_tokens": 11, "output_tokens": 3},
}


class Upstream(CustomLLM):
    """Says `turns` one after the other, and the last one again and again, or what `answer` makes of the prompt."""

    turns: Sequence[str] = (DRAFT,)
    answer: Callable[[str], str] | None = None
    asked: list[str] = Field(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="upstream-1")

    def _turn(self, prompt: str) -> str:
        self.asked.append(prompt)
        return self.answer(prompt) if self.answer else self.turns[min(len(self.asked), len(self.turns)) - 1]

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=self._turn(prompt))

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        def tokens() -> Iterator[CompletionResponse]:
            text = ""
            for token in re.findall(r"\s*\S+", self._turn(prompt)) or [""]:
                text += token
                yield CompletionResponse(text=text, delta=token)

        return tokens()  # type: ignore[return-value]


def found(*texts: str) -> list[NodeWithScore]:
    """Retrieved nodes with these texts; their ids are `node-0`, `node-1`, ..."""
    return [
        NodeWithScore(node=TextNode(text=text, id_=f"node-{number}", metadata={"page": number}), score=0.9)
        for number, text in enumerate(texts or ("Faust is a tragedy by Goethe.",))
    ]


async def _read(response: Any) -> Any:
    if isinstance(response, AsyncStreamingResponse):
        pieces = [piece async for piece in response.async_response_gen()]
    elif isinstance(response, StreamingResponse):
        pieces = list(response.response_gen)
    else:
        return response.response, response
    return "".join(pieces), response


@dataclass(frozen=True)
class Way:
    """One of the ways to ask; gives the text that a user reads, and the response."""

    streams: bool
    is_async: bool

    def method(self, name: str) -> str:
        """The name that LlamaIndex gives a method's variant for this way."""
        return f"{'a' if self.is_async else ''}{'stream_' if self.streams else ''}{name}"

    def run(self, ask: Callable[[], Any], aask: Callable[[], Awaitable[Any]]) -> tuple[Any, Any]:
        async def run() -> tuple[Any, Any]:
            return await _read(await aask())

        return asyncio.run(run()) if self.is_async else asyncio.run(_read(ask()))

    def query(self, engine: Any, query: str = QUERY) -> tuple[Any, Any]:
        return self.run(lambda: engine.query(query), lambda: engine.aquery(query))

    def synthesize(self, synthesizer: Any, query: Any = QUERY, nodes: Any = None, **options: Any) -> tuple[Any, Any]:
        nodes = found() if nodes is None else nodes
        return self.run(
            lambda: synthesizer.synthesize(query, nodes, **options),
            lambda: synthesizer.asynthesize(query, nodes, **options),
        )


WAYS = {
    "query": Way(streams=False, is_async=False),
    "aquery": Way(streams=False, is_async=True),
    "stream": Way(streams=True, is_async=False),
    "astream": Way(streams=True, is_async=True),
}
