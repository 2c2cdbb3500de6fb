"""What LangChain's `dumpd` saves of an Aligner and its feedback, and how `load` makes them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from aligner_chains.aligner import Aligner
from aligner_chains.description import aligner_from_description
from aligner_chains.feedback import Feedback

_KEY = "aligner_api_key"

#: Constructor arguments that are never saved, and where `load` finds them.
SECRETS = {_KEY: "ALIGNER_API_KEY"}


def saved(aligner: Aligner | None, feedback: Feedback | str | None) -> dict[str, Any]:
    """Constructor arguments in JSON's types, in place of those that are not."""
    arguments: dict[str, Any] = {}
    if aligner is not None and aligner.description is not None:
        arguments = {"aligner": aligner.description, _KEY: "replaced by a reference to the secret"}
    if isinstance(feedback, Feedback):
        arguments["feedback"] = asdict(feedback)
    return arguments


def revived(arguments: Any) -> Any:
    """Constructor arguments with an Aligner in place of what was saved of it."""
    if not isinstance(arguments, Mapping) or not isinstance(arguments.get("aligner"), Mapping):
        return arguments
    aligner = aligner_from_description(arguments["aligner"], api_key=arguments.get(_KEY))
    return {name: value for name, value in arguments.items() if name != _KEY} | {"aligner": aligner}
