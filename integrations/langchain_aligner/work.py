"""One draft on its way through LangChain: what is asked of the Aligner, and what comes out of the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

from langchain_aligner.correction_model import FailedCorrectionError, pair
from langchain_aligner.messages import METADATA_KEY, ChunkWriter, Draft


@dataclass(frozen=True, slots=True)
class Work:
    """One draft to correct.

    Attributes:
        draft: The draft.
        query: The question behind it.
        options: What is said for this draft: `Aligner.correct`'s keyword arguments.
        keep_draft: Whether the corrected message tells its draft.
    """

    draft: Draft
    query: str
    options: Mapping[str, Any]
    keep_draft: bool

    @property
    def messages(self) -> list[BaseMessage]:
        """What a `CorrectionModel` is asked."""
        message = self.draft.message
        return pair(self.query, self.draft.text, message.id if message else None)

    def result(self, answer: AIMessage) -> Any:
        """What comes out for a `CorrectionModel`'s answer."""
        return self.draft.corrected(str(answer.text), self._metadata(answer.response_metadata[METADATA_KEY]))

    def fallback(self, failed: FailedCorrectionError) -> Any:
        """What comes out where no correction arrived."""
        return self.draft.corrected(failed.correction.text, self._metadata(failed.correction.provenance()))

    def write(self, writer: ChunkWriter, chunk: AIMessageChunk) -> Iterator[Any]:
        """Yields what comes out for a chunk of a `CorrectionModel`'s answer."""
        told = chunk.response_metadata.get(METADATA_KEY)
        return writer.write(str(chunk.text), None if told is None else self._metadata(told))

    def _metadata(self, told: dict[str, Any]) -> dict[str, Any]:
        return {**told, "draft": self.draft.text} if self.keep_draft else told
