"""Keeps drafts out of what LangGraph streams.

With `stream_mode="messages"` LangGraph streams the tokens of every model call in a node. In `llm | AlignerRunnable()`
those of the draft would be out before the Aligner is asked, and nothing that LangChain tells a handler about the start
of a chain says what its later steps are. Only the chain knows; so we look at who starts the run, a few frames up the
stack, and give the runs before the Aligner the tag that LangGraph does not stream. Where the stack does not show it
(`abatch` in a node), drafts stream as they would without this module; `AlignedChatModel` and `AlignerMiddleware` do not
depend on it.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.runnables import Runnable

from langchain_aligner.streams import NOT_STREAMED

# Tells our tag from one that a user has set.
_DRAFT = "aligner:draft"
_MOST_FRAMES = 12


def mark_drafts() -> tuple[bool, list[str] | None]:
    """Keeps the runs under one that is starting in a LangGraph node from being streamed, if they write a draft.

    Returns:
        Whether the run is an Aligner's; and, if it is that of a chain with an Aligner, the tags that its steps get.
    """
    manager, runnable = _who_starts()
    if manager is None or runnable is None:
        return False, None
    if _is_aligner(runnable):
        if _DRAFT in manager.inheritable_tags:
            manager.remove_tags([NOT_STREAMED, _DRAFT])
        return True, None
    if any(map(_is_aligner, getattr(runnable, "steps", ()))):  # LangGraph has a sequence of its own
        manager.add_tags([NOT_STREAMED, _DRAFT])
        return False, manager.inheritable_tags
    return False, None


def unmark(tags: list[str]) -> None:
    """Lets the steps behind an Aligner stream again."""
    tags[:] = [tag for tag in tags if tag not in (NOT_STREAMED, _DRAFT)]


def _who_starts() -> tuple[BaseCallbackManager | None, Runnable[Any, Any] | None]:
    manager = None
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001
    for _ in range(_MOST_FRAMES):
        if frame is None:
            break
        found = frame.f_locals.get("self")
        if isinstance(found, BaseCallbackManager):
            manager = manager or found
        elif isinstance(found, Runnable):
            return manager, found
        frame = frame.f_back
    return manager, None


def _is_aligner(step: object) -> bool:
    # Bindings (`bind`, `with_config`, `with_retry`) and fallbacks stand in front of it.
    while step is not None:
        if getattr(type(step), "corrects_drafts", False):
            return True
        step = getattr(step, "bound", None) or getattr(step, "runnable", None)
    return False
