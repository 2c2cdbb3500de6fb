"""What LlamaIndex's dispatcher is told about corrections."""

from __future__ import annotations

from typing import Any

from llama_index_instrumentation.base import BaseEvent
from pydantic import field_serializer

from aligner_chains.correction import Outcome


class AlignerCorrectionStartEvent(BaseEvent):
    """A draft goes to the Aligner.

    Attributes:
        query: What the user asked.
        draft: The answer to correct.
    """

    query: str
    draft: str

    @classmethod
    def class_name(cls) -> str:
        """The event's name in serialised form."""
        return "AlignerCorrectionStartEvent"


class AlignerCorrectionEndEvent(BaseEvent):
    """A correction is there, or will not come.

    Attributes:
        query: What the user asked.
        draft: The answer to correct.
        latency: Seconds from the call to here.
        correction: The text to use; `None` if the error was raised, or nobody read the stream to its end.
        outcome: What became of the draft; `None` where `correction` is.
        model: The Aligner's name, as its server gives it.
        error: What went wrong, whether it was raised or `on_failure` chose the text.
    """

    query: str
    draft: str
    latency: float
    correction: str | None = None
    outcome: Outcome | None = None
    model: str | None = None
    error: BaseException | None = None

    @classmethod
    def class_name(cls) -> str:
        """The event's name in serialised form."""
        return "AlignerCorrectionEndEvent"

    @field_serializer("error")
    def _error_in_plain_types(self, error: BaseException | None) -> dict[str, Any] | None:
        return None if error is None else {"type": type(error).__name__, "message": str(error)}
