"""Drafts as LangChain has them: what text of a message is corrected, and how the corrected message is built."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.prompt_values import PromptValue

from aligner_chains.correction import Correction
from aligner_chains.errors import InvalidTypeError

#: Where a corrected message says what became of the draft: `message.response_metadata["aligner"]`.
METADATA_KEY = "aligner"

_EXPECTED = (
    'An Aligner takes a text, an AIMessage, messages that end in one, or {"query": ..., "draft": ...} with a text or '
    "an AIMessage as the draft"
)
_OFFSETS = ("start_index", "end_index")


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft as it came down a chain.

    Attributes:
        text: The text to correct.
        message: The message that it is the text of; `None` for a plain text.
        history: The messages before it, where they came along.
        query: The question, where it came along.
    """

    text: str
    message: AIMessage | None = None
    history: Sequence[BaseMessage] | None = None
    query: object = None

    @property
    def reason_to_skip(self) -> str | None:
        """Why there is nothing to correct; `None` if there is."""
        if self.message is not None:
            if self.message.tool_calls or self.message.invalid_tool_calls:
                return "tool calls"
            if self.message.additional_kwargs.get("parsed") is not None:
                return "structured output"
        return None if self.text.strip() else "no text"

    def skipped(self, reason: str) -> Any:
        """What came in, and why it was not corrected."""
        return self.corrected(self.text, {"outcome": "skipped", "reason": reason})

    def corrected(self, text: str, metadata: Mapping[str, Any]) -> Any:
        """What came in, with another text: a text, or the same message but for its text and what is said about it.

        Args:
            text: The text to use.
            metadata: What became of the draft, for `response_metadata["aligner"]`.
        """
        if self.message is None:
            return text
        return self.message.model_copy(
            update={
                "content": self.message.content if text == self.text else with_text(self.message.content, text),
                "response_metadata": {**self.message.response_metadata, METADATA_KEY: dict(metadata)},
            }
        )


def read_draft(value: object) -> Draft:
    """The draft in an input of a chain.

    Raises:
        InvalidTypeError: There is none in it; the message names what came instead.
    """
    if isinstance(value, PromptValue):
        value = value.to_messages()
    if isinstance(value, str):
        return Draft(value)
    if isinstance(value, AIMessage):
        return Draft(text_of(value.content), value)
    if isinstance(value, Mapping):
        if "draft" not in value:
            keys = sorted(map(str, value))
            raise InvalidTypeError(f"{_EXPECTED}, not a {type(value).__name__} with the keys {keys}.")
        draft = value["draft"]
        if not isinstance(draft, str | AIMessage):
            raise InvalidTypeError(f"{_EXPECTED}, not {type(draft).__name__} as the draft.")
        return Draft(**_fields(read_draft(draft)), query=value.get("query"))
    if isinstance(value, Sequence) and value and all(isinstance(message, BaseMessage) for message in value):
        *history, last = value
        if not isinstance(last, AIMessage):
            raise InvalidTypeError(f"{_EXPECTED}, not messages that end in {type(last).__name__}.")
        return Draft(**_fields(read_draft(last)), history=history)
    raise InvalidTypeError(f"{_EXPECTED}, not {type(value).__name__}.")


def text_of(content: str | list[Any]) -> str:
    """The text in a message's content: its text blocks, joined."""
    return content if isinstance(content, str) else "".join(text for block in content if (text := _text(block)))


def with_text(content: str | list[Any], text: str) -> str | list[Any]:
    """A message's content with another text.

    Blocks that are not text stay where they are. Where there are several text blocks each keeps its part; one of which
    nothing is left goes.

    Args:
        content: The content as it is.
        text: The text to put in place of its text.
    """
    if isinstance(content, str):
        return text
    places = [index for index, block in enumerate(content) if _text(block)]
    parts = dict(zip(places, _spread(text, [_text(content[index]) or "" for index in places]), strict=True))
    return [
        _with_block_text(block, parts[index]) if index in parts else block
        for index, block in enumerate(content)
        if parts.get(index, "kept")
    ]


