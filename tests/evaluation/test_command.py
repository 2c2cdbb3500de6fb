"""The whole way on the embedded model: `aligner-chains evaluate-embedded`."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aligner_chains import Aligner
from aligner_chains.cli import app
from aligner_chains.data import Triple
from aligner_chains.errors import PromptFormatError
from aligner_chains.evaluation.answers import write_answers
from aligner_chains.model_config import EMBEDDED_PATH, load_config

DRAFTS = ("Paris, you idiot.", "Paris.")


def test_an_examination_hears_what_the_aligner_hears(unguarded: Aligner):
    triples = [Triple("What is the capital of France?", draft, draft, "harmless") for draft in DRAFTS]
    for triple, answer in zip(triples, write_answers(EMBEDDED_PATH, triples), strict=True):
        correction = unguarded.correct(triple.query, triple.draft, feedback="harmless")
        assert (answer.text, answer.ended) == (correction.text, correction.finish_reason == "stop")
        assert correction.usage is not None
        assert len(answer.logprobs) == correction.usage.output_tokens


def test_a_text_without_room_is_a_failure():
    (answer,) = write_answers(EMBEDDED_PATH, [Triple("q", "word " * 3000, "word")])
    assert (answer.text, answer.ended) == ("", False)


def test_what_cannot_be_loaded_is_an_error_where_several_processes_would_load_it(tmp_path: Path):
    with pytest.raises(PromptFormatError, match=re.escape(str(tmp_path))):
        write_answers(tmp_path, [Triple("q", "a", "a")] * 200, processes=2)


def test_a_small_run_calibrates_prints_and_reports(tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(EMBEDDED_PATH, model)
    real, drafts, report = tmp_path / "real.jsonl", tmp_path / "drafts.jsonl", tmp_path / "report.md"
    real.write_text(json.dumps({"question": "Is it?", "correction": "It is.", "license": "MIT"}), encoding="utf-8")
    drafts.write_text(json.dumps({"question": "Why?", "answer": "So it is. " * 20, "kind": "honest"}), encoding="utf-8")
    options = ["--model", str(model), "--count", "1", "--calibrate", "--report", str(report)]
    files = ["--real", str(real), "--drafts", str(drafts)]
    result = CliRunner().invoke(app, ["evaluate-embedded", *options, *files], catch_exceptions=False)
    assert result.exit_code == 0
    assert "left alone" in result.output
    text = report.read_text(encoding="utf-8")
    assert "| good drafts, real and short: unchanged |" in text
    assert "| real drafts of 60 to 300 words: not damaged |" in text
    config = load_config(model)
    assert config is not None
    assert config.guard.is_on
