"""Checkpoints: all that a run needs to go on as if it had not been stopped."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from torch import Tensor

from aligner_chains.errors import ConfigurationError
from aligner_chains.training.batches import Position

_FILE_NAME = "checkpoint.pt"


class ProcessState(TypedDict):
    """What belongs to one process of a run."""

    position: Position
    random_state: Tensor


class Checkpoint(TypedDict):
    """A run after some step."""

    step: int
    tokens: int
    settings: dict[str, Any]
    model: dict[str, Tensor]
    tagger: dict[str, Tensor]
    optimizers: list[dict[str, Any]]
    processes: list[ProcessState]


def save_checkpoint(out: Path, checkpoint: Checkpoint) -> None:
    """Replaces the run's checkpoint; one that is not written to its end is never seen."""
    path = out / _FILE_NAME
    unfinished = path.with_suffix(".unfinished")
    torch.save(checkpoint, unfinished)
    unfinished.replace(path)


def load_checkpoint(out: Path) -> Checkpoint | None:
    """The run's last checkpoint; `None` if there is none.

    Raises:
        ConfigurationError: The file is there but cannot be read as one.
    """
    path = out / _FILE_NAME
    if not path.is_file():
        return None
    try:
        return cast(Checkpoint, torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ConfigurationError(f"{path} cannot be read as a checkpoint: {error}") from error


def check_settings(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Raises `ConfigurationError` unless a run with these settings goes on where the checkpoint stopped."""
    differing = [
        f"{name} was {then!r} and is {settings.get(name)!r}"
        for name, then in checkpoint["settings"].items()
        if then != settings.get(name)
    ]
    if differing:
        raise ConfigurationError(
            f"The run cannot be resumed with other settings: {'; '.join(differing)}. "
            "Use those of its start, or another folder."
        )