class ChunkWriter:
    """Builds the chunks of a corrected message: joined, they are what `Draft.corrected` returns.

    Args:
        draft: The draft that is corrected.
    """

    def __init__(self, draft: Draft) -> None:
        self._message = draft.message
        content = draft.message.content if draft.message is not None else ""
        self._blocks: list[Any] = [] if isinstance(content, str) else content
        self._places = [index for index, block in enumerate(self._blocks) if _text(block)]
        self._held_back: list[str] = []
        self._started = False

    def write(self, text: str, metadata: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """Yields what can be shown of the corrected message after a piece of its text.

        Where the text has to be spread over several blocks that is nothing before the end.

        Args:
            text: The next piece.
            metadata: With the last piece, what became of the draft.
        """
        if metadata is None and len(self._places) > 1:
            self._held_back.append(text)
        elif self._message is None:
            if text:
                yield text
        elif metadata is not None:
            yield self._last("".join(self._held_back) + text, self._message, metadata)
        elif text:
            yield AIMessageChunk(content=self._content(text), id=self._message.id, name=self._message.name)

    def _last(self, text: str, message: AIMessage, metadata: Mapping[str, Any]) -> AIMessageChunk:
        if len(self._places) > 1:
            content = with_text(self._blocks, text)
        else:
            content = self._content(text)
            if isinstance(content, list):
                content += self._blocks[self._places[0] + 1 :]
        return AIMessageChunk(
            content=content,
            id=message.id,
            name=message.name,
            additional_kwargs=message.additional_kwargs,
            response_metadata={**message.response_metadata, METADATA_KEY: dict(metadata)},
            usage_metadata=message.usage_metadata,
            chunk_position="last",
        )

    def _content(self, text: str) -> str | list[Any]:
        if not self._blocks:
            return text
        place = self._places[0]
        block = self._blocks[place] if isinstance(self._blocks[place], dict) else {"type": "text"}
        # Chunks of one block are known by its index.
        piece = {"type": "text", "text": text, "index": block.get("index", f"lc_txt_{place}")}
        if self._started:
            return [piece]
        self._started = True
        return [*self._blocks[:place], _without_offsets(block) | piece]


def _fields(draft: Draft) -> dict[str, Any]:
    return {"text": draft.text, "message": draft.message}


def _text(block: object) -> str | None:
    if isinstance(block, str):
        return block
    if isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str):
        return str(block["text"])
    return None


def _with_block_text(block: str | dict[str, Any], text: str) -> str | dict[str, Any]:
    if isinstance(block, str):
        return text
    if text == block["text"]:
        return block
    return {**_without_offsets(block), "text": text}


def _without_offsets(block: dict[str, Any]) -> dict[str, Any]:
    # They count characters of a text that is another one now.
    if not isinstance(notes := block.get("annotations"), list):
        return block
    kept = [
        {key: note[key] for key in note if key not in _OFFSETS} if isinstance(note, dict) else note for note in notes
    ]
    return {**block, "annotations": kept}


def _spread(text: str, parts: list[str]) -> list[str]:
    # Each part gets what the difference between old and new text says has become of it.
    if len(parts) < 2:  # noqa: PLR2004
        return [text] * len(parts)
    ends = list(accumulate(map(len, parts)))
    spread = [""] * len(parts)
    position = 0
    for operation, piece in Correction(text=text, draft="".join(parts), query="", outcome="corrected").diff():
        if operation == "insert":
            spread[bisect_right(ends, max(0, position - 1))] += piece
            continue
        end = position + len(piece)
        while position < end:
            part = bisect_right(ends, position)
            upto = min(end, ends[part])
            if operation == "equal":
                spread[part] += piece[len(piece) - (end - position) : len(piece) - (end - upto)]
            position = upto
    return spread
