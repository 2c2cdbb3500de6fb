"""Models on disk, so that any transformers and Text Generation Inference load them."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from aligner_chains.decoding.int4 import INT4_FILE, is_int4, load_int4, save_int4
from aligner_chains.errors import ConfigurationError
from aligner_chains.model_config import AlignerConfig, load_config
from aligner_chains.training.batches import PROMPT_FORMAT
from aligner_chains.training.checkpoints import load_checkpoint

_TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


def export_model(model: PreTrainedModel, folder: Path, *, int4: bool = False) -> None:
    """Writes weights and what goes with them into a folder; the model itself is left as it is.

    Args:
        model: A causal language model.
        folder: Where to write; its tokenizer is written by whoever trained it.
        int4: Write matrices in four bits, which only this library reads, instead of float16.
    """
    half = copy.deepcopy(model).to(torch.float16)
    half.config.use_cache = True
    if int4:
        half.config.save_pretrained(folder)
        save_int4(model, folder)
    else:
        half.save_pretrained(folder)
    # What an earlier export has left would be loaded instead.
    (folder / ("model.safetensors" if int4 else INT4_FILE)).unlink(missing_ok=True)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # transformers 4 and most servers read these names, transformers 5 writes its own; each ignores the other's.
    config["torch_dtype"] = config["dtype"] = "float16"
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
    elif "rope_theta" in config:
        config["rope_parameters"] = {"rope_theta": config["rope_theta"], "rope_type": "default"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if load_config(folder) is None:  # one that is there has a guard, which nobody wants to lose unawares
        AlignerConfig(PROMPT_FORMAT).save(folder)


def export_checkpoint(run: Path, folder: Path) -> int:
    """Makes a model of a run's last checkpoint, also while the run goes on, and returns the step it was at.

    Args:
        run: The folder that the run writes to.
        folder: Where to write the model and its tokenizer.

    Raises:
        ConfigurationError: The run has no checkpoint.
    """
    checkpoint = load_checkpoint(run)
    if checkpoint is None:
        raise ConfigurationError(f"There is no checkpoint in {str(run)!r}.")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(run), dtype=torch.float32)
    model.load_state_dict(checkpoint["model"])
    export_model(model, folder, int4=checkpoint["settings"]["int4"])
    copy_tokenizer(run, folder)
    return checkpoint["step"]


def average_models(folders: Sequence[Path], folder: Path) -> None:
    """Makes a model whose weights are the mean of those of models that were trained from the same weights.

    Such a mean makes fewer mistakes than any of them (arXiv 2203.05482).

    Args:
        folders: The models; they have one tokenizer.
        folder: Where to write the mean and its tokenizer.

    Raises:
        ConfigurationError: A folder holds no model or no tokenizer, or is the one to write to; or the models differ in
            shape or tokenizer.
    """
    if folder.resolve() in [each.resolve() for each in folders]:
        raise ConfigurationError(f"{str(folder)!r} is one of the models. Give another folder for their mean.")
    first, *others = folders
    model = load_model(first)
    weights = model.state_dict()
    vocabulary = _vocabulary(first)
    for other in others:
        added = load_model(other).state_dict()
        if {name: w.shape for name, w in added.items()} != {name: w.shape for name, w in weights.items()}:
            raise ConfigurationError(f"{str(other)!r} holds a model of another shape than {str(first)!r}.")
        if _vocabulary(other) != vocabulary:
            raise ConfigurationError(f"The tokenizer in {str(other)!r} is another one than that in {str(first)!r}.")
        for name, weight in added.items():
            weights[name] = weights[name] + weight
    model.load_state_dict({name: weight / len(folders) for name, weight in weights.items()})
    export_model(model, folder)
    copy_tokenizer(first, folder)


def load_model(folder: str | Path) -> PreTrainedModel:
    """A causal language model from a folder or hub id, in float32.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        if is_int4(folder):
            return load_int4(folder, torch.float32)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{str(folder)!r} holds no causal language model: {error}") from error


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copies a tokenizer's files as they are: written anew they would fit only the installed transformers.

    Raises:
        ConfigurationError: There are none.
    """
    found = [source / name for name in _TOKENIZER_FILES if (source / name).is_file()]
    if not found:
        raise ConfigurationError(f"{str(source)!r} holds no tokenizer: none of {', '.join(_TOKENIZER_FILES)} is there.")
    folder.mkdir(parents=True, exist_ok=True)
    for path in found:
        shutil.copyfile(path, folder / path.name)


def _vocabulary(folder: Path) -> dict[str, int]:
    try:
        return cast("dict[str, int]", AutoTokenizer.from_pretrained(folder).get_vocab())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{str(folder)!r} holds no tokenizer: {error}") from error
