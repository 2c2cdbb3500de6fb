"""The embedded Aligner before training: a small Llama whose initial weights already copy.

Most of a correction is the draft, word for word, and a small model takes most of its training to find out how to copy.
So the way to copy is written into the weights, and training starts from there. What is written is an induction head in
two layers; its parts are ordinary Llama weights, which training is free to change.

What the coordinates of the residual stream hold:

    0                 the same constant for every token
    1 .. tokens       the token: its embedding, random
    then a slot for each of layer 0's heads, empty in the embeddings

**Layer 0: what came before.** Head *n* attends to the token *n + 1* places back and writes the first coordinates of
its embedding into slot *n*. Its query and key read coordinate 0 alone, so that they are the same everywhere, with the
key turned by *n + 1* positions: rotary embedding (RoPE) then makes the score largest exactly that many tokens back. It
is the high-frequency pairs of the head that tell neighbours apart, so only they take part.

**Layer 1: where that was before, and what followed.** At position *i*, after tokens *a b c d*, a head looks for a place
*j* whose predecessors, kept in its slots, were the same *a b c d*. Token *j* is then what followed, and the head adds
its embedding to the residual stream. Query and key compare coordinates on the low-frequency pairs: those turn so little
within the context that the comparison hardly depends on how far back *j* lies. The nearest tokens weigh more, so that
after an edit, when only they agree, the place is found again. All heads but one do this, each for its own part of the
embedding; one stays free, as do the later layers.

**Why equal norms.** RMSNorm divides by the length of the vector. With embeddings of one length it is the same factor
everywhere, scores mean the same for every token, and the tied output layer prefers no token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from aligner_chains.errors import ConfigurationError

_CIRCUIT_LAYERS = 2
_CONSTANT = 0.7  # coordinate 0 of every embedding
_TOKEN_NORM = 2.4  # length of the rest
_SLOT_SHARE = 3 / 32  # of the width, for one slot
_FAST = 0.08  # radians a token: pairs at least this fast tell neighbours apart
_SLOW = 0.003  # radians a token: pairs at most this fast hardly turn within the context
_POSITION_SHARPNESS = 9.0
_MATCH_SHARPNESS = (3.8, 3.0)  # for the nearest and the farthest of the compared tokens
_SLOT_GAIN = 1.3
_COPY_GAIN = 3.0  # over 1, as the copied token has to outdo the one that is there
_REST = 0.1  # how strongly random weights speak where the circuit is
_OUTPUT_NORM = 0.4  # keeps the first logits from being overconfident


@dataclass(frozen=True, slots=True)
class NanoShape:
    """The size of an embedded Aligner.

    Attributes:
        width: Length of the residual stream.
        layers: Transformer blocks; the copy circuit takes the first two.
        heads: Attention heads a layer; each is `width / heads` wide.
        feed_forward: Width of the feed-forward layers.
        context: The most tokens that it reads and writes, together.
        rope_theta: Base of the rotary frequencies; a high one leaves many pairs that hardly turn within the context.
    """

    width: int = 256
    layers: int = 6
    heads: int = 4
    feed_forward: int = 512
    context: int = 1024
    rope_theta: float = 1e9

    def __post_init__(self) -> None:
        if min(self.heads, self.layers) < _CIRCUIT_LAYERS or self.width % (2 * self.heads):
            raise ConfigurationError(
                f"{self!r} has no room for the copy circuit: it needs two layers, two heads and heads of an even width."
            )


def nano_config(shape: NanoShape, *, vocabulary: int, pad: int, bos: int, eos: int) -> LlamaConfig:
    """The Llama configuration of an embedded Aligner.

    Args:
        shape: Its size.
        vocabulary: Number of tokens.
        pad: Id of the padding token.
        bos: Id of the token that begins a text.
        eos: Id of the token that ends one.
    """
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        rope_theta=shape.rope_theta,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        pad_token_id=pad,
        bos_token_id=bos,
        eos_token_id=eos,
        attn_implementation="sdpa",
    )


def rope_theta(config: LlamaConfig) -> float:
    """The base of the rotary frequencies, wherever this version of transformers keeps it."""
    return float((getattr(config, "rope_parameters", None) or vars(config))["rope_theta"])


def build_nano(config: LlamaConfig, *, seed: int = 0) -> LlamaForCausalLM:
    """An untrained Aligner that copies: random weights with the copy circuit in them.

    Args:
        config: A configuration of `nano_config`.
        seed: Seed of the random weights; PyTorch's global generator is left as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("_proj.weight"):
                    writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                    weight.normal_(0.0, (_REST if writes else 0.8) / math.sqrt(weight.shape[1]))
            model.model.embed_tokens.weight.normal_()
            _wire(model)
    return model


