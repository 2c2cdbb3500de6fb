"""Weights of four bits: so a model of 28 million parameters takes 15 MB.

A row of a matrix is cut into groups of 64 weights. Of each group a scale is kept, and of each weight a whole number
from 0 to 15: the weight is `(number - 8) * scale`. The weight that is farthest from 0 is met exactly. llama.cpp stores
models so as well (`Q4_0`, with groups of 32); here the numbers lie in a safetensors file, and vectors stay in float16.
A model that was trained with its weights rounded so (`rounded`) loses nothing by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

INT4_FILE = "model-int4.safetensors"

_MATRIX = 2  # dimensions
_GROUP = 64
_ZERO = 8  # the number that stands for 0.0
_LARGEST = 15
_SCALES = ".scales"


def save_int4(model: PreTrainedModel, folder: Path) -> None:
    """Writes a model's weights, its matrices in four bits, to `model-int4.safetensors`.

    Args:
        model: A causal language model.
        folder: Where its configuration and tokenizer are or come to be.

    Raises:
        ValueError: A matrix has rows that do not fall into groups of 64.
    """
    tensors: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():  # which names tied weights once
        if weight.dim() == _MATRIX:
            tensors[name], tensors[name + _SCALES] = _quantize(weight.detach())
        else:
            tensors[name] = weight.detach().to(torch.float16)
    save_file(tensors, folder / INT4_FILE, metadata={"format": "pt"})


def is_int4(path: str | Path) -> bool:
    """Whether a folder holds a model whose matrices are in four bits."""
    return (Path(path) / INT4_FILE).is_file()


def load_int4(folder: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model that `save_int4` wrote, on the CPU.

    Args:
        folder: The folder with the weights and `config.json`.
        dtype: The type of its weights in memory.

    Raises:
        RuntimeError: The weights do not fit the configuration.
    """
    tensors = load_file(Path(folder) / INT4_FILE)
    weights = {
        name: _dequantize(tensor, tensors[name + _SCALES]) if name + _SCALES in tensors else tensor
        for name, tensor in tensors.items()
        if not name.endswith(_SCALES)
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    if model.config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    return model


@contextmanager
def rounded(model: PreTrainedModel) -> Iterator[None]:
    """Inside of it the model's matrices are what four bits leave of them; after it they are what they were.

    To train a model for four bits, compute loss and gradients inside and step outside: the gradient passes through the
    rounding as if it were none (arXiv 1308.3432).

    Args:
        model: A causal language model.
    """
    matrices = [weight for weight in model.parameters() if weight.dim() == _MATRIX]
    exact = [weight.detach().clone() for weight in matrices]
    with torch.no_grad():
        for weight in matrices:
            weight.copy_(_weights(*_number(weight)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(matrices, exact, strict=True):
                weight.copy_(value)


def _quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers `[N, D/2]`, two a byte, and scales `[N, D/64]` of a matrix `[N, D]`."""
    numbers, scales = _number(weight)
    low, high = numbers.to(torch.uint8).flatten(1).unflatten(1, (-1, 2)).unbind(2)
    return low | high << 4, scales.squeeze(2)


def _dequantize(packed: Tensor, scales: Tensor) -> Tensor:
    """The matrix `[N, D]` in float32 that `_quantize` made numbers and scales of."""
    numbers = torch.stack((packed & _LARGEST, packed >> 4), 2).flatten(1).unflatten(1, (-1, _GROUP))
    return _weights(numbers.float(), scales.unsqueeze(2))


def _number(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers `[N, G, 64]`, still in float32, and scales `[N, G, 1]` of a matrix `[N, G * 64]`."""
    if weight.shape[1] % _GROUP:
        raise ValueError(f"A matrix of {weight.shape[1]} columns does not fall into groups of {_GROUP} weights.")
    groups = weight.float().unflatten(1, (-1, _GROUP))
    highest, lowest = groups.amax(2, keepdim=True), groups.amin(2, keepdim=True)
    scales = (torch.where(highest > -lowest, highest, lowest) / -_ZERO).to(torch.float16)
    numbers = (groups / scales.float().where(scales != 0, 1.0) + _ZERO).round().clamp(0, _LARGEST)
    return numbers, scales


def _weights(numbers: Tensor, scales: Tensor) -> Tensor:
    return ((numbers - _ZERO) * scales.float()).flatten(1)
