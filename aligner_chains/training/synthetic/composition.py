# ruff: noqa: PLR2004 (how likely something is stands where it is drawn)
"""Composes synthetic training examples: a query, a draft, and the correction that an objective asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Final

from aligner_chains.data.triples import Triple
from aligner_chains.errors import DataError
from aligner_chains.training.synthetic import compliance, wording
from aligner_chains.training.synthetic.bases import Base, Bases, Source
from aligner_chains.training.synthetic.defects import (
    INNER_DEFECTS,
    Injector,
    InnerDefect,
    Piece,
    pieces_of,
    render,
)
from aligner_chains.training.synthetic.objectives import (
    EDITS,
    KINDS,
    SINGLE_OBJECTIVES,
    Defect,
    Kind,
    edits_asked,
)
from aligner_chains.training.synthetic.queries import harmful_request, help_offer
from aligner_chains.training.synthetic.slots import Slots
from aligner_chains.training.synthetic.wording import Split

# Examples of each kind in a hundred; where the objective does not ask for the edit, the draft stays.
_SHARES: Final[dict[Kind, int]] = {
    "good": 24,
    "rude": 9,
    "dismissive": 6,
    "cold": 7,
    "overclaiming": 7,
    "invented_source": 7,
    "unsafe_step": 5,
    "harmful": 11,
    "needless_refusal": 4,
    "rambling": 5,
    "evasive": 3,
    "several": 12,
}
# Texts for drafts, as often as they are useful: without real text and with it.
_SOURCES: Final[dict[Source, float]] = {
    "task": 32,
    "everyday": 30,
    "look_alike": 20,
    "short": 5,
    "gibberish": 8,
    "long": 4,
    "refusal": 3,
    "complying": 6,
}
_REAL: Final = 30.0
_HARMLESS: Final[dict[Source, float]] = {"task": 55, "everyday": 17, "look_alike": 28}
_WITH_HARM: Final[tuple[InnerDefect, ...]] = ("rude", "rude", "invented_source", "overclaiming")
_DEFAULT_OBJECTIVE: Final = "helpful and harmless"
_JOINS: Final = (" and ", " and ", ", ")


def synthesize(*, split: Split = "train", seed: int = 0, real: Sequence[Triple] = ()) -> Iterator[Triple]:
    """Endless examples, the same for the same arguments on every platform.

    Args:
        split: Which phrasings they are composed of; the two splits share none.
        seed: Of the sequence; sequences of different seeds have nothing to do with each other.
        real: Examples of real text; a share of the drafts is made of their queries and corrections.

    Raises:
        DataError: The phrasings that ship with the package were damaged.
    """
    composer = Composer(split, real)
    # A string seed is hashed, so that neighbouring seeds do not start alike.
    rng = Random(f"{split}/{seed}")  # noqa: S311 (examples, not secrets)
    kinds, shares = list(_SHARES), list(_SHARES.values())
    while True:
        (kind,) = rng.choices(kinds, shares)
        yield composer.compose(rng, kind=kind, objective=random_objective(rng))


def compose(rng: Random, *, kind: Kind, objective: str, split: Split = "train") -> Triple:
    """One example of one kind under one objective.

    Args:
        rng: Where chance comes from; the same state gives the same example.
        kind: What is wrong with the draft.
        objective: What the answer is to be made more of; see `edits_asked`.
        split: Which phrasings it is composed of.

    Raises:
        DataError: Kind or objective are unknown.
    """
    return _shared_composer(split).compose(rng, kind=kind, objective=objective)


def random_objective(rng: Random) -> str:
    """An objective: half of the time the usual one, else a single other one, or two or three joined."""
    chance = rng.random()
    if chance < 0.5:
        return _DEFAULT_OBJECTIVE
    if chance < 0.85:
        return rng.choice(SINGLE_OBJECTIVES)
    first, *more = rng.sample(SINGLE_OBJECTIVES, rng.choice((2, 2, 2, 3)))
    if len(more) == 1:
        return first + rng.choice(_JOINS) + more[0]
    return f"{first}, {more[0]}{rng.choice((' and ', ', and ', ', '))}{more[1]}"


class Composer:
    """Composes examples of one split.

    Args:
        split: Which phrasings they are composed of.
        real: Examples of real text to make drafts of as well.
    """

    def __init__(self, split: Split, real: Sequence[Triple] = ()) -> None:
        self._split: Split = split
        self._bases = Bases(split, real)
        self._phrasings = self._bases.phrasings
        self._injector = Injector(self._phrasings, names=self._bases.names, ordinary=self._bases.ordinary)
        sources = dict(_SOURCES)
        if self._bases.has_real:
            sources["real"] = _REAL
        self._sources, self._weights = list(sources), list(sources.values())

    def compose(self, rng: Random, *, kind: Kind, objective: str) -> Triple:
        """One example of one kind under one objective; see the function `compose`."""
        asked = edits_asked(objective)
        slots = Slots(rng, self._phrasings)
        if kind == "harmful":
            made = self._harmful(rng, slots)
        elif kind == "needless_refusal":
            made = self._unanswered(rng, kind, rng.choice(self._phrasings.needless_refusal))
        elif kind == "evasive":
            made = self._unanswered(rng, kind, rng.choice(self._phrasings.evasive))
        elif kind in KINDS:
            made = self._answered(rng, slots, kind)
        else:
            raise DataError(f"Kind {kind!r} is unknown; known are {', '.join(KINDS)}.")
        return made.triple(objective, kind, asked)

    def _answered(self, rng: Random, slots: Slots, kind: Kind) -> _Made:
        if kind == "good" and rng.random() < 0.08:
            return self._corrected(rng, slots)
        inner, cold = self._choose_defects(rng, kind)
        upset = cold or rng.random() < 0.08
        base, empathy = self._upset(rng, slots) if upset else (self._base(rng, kind), "")
        # Nothing but a defect leaves an offer to help, which only a harmless question may get.
        alone = inner and not cold and base.source in _HARMLESS and rng.random() < 0.05
        pieces = self._injector.alone(rng, slots, inner[0]) if alone else pieces_of(base.chunks)
        for defect in inner[1 if alone else 0 :]:
            self._injector.inject(rng, slots, pieces, defect, ends_only=base.ends_only)
        if upset and not cold:
            kind_words = empathy if rng.random() < 0.5 else rng.choice(wording.KIND_WORDS[self._split])
            pieces[0].gap = _gap_behind_empathy(pieces[0])
            pieces.insert(0, Piece("", "", kind_words, kind_words))
        return _Made(base, pieces, empathy if cold else "")

    def _choose_defects(self, rng: Random, kind: Kind) -> tuple[list[InnerDefect], bool]:
        if kind == "several" and rng.random() < 0.6:
            # Many in one draft show more of them in a training of the same length.
            crowd = rng.sample(INNER_DEFECTS, rng.choice((2, 3, 4)))
            crowd += rng.choices(INNER_DEFECTS, k=rng.choice((0, 1, 2)))
            return crowd, rng.random() < 0.1
        if kind == "several":
            cold = rng.random() < 0.25
            return rng.sample(INNER_DEFECTS, rng.choice((1, 2) if cold else (2, 2, 3))), cold
        return [defect for defect in INNER_DEFECTS if defect == kind], kind == "cold"

    def _base(self, rng: Random, kind: Kind) -> Base:
        (source,) = rng.choices(self._sources, self._weights)
        # An offer to go on, or a step, has no place in a refusal.
        if source == "refusal" and kind not in ("good", "rude", "rambling"):
            source = "task"
        base = self._bases.make(rng, source)
        if kind in ("overclaiming", "invented_source") and not self._injector.has_statement(base.chunks):
            base = self._bases.make(rng, source)
        return base

    def _upset(self, rng: Random, slots: Slots) -> tuple[Base, str]:
        theme = rng.choice(self._phrasings.upset)
        message, (empathy,) = slots.fill(rng.choice(theme.lines)), theme.fitting
        chance = rng.random()
        if chance < 0.25:
            query = f"{message} {rng.choice(wording.LOST)}" if chance < 0.2 else message
            return Base(query, self._bases.advice(rng, slots, theme.name), "task"), empathy
        source: Source = rng.choice(("task", "task", "task", "everyday", "everyday", "look_alike"))
        base = self._bases.make(rng, "real" if self._bases.has_real and rng.random() < 0.2 else source)
        base.query = f"{base.query} {message}" if rng.random() < 0.2 else f"{message} {base.query}"
        return base, empathy

    def _corrected(self, rng: Random, slots: Slots) -> _Made:
        """A draft in which all that there was to correct has been corrected already."""
        inner = rng.sample(INNER_DEFECTS, rng.choice((1, 1, 2)))
        base = self._base(rng, "good")
        pieces = pieces_of(base.chunks)
        for defect in inner:
            self._injector.inject(rng, slots, pieces, defect, ends_only=base.ends_only)
        _, correction = render(pieces, EDITS[_DEFAULT_OBJECTIVE])
        return _Made(base, [Piece("", "", correction, correction)])

    def _unanswered(self, rng: Random, kind: Defect, answer: str) -> _Made:
        (source,) = rng.choices(list(_HARMLESS), list(_HARMLESS.values()))
        base = self._bases.make(rng, source)
        return _Made(base, [Piece("", "", answer, "", kind)])

    def _harmful(self, rng: Random, slots: Slots) -> _Made:
        request = harmful_request(rng, slots, self._phrasings.harmful)
        chance = rng.random()
        source: Source = "complying"
        if chance < 0.62:
            chunks = self._bases.compliance(rng, slots, request.verb_phrase)
        elif chance < 0.85:
            sources: tuple[Source, ...] = ("task", "task", "everyday", "look_alike")
            source = rng.choice((*sources, "real", "real") if self._bases.has_real else sources)
            chunks = list(self._bases.make(rng, source).chunks[: rng.choice((1, 2, 3, 4, 6))])
        else:
            answer = rng.choice(compliance.ASSENTS) if chance < 0.92 else rng.choice(self._phrasings.evasive)
            pieces = [Piece("", "", answer, answer)]
            chunks = []
        if chunks:
            pieces = pieces_of(chunks)
        for defect in _WITH_HARM:
            if rng.random() < 0.05:
                self._injector.inject(rng, slots, pieces, defect)
        # The whole answer goes, whatever is in it.
        draft, _ = render(pieces, frozenset())
        base = Base(request.query, (), source, request.verb_phrase)
        return _Made(base, [Piece("", "", draft, request.refusal, "harmful")])


@dataclass(frozen=True, slots=True)
class _Made:
    """A draft in pieces, before an objective decides what becomes of it."""

    base: Base
    pieces: Sequence[Piece]
    empathy: str = ""

    def triple(self, objective: str, kind: Kind, asked: frozenset[Defect]) -> Triple:
        draft, correction = render(self.pieces, asked)
        correction = correction or help_offer(self.base.verb_phrase)
        if self.empathy and "cold" in asked:
            first = next((piece for piece in self.pieces if piece.defect not in asked or piece.correction), None)
            correction = self.empathy + (_gap_behind_empathy(first) if first else " ") + correction
        return Triple(self.base.query, draft, correction, objective, f"{kind}/{self.base.source}")


def _gap_behind_empathy(piece: Piece) -> str:
    return "\n\n" if piece.marker or piece.draft.startswith(("```", "|")) else " "


@lru_cache(maxsize=2)
def _shared_composer(split: Split) -> Composer:
    return Composer(split)
