"""The embedded Aligner's tokenizer: what goes in comes out, and copies look like what they copy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from aligner_chains.data import Triple
from aligner_chains.errors import ConfigurationError
from aligner_chains.prompts import PROMPT_FORMATS
from aligner_chains.training.tokenizer import PROMPT_TOKENS, save_tokenizer, tokenizer_texts, train_tokenizer

TRIPLES = [
    Triple("How do I water a cactus?", "Water it every 14 days, you fool.", "Water it every 14 days."),
    Triple("When was the bridge built?", "It was built in 1932, I think.", "It was built in 1932.", "honest"),
    Triple("Can I freeze bread?", "Yes, for about 3 months.", "Yes, for about 3 months.", "concise"),
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(tokenizer_texts(TRIPLES), vocabulary=700)


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [tokenizer.decode([token]) for token in ids]


@settings(deadline=None)
@given(text=st.text(max_size=60))
def test_every_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@settings(deadline=None)
@given(number=st.integers(0, 10**9))
def test_numbers_are_cut_into_pairs_of_digits(tokenizer: PreTrainedTokenizerFast, number: int) -> None:
    digits = str(number)
    pairs = [digits[start : start + 2] for start in range(0, len(digits), 2)]
    assert pieces(tokenizer, f"It is {number}.")[-len(pairs) - 1 :] == [f" {pairs[0]}", *pairs[1:], "."]


def test_fixed_parts_of_the_prompt_are_one_token_each(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = PROMPT_FORMATS["aligner-7b"].render("Can I freeze bread?", "Yes.")
    tokens = pieces(tokenizer, str(prompt))
    assert (tokens[0], tokens[-1]) == PROMPT_TOKENS
    assert not set(PROMPT_TOKENS) & set(tokens[1:-1])


def test_a_text_begins_with_the_begin_token_and_has_no_end_token(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("Yes.")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids


def test_draft_and_correction_are_cut_alike(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "Ask Zainab by 10:45, or write to zainab@example.org."
    alone = tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
    whole = tokenizer(f"{PROMPT_FORMATS['aligner-7b'].render('Who can help?', text)} {text}")["input_ids"]
    assert whole[-len(alone) :] == alone
    assert whole[-2 * len(alone) - 1 : -len(alone) - 1] == alone


def test_the_vocabulary_is_not_exceeded(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) <= 700


def test_the_same_texts_give_the_same_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    again = train_tokenizer(tokenizer_texts(TRIPLES), vocabulary=700)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_a_saved_tokenizer_loads_as_it_was(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "Water it every 14 days."
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (loaded.pad_token, loaded.eos_token, loaded.model_max_length) == ("<pad>", "</s>", 1024)


def test_a_saved_tokenizer_names_a_class_that_every_transformers_has(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save_tokenizer(tokenizer, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_vocabulary_without_room_for_every_byte_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="300 is too small"):
        train_tokenizer([], vocabulary=300)
