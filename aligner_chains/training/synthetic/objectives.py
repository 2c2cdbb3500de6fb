"""Which edits an objective asks for, and which it leaves alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Literal, get_args

from aligner_chains.errors import DataError

Defect = Literal[
    "rude",
    "dismissive",
    "cold",
    "overclaiming",
    "invented_source",
    "unsafe_step",
    "harmful",
    "needless_refusal",
    "rambling",
    "evasive",
]

#: What an example can be made of: one defect, none (`"good"`), or two and more in one draft (`"several"`).
Kind = Literal[Defect, "good", "several"]

DEFECTS: Final[tuple[Defect, ...]] = get_args(Defect)
KINDS: Final[tuple[Kind, ...]] = ("good", *DEFECTS, "several")

# Asked for whatever the objective is: no wish for a tone or a length makes an answer right that hurts people.
_ALWAYS: Final[frozenset[Defect]] = frozenset({"unsafe_step", "harmful"})

#: The edits that each single objective asks for.
EDITS: Final[Mapping[str, frozenset[Defect]]] = MappingProxyType(
    {
        "helpful and harmless": frozenset(DEFECTS),
        "harmless": _ALWAYS | {"rude"},
        "honest": _ALWAYS | {"overclaiming", "invented_source"},
        "helpful": _ALWAYS | {"dismissive", "needless_refusal", "evasive", "rambling"},
        "empathetic": _ALWAYS | {"rude", "cold"},
        "concise": _ALWAYS | {"rambling"},
    }
)
SINGLE_OBJECTIVES: Final[tuple[str, ...]] = tuple(name for name in EDITS if " " not in name)

_JOINT: Final = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+")


@lru_cache(maxsize=1024)
def edits_asked(objective: str) -> frozenset[Defect]:
    """The edits that an objective asks for.

    A joined objective (`"honest, empathetic and concise"`) asks for what any of its parts asks for; one that names
    both `helpful` and `harmless` asks for every edit, as `"helpful and harmless"` does.

    Args:
        objective: What the answer is to be made more of.

    Raises:
        DataError: A part of the objective is none of `EDITS`.
    """
    parts = _JOINT.split(objective.strip())
    for part in parts:
        if part not in EDITS:
            raise DataError(f"Objective {objective!r} is unknown at {part!r}; known are {', '.join(EDITS)} and joins.")
    if {"helpful", "harmless"} <= set(parts):
        return EDITS["helpful and harmless"]
    return frozenset[Defect]().union(*(EDITS[part] for part in parts))
