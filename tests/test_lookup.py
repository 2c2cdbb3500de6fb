"""Answers that are guessed and verified are what transformers writes token by token."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from cases import QUERY, RUDE
from transformers import AutoModelForCausalLM, Lfm2Config, LlamaConfig, MistralConfig, Phi3Config

from aligner_chains.backends.local import LocalBackend
from aligner_chains.decoding.causal_model import CausalModel, Sampling, Token
from aligner_chains.decoding.lookup import Lookup
from aligner_chains.prompts import PROMPT_FORMATS

TINY: dict[str, Any] = {
    "vocab_size": 12_000,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
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


@contextmanager
def passes(model: CausalModel) -> Iterator[list[int]]:
    """Counts the model's passes, in a list of one number."""
    count = [0]

    def add(*_: object) -> None:
        count[0] += 1

    handle = model.model.register_forward_pre_hook(add)
    try:
        yield count
    finally:
        handle.remove()


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
    ids = model.encode(PROMPT_FORMATS["aligner-7b"].render(QUERY, RUDE))
    with passes(model) as count:
        tokens, _ = write(model, ids, 200, Sampling())
    assert count[0] < len(tokens) / 2


@pytest.mark.parametrize("penalty", [Sampling(repetition_penalty=50.0), Sampling(frequency_penalty=50.0)], ids=str)
def test_a_penalty_is_heeded(embedded_backend: LocalBackend, penalty: Sampling):
    model = embedded_backend.model
    ids = model.encode(PROMPTS[2])
    plain, _ = write(model, ids, 40, Sampling(repetition_penalty=1.0, frequency_penalty=0.0))
    penalised, _ = write(model, ids, 40, penalty)
    assert [token.id for token in plain] != [token.id for token in penalised]


@pytest.mark.parametrize("last", [2, 5])
def test_it_stops_in_the_middle_of_a_pass(embedded_backend: LocalBackend, last: int):
    model = embedded_backend.model
    ids = model.encode(PROMPTS[0])
    tokens, _ = write(model, ids, 40, Sampling())
    text = "".join(token.text for token in tokens[: last + 1])
    stopped, reason = write(model, ids, 40, Sampling(stop=(text,)))
    assert (len(stopped), reason) == (last + 1, "stop_sequence")
    some: list[Token] = []
    reason = model.generate(
        ids, max_new_tokens=40, sampling=Sampling(), on_token=some.append, cancelled=lambda: len(some) > last
    )
    assert (len(some), reason) == (last + 1, "cancelled")


def test_an_end_that_was_guessed_ends_the_answer(embedded_backend: LocalBackend):
    model = embedded_backend.model
    ids = model.encode(PROMPT_FORMATS["aligner-7b"].render("How deep is the sea?", "Deeper than any mountain is high."))
    answer = [token.id for token in write(model, ids, 200, Sampling())[0]]
    assert model.is_end(answer[-1])
    tokens, reason = write(model, [ids[0], *answer, 77, 78, *ids[1:]], 200, Sampling())
    assert reason == "eos_token"
    assert sum(model.is_end(token.id) for token in tokens) == 1


@pytest.mark.parametrize("limit", [0, -1])
def test_nothing_to_write_is_an_error(embedded_backend: LocalBackend, limit: int):
    with pytest.raises(ValueError, match=f"at least 1, not {limit}"):
        write(embedded_backend.model, [1, 2], limit, Sampling())


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(sliding_window=8, **TINY),
        Lfm2Config(layer_types=["conv", "full_attention"], **TINY),
        LlamaConfig(rope_scaling={"rope_type": "dynamic", "factor": 2.0}, max_position_embeddings=20, **TINY),
        Phi3Config(
            rope_scaling={"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8},
            original_max_position_embeddings=20,
            **TINY,
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_that_guesses_do_not_suit_writes_one_by_one(embedded_backend: LocalBackend, config: Any):
    torch.manual_seed(0)
    tokenizer = embedded_backend.model.tokenizer
    model = CausalModel(AutoModelForCausalLM.from_config(config).eval(), tokenizer)
    ids = model.encode(PROMPTS[2])
    expected = model.model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False, pad_token_id=0)
    with passes(model) as count:
        tokens, _ = write(model, ids, 20, Sampling())
    assert [token.id for token in tokens] == expected[0, len(ids) :].tolist()
    assert count[0] == len(tokens)


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
