"""How an Aligner was made, in JSON's types: what a saved chain says about its Aligner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_chains.errors import ConfigurationError
from aligner_chains.feedback import Feedback
from aligner_chains.guard import Guard
from aligner_chains.prompts import PROMPT_FORMATS, PromptFormat

if TYPE_CHECKING:
    from aligner_chains.aligner import Aligner


def plain(arguments: Mapping[str, object]) -> dict[str, Any]:
    """Arguments in JSON's types, without those that are `None`."""
    return {name: _plain(value) for name, value in arguments.items() if value is not None}


def aligner_from_description(description: Mapping[str, Any], *, api_key: str | None = None) -> Aligner:
    """The Aligner that a `description` is of.

    Args:
        description: The `description` of an Aligner; it may have been to JSON and back.
        api_key: The server's key, which no description holds.

    Raises:
        ConfigurationError: It is not the description of an Aligner.
    """
    from aligner_chains.aligner import Aligner

    makers: dict[str, Callable[..., Aligner]] = {
        "environment": Aligner,
        "tgi": partial(Aligner.from_tgi, api_key=api_key),
        "openai": partial(Aligner.from_openai, api_key=api_key),
        "pretrained": Aligner.from_pretrained,
        "embedded": Aligner.embedded,
    }
    made_by = description.get("made_by")
    if made_by not in makers:
        raise ConfigurationError(f"made_by must be one of {', '.join(map(repr, makers))}, not {made_by!r}.")
    return makers[made_by](
        **{
            name: _REVIVERS[name](value) if name in _REVIVERS and isinstance(value, Mapping) else value
            for name, value in description.items()
            if name != "made_by"
        }
    )


def _plain(value: object) -> object:
    if isinstance(value, PromptFormat):
        known = PROMPT_FORMATS.get(value.name) == value
        return value.name if known else asdict(value)
    if isinstance(value, Feedback | Guard):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value) if isinstance(value, Path) else value


def _prompt_format(fields: Mapping[str, Any]) -> PromptFormat:
    return PromptFormat(**{**fields, "markers": tuple(fields["markers"])})


_REVIVERS: dict[str, Callable[[Mapping[str, Any]], object]] = {
    "feedback": lambda fields: Feedback(**fields),
    "guard": lambda fields: Guard(**fields),
    "prompt_format": _prompt_format,
}
