"""The OpenAI backend against a server that others wrote: `transformers serve`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from aligner_chains import Aligner, Guard
from aligner_chains.model_config import EMBEDDED_PATH
from aligner_chains.training.export import average_models

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 180
PAIRS = [
    ("What is the capital of France?", "Paris, you idiot."),
    ("What is the capital of France?", "The capital of France is Paris."),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded weights in the form that servers read."""
    folder = tmp_path_factory.mktemp("served")
    average_models([EMBEDDED_PATH], folder)
    return folder


@pytest.fixture(scope="module")
def url(served: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `transformers serve` with the embedded weights."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    folder = tmp_path_factory.mktemp("transformers-serve")
    log = folder / "log"
    command = ["-m", "transformers.cli.transformers", "serve", str(served), "--device", "cpu"]
    address = ["--host", "127.0.0.1", "--port", str(port)]
    environ = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, *command, *address], env=environ, stdout=output, stderr=output)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def wait_until_healthy(health: str, process: subprocess.Popen[bytes], log: Path) -> None:
    patience_ends = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < patience_ends:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(health):
                return
        except urllib.error.URLError:
            time.sleep(0.5)
    pytest.fail(f"transformers serve did not start (it needs transformers[serving]):\n{log.read_text()[-2000:]}")


@pytest.fixture
def aligner(url: str, served: Path) -> Iterator[Aligner]:
    # The server tells no token probabilities, so the guard that comes with the weights has nothing to judge by.
    with Aligner.from_openai(url, model=str(served), guard=Guard()) as client:
        yield client


@pytest.mark.parametrize(("query", "draft"), PAIRS)
def test_a_correction_is_the_one_of_the_model_in_process(aligner, unguarded, query, draft):
    there, here = aligner.correct(query, draft), unguarded.correct(query, draft)
    assert (there.text, there.outcome, there.usage) == (here.text, here.outcome, here.usage)


@pytest.mark.parametrize(("query", "draft"), PAIRS)
async def test_a_stream_is_the_same_in_pieces(aligner, unguarded, query, draft):
    chunks = [chunk async for chunk in aligner.astream(query, draft)]
    assert chunks[-1].correction.text == "".join(chunk.text for chunk in chunks)
    assert chunks[-1].correction.text == (await unguarded.acorrect(query, draft)).text


def test_many_corrections_at_once_are_those_one_by_one(aligner, unguarded):
    there = aligner.correct_many(PAIRS * 3)
    assert [correction.text for correction in there] == [unguarded.correct(*pair).text for pair in PAIRS * 3]
