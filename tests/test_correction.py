"""A correction: its parts, and its difference to the draft."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_chains import Correction, CorrectionChunk, Usage
from aligner_chains.errors import EmptyCorrectionError

TEXTS = st.one_of(
    st.text(), st.lists(st.sampled_from(["a", "b", "c", " ", "\n", ".", "été", "_", "\u2028"])).map("".join)
)


def correction(draft: str, text: str) -> Correction:
    return Correction(text, draft, "q", "unchanged" if text == draft else "corrected")


@given(TEXTS, TEXTS)
def test_the_parts_of_a_diff_joined_are_draft_and_text(draft: str, text: str):
    parts = correction(draft, text).diff()
    assert "".join(part.text for part in parts if part.operation != "insert") == draft
    assert "".join(part.text for part in parts if part.operation != "delete") == text
    assert all(part.text for part in parts)


@given(TEXTS, TEXTS)
def test_the_edit_ratio_is_a_share(draft: str, text: str):
    assert 0 <= correction(draft, text).edit_ratio <= 1
    assert correction(draft, draft).edit_ratio == 0


def test_the_edit_ratio_counts_words():
    assert correction("one two three four", "one two three five").edit_ratio == pytest.approx(0.25)
    assert correction("one two", "three four").edit_ratio == 1
    assert correction("Paris, you fool.", "Paris.").edit_ratio == pytest.approx(1 - 2 * 2 / 7)  # not all of it


def test_punctuation_between_two_changes_is_not_shared():
    assert correction("Fine. Dr. Who proved it.", "Fine. I know no source. None.").diff() == [
        ("equal", "Fine. "),
        ("delete", "Dr. Who proved it"),
        ("insert", "I know no source. None"),
        ("equal", "."),
    ]


def test_a_diff_goes_word_by_word():
    assert correction("Paris, you idiot.", "Paris, my friend.").diff() == [
        ("equal", "Paris, "),
        ("delete", "you idiot"),
        ("insert", "my friend"),
        ("equal", "."),
    ]


def test_a_correction_is_its_text():
    assert str(correction("a", "b")) == "b"
    assert correction("a", "b").changed
    assert not correction("a", "a").changed
    assert str(CorrectionChunk("b")) == "b"


def test_tokens_add_up():
    assert Usage(3, 4).total_tokens == 7


def test_everything_can_be_written_as_json():
    made = Correction(
        "d",
        "d",
        "q",
        "failed",
        usage=Usage(3, 4),
        confidence=0.123456,
        error=EmptyCorrectionError("nothing"),
        latency=0.1,
    )
    shown = json.loads(json.dumps(made.to_dict()))
    assert shown["usage"] == {"input_tokens": 3, "output_tokens": 4}
    assert shown["error"] == {"type": "EmptyCorrectionError", "message": "nothing"}
    assert (shown["confidence"], shown["changed"], shown["edit_ratio"]) == (0.1235, False, 0)
    assert correction("a", "b").to_dict()["error"] is None
