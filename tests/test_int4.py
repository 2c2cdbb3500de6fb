"""Models of four bits a weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from aligner_chains.decoding.int4 import INT4_FILE, is_int4, load_int4, rounded, save_int4


def small_model(*, width: int = 128, tied: bool = True) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=width,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).eval()


def written(model: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    model.config.save_pretrained(folder)
    save_int4(model, folder)
    return load_int4(folder, torch.float32).eval()


IDS = torch.arange(40).reshape(2, 20)


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_read_is_what_the_model_is_inside_of_rounded(tmp_path: Path, tied: bool):
    model = small_model(tied=tied)
    read = written(model, tmp_path)
    with torch.inference_mode():
        exact = model(IDS).logits
        with rounded(model):
            inside = model(IDS).logits
        assert torch.equal(model(IDS).logits, exact)
        assert torch.equal(read(IDS).logits, inside)
    assert not torch.equal(inside, exact)


def test_each_weight_is_within_a_step_of_what_it_was(tmp_path: Path):
    model = small_model()
    read = dict(written(model, tmp_path).named_parameters())
    for name, weight in model.named_parameters():
        groups = weight.detach().flatten().unflatten(0, (-1, 64))
        step = groups.abs().amax(1, keepdim=True) / 8
        # A step at the one end of the scale, where there are 7 numbers for 8 steps, and half of one elsewhere.
        assert ((read[name].detach().flatten().unflatten(0, (-1, 64)) - groups).abs() <= step * 1.001).all()


def test_a_matrix_of_zeros_stays_one(tmp_path: Path):
    model = small_model()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.zero_()
    assert not written(model, tmp_path).model.layers[0].mlp.up_proj.weight.any()


def test_it_takes_little_more_than_four_bits(tmp_path: Path):
    model = small_model()
    written(model, tmp_path)
    assert (tmp_path / INT4_FILE).stat().st_size < model.num_parameters() * 5 / 8 + 4000  # with names and vectors
    assert is_int4(tmp_path)
    assert not is_int4(tmp_path / "elsewhere")


def test_gradients_pass_through_the_rounding():
    model = small_model()
    before = model.lm_head.weight.detach().clone()
    with rounded(model):
        model(IDS, labels=IDS).loss.backward()
    assert model.lm_head.weight.grad is not None
    assert model.lm_head.weight.grad.any()
    assert torch.equal(model.lm_head.weight, before)


def test_weights_come_back_after_an_error():
    model = small_model()
    before = model.lm_head.weight.detach().clone()
    with pytest.raises(ZeroDivisionError), rounded(model):
        1 / 0  # noqa: B018
    assert torch.equal(model.lm_head.weight, before)


def test_rows_that_do_not_fall_into_groups_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="A matrix of 96 columns does not fall into groups of 64 weights"):
        save_int4(small_model(width=96), tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path):
    written(small_model(), tmp_path)
    small_model(width=64).config.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_int4(tmp_path, torch.float32)
