"""Handlers that keep what LlamaIndex's dispatcher tells them."""

from __future__ import annotations

from typing import Any, TypeVar

from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.event_handlers import BaseEventHandler
from llama_index_instrumentation.span import SimpleSpan
from llama_index_instrumentation.span_handlers import SimpleSpanHandler

from llama_index_aligner import AlignerCorrectionEndEvent, AlignerCorrectionStartEvent

_E = TypeVar("_E", bound=BaseEvent)


class _Events(BaseEventHandler):
    seen: list[BaseEvent]

    def handle(self, event: BaseEvent, **_: Any) -> None:
        self.seen.append(event)


class Listener:
    def __init__(self) -> None:
        self.events, self.spans = _Events(seen=[]), SimpleSpanHandler()

    def of(self, kind: type[_E]) -> list[_E]:
        """The events of this kind, in order."""
        return [event for event in self.events.seen if isinstance(event, kind)]

    @property
    def starts(self) -> list[AlignerCorrectionStartEvent]:
        return self.of(AlignerCorrectionStartEvent)

    @property
    def ends(self) -> list[AlignerCorrectionEndEvent]:
        return self.of(AlignerCorrectionEndEvent)

    def path(self, span_id: str | None) -> list[str]:
        """The names of a span and of those around it, from the outside in."""
        spans: dict[str | None, SimpleSpan] = {
            span.id_: span for span in (*self.spans.completed_spans, *self.spans.dropped_spans)
        }
        names: list[str] = []
        while span_id in spans:
            names.insert(0, spans[span_id].id_.partition("-")[0])
            span_id = spans[span_id].parent_id
        return names
