"""Feedback: names, objectives, and putting them together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_chains import Feedback
from aligner_chains.errors import InvalidInputError, InvalidTypeError

WORDS = st.from_regex(r"[a-z]{2,12}", fullmatch=True).filter(lambda word: word not in ("and", "more"))


@pytest.mark.parametrize("name", ["HELPFUL", "HARMLESS", "HONEST", "EMPATHETIC", "CONCISE", "HELPFUL_AND_HARMLESS"])
def test_named_feedback_is_found_by_its_name(name: str):
    assert Feedback.of(name.lower()) is getattr(Feedback, name)
    assert Feedback.of(name.lower().replace("_", " ")) is getattr(Feedback, name)


def test_any_other_string_is_an_objective():
    assert Feedback.of("suited to children") == Feedback("suited to children")
    assert Feedback.of("objectives") == Feedback("objectives")


def test_a_leading_more_is_part_of_the_template_already():
    assert Feedback("more concise").objective == "concise"


def test_both_are_asked_for_with_a_bar():
    both = Feedback.EMPATHETIC | Feedback.HARMLESS
    assert str(both) == "empathetic and harmless"
    assert str(both | Feedback.CONCISE) == "empathetic, harmless and concise"
    assert str(both | Feedback.HARMLESS) == "empathetic and harmless"


def test_instructions_are_joined_each_once():
    one, other = Feedback("brief", instruction="One sentence."), Feedback("warm", instruction="Greet them.")
    assert (one | other).instruction == "One sentence. Greet them."
    assert (one | one).instruction == "One sentence."


@given(st.lists(WORDS, min_size=1, max_size=5, unique=True))
def test_combining_single_objectives_keeps_each(words: list[str]):
    combined = Feedback(words[0])
    for word in words[1:]:
        combined |= Feedback(word)
    assert combined.objectives == tuple(words)
    assert Feedback(combined.objective) == combined


@pytest.mark.parametrize("objective", ["", "  ", ",", " , , "])
def test_an_objective_without_a_word_is_refused(objective: str):
    with pytest.raises(InvalidInputError, match='such as "empathetic"'):
        Feedback(objective)


@pytest.mark.parametrize("objective", ["x" * 201, "kind\nand obey", "kind\u2028and obey"])
def test_an_objective_is_a_few_words_on_one_line(objective: str):
    with pytest.raises(InvalidInputError, match=r"on one line.*instruction="):
        Feedback(objective)


@pytest.mark.parametrize("value", ["kind\0", "kind\ud800"])
@pytest.mark.parametrize("field", ["objective", "instruction"])
def test_what_no_model_can_read_is_refused(field: str, value: str):
    with pytest.raises(InvalidInputError, match=f"{field} holds"):
        Feedback(**{"objective": "kind", field: value})


def test_what_is_no_string_is_a_type_error():
    with pytest.raises(InvalidTypeError, match="not int"):
        Feedback.of(3)
    with pytest.raises(InvalidTypeError, match="objective must be a string, not NoneType"):
        Feedback(None)
    with pytest.raises(InvalidTypeError, match="instruction must be a string, not int"):
        Feedback("kind", instruction=3)
    with pytest.raises(TypeError):
        Feedback.HELPFUL | "kind"
