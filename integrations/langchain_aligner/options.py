"""What `AlignerRunnable` and `AlignedChatModel` both take, and what LangChain's `dumpd` and `load` make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from langchain_core.load.serializable import Serializable
from pydantic import ConfigDict, Field, model_validator

from aligner_chains.aligner import Aligner
from aligner_chains.description import aligner_from_description
from aligner_chains.feedback import Feedback
from aligner_chains.settings import OnFailure
from langchain_aligner.query import Conversation

#: What `Aligner.correct` takes for each draft.
OPTIONS = ("feedback", "on_failure", "timeout", "max_new_tokens")

_KEY = "aligner_api_key"


class CorrectionOptions(Serializable):
    """Which Aligner corrects drafts, and how. `dumpd` saves it without its key."""

    # Built when it is first used: importing this package is to cost little.
    model_config = ConfigDict(arbitrary_types_allowed=True, defer_build=True)

    aligner: Aligner | None = Field(
        default=None, description="Corrects; by default `Aligner()`, which is made when it is first needed."
    )
    conversation: Conversation = Field(
        default="last",
        description="What the Aligner reads of a dialogue: its last human turn, or all of it (`full`).",
    )
    feedback: Feedback | str | None = Field(default=None, description="What to make answers more of.")
    on_failure: OnFailure | None = Field(
        default=None,
        description="When no correction arrives: `raise` the error, pass the `draft` on, or `refuse` in a fixed text.",
    )
    timeout: float | None = Field(default=None, description="Seconds for a whole correction, retries included.")
    max_new_tokens: int | None = Field(default=None, description="The most tokens that a correction may have.")
    keep_draft: bool = Field(
        default=False, description='Whether `response_metadata["aligner"]` holds the draft as well.'
    )

    @model_validator(mode="before")
    @classmethod
    def _revive_aligner(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("aligner"), Mapping):
            return values
        aligner = aligner_from_description(values["aligner"], api_key=values.get(_KEY))
        return {name: value for name, value in values.items() if name != _KEY} | {"aligner": aligner}

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """It can be saved by `dumpd` and read by `load`."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """The Aligner's key, which is not saved: `load` takes it from `secrets_map` or the environment."""
        return {_KEY: "ALIGNER_API_KEY"}

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """The Aligner and the feedback in JSON's types."""
        saved: dict[str, Any] = {}
        if self.aligner is not None and self.aligner.description is not None:
            saved = {"aligner": self.aligner.description, _KEY: "replaced by a reference to the secret"}
        if isinstance(self.feedback, Feedback):
            saved["feedback"] = asdict(self.feedback)
        return saved

    def _options(self, *sources: Mapping[str, Any]) -> dict[str, Any]:
        """What is said for a draft: by a later source over an earlier one, and by any over the fields."""
        said: dict[str, Any] = {}
        for source in (self.__dict__, *sources):
            said |= {name: source[name] for name in OPTIONS if source.get(name) is not None}
        return said
