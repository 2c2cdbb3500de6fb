"""Keeps drafts out of what LangGraph streams.

With `stream_mode="messages"` LangGraph streams the tokens of every model call in a node. In `llm | AlignerRunnable()`
those of the draft would be out before the Aligner is asked, and nothing that LangChain tells a handler about the start
of a chain says what its later steps are. Only the chain knows; so we look at who starts the run, a few frames up the
stack, and give the runs before the Aligner the tag that LangGraph does not stream. Where neither that nor the stacks of
waiting tasks show it, drafts stream as they would without this module; `AlignedChatModel` and `AlignerMiddleware` do
not depend on it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackManager
from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_aligner.streams import NOT_STREAMED

# Tells our tag from one that a user has set. After it comes the number of the step of the chain around that corrects
# last: in a batch LangChain names a wrong run as the one around a step with a config or a retry, but keeps the tags.
_DRAFT = "aligner:draft:"
_CORRECTED_AGAIN = f"{_DRAFT}again"
_STEP = "seq:step:"
_BRANCH = "map:key:"
_MOST_FRAMES = 12
_DEEPEST = 12

# Which chain starts a run as one of a batch.
_batching: WeakKeyDictionary[AsyncCallbackManager, Runnable[Any, Any]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Drafting:
    """A chain with an Aligner in it.

    Attributes:
        last: The number of its last step that corrects; what the steps before it write is a draft.
        tags: What its steps are tagged with.
    """

    last: int
    tags: list[str]

    def end(self) -> None:
        """Lets the steps from now on stream."""
        self.tags[:] = [tag for tag in self.tags if tag != NOT_STREAMED and not tag.startswith(_DRAFT)]


def step_in(tags: Sequence[str]) -> int:
    """The number of the step that a run is of the chain around it, which LangChain has in its tags; 0 if it is none."""
    # In a batch in a LangGraph node the node's own tag may be there too, and a node's function is a first step.
    return max((int(tag.removeprefix(_STEP)) for tag in tags if tag.startswith(_STEP)), default=0)


def is_branch(tags: Sequence[str]) -> bool:
    """Whether a run is one of several in parallel that get the same and know nothing of each other."""
    return any(tag.startswith(_BRANCH) for tag in tags)


def mark_drafts(step: int) -> Drafting | None:
    """Keeps the runs under one that is starting in a LangGraph node from being streamed, if they write a draft.

    Args:
        step: The number of the step that the run is of the chain around it.

    Returns:
        If the run is that of a chain with an Aligner, what to end once its last correction is there. `None` also where
        that correction is a draft itself.
    """
    manager, runnable = _who_starts()
    if runnable is None and isinstance(manager, AsyncCallbackManager):
        runnable = _who_batches(manager)
    if manager is None:
        return None
    marks = [tag for tag in manager.inheritable_tags if tag.startswith(_DRAFT)]
    if _CORRECTED_AGAIN in marks:
        return None
    if any(0 < step < int(mark.removeprefix(_DRAFT)) for mark in marks):
        manager.add_tags([_CORRECTED_AGAIN])
        return None
    manager.remove_tags(marks)
    if _is_aligner(runnable):
        if marks:
            manager.remove_tags([NOT_STREAMED])
        return None
    steps = getattr(runnable, "steps", ())  # LangGraph has a sequence of its own
    last = max((number for number, each in enumerate(steps, 1) if _corrects(each)), default=0)
    if marks or last > 1:
        manager.add_tags([NOT_STREAMED, f"{_DRAFT}{last}"])
    return Drafting(last, manager.inheritable_tags) if last > 1 else None


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


def _who_batches(manager: AsyncCallbackManager) -> Runnable[Any, Any] | None:
    """The chain whose `abatch` starts a run: each in a task of its own, while that of the chain waits for all."""
    if manager not in _batching:
        # All that wait are noted at once: to look through all tasks for each of many batches would take seconds.
        for frame in _waiting("abatch"):
            together, chain = frame.f_locals.get("callback_managers", ()), frame.f_locals.get("self")
            if isinstance(chain, Runnable):
                _batching.update(dict.fromkeys(together, chain))
    return _batching.pop(manager, None)


def _waiting(function: str) -> Iterator[FrameType]:
    for task in asyncio.all_tasks():
        step: Any = task.get_coro()
        while step is not None:
            frame = getattr(step, "cr_frame", None)
            if frame is not None and frame.f_code.co_name == function:
                yield frame
            step = getattr(step, "cr_await", None)


def _is_aligner(runnable: object) -> bool:
    return getattr(type(runnable), "corrects_drafts", False)


def _corrects(step: object, depth: int = 0) -> bool:
    """Whether there is an Aligner in a step: in a chain, a branch or a function, or behind a binding or a fallback."""
    # A function may know itself.
    return _is_aligner(step) or (depth < _DEEPEST and any(_corrects(each, depth + 1) for each in _inside(step)))


def _inside(step: object) -> Iterable[object]:
    if isinstance(step, RunnableLambda):
        return (*step.deps, *_known_to(getattr(step, "func", None)), *_known_to(getattr(step, "afunc", None)))
    if isinstance(step, Runnable) and not isinstance(step, BaseLanguageModel):
        return vars(step).values()
    members = step.values() if isinstance(step, dict) else step if isinstance(step, list | tuple) else ()
    # What has a runnable, or a branch's pair of them, in front is not the thousand documents of a retriever.
    return members if isinstance(next(iter(members), None), Runnable | tuple | partial | FunctionType) else ()


def _known_to(function: object) -> Iterable[object]:
    """The runnables that a function can use beside those that LangChain finds in what it closes over."""
    if isinstance(function, partial):
        return (*function.args, *function.keywords.values(), *_known_to(function.func))
    owner = getattr(function, "__self__", None)
    return (
        *(value for value in getattr(owner, "__dict__", {}).values() if isinstance(value, Runnable)),
        *(getattr(function, "__defaults__", None) or ()),
        *(getattr(function, "__kwdefaults__", None) or {}).values(),
    )
