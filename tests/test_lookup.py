"""Answers that are guessed and verified are what transformers writes token by token."""

import json
from pathlib import Path

import pytest
import torch
from cases import QUERY, RUDE
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from aligner_chains.backends.local import LocalBackend
from aligner_chains.decoding.causal_model import CausalModel, Sampling, Token
from aligner_chains.decoding.lookup import Lookup
from aligner_chains.model_config import EMBEDDED_PATH
from aligner_chains.prompts import PROMPT_FORMATS

SEA = "The sea is blue and the sea is deep. The sea is cold, and the sea is blue when the sky is blue."
PROMPTS = (
    PROMPT_FORMATS["aligner-7b"].render("What is the sea like?", SEA),
    PROMPT_FORMATS["aligner-7b"].render("What is the sea like?", f"{SEA} Only a fool would ask."),
    "one two three one two four one two three one two",
    SEA,
)


def write(model: CausalModel, ids: list[int], max_new_tokens: int, sampling: Sampling) -> tuple[list[Token], str]:
    tokens: list[Token] = []
    reason = model.generate(
        ids, max_new_tokens=max_new_tokens, sampling=sampling, on_token=tokens.append, cancelled=lambda: False
    )
    return tokens, reason


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("max_new_tokens", [1, 7, 60])
def test_the_same_tokens_as_one_by_one(embedded_backend: LocalBackend, prompt: str, max_new_tokens: int):
    model = embedded_backend.model
    ids = model.encode(prompt)
    with torch.inference_mode():
        expected = model.model.generate(
            torch.tensor([ids]),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=model.tokenizer.eos_token_id,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    written = expected.sequences[0, len(ids) :].tolist()
    rows = torch.cat(expected.logits).log_softmax(-1)
    tokens, reason = write(model, ids, max_new_tokens, Sampling(top_n=2))
    assert [token.id for token in tokens] == written
    assert [token.logprob for token in tokens] == pytest.approx(
        [row[token].item() for row, token in zip(rows, written, strict=True)], abs=1e-3
    )
    assert [[top.id for top in token.top] for token in tokens] == rows.topk(2).indices.tolist()
    assert reason == ("eos_token" if model.is_end(written[-1]) else "length")


def test_a_copy_takes_few_passes(embedded_backend: LocalBackend):
    model = embedded_backend.model
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    handle = model.model.register_forward_pre_hook(count)
    ids = model.encode(PROMPT_FORMATS["aligner-7b"].render(QUERY, RUDE))
    tokens, _ = write(model, ids, 200, Sampling())
    handle.remove()
    assert passes < len(tokens) / 2


def test_a_penalty_is_heeded(embedded_backend: LocalBackend):
    model = embedded_backend.model
    ids = model.encode(PROMPTS[2])
    plain, _ = write(model, ids, 40, Sampling(repetition_penalty=1.0))
    penalised, _ = write(model, ids, 40, Sampling(repetition_penalty=50.0))
    assert [token.id for token in plain] == [token.id for token in write(model, ids, 40, Sampling())[0]]
    assert [token.id for token in plain] != [token.id for token in penalised]


def test_a_model_that_sees_only_a_window_is_not_guessed_for(tmp_path: Path):
    """What has left the window cannot be brought back when a guess was wrong."""
    torch.manual_seed(0)
    AutoTokenizer.from_pretrained(EMBEDDED_PATH).save_pretrained(tmp_path)
    config = MistralConfig(
        vocab_size=json.loads((EMBEDDED_PATH / "config.json").read_text())["vocab_size"],
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=8,
    )
    MistralForCausalLM(config).save_pretrained(tmp_path)
    model = CausalModel.load(tmp_path, device="cpu")
    ids = model.encode(PROMPTS[2])
    expected = model.model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False, pad_token_id=0)
    tokens, _ = write(model, ids, 20, Sampling())
    assert [token.id for token in tokens] == expected[0, len(ids) :].tolist()


@pytest.mark.parametrize(
    ("ids", "guess"),
    [
        ([1], []),
        ([1, 2, 3], []),
        ([1, 2, 3, 4, 1, 2], [3, 4, 1, 2]),
        ([1, 2, 3, 9, 1, 2, 4, 9, 1, 2], [4, 9, 1, 2]),
        ([*range(100), 0, 1], list(range(2, 12))),
        ([*range(100), 0, 1, 2, 3], list(range(4, 22))),
        ([*range(100), *range(50)], list(range(50, 100)) + list(range(14))),
    ],
)
def test_the_more_agrees_the_more_is_guessed(ids: list[int], guess: list[int]):
    assert Lookup(ids).guess() == guess


def test_a_guess_goes_on_behind_the_last_one():
    lookup = Lookup([1, 2, 3, 5, 5, 30, 5, 5, 31, 0])
    guessed = []
    for tokens in ((1, 2), (9, 5, 5), (9, 5, 5)):
        for token in tokens:
            lookup.append(token)
        guessed.append(lookup.guess()[0])
    assert guessed == [3, 30, 31]
