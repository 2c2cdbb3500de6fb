"""What goes with an Aligner's weights: its name, the prompt format it was trained on, and the guard it needs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from aligner_chains.errors import ModelLoadError
from aligner_chains.guard import Guard
from aligner_chains.prompts import PromptFormat, prompt_format_for_model
from aligner_chains.prompts import prompt_format as find_prompt_format

#: The folder of the Aligner that comes with the package.
EMBEDDED_PATH = Path(__file__).parent / "nano"
#: Its name, also behind a server.
EMBEDDED_NAME = "aligner-chains/aligner-nano"

_FILE_NAME = "aligner_config.json"


@dataclass(frozen=True, slots=True)
class AlignerConfig:
    """What an Aligner's folder says about it, in `aligner_config.json` beside the weights.

    Attributes:
        prompt_format: The format that it was trained on.
        guard: The guard that was calibrated for it.
        name: What servers call it; empty for the folder's path.
    """

    prompt_format: PromptFormat
    guard: Guard = field(default_factory=Guard)
    name: str = ""

    def save(self, folder: Path) -> None:
        """Writes the file into a model's folder."""
        content = {"name": self.name, "prompt_format": self.prompt_format.name, "guard": asdict(self.guard)}
        (folder / _FILE_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_config(folder: Path) -> AlignerConfig | None:
    """The configuration in a model's folder; `None` if there is none.

    Raises:
        ModelLoadError: There is one, but it cannot be read as one.
    """
    path = folder / _FILE_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return AlignerConfig(
            prompt_format=find_prompt_format(content["prompt_format"]),
            guard=Guard(**content.get("guard", {})),
            name=content.get("name", ""),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise ModelLoadError(f"{path} is not an Aligner's configuration: {error}") from error


def config_for_model(model: str, prompt_format: PromptFormat | None = None) -> AlignerConfig:
    """The configuration of a model by its name or path.

    Args:
        model: A folder, the embedded Aligner's name, or the hub id of a published Aligner.
        prompt_format: What the user says about its prompt format, if anything.

    Raises:
        PromptFormatError: Nothing is known about the model's prompt format.
        ModelLoadError: Its folder holds a configuration that cannot be read.
    """
    config = load_config(EMBEDDED_PATH if model == EMBEDDED_NAME else Path(model))
    if config is None:
        return AlignerConfig(prompt_format or prompt_format_for_model(model))
    return config if prompt_format is None else replace(config, prompt_format=prompt_format)


def check_path(model: str | Path) -> None:
    """Raises `ModelLoadError` if a path is meant, rather than a hub id, and there is no model's folder."""
    path = Path(model)
    # A hub id has the form of a relative path, so only what cannot be one is refused where there is no folder.
    is_path = isinstance(model, Path) or path.is_absolute() or model.startswith(".") or path.is_dir()
    if is_path and not (path / "config.json").is_file():
        what = "holds no model: it has no config.json" if path.is_dir() else "is no folder"
        raise ModelLoadError(
            f"{str(model)!r} {what}. Give a folder that holds config.json, safetensors weights and a tokenizer, or a "
            "model's id on the hub."
        )
