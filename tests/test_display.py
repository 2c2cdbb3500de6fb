"""Corrections on a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_chains import Correction
from aligner_chains.display import diff_html, diff_text, outcome_text
from aligner_chains.errors import EmptyCorrectionError


def correction(draft: str, text: str, **fields: object) -> Correction:
    fields.setdefault("outcome", "corrected")
    return Correction(text=text, draft=draft, query="What is the capital of France?", **fields)


def test_a_local_edit_is_woven_into_the_draft():
    shown = diff_text(correction("Paris, you fool, is the capital.", "Paris is the capital."), coloured=False)
    assert shown.plain == "Paris[-, you fool,-] is the capital."


def test_what_went_and_what_came_are_told_apart_by_style():
    shown = diff_text(correction("This is guaranteed to work.", "This may not work."))
    styles = {shown.plain[span.start : span.end]: str(span.style) for span in shown.spans if span.style}
    assert styles == {"is guaranteed to": "red strike", "may not": "bold green"}


def test_a_rewrite_is_shown_as_two_whole_texts():
    shown = diff_text(correction("Sure, here is how.", "I can't help with that."), coloured=False)
    assert shown.plain == "[-Sure, here is how.-]\n{+I can't help with that.+}"


# Terminals are never sent control characters.
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]))


@given(TEXTS, TEXTS)
def test_nothing_of_either_text_is_hidden(draft: str, text: str):
    plain = diff_text(correction(draft, text)).plain
    for word in (*draft.split(), *text.split()):
        assert all(character in plain for character in word)


def test_a_notebook_shows_the_same_and_text_is_not_markup():
    shown = correction("Use <b>, you fool.", "Use <b>.")._repr_html_()
    assert "Use &lt;b&gt;<del" in shown
    assert ">, you fool</del>." in shown
    assert shown == diff_html(correction("Use <b>, you fool.", "Use <b>."))


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"latency": 0.213}, "corrected in 0.21 s"),
        ({"outcome": "skipped", "reason": "not confident"}, "skipped in 0.00 s (not confident)"),
        (
            {"outcome": "failed", "error": EmptyCorrectionError("nothing came")},
            "failed in 0.00 s (EmptyCorrectionError: nothing came)",
        ),
    ],
)
def test_the_outcome_says_why_and_how_long(fields: dict[str, object], shown: str):
    assert outcome_text(correction("a", "b", **fields)).plain == shown
