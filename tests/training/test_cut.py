"""Models that are cut out of larger ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from aligner_chains.data import Triple
from aligner_chains.errors import ConfigurationError
from aligner_chains.training.cut import cut_model
from aligner_chains.training.export import load_model
from aligner_chains.training.tokenizer import PROMPT_TOKENS, save_tokenizer, train_tokenizer

TRIPLES = [
    Triple("How do I boil an egg?", "Boil it, you walnut.", "Boil it.", "Be polite."),
    Triple("What is a fjord?", "A fjord is a long inlet of the sea.", "A fjord is a long inlet of the sea."),
]
LAYERS = 5
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    words = [f" {text}" for triple in TRIPLES * 20 for text in (triple.query, triple.correction, "never to be seen")]
    tokenizer = train_tokenizer(words, vocabulary=620)
    save_tokenizer(tokenizer, folder)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, rope_theta=5e4, head_dim=24, **SHAPE)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_layers_and_embeddings_are_those_of_the_source(source: Path, tmp_path: Path):
    parameters = cut_model(source, tmp_path, layers=[0, 3], feed_forward=96, vocabulary=510, triples=TRIPLES)
    whole, small = load_model(source), load_model(tmp_path)
    assert parameters == small.num_parameters()
    assert (small.config.num_hidden_layers, small.config.vocab_size, small.config.head_dim) == (2, 510, 24)
    for kept, layer in zip(small.model.layers, (0, 3), strict=True):
        for name, weight in kept.state_dict().items():
            assert torch.allclose(weight, whole.model.layers[layer].state_dict()[name], atol=1e-3)  # in float16
    before, after = (AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (source, tmp_path))
    rows = whole.get_input_embeddings().weight, small.get_input_embeddings().weight
    for token in set(after) - set(PROMPT_TOKENS) - {"<pad>", "<unk>"}:
        assert torch.allclose(rows[1][after[token]], rows[0][before[token]], atol=1e-3)


def test_the_tokenizer_is_an_embedded_aligners(source: Path, tmp_path: Path):
    cut_model(source, tmp_path, layers=[0], feed_forward=96, vocabulary=510, triples=TRIPLES)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<pad>", "<s>", "</s>", "<unk>"]
    assert [tokenizer(token, add_special_tokens=False)["input_ids"] for token in PROMPT_TOKENS] == [[508], [509]]
    text = " A fjord, naïve 日本 \U0001f600?\n\n\tYes  2026."
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_frequent_words_keep_their_token(source: Path, tmp_path: Path):
    cut_model(source, tmp_path, layers=[0], feed_forward=96, vocabulary=510, triples=TRIPLES)
    whole, small = (AutoTokenizer.from_pretrained(folder) for folder in (source, tmp_path))
    assert small.tokenize(" fjord") == whole.tokenize(" fjord") == ["Ġfjord"]
    cut_model(source, tmp_path, layers=[0], feed_forward=96, vocabulary=470, triples=[Triple("never", "seen", "seen")])
    assert AutoTokenizer.from_pretrained(tmp_path).tokenize(" seen") == ["Ġseen"]


@pytest.mark.parametrize("layers", [[], [0, LAYERS], [-1]])
def test_layers_that_are_not_there(source: Path, tmp_path: Path, layers: list[int]):
    with pytest.raises(ConfigurationError, match=r"has layers 0 to 4, so .* cannot be kept"):
        cut_model(source, tmp_path, layers=layers, feed_forward=96, vocabulary=510, triples=TRIPLES)


@pytest.mark.parametrize("feed_forward", [0, 97])
def test_feed_forward_parts_that_are_not_there(source: Path, tmp_path: Path, feed_forward: int):
    with pytest.raises(ConfigurationError, match=rf"feed_forward is {feed_forward}, but .* has 1 to 96 to keep"):
        cut_model(source, tmp_path, layers=[0], feed_forward=feed_forward, vocabulary=510, triples=TRIPLES)


def test_neurons_that_do_nothing_go_first(source: Path, tmp_path: Path):
    idle = load_model(source)
    for weight in (
        idle.model.layers[1].mlp.gate_proj.weight.data[10:50],
        idle.model.layers[1].mlp.down_proj.weight.data[:, 60:70],
    ):
        weight.zero_()
    shutil.copytree(source, tmp_path / "idle")
    idle.save_pretrained(tmp_path / "idle")
    cut_model(tmp_path / "idle", tmp_path / "cut", layers=[1], feed_forward=46, vocabulary=510, triples=TRIPLES)
    busy = [*range(10), *range(50, 60), *range(70, 96)]
    kept, before = load_model(tmp_path / "cut").model.layers[0].mlp, idle.model.layers[1].mlp
    assert torch.allclose(kept.up_proj.weight, before.up_proj.weight[busy], atol=1e-3)
    assert torch.allclose(kept.gate_proj.weight, before.gate_proj.weight[busy], atol=1e-3)
    assert torch.allclose(kept.down_proj.weight, before.down_proj.weight[:, busy], atol=1e-3)


def test_a_vocabulary_smaller_than_its_bytes(source: Path, tmp_path: Path):
    with pytest.raises(ConfigurationError, match="The vocabulary is 62 tokens too small for the bytes and the prompt"):
        cut_model(source, tmp_path, layers=[0], feed_forward=96, vocabulary=200, triples=TRIPLES)


def test_only_llamas_can_be_cut(source: Path, tmp_path: Path):
    Qwen2ForCausalLM(Qwen2Config(vocab_size=90, **SHAPE)).save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="is no Llama model with tied embeddings"):
        cut_model(tmp_path, tmp_path / "small", layers=[0], feed_forward=96, vocabulary=510, triples=TRIPLES)


def test_only_byte_level_bpe_can_be_cut(tmp_path: Path):
    words = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    LlamaForCausalLM(LlamaConfig(vocab_size=2, tie_word_embeddings=True, **SHAPE)).save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="has no byte-level BPE tokenizer"):
        cut_model(tmp_path, tmp_path / "small", layers=[0], feed_forward=96, vocabulary=510, triples=TRIPLES)
