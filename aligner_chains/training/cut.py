"""Cuts a small embedded Aligner out of a pretrained Llama: some layers, and of them and the vocabulary what is needed.

What a model knows of words lies in its embeddings and first layers; what lets it copy, in a layer whose heads look one
token back, and in those behind it, whose heads find where that token was before and what followed (induction heads).
With those layers kept, the rest can go, and of what is kept the neurons that do least: training heals the cut within a
million tokens.

Tokens that are left out are spelled by shorter ones: a byte-level BPE vocabulary stays one as long as each token's two
parts stay with it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from aligner_chains.data import Triple
from aligner_chains.errors import ConfigurationError
from aligner_chains.training.copy_circuit import rope_theta
from aligner_chains.training.export import load_model
from aligner_chains.training.tokenizer import (
    BOS,
    EOS,
    PROMPT_TOKENS,
    SPECIAL_TOKENS,
    finish_tokenizer,
    save_tokenizer,
    tokenizer_texts,
)

_CONTEXT = 1024
_KEPT_SETTINGS = (
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "mlp_bias",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "tie_word_embeddings",
)
_TRIPLES = 60_000
_READ_TEXTS = 400
_CALM = 0.25  # the last norm's share of its size, so that the first logits are not overconfident
# How often a whole word of the language counts as seen, by its place in the vocabulary, which is sorted by frequency.
_WORD_WEIGHT, _WORD_RANK = 40_000, 2000
_WORD = re.compile(r"Ġ[a-z]{3,}")


def cut_model(
    source: str | Path,
    folder: Path,
    *,
    layers: Sequence[int],
    feed_forward: int,
    vocabulary: int,
    triples: Iterable[Triple],
) -> int:
    """Writes a smaller model to a folder, with a tokenizer as an embedded Aligner has it, and returns its parameters.

    Args:
        source: Folder or hub id of a Llama model with tied embeddings and a byte-level BPE tokenizer.
        folder: Where to write.
        layers: Which of its layers to keep, in order.
        feed_forward: How wide to leave their feed-forward parts.
        vocabulary: How many tokens to keep, special ones and the prompt's included.
        triples: What is left has to be good for these: kept are the tokens that are most frequent in the first 60,000,
            and of each feed-forward part the neurons that do most on some of them.

    Raises:
        ConfigurationError: There is no such model, or it has not these layers or no such tokenizer, or is not that
            wide, or the vocabulary is smaller than its bytes.
    """
    model = _load_whole(source, layers, feed_forward)
    whole = AutoTokenizer.from_pretrained(source)
    texts = list(tokenizer_texts(islice(triples, _TRIPLES)))
    tokenizer = _cut_tokenizer(whole, vocabulary, texts)
    config = LlamaConfig(
        **{name: getattr(model.config, name) for name in _KEPT_SETTINGS},
        vocab_size=len(tokenizer),
        intermediate_size=feed_forward,
        num_hidden_layers=len(layers),
        max_position_embeddings=_CONTEXT,
        rope_theta=rope_theta(model.config),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    small = LlamaForCausalLM(config)
    with torch.no_grad():
        small.get_input_embeddings().weight.copy_(_embeddings(model.get_input_embeddings().weight, whole, tokenizer))
        small.model.norm.weight.copy_(model.model.norm.weight * _CALM)
        strengths = _strengths(model, whole, texts[:: len(texts) // _READ_TEXTS + 1])
        for kept, layer in zip(small.model.layers, layers, strict=True):
            neurons = strengths[layer].topk(feed_forward).indices.sort().values
            kept.load_state_dict(_narrowed(model.model.layers[layer].state_dict(), neurons))
    save_tokenizer(tokenizer, folder)
    small.to(torch.float16).save_pretrained(folder)
    return int(small.num_parameters())


def _load_whole(source: str | Path, layers: Sequence[int], feed_forward: int) -> LlamaForCausalLM:
    model = load_model(source)
    if not isinstance(model, LlamaForCausalLM) or not model.config.tie_word_embeddings:
        raise ConfigurationError(
            f"{str(source)!r} is no Llama model with tied embeddings, the only kind that can be cut."
        )
    if not layers or not all(0 <= layer < model.config.num_hidden_layers for layer in layers):
        raise ConfigurationError(
            f"{str(source)!r} has layers 0 to {model.config.num_hidden_layers - 1}, so {list(layers)!r} cannot be kept."
        )
    if not 0 < feed_forward <= model.config.intermediate_size:
        raise ConfigurationError(
            f"feed_forward is {feed_forward!r}, but {str(source)!r} has 1 to {model.config.intermediate_size} to keep."
        )
    return model


@torch.inference_mode()
def _strengths(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> list[Tensor]:
    """Of each layer's neurons how much they do while these texts are read: how active they are, times their reach."""
    outputs = [layer.mlp.down_proj for layer in model.model.layers]
    activity = [torch.zeros(output.in_features) for output in outputs]

    def count(total: Tensor) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def add(_: nn.Module, states: tuple[Tensor]) -> None:
            total.add_(states[0].abs().flatten(0, 1).sum(0))

        return add

    hooks = [output.register_forward_pre_hook(count(total)) for output, total in zip(outputs, activity, strict=True)]
    for text in texts:
        model(**tokenizer(text, return_tensors="pt"))
    for hook in hooks:
        hook.remove()
    return [total * output.weight.norm(dim=0) for total, output in zip(activity, outputs, strict=True)]


