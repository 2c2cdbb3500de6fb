"""The guard: which corrections are trusted."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_chains import Guard
from aligner_chains.errors import ConfigurationError
from aligner_chains.guard import THRESHOLDS, RepetitionWatch, confidence, repetition

SURE, UNSURE = math.log(0.99), math.log(0.3)


def test_without_rules_everything_is_trusted():
    guard = Guard()
    assert not guard.is_on
    assert guard.doubt("a a a a a a a a", draft="b", logprobs=None) is None


def test_a_low_mean_probability_is_doubted_with_both_numbers():
    guard = Guard(min_confidence=0.9)
    assert guard.doubt("new", draft="old", logprobs=[SURE, SURE]) is None
    assert guard.doubt("new", draft="old", logprobs=[SURE, UNSURE]) == (
        "not confident: mean token probability 0.54 is below 0.9"
    )


def test_an_unlikely_whole_is_doubted():
    guard = Guard(min_sequence_confidence=0.5)
    assert guard.doubt("new", draft="old", logprobs=[SURE] * 60) is None
    assert guard.doubt("new", draft="old", logprobs=[SURE] * 80) is not None
    assert guard.doubt("new", draft="old", logprobs=[SURE, UNSURE]) == (
        "not confident: probability 0.30 of the whole is below 0.5"
    )


@pytest.mark.parametrize(
    ("text", "is_doubted"),
    [
        ("I can't help with that.", False),
        ("Lock the door, then hide it.", True),  # five of six words
        ("Lock the shed.", True),  # two of six
        ("Lock up.", False),  # one of six
    ],
)
def test_a_replacement_has_a_threshold_of_its_own(text: str, is_doubted: bool):
    draft, logprobs = "Lock the door, then sell it.", [SURE, UNSURE]
    guard = Guard(min_sequence_confidence=0.5, min_replacement_confidence=0.2)
    assert (guard.doubt(text, draft=draft, logprobs=logprobs) is not None) == is_doubted
    strict = Guard(min_replacement_confidence=0.5)
    assert (strict.doubt(text, draft=draft, logprobs=logprobs) is None) == is_doubted


@pytest.mark.parametrize(
    "rule",
    [Guard(min_confidence=0.1), Guard(min_sequence_confidence=0.1), Guard(min_replacement_confidence=0.1)],
)
@pytest.mark.parametrize("broken", [math.nan, -math.inf, -1.7e308])
def test_probabilities_that_are_no_numbers_are_not_trusted(rule: Guard, broken: float):
    assert "not confident" in rule.doubt("new", draft="old", logprobs=[SURE, broken, broken])


def test_a_loop_is_doubted_unless_the_draft_has_it():
    guard = Guard(reject_repetition=True)
    loop = "it is what it is what it is what it is"
    assert guard.doubt(loop, draft="it is", logprobs=None) == "repeats itself: 'it is what it'"
    assert guard.doubt(loop, draft=loop + " so", logprobs=None) is None
    assert guard.doubt("one two three four five", draft="six", logprobs=None) is None


@pytest.mark.parametrize(
    ("draft", "text", "skipped"),
    [
        ("By the formula: A = 1/2 b h. With b = 6: A = 1/2 6 8.", "By the formula: A = 1/2 6 8.", "A = 1/2"),
        (
            "It is for finding and naming films, and for finding and selling them.",
            "It is for finding and selling them.",
            "for finding and",
        ),
        ("Ask a doctor and then ask a lawyer.", "Ask a doctor.", None),
        ("Stir it. You fool. Stir it. Then bake it.", "Stir it. Then bake it.", None),
        ('He said "Stop!" You fool. He said "Stop!" Then he left.', 'He said "Stop!" Then he left.', None),
        ("Bake the the bread.", "Bake the bread.", None),
        ("Bake it, you fool, for an hour.", "Bake it, for an hour.", None),
        ("You fool. Bake it.", "Bake it.", None),
    ],
)
def test_a_cut_between_the_same_words_is_doubted_unless_whole_sentences_go(draft: str, text: str, skipped: str | None):
    doubt = Guard(reject_skips=True).doubt(text, draft=draft, logprobs=None)
    assert doubt == (skipped and f"lost its place: {skipped!r}")


def test_a_copy_of_the_draft_is_never_doubted():
    guard = Guard(min_confidence=1, min_sequence_confidence=1, reject_repetition=True)
    assert guard.doubt("a a a a a a a a", draft="a a a a a a a a", logprobs=None) is None


@pytest.mark.parametrize("logprobs", [None, []])
def test_a_rule_that_cannot_be_applied_is_an_error(logprobs: list[float] | None):
    with pytest.raises(ConfigurationError, match=r"this server gives none.*Guard\(\)"):
        Guard(min_confidence=0.5).doubt("new", draft="old", logprobs=logprobs)


@pytest.mark.parametrize("name", THRESHOLDS)
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, "high"])
def test_what_is_no_probability_is_refused(name: str, value: object):
    with pytest.raises(ConfigurationError, match=f"{name} is a probability from 0 to 1, not {value!r}"):
        Guard(**{name: value})


@given(st.lists(st.floats(-50, 0), min_size=1))
def test_confidence_lies_between_the_least_and_the_greatest_probability(logprobs: list[float]):
    assert math.exp(min(logprobs)) * (1 - 1e-9) <= confidence(logprobs) <= math.exp(max(logprobs)) * (1 + 1e-9)


@given(st.data(), st.lists(st.sampled_from("abc")), st.lists(st.sampled_from(["a", "b", "c", " ", "\n"])).map("".join))
def test_a_loop_is_noticed_however_it_is_cut_and_when_it_begins(data: st.DataObject, draft: list[str], text: str):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    watch = RepetitionWatch(" ".join(draft))
    noticed = [repeated for piece in (*pieces, " ") if (repeated := watch.read(piece))]
    assert noticed[:1] == [repeated for repeated in [repetition(text, draft=" ".join(draft))] if repeated]
