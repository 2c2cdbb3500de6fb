"""Feedback: what an answer is to be made more of, in words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from aligner_chains.checks import check_characters, check_type
from aligner_chains.errors import InvalidInputError, InvalidTypeError

_SEPARATOR = re.compile(r",\s*(?:and\s+)?|\s+and\s+")
_MAX_OBJECTIVE_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Feedback:
    """What an answer is to be made more of.

    Feedback is part of the prompt, as in the controllable refinement of the Aligner paper (arXiv 2402.02416, section
    4): it takes the place of the objective in "make it more {objective}".

    `Feedback.EMPATHETIC | Feedback.HARMLESS` asks for both.

    Attributes:
        objective: Completes "make it more ...": adjectives, joined by commas and "and". A leading "more" is dropped.
        instruction: A sentence that says how, for the prompt formats that have room for one.

    Raises:
        InvalidInputError: The objective has no word, is longer than 200 characters or more than one line, or a text
            holds NUL or a lone surrogate.
        InvalidTypeError: The objective or the instruction is not a string.
    """

    objective: str
    instruction: str | None = None

    HELPFUL: ClassVar[Feedback]
    HARMLESS: ClassVar[Feedback]
    HONEST: ClassVar[Feedback]
    EMPATHETIC: ClassVar[Feedback]
    CONCISE: ClassVar[Feedback]
    #: What an Aligner does without feedback.
    HELPFUL_AND_HARMLESS: ClassVar[Feedback]

    def __post_init__(self) -> None:
        instruction = "" if self.instruction is None else self.instruction
        for name, value in (("objective", self.objective), ("instruction", instruction)):
            check_type(f"feedback's {name}", value)
            check_characters(f"feedback's {name}", value)
        objective = self.objective.strip().removeprefix("more ").strip()
        object.__setattr__(self, "objective", objective)
        if not self.objectives:
            raise InvalidInputError(f'Feedback needs an objective, such as "empathetic"; {objective!r} has no word.')
        if len(objective) > _MAX_OBJECTIVE_LENGTH or len(objective.splitlines()) > 1:
            raise InvalidInputError(
                f"An objective is a few words on one line (at most {_MAX_OBJECTIVE_LENGTH} characters), but this one "
                f"starts with {objective[:40]!r}. Put longer wishes into Feedback(..., instruction=...)."
            )

    def __or__(self, other: Feedback) -> Feedback:
        """Feedback that asks for both, each objective once, in order."""
        if not isinstance(other, Feedback):
            return NotImplemented
        *others, last = dict.fromkeys(self.objectives + other.objectives)
        objective = f"{', '.join(others)} and {last}" if others else last
        instructions = dict.fromkeys(part for part in (self.instruction, other.instruction) if part)
        return Feedback(objective, instruction=" ".join(instructions) or None)

    def __str__(self) -> str:
        return self.objective

    @property
    def objectives(self) -> tuple[str, ...]:
        """The single objectives: `("helpful", "harmless")` for "helpful and harmless"."""
        return tuple(part for part in _SEPARATOR.split(self.objective) if part)

    @classmethod
    def of(cls, value: Feedback | str) -> Feedback:
        """The feedback that a user means by a value: a `Feedback` itself, a name (`"empathetic"`) or an objective.

        Raises:
            InvalidTypeError: The value is neither a string nor a `Feedback`.
            InvalidInputError: The string is no objective.
        """
        if isinstance(value, Feedback):
            return value
        if not isinstance(value, str):
            raise InvalidTypeError(
                f'Feedback must be a string such as "empathetic" or a Feedback, not {type(value).__name__}.'
            )
        named = getattr(cls, value.strip().upper().replace(" ", "_"), None)
        return named if isinstance(named, Feedback) else cls(value)


Feedback.HELPFUL = Feedback("helpful")
Feedback.HARMLESS = Feedback("harmless")
Feedback.HONEST = Feedback("honest")
Feedback.EMPATHETIC = Feedback("empathetic")
Feedback.CONCISE = Feedback("concise")
Feedback.HELPFUL_AND_HARMLESS = Feedback("helpful and harmless")