def _narrowed(weights: dict[str, Tensor], neurons: Tensor) -> dict[str, Tensor]:
    """A layer's weights with these neurons alone in its feed-forward part."""
    places = {"mlp.gate_proj.weight": 0, "mlp.up_proj.weight": 0, "mlp.down_proj.weight": 1}
    return {
        name: weight.index_select(places[name], neurons) if name in places else weight
        for name, weight in weights.items()
    }


def _cut_tokenizer(whole: PreTrainedTokenizerFast, vocabulary: int, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    settings: dict[str, Any] = json.loads(whole.backend_tokenizer.to_str())
    model = settings["model"]
    if model["type"] != "BPE" or model["byte_fallback"]:
        raise ConfigurationError(
            f"{whole.name_or_path!r} has no byte-level BPE tokenizer, the only kind that can be cut."
        )
    ids: dict[str, int] = model["vocab"]
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    room = vocabulary - len(SPECIAL_TOKENS) - len(PROMPT_TOKENS)
    kept = _kept_tokens(ids, merges, _worth(whole, ids, texts), room)
    # Some vocabularies lack bytes that no text has had; then those come last.
    tokens = [*SPECIAL_TOKENS, *sorted(kept, key=lambda token: (ids.get(token, len(ids)), token))]
    model["vocab"] = {token: number for number, token in enumerate(tokens)}
    model["merges"] = [[left, right] for left, right in merges if {left, right, left + right} <= kept]
    settings.update(added_tokens=[], post_processor=None)
    return finish_tokenizer(Tokenizer.from_str(json.dumps(settings)), context=_CONTEXT)


def _worth(whole: PreTrainedTokenizerFast, ids: dict[str, int], texts: Iterable[str]) -> dict[str, float]:
    """How much each token is worth keeping: how often it was seen, and something for each word of the language."""
    seen: Counter[int] = Counter()
    for text in texts:
        seen.update(whole(text, add_special_tokens=False)["input_ids"])
    return {
        token: seen[number] + (_WORD_WEIGHT / (number + _WORD_RANK) if _WORD.fullmatch(token) else 0.0)
        for token, number in ids.items()
    }


def _kept_tokens(ids: dict[str, int], merges: list[tuple[str, str]], worth: dict[str, float], room: int) -> set[str]:
    """The most valuable tokens, each with the shorter ones that it is put together from."""
    kept = set(ByteLevel.alphabet())
    if room < len(kept):
        raise ConfigurationError(f"The vocabulary is {len(kept) - room} tokens too small for the bytes and the prompt.")
    parts = {left + right: (left, right) for left, right in merges}
    for token in sorted(parts, key=lambda token: (-worth[token], ids[token])):  # and so no special ones
        needed, open_ = set(), [token]
        while open_:
            part = open_.pop()
            if part not in kept and part not in needed:
                needed.add(part)
                open_.extend(parts[part])
        if len(kept) + len(needed) <= room:
            kept |= needed
    return kept


def _embeddings(weights: Tensor, whole: PreTrainedTokenizerFast, tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """A row for each token that is left: its own, or the mean of what the prompt's were spelled with, or of all."""
    ids = {**whole.get_vocab(), BOS: whole.bos_token_id, EOS: whole.eos_token_id}
    mean = weights.mean(0)
    rows = []
    for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer))):
        if token in PROMPT_TOKENS:
            rows.append(weights[whole(token, add_special_tokens=False)["input_ids"]].mean(0))
        else:
            number = ids.get(token)
            rows.append(mean if number is None else weights[number])
    return torch.stack(rows)
