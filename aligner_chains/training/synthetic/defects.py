"""Puts defects into a good answer, each with what an Aligner should make of it there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from aligner_chains.training.synthetic import text
from aligner_chains.training.synthetic.objectives import Defect
from aligner_chains.training.synthetic.phrasings import Phrasing, Phrasings
from aligner_chains.training.synthetic.slots import Slots
from aligner_chains.training.synthetic.text import Chunk

#: The defects that are put into an answer; the others are about an answer as a whole.
InnerDefect = Literal["rude", "dismissive", "overclaiming", "invented_source", "unsafe_step", "rambling"]
INNER_DEFECTS: Final[tuple[InnerDefect, ...]] = (
    "rude",
    "dismissive",
    "overclaiming",
    "invented_source",
    "unsafe_step",
    "rambling",
)

# How often a sentence of its own stands before the answer, and how often behind it; the rest is in the middle.
_ENDS: Final[Mapping[InnerDefect, tuple[float, float]]] = {
    "rude": (0.45, 0.3),
    "dismissive": (0.12, 0.73),
    "overclaiming": (0.15, 0.5),
    "invented_source": (0.08, 0.5),
    "unsafe_step": (0.15, 0.35),
    "rambling": (0.4, 0.3),
}
# What only a statement can follow ("I think that ...") or have behind it ("..., though some see it differently").
_NEEDS_STATEMENT: Final = frozenset({"overclaiming", "invented_source"})
_SUBORDINATE: Final = re.compile(r"\b(?:that|because|since|whether|why|how) \{\}")
_SEAM: Final = re.compile(
    r"(?<=[a-z]) (?=(?:but|so|because|which|when|while|before|after|until|if|with|without|for|in|on|to|from|at|by|is"
    r"|are|can|will|helps?|makes?) [\w'\u2019 -]+)"
)


@dataclass(slots=True)
class Piece:
    """A sentence of a draft and what becomes of it.

    Attributes:
        gap: The white space before it.
        marker: The bullet or number that it follows.
        draft: As it stands in the draft.
        correction: As it stands in the correction; nothing if it goes.
        defect: What is wrong with it.
    """

    gap: str
    marker: str
    draft: str
    correction: str
    defect: Defect | None = None


def pieces_of(chunks: Sequence[Chunk]) -> list[Piece]:
    """The pieces of an answer with which nothing is wrong."""
    return [Piece(gap, marker, sentence, sentence) for gap, marker, sentence in chunks]


def render(pieces: Sequence[Piece], asked: frozenset[Defect]) -> tuple[str, str]:
    """The draft, and the correction in which those defects are gone that are asked for.

    The correction is empty if nothing of the draft is left.
    """
    draft: list[str] = []
    correction: list[str] = []
    for piece in pieces:
        head = piece.gap + piece.marker
        draft.append(head + piece.draft)
        kept = piece.correction if piece.defect in asked else piece.draft
        if kept:
            correction.append((head if correction else piece.marker) + kept)
    return "".join(draft), "".join(correction)


class Injector:
    """Puts defects of one split's phrasings into answers.

    Args:
        phrasings: What to choose from.
        names: Words that begin a sentence as its subject, and keep their capital.
        ordinary: Words that get a small letter in the middle of a sentence.
    """

    def __init__(self, phrasings: Phrasings, *, names: frozenset[str], ordinary: frozenset[str]) -> None:
        self._names = names
        self._ordinary = ordinary
        self._phrasings: dict[InnerDefect, tuple[Phrasing, ...]] = {
            defect: getattr(phrasings, defect) for defect in INNER_DEFECTS
        }
        self._own = {
            defect: tuple(phrasing for phrasing in found if phrasing.place == "own")
            for defect, found in self._phrasings.items()
        }

    def alone(self, rng: Random, slots: Slots, defect: InnerDefect) -> list[Piece]:
        """A draft that is nothing but the defect."""
        filled: dict[str, str] = {}
        phrasing = rng.choice(self._own[defect])
        return [_own_piece(slots, phrasing, defect, filled)]

    def has_statement(self, chunks: Sequence[Chunk]) -> bool:
        """Whether an answer has a statement for a clause to go around."""
        return any(text.is_statement(chunk.text, self._names) for chunk in chunks)

    def inject(
        self, rng: Random, slots: Slots, pieces: list[Piece], defect: InnerDefect, *, ends_only: bool = False
    ) -> None:
        """Puts a defect into a draft, in place.

        Args:
            rng: Where chance comes from.
            slots: To fill the phrasing with.
            pieces: The draft.
            defect: What to do to it.
            ends_only: Whether a sentence of its own may not stand in the middle.
        """
        phrasing = rng.choice(self._phrasings[defect])
        if phrasing.place != "own":
            if self._wrap(rng, slots, pieces, phrasing, defect):
                return
            phrasing = rng.choice(self._own[defect])
        filled: dict[str, str] = {}
        piece = _own_piece(slots, phrasing, defect, filled)
        before, behind = _ENDS[defect]
        chance = rng.random()
        if chance < before:
            _insert_first(pieces, piece)
            return
        middle = [i for i in range(1, len(pieces)) if not pieces[i - 1].draft.endswith(":")]
        at_end = chance < before + behind or ends_only or not middle
        _insert(pieces, len(pieces) if at_end else rng.choice(middle), piece)

    def _wrap(self, rng: Random, slots: Slots, pieces: list[Piece], phrasing: Phrasing, defect: InnerDefect) -> bool:
        """Puts a clause around or into one of the sentences, if there is one that takes it."""
        candidates = [piece for piece in pieces if piece.defect is None and text.takes_a_clause(piece.draft)]
        if defect in _NEEDS_STATEMENT or _SUBORDINATE.search(phrasing.draft):
            candidates = [piece for piece in candidates if text.is_statement(piece.draft, self._names)]
        sides = (phrasing.draft, phrasing.correction)
        if any(side.find("{}") > 0 or side.find("{a}") > 0 for side in sides):
            candidates = [piece for piece in candidates if self._fits_behind(piece.draft)]
        if not candidates:
            return False
        piece = rng.choice(candidates)
        sentence = piece.draft[:-1]
        filled: dict[str, str] = {}
        draft, correction = (slots.fill(side, filled) for side in sides)
        if phrasing.place == "inside":
            seams = [match.start() for match in _SEAM.finditer(sentence)]
            if not seams:
                return False
            seam = rng.choice(seams)
            parts = {"a": sentence[:seam], "b": sentence[seam + 1 :]}
        else:
            parts = {"": sentence}
        piece.draft = self._put(draft, parts)
        piece.correction = self._put(correction, parts)
        piece.defect = defect
        return True

    def _fits_behind(self, sentence: str) -> bool:
        word = text.first_word(sentence)
        return text.is_ordinary(sentence, self._ordinary) or word in self._names or word == "I"

    def _put(self, phrasing: str, parts: Mapping[str, str]) -> str:
        for place, part in parts.items():
            at = phrasing.index(f"{{{place}}}")
            fitting = text.lower(part, self._ordinary) if at and place != "b" else part
            phrasing = phrasing.replace(f"{{{place}}}", fitting)
        return text.capitalize(phrasing)


def _own_piece(slots: Slots, phrasing: Phrasing, defect: InnerDefect, filled: dict[str, str]) -> Piece:
    draft = slots.fill(phrasing.draft, filled)
    return Piece("", "", draft, slots.fill(phrasing.correction, filled), defect)


def _insert_first(pieces: list[Piece], piece: Piece) -> None:
    following = pieces[0]
    if piece.defect == "unsafe_step" and following.marker:
        piece.marker, following.gap = following.marker, "\n"
        pieces.insert(0, piece)
        _renumber(pieces)
        return
    structured = following.marker or following.draft.startswith(("```", "|")) or "\n" in following.draft
    following.gap = "\n\n" if structured else " "
    pieces.insert(0, piece)


def _insert(pieces: list[Piece], index: int, piece: Piece) -> None:
    previous = pieces[index - 1]
    if piece.defect == "unsafe_step" and previous.marker and (index == len(pieces) or pieces[index].marker):
        piece.gap, piece.marker = "\n", previous.marker
        pieces.insert(index, piece)
        _renumber(pieces)
        return
    if "\n" in previous.draft or previous.draft.endswith("|"):
        piece.gap = "\n\n"
    else:
        piece.gap = " " if text.ends_sentence(previous.draft) else "\n"
    pieces.insert(index, piece)


def _renumber(pieces: Sequence[Piece]) -> None:
    number = None
    for piece in pieces:
        if piece.marker.strip()[:1].isdigit():
            number = int(re.findall(r"\d+", piece.marker)[0]) if number is None else number + 1
            piece.marker = text.numbered(piece.marker, number)
