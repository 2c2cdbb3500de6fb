"""Settings from the environment: `ALIGNER_URL` and its siblings."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, cast, get_args

from aligner_chains.checks import without_password
from aligner_chains.errors import ConfigurationError
from aligner_chains.guard import Guard

OnFailure: TypeAlias = Literal["raise", "draft", "refuse"]

_PREFIX = "ALIGNER_"
_DEFAULT_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What `Aligner()` is made from, and the command line where no option says otherwise.

    Each field is the environment variable of its name: `url` is `ALIGNER_URL`.

    Attributes:
        url: The server: TGI's root, or an OpenAI-compatible address that ends in `/v1`.
        api_key: The server's key.
        model: With `url`, the model's name there; without, a path or hub id to load in this process.
        prompt: The prompt format's name.
        feedback: What to make answers more of.
        on_failure: `raise`, `draft` or `refuse`.
        timeout: Seconds for a whole correction.
        min_confidence: The least mean token probability of a correction that is trusted, 0 to 1.
        max_new_tokens: The most tokens that a correction may have.
        max_concurrency: The most requests under way at once.
    """

    url: str | None = None
    api_key: str | None = None
    model: str | None = None
    prompt: str | None = None
    feedback: str | None = None
    on_failure: OnFailure = "raise"
    timeout: float = _DEFAULT_TIMEOUT
    min_confidence: float | None = None
    max_new_tokens: int | None = None
    max_concurrency: int = 64

    def __repr__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = values | {"api_key": self.api_key and "***", "url": self.url and without_password(self.url)}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings in the environment.

        A variable that starts with `ALIGNER_` and is none of these is most likely a slip of the keyboard: it is a
        warning that names the nearest.

        Args:
            environ: Stands in for `os.environ`.

        Raises:
            ConfigurationError: A value is not of its kind; the message names variable and value.
        """
        environ = os.environ if environ is None else environ
        names = {_PREFIX + field.name.upper(): field.name for field in fields(cls)}
        values: dict[str, Any] = {}
        for variable, value in environ.items():
            if variable in names:
                if value.strip():
                    name = names[variable]
                    values[name] = _parse(variable, value.strip(), _PARSERS.get(name, str))
            elif variable.startswith(_PREFIX):
                near = difflib.get_close_matches(variable, names, n=1)
                advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}."
                warnings.warn(f"The environment variable {variable} is not known: {advice}", stacklevel=2)
        return cls(**values)


def check_on_failure(value: object) -> OnFailure:
    """The value, if it is a failure policy.

    Raises:
        ConfigurationError: It is not.
    """
    if value not in get_args(OnFailure):
        raise ConfigurationError(
            f"on_failure must be one of {', '.join(map(repr, get_args(OnFailure)))}, not {value!r}."
        )
    return cast(OnFailure, value)


def check_positive(name: str, value: float) -> float:
    """The value, if it is above zero.

    Raises:
        ConfigurationError: It is not.
    """
    if not (isinstance(value, int | float) and value > 0):
        raise ConfigurationError(f"{name} must be a number above zero, not {value!r}.")
    return value


def check_count(name: str, value: int) -> int:
    """The value, if it is a whole number above zero.

    Raises:
        ConfigurationError: It is not.
    """
    if not (isinstance(value, int) and value > 0):
        raise ConfigurationError(f"{name} must be a whole number above zero, not {value!r}.")
    return value


def _parse(variable: str, value: str, parser: Callable[[str], object]) -> object:
    try:
        return parser(value)
    except ConfigurationError as error:
        raise ConfigurationError(f"{variable}={value!r}: {error}") from error
    except ValueError as error:
        raise ConfigurationError(f"{variable} must be a number, not {value!r}.") from error


_PARSERS: dict[str, Callable[[str], object]] = {
    "on_failure": check_on_failure,
    "timeout": lambda value: check_positive("timeout", float(value)),
    "min_confidence": lambda value: Guard(min_confidence=float(value)).min_confidence,
    "max_new_tokens": lambda value: check_count("max_new_tokens", int(value)),
    "max_concurrency": lambda value: check_count("max_concurrency", int(value)),
}
