"""What each model call in this process was asked, for as long as a chain may need to know it.

The right-hand side of `llm | AlignerRunnable()` is handed the model's answer only. This handler sees every run, so it
knows the question too. LangChain adds it to each run by itself (`register_configure_hook`).
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers.context import register_configure_hook

from langchain_aligner.drafting import Drafting, is_branch, mark_drafts, step_in
from langchain_aligner.query import ModelCall

#: The `_llm_type` of the Aligner's own calls, which are no drafts.
CORRECTION_TYPE = "aligner-correction"

# Runs end, and leave with all they hold. These limits are for those that never do: streams left behind by an event
# loop that died.
_MAX_RUNS = 16_384
_MAX_CALLS_PER_RUN = 1_024
_MAX_ANSWERS = 1_024

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(slots=True, eq=False)
class _Run:
    # Made for every run of every chain, so it holds nothing that costs until there is something.
    parent: UUID | None
    calls: list[ModelCall] = field(default_factory=list)
    variables: Mapping[str, Any] | None = None
    step: int = 0
    is_branch: bool = False
    drafting: Drafting | None = None

    def add(self, calls: list[ModelCall]) -> None:
        self.calls += calls
        del self.calls[:-_MAX_CALLS_PER_RUN]


class _MessageRef(weakref.ref[BaseMessage]):
    __slots__ = ("message_id",)
    message_id: str


class QueryRecorder(BaseCallbackHandler):
    """Remembers the model calls of each run until the run ends; then they are the calls of the run around it.

    What a call without a run around it answered is remembered as long as the message lives.
    """

    # In a thread pool, where async runs put handlers otherwise, events would come out of order.
    run_inline = True

    def __init__(self) -> None:
        # Reentrant: the garbage collector may close an abandoned stream, which ends runs, while the lock is held.
        self._lock = threading.RLock()
        self._runs: OrderedDict[UUID, _Run] = OrderedDict()
        self._under_way: OrderedDict[UUID, ModelCall] = OrderedDict()
        self._answered: OrderedDict[str, tuple[_MessageRef, ModelCall]] = OrderedDict()
        self._gone: deque[weakref.ref[BaseMessage]] = deque()

    def forked(self) -> None:
        """Makes it usable in a forked child, where a lock that a thread of the parent held would never be free."""
        self._lock = threading.RLock()

    def __reduce__(self) -> str:
        # Handlers travel in configs, which people copy and pickle. There is one recorder in a process.
        return "RECORDER"

    @property
    def ignore_agent(self) -> bool:
        """Tools: what happens in one is not what the agent answers."""
        return True

    @property
    def ignore_retriever(self) -> bool:
        """Retrievers: what happens in one is not an answer."""
        return True

    @property
    def ignore_custom_event(self) -> bool:
        """Custom events."""
        return True

    @property
    def runs_under_way(self) -> int:
        """How many runs and model calls have begun and not ended."""
        return len(self._runs) + len(self._under_way)

    @property
    def size(self) -> int:
        """How much is remembered: runs, calls under way and answers."""
        with self._lock:
            self._forget_gone()
            return self.runs_under_way + len(self._answered)

    def calls_around(self, run_id: UUID) -> list[list[ModelCall]]:
        """The model calls that ended in a run so far, in the run around it, and so on; not those of branches beside."""
        levels = []
        with self._lock:
            run = self._runs.get(run_id)
            beside = False
            while run is not None:
                if not beside:
                    levels.append(list(run.calls))
                beside = run.is_branch
                run = self._run(run.parent)
        return levels

    def calls_beside(self, run_id: UUID) -> list[ModelCall]:
        """The model calls so far in the run around, or around the chain that this is a step of, and all runs in it."""
        # In `batch` LangChain puts a step with a config or arguments of its own (`with_config`, `bind`, `with_retry`)
        # under the run that the batch was called in, past the chain that it is a step of. Where a chain has called a
        # model itself, what goes on around it is none of its affair.
        with self._lock:
            around = {each: each for each in self._around(run_id)}
            calls: dict[UUID, list[ModelCall]] = {each: [] for each in around}
            for each, run in self._runs.items():  # a run comes before those in it
                shared = around.get(each) or (around.get(run.parent) if run.parent else None)
                if shared:
                    around[each] = shared
                    calls[shared] += run.calls
        return next(filter(None, calls.values()), [])

    def call_that_answered(self, message_id: str) -> ModelCall | None:
        """The call, with no run around it any more, that answered with this message."""
        with self._lock:
            self._forget_gone()
            remembered = self._answered.get(message_id)
        return remembered[1] if remembered else None

    def on_chain_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        run_type: str | None = None,
        **_: Any,
    ) -> None:
        """A run begins; that of a prompt tells its variables."""
        if run_type == "prompt":
            if isinstance(inputs, dict):
                with self._lock:
                    if parent := self._run(parent_run_id):
                        parent.variables = inputs
            return
        run = _Run(parent_run_id, step=step_in(tags or ()), is_branch=is_branch(tags or ()))
        if metadata and "langgraph_node" in metadata:
            run.drafting = mark_drafts(run.step)
        with self._lock:
            _put(self._runs, run_id, run, _MAX_RUNS)

    def on_chain_end(self, outputs: dict[str, Any], *, run_id: UUID, **_: Any) -> None:  # noqa: ARG002
        """A run ends; what it saw moves up."""
        with self._lock:
            run = self._runs.pop(run_id, None)
            if run is None:
                return
            if run.calls:
                self._hand_over(run.calls, run.parent)
            chain = self._run(run.parent)
            if chain is not None and chain.drafting is not None and chain.drafting.last == run.step:
                chain.drafting.end()

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:  # noqa: ARG002
        """A run fails; what it saw led nowhere."""
        with self._lock:
            self._runs.pop(run_id, None)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        invocation_params: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """A chat model is called."""
        if invocation_params is None or invocation_params.get("_type") != CORRECTION_TYPE:
            self._begin(messages[0], run_id, parent_run_id)

    def on_llm_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **_: Any,
    ) -> None:
        """A completion model is called."""
        self._begin(prompts[0], run_id, parent_run_id)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, parent_run_id: UUID | None = None, **_: Any) -> None:
        """A model has answered."""
        with self._lock:
            call = self._under_way.pop(run_id, None)
            if call is not None and response.generations:
                call.answers = response.generations[0]
                if self._run(parent_run_id) is None:
                    self._hand_over([call], parent_run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **_: Any) -> None:
        """A model has failed, so it made no draft; one whose stream somebody closed early may have."""
        with self._lock:
            call = self._under_way.pop(run_id, None)
            run = self._run(parent_run_id)
            if call is not None and run is not None and not isinstance(error, GeneratorExit):
                with suppress(ValueError):
                    run.calls.remove(call)

    def _begin(self, asked: Sequence[BaseMessage] | str, run_id: UUID, parent_run_id: UUID | None) -> None:
        with self._lock:
            parent = run = self._run(parent_run_id)
            while run is not None and run.variables is None:
                run = self._run(run.parent)
            call = ModelCall(asked, run.variables if run else None)
            _put(self._under_way, run_id, call, _MAX_RUNS)
            if parent is not None:
                parent.add([call])

    def _hand_over(self, calls: list[ModelCall], parent_run_id: UUID | None) -> None:
        parent = self._run(parent_run_id)
        if parent is not None:
            parent.add(calls)
            return
        self._forget_gone()
        for call in calls:
            for answer in call.answers:
                if isinstance(answer, ChatGeneration) and answer.message.id:
                    reference = _MessageRef(answer.message, self._gone.append)
                    reference.message_id = answer.message.id
                    # Not `call` itself: it holds the message, which then would live forever.
                    remembered = ModelCall(call.asked, call.variables)
                    _put(self._answered, reference.message_id, (reference, remembered), _MAX_ANSWERS)

    def _forget_gone(self) -> None:
        while self._gone:
            reference = self._gone.popleft()
            assert isinstance(reference, _MessageRef)
            if self._answered.get(reference.message_id, (None,))[0] is reference:
                del self._answered[reference.message_id]

    def _around(self, run_id: UUID) -> Iterator[UUID]:
        run = self._runs.get(run_id)
        while run is not None and run.parent is not None and not run.is_branch:
            yield run.parent
            run = self._runs.get(run.parent) if run.step else None

    def _run(self, run_id: UUID | None) -> _Run | None:
        return self._runs.get(run_id) if run_id is not None else None


def _put(table: OrderedDict[_K, _V], key: _K, value: _V, limit: int) -> None:
    table[key] = value
    while len(table) > limit:
        table.popitem(last=False)


RECORDER = QueryRecorder()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=RECORDER.forked)
#: Set to `None` in a context, it keeps the recorder out of the runs that begin there.
RECORDER_IN_CONTEXT: ContextVar[QueryRecorder | None] = ContextVar("aligner_query_recorder", default=RECORDER)
register_configure_hook(RECORDER_IN_CONTEXT, inheritable=True)
