"""What every part of this package can be told: once for all its calls, and for those inside a block."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator
from typing_extensions import TypedDict

from aligner_chains.aligner import Aligner
from aligner_chains.description import aligner_from_description
from aligner_chains.feedback import Feedback
from aligner_chains.settings import OnFailure, Settings

#: What `Aligner.correct` takes for each draft.
OPTIONS = ("feedback", "on_failure", "timeout", "max_new_tokens")

_inside_blocks: ContextVar[Mapping[str, Any]] = ContextVar("aligner_options", default=MappingProxyType({}))


class CorrectionArguments(TypedDict, total=False):
    """The keyword arguments that make `CorrectionOptions`."""

    aligner: Aligner | None
    feedback: Feedback | str | None
    on_failure: OnFailure | None
    timeout: float | None
    max_new_tokens: int | None
    keep_draft: bool


class UntimedOptions(BaseModel):
    """An Aligner, and what is said for all its corrections, without their time.

    It is saved as the way in which the Aligner was made. A key is not saved: it is taken from the environment again.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    aligner: Aligner | None = Field(
        default=None, description="Corrects; by default `Aligner()`, which is made when it is first needed."
    )
    feedback: Feedback | str | None = Field(default=None, description="What to make answers more of.")
    on_failure: OnFailure | None = Field(
        default=None,
        description="When no correction arrives: `raise` the error, pass the `draft` on, or `refuse` in a fixed text.",
    )
    max_new_tokens: int | None = Field(default=None, description="The most tokens that a correction may have.")
    keep_draft: bool = Field(default=False, description='Whether `metadata["aligner"]` holds the draft as well.')

    @field_validator("aligner", mode="before")
    @classmethod
    def _revive(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return aligner_from_description(value, api_key=Settings.from_env().api_key)

    @field_serializer("aligner")
    def _describe(self, aligner: Aligner | None) -> dict[str, Any] | str | None:
        return None if aligner is None else aligner.description or repr(aligner)

    def __getstate__(self) -> dict[Any, Any]:
        # LlamaIndex leaves out of a pickle what cannot be pickled, and with it the Aligner: the default one would take
        # its place in silence.
        if self.aligner is not None and self.aligner.description is None:
            raise pickle.PicklingError(f"{self.aligner!r} was given a backend: only that knows how to make it again.")
        described = self.model_copy(update={"aligner": self._describe(self.aligner)})
        return super(UntimedOptions, described).__getstate__()

    def __setstate__(self, state: dict[Any, Any]) -> None:
        # Here, since LlamaIndex makes do with raw values where an object cannot be made of them.
        values = {**state["__dict__"], "aligner": self._revive(state["__dict__"]["aligner"])}
        super().__setstate__({**state, "__dict__": values})


class CorrectionOptions(UntimedOptions):
    """An Aligner, and what is said for all its corrections."""

    timeout: float | None = Field(default=None, description="Seconds for a whole correction, retries included.")


@contextmanager
def aligner_options(
    *,
    feedback: Feedback | str | None = None,
    on_failure: OnFailure | None = None,
    timeout: float | None = None,
    max_new_tokens: int | None = None,
) -> Iterator[None]:
    """Says something for the calls inside the block only, in place of what was said at construction.

        with aligner_options(feedback="concise"):
            response = query_engine.query("Who wrote Faust?")

    It holds for whatever is called inside, however deep: in tasks, in `asyncio.to_thread` and in what LlamaIndex starts
    itself too, since those copy the context. A plain `threading.Thread` and a `ThreadPoolExecutor` do not: run
    `contextvars.copy_context().run` in them, or open the block there. A stream that is opened inside keeps it.

    Args:
        feedback: What to make answers more of.
        on_failure: When no correction arrives: `"raise"`, `"draft"` or `"refuse"`.
        timeout: Seconds for a whole correction, retries included.
        max_new_tokens: The most tokens that a correction may have.
    """
    said = {"feedback": feedback, "on_failure": on_failure, "timeout": timeout, "max_new_tokens": max_new_tokens}
    token = _inside_blocks.set(
        {**_inside_blocks.get(), **{name: said[name] for name in said if said[name] is not None}}
    )
    try:
        yield
    finally:
        _inside_blocks.reset(token)


def said_now(options: CorrectionOptions) -> dict[str, Any]:
    """What is said for a call that is made now: `Aligner.correct`'s keyword arguments."""
    said: dict[str, Any] = {}
    for source in (options.__dict__, _inside_blocks.get()):
        said |= {name: source[name] for name in OPTIONS if source.get(name) is not None}
    return said
