"""From query and draft to the prompt, from the model's answer to the correction."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_chains import PROMPT_FORMATS, Feedback
from aligner_chains.errors import FeedbackNotSupportedError, InvalidInputError
from aligner_chains.exchange import Exchange

ALIGNER_7B = PROMPT_FORMATS["aligner-7b"]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(str.strip)
EVIL = st.lists(st.one_of(st.sampled_from(["</s>", "USER:", " ", "\n", "\u2028", "\u2060"]), st.text()), max_size=8)


def prepare(query: str, draft: str) -> Exchange:
    return Exchange.prepare(query, draft, Feedback.HELPFUL_AND_HARMLESS, prompt_format=ALIGNER_7B)


def read(exchange: Exchange, *pieces: str) -> str:
    reader = exchange.reader()
    handed_out = "".join([*map(reader.read, pieces), reader.finish()])
    assert handed_out == reader.text
    return handed_out


@pytest.mark.parametrize("name", ["query", "draft"])
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        (" \n\u2003", "is blank"),
        ("a\0b", r"a NUL character at index 1\. Take it out"),
        ("ab\udfff", r"the lone surrogate '\\udfff' at index 2.*text\.encode"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_place(name: str, text: str, fault: str):
    with pytest.raises(InvalidInputError, match=f"The {name} (holds )?{fault}"):
        prepare(**{"query": "q", "draft": "d", name: text})


def test_feedback_without_a_slot_is_refused():
    with pytest.raises(FeedbackNotSupportedError, match="'aligner-2b'"):
        Exchange.prepare("q", "d", Feedback.HONEST, prompt_format=PROMPT_FORMATS["aligner-2b"])


def test_the_prompt_holds_the_texts_without_the_space_around_them():
    assert prepare(" q ", "\nd\t").prompt == ALIGNER_7B.render("q", "d")


@given(TEXT)
def test_a_copied_draft_comes_back_to_the_character(draft: str):
    exchange = prepare("q", draft)
    before, after = ALIGNER_7B.render("q", "{}").split("{}")
    copy = exchange.prompt.removeprefix(before).removesuffix(after)
    assert read(exchange, f" {copy}") == draft


@given(st.data(), EVIL.map("".join), st.sampled_from(["d", " d\n", "USER: </s>"]))
def test_any_splitting_of_an_answer_gives_the_same_text(data: st.DataObject, answer: str, draft: str):
    exchange = prepare("q", draft)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=6)))
    pieces = [answer[start:end] for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    assert read(exchange, *pieces) == read(exchange, answer)


@given(st.lists(st.sampled_from([" ", "\n", "\t", "\u2003"])))
def test_an_answer_of_white_space_is_no_answer(pieces: list[str]):
    assert read(prepare("q", " d "), *pieces) == ""


def test_the_space_around_the_draft_stays_around_the_correction():
    assert read(prepare("q", "\n  bad\n\n"), " good ", "\n") == "\n  good\n\n"