def _wire(model: LlamaForCausalLM) -> None:
    config = model.config
    heads, head_width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    slot_width = min(head_width, round(config.hidden_size * _SLOT_SHARE))
    tokens_end = config.hidden_size - heads * slot_width
    slots = [tokens_end + head * slot_width for head in range(heads)]
    # What RMSNorm multiplies an embedding by.
    scale = math.sqrt(config.hidden_size / (_TOKEN_NORM**2 + _CONSTANT**2))
    pairs = torch.arange(head_width // 2)
    turn = rope_theta(config) ** (-2 * pairs / head_width)  # [W/2] radians a token

    _even_out(model.model.embed_tokens.weight, tokens_end)
    model.model.norm.weight.fill_(_OUTPUT_NORM)
    for head in range(heads):
        look_back = _Head(model, layer=0, index=head, width=head_width)
        look_back.hush(0.02)
        look_back.attend_back(head + 1, turn, strength=_POSITION_SHARPNESS / (_CONSTANT * scale))
        look_back.move(source=1, target=slots[head], count=slot_width, gain=_SLOT_GAIN / scale)
    for head in range(heads - 1):
        induction = _Head(model, layer=1, index=head, width=head_width)
        induction.hush(_REST)
        # A token's own coordinates meet slot 0, slot 0 meets slot 1, and so on: what is here, and what preceded there.
        induction.match([1, *slots[:-1]], slots, slot_width, turn)
        start = 1 + head * head_width
        induction.move(start, start, count=min(head_width, tokens_end - start), gain=_COPY_GAIN / scale)


def _even_out(embeddings: Tensor, tokens_end: int) -> None:
    embeddings[:, tokens_end:] *= 0.1
    embeddings[:, 0] = 0.0
    embeddings *= _TOKEN_NORM / embeddings.norm(dim=1, keepdim=True)  # [V, D]
    embeddings[:, 0] = _CONSTANT


class _Head:
    """One attention head's part of a layer's matrices."""

    def __init__(self, model: LlamaForCausalLM, *, layer: int, index: int, width: int) -> None:
        attention = model.model.layers[layer].self_attn
        rows = slice(index * width, (index + 1) * width)
        self.index, self.width = index, width
        self.query = attention.q_proj.weight.data[rows]  # [W, D]
        self.key = attention.k_proj.weight.data[rows]  # [W, D]
        self.value = attention.v_proj.weight.data[rows]  # [W, D]
        self.output = attention.o_proj.weight.data[:, rows]  # [D, W]

    def hush(self, factor: float) -> None:
        for part in (self.query, self.key, self.value, self.output):
            part.mul_(factor)

    def attend_back(self, distance: int, turn: Tensor, *, strength: float) -> None:
        half = self.width // 2
        fast = int((turn > _FAST).sum())
        self.query[:fast, 0] = strength
        self.key[:half, 0] = strength * torch.cos(distance * turn)
        self.key[half:, 0] = strength * torch.sin(distance * turn)

    def match(self, here: list[int], there: list[int], width: int, turn: Tensor) -> None:
        half = self.width // 2
        rows = [row for pair in range(half) if turn[pair] < _SLOW for row in (pair, pair + half)]
        strongest, weakest = _MATCH_SHARPNESS
        for place, (own, kept) in enumerate(zip(here, there, strict=True)):
            strength = strongest + (weakest - strongest) * place / (len(here) - 1)
            share = rows[place * len(rows) // len(here) : (place + 1) * len(rows) // len(here)]
            for offset, row in enumerate(share):
                # Other coordinates in each head, so that they do not all take the same wrong place for the right one.
                coordinate = (offset + 7 * self.index) % width
                self.query[row, own + coordinate] = strength
                self.key[row, kept + coordinate] = strength

    def move(self, source: int, target: int, *, count: int, gain: float) -> None:
        for step in range(count):
            self.value[step, source + step] = 1.0
            self.output[target + step, step] = gain
