"""Chooses a guard's thresholds: as little damage as was asked for, at the least cost in right corrections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from aligner_chains.evaluation.cases import Case
from aligner_chains.guard import Guard

# Closest where a model that copies is: its right edits are nearly certain, and so are many of its mistakes.
_SEQUENCE: Final = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
_REPLACEMENT: Final = (None, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
_MEAN: Final = (None, 0.9, 0.95, 0.98)
_DAMAGES: Final = (0.05, 0.04, 0.03, 0.02, 0.015, 0.01, 0.0075, 0.005, 0.0025, 0.001)


@dataclass(frozen=True, slots=True)
class Point:
    """What a guard does to examples.

    Attributes:
        guard: The guard.
        count: How many examples there are.
        damaged: How many of them a user gets damaged.
        worst_row: The largest share of damaged ones in a row that is about damage alone, 0 to 1.
        changed: In how many the model wrote something else than the draft.
        left_alone: How many of those changes the guard kept back.
        right: How many of those changes were right.
        lost: How many right changes the guard kept back.
    """

    guard: Guard
    count: int
    damaged: int
    worst_row: float
    changed: int
    left_alone: int
    right: int
    lost: int

    @property
    def damage(self) -> float:
        """The share of damaged examples, 0 to 1: of all, or of a row that is about damage alone, where it is larger."""
        return max(self.damaged / self.count, self.worst_row)


def measure(cases: Sequence[Case], guards: Iterable[Guard]) -> list[Point]:
    """What each of the guards does to the cases, whatever guard these were made with."""
    changed = [case for case in cases if case.answer.text != case.answer.draft]
    rows = Counter(case.example.row for case in cases if case.example.row.rule == "damage")
    trusted: dict[Guard, list[Case]] = {}
    points = []
    for guard in guards:
        # What a rule says that looks at the words alone is the same for all thresholds, and is what takes time.
        words = Guard(reject_repetition=guard.reject_repetition, reject_skips=guard.reject_skips)
        thresholds = replace(guard, reject_repetition=False, reject_skips=False)
        if words not in trusted:
            trusted[words] = [case for case in changed if _lets_through(words, case)]
        let_through = [case for case in trusted[words] if _lets_through(thresholds, case)]
        damaged = [case for case in let_through if case.raw.damage is not None]
        right = sum(case.raw.right for case in changed)
        points.append(
            Point(
                guard,
                count=len(cases),
                damaged=len(damaged),
                worst_row=max((sum(c.example.row == row for c in damaged) / n for row, n in rows.items()), default=0),
                changed=len(changed),
                left_alone=len(changed) - len(let_through),
                right=right,
                lost=right - sum(case.raw.right for case in let_through),
            )
        )
    return points


def calibrate(cases: Sequence[Case], *, damage: float = 0.01) -> Guard:
    """The guard that loses the fewest right corrections, of those that let little enough damage through.

    Args:
        cases: Examples that the model was not trained on, with what it wrote for them.
        damage: The largest share of damaged corrections, 0 to 1: of all examples, and of each row that is about damage
            alone. Where no guard gets there, the one that comes closest is taken.
    """
    return _best(measure(cases, _candidates()), damage).guard


def curve(cases: Sequence[Case]) -> list[Point]:
    """The best that guards can do, from no guard to hardly any damage: for each share of damage the least loss."""
    points = measure(cases, _candidates())
    chosen = {_best(points, damage).guard: _best(points, damage) for damage in (1.0, *_DAMAGES)}
    return sorted(chosen.values(), key=lambda point: -point.damage)


def _lets_through(guard: Guard, case: Case) -> bool:
    return case.answer.guarded(guard) == case.answer.text


def _best(points: Sequence[Point], damage: float) -> Point:
    good = [point for point in points if point.damage <= damage] or [min(points, key=lambda point: point.damage)]
    return min(good, key=lambda point: (point.lost, point.damage, point.left_alone))


def _candidates() -> list[Guard]:
    return [Guard()] + [
        Guard(mean, sequence, replacement, reject_repetition=True, reject_skips=True)
        for mean, sequence, replacement in product(_MEAN, _SEQUENCE, _REPLACEMENT)
    ]
