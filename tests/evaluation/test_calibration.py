"""Thresholds, the curve, and the table, from cases made by hand."""

import math

import pytest

from aligner_chains import Guard
from aligner_chains.data import Triple
from aligner_chains.evaluation import Example, Row, calibrate, curve, judge_all, measure, tabulate
from aligner_chains.evaluation.answers import Answer

OFF = Guard()
RUDE = Row("rude", "edit", bar=0.5)
REAL = Row("real", "damage", bar=0.99)
HARMFUL = Row("harmful", "refusal")
DRAFT, RIGHT = "Stir it well, you dunce. Let it cool.", "Stir it well. Let it cool."
BROKEN = "Stir it wexl. Let it cool."


def case(row: Row, text: str, probability: float, *, ended: bool = True):
    """A case in which the model wrote one token of this probability."""
    kind = "harmless" if row == HARMFUL else ""
    triple = Triple("How?", DRAFT, DRAFT if row == REAL else RIGHT, kind=kind)
    answer = Answer(DRAFT, text, (math.log(probability),), ended)
    return Example(row, triple), answer


def cases(*found, guard=OFF):
    return judge_all(*zip(*found, strict=True), guard)


def test_the_counts_of_a_guard():
    found = cases(
        case(RUDE, RIGHT, 0.9),
        case(RUDE, RIGHT, 0.3),
        case(RUDE, BROKEN, 0.2),
        case(RUDE, DRAFT, 0.1),
        case(REAL, BROKEN, 0.8),
    )
    off, on = measure(found, [Guard(), Guard(min_sequence_confidence=0.5)])
    assert (off.count, off.changed, off.damaged, off.left_alone, off.right, off.lost) == (5, 4, 2, 0, 2, 0)
    assert (on.count, on.changed, on.damaged, on.left_alone, on.right, on.lost) == (5, 4, 1, 2, 2, 1)
    assert off.damage == on.damage == 1.0  # the only real draft


def test_calibration_keeps_the_damage_out_and_as_much_as_it_can():
    sure, unsure = [case(RUDE, RIGHT, 0.97)] * 50, [case(RUDE, RIGHT, 0.62)] * 2
    guard = calibrate(cases(*sure, *unsure, case(RUDE, BROKEN, 0.58), case(REAL, BROKEN, 0.3), case(REAL, DRAFT, 0.9)))
    found = cases(*sure, *unsure, case(RUDE, BROKEN, 0.58), guard=guard)
    assert [c.text for c in found] == [RIGHT] * 52 + [DRAFT]


def test_calibration_trusts_replacements_that_are_less_likely():
    refusal = "I can't help with that."
    found = (
        *[case(RUDE, RIGHT, 0.97)] * 10,
        *[case(RUDE, BROKEN, 0.72)] * 3,
        *[case(HARMFUL, refusal, 0.55)] * 10,
        *[case(RUDE, refusal, 0.38)] * 3,
    )
    guard = calibrate(cases(*found))
    texts = [c.text for c in cases(*found, guard=guard)]
    assert texts == [RIGHT] * 10 + [DRAFT] * 3 + [refusal] * 10 + [DRAFT] * 3


def test_where_nothing_helps_the_least_damage_is_taken():
    guard = calibrate(cases(*[case(RUDE, BROKEN, 1.0)] * 3, case(RUDE, BROKEN, 0.5)), damage=0.01)
    (point,) = measure(cases(*[case(RUDE, BROKEN, 1.0)] * 3, case(RUDE, BROKEN, 0.5)), [guard])
    assert point.damaged == 3


def test_the_curve_goes_from_no_guard_to_little_damage():
    points = curve(cases(*(case(RUDE, BROKEN if p % 4 == 0 else RIGHT, p / 100) for p in range(5, 100))))
    assert points[0].guard == Guard()
    assert [p.damage for p in points] == sorted((p.damage for p in points), reverse=True)
    assert [p.lost for p in points] == sorted(p.lost for p in points)


@pytest.mark.parametrize(("text", "ended"), [("Stir it", False), ("", True)])
def test_an_answer_that_is_not_whole_leaves_the_draft(text: str, ended: bool):
    (found,) = cases(case(RUDE, text, 0.9, ended=ended))
    assert (found.text, found.left_alone) == (DRAFT, True)


def test_the_table_counts_each_row_and_puts_damage_first():
    found = cases(
        case(RUDE, DRAFT, 0.9),
        case(RUDE, RIGHT, 0.9),
        case(RUDE, BROKEN, 0.9),
        case(RUDE, BROKEN, 0.1),
        guard=Guard(min_confidence=0.5),
    )
    line, words, damage = tabulate(found)
    assert (line.count, line.raw, line.guarded, line.damaged_raw, line.damaged, line.left_alone) == (4, 1, 1, 2, 1, 1)
    assert line.passes is False
    assert [c.text for c in line.worst] == [BROKEN, DRAFT, DRAFT]
    assert words.count == 0
    assert words.passes is None
    assert (damage.count, damage.raw, damage.guarded) == (4, 2, 3)
