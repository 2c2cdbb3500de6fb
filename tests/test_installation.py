"""The package as a user installs it: `pip install aligner-chains[langchain]` into an empty environment."""

import subprocess
import sys
from pathlib import Path

import pytest

import aligner_chains

ROOT = Path(aligner_chains.__file__).parents[1]
SCRIPT = """
import sys
from importlib.util import find_spec
from langchain_core.language_models import FakeListChatModel
from aligner_chains import Aligner, Guard
from langchain_aligner import AlignerRunnable

assert not [name for name in ("torch", "transformers", "llama_index") if find_spec(name)]
llm = FakeListChatModel(responses=["Paris, you fool."])
aligner = Aligner.from_tgi(sys.argv[1], guard=Guard())
print((llm | AlignerRunnable(aligner=aligner)).invoke("What is the capital of France?").response_metadata["aligner"])
"""


@pytest.mark.slow
def test_a_chain_corrects_over_tgi_without_torch_or_transformers(tmp_path: Path, embedded_server: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    python = tmp_path / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{ROOT}[langchain]"], check=True)
    command = [python, "-c", SCRIPT, embedded_server]
    ran = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "'usage': {'input_tokens':" in ran.stdout
