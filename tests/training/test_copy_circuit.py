"""The embedded Aligner before training: it copies, and is small."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from aligner_chains.data import Triple
from aligner_chains.errors import ConfigurationError
from aligner_chains.training.batches import Encoder
from aligner_chains.training.copy_circuit import NanoShape, build_nano, nano_config
from aligner_chains.training.tokenizer import train_tokenizer

TEXTS = [
    "The lighthouse was built on a rock that the tide covers twice a day. For more than a hundred years its keepers "
    "came by boat, and when the sea was rough they stayed for weeks. The lamp was lit with oil, later with gas, and in "
    "the end with electricity. Nobody lives there now. A computer on the mainland switches the light on at dusk, and "
    "once a year two engineers climb the 189 steps to clean the lens.",
    "Bread rises because yeast turns sugar into gas, and the dough holds the gas like a balloon. Warm dough rises "
    "quickly, cold dough slowly, and slow dough tastes better. If you have time, leave it in the fridge overnight. In "
    "the morning let it warm up for an hour, shape it, and bake it at 230 degrees until the crust is dark and it "
    "sounds hollow when you knock on it.",
    "When two people share a flat, small things matter more than large ones. Who buys the milk, who takes the rubbish "
    "down, who is allowed to use the good pan? Talk about it before you are angry. Write the answers on a sheet, "
    "hang it in the kitchen, and change it when it does not work. And if Ines has cooked on Monday, Tomek washes up, "
    "whatever the sheet says.",
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocabulary=1000)


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return build_nano(nano_config(NanoShape(), vocabulary=len(tokenizer), pad=0, bos=1, eos=2)).eval()


def accuracy_of_copy(model: LlamaForCausalLM, ids: tuple[int, ...], prompt_tokens: int) -> float:
    """Share of the copy's tokens foreseen; its first two, with nothing before them, and its end left out."""
    with torch.no_grad():
        foreseen = model(torch.tensor([ids])).logits[0, :-1].argmax(-1)  # [S - 1]
    copied = slice(prompt_tokens + 2, len(ids) - 1)
    right = foreseen[copied.start - 1 : copied.stop - 1] == torch.tensor(ids[copied])
    return right.float().mean().item()


def test_it_copies_natural_text(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    examples = [Encoder(tokenizer).encode(Triple("What can you tell me?", text, text)) for text in TEXTS]
    accuracies = [accuracy_of_copy(model, example.ids, example.prompt_tokens) for example in examples]
    assert sum(accuracies) / len(accuracies) >= 0.97


def test_it_copies_what_it_has_never_seen_to_the_end_of_its_context(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    rng = random.Random(0)
    draft = [rng.randrange(10, len(tokenizer) - 2) for _ in range(480)]
    prompt = (1, *draft, 5)
    assert accuracy_of_copy(model, (*prompt, *draft, 2), len(prompt)) >= 0.97


def test_it_fits_into_16_megabytes() -> None:
    shape = NanoShape()
    model = build_nano(nano_config(shape, vocabulary=4096, pad=0, bos=1, eos=2))
    assert 2 * sum(weight.numel() for weight in model.parameters()) < 16e6


def test_the_seed_decides_and_the_global_generator_does_not() -> None:
    config = nano_config(NanoShape(width=64, heads=2), vocabulary=50, pad=0, bos=1, eos=2)
    before = torch.get_rng_state()
    one, same, other = (build_nano(config, seed=seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("shape", [{"heads": 1}, {"layers": 1}, {"width": 250}])
def test_a_shape_without_room_for_the_circuit_is_refused(shape: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="no room for the copy circuit"):
        NanoShape(**shape)
