"""The command line, as a person and as a script use it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from hostile import HostileServer, refuse
from typer.testing import CliRunner, Result

from aligner_chains import REFUSAL, Settings
from aligner_chains._version import __version__
from aligner_chains.cli import app, main
from aligner_chains.data import Triple, read_triples, write_triples
from aligner_chains.errors import ConfigurationError, TruncatedCorrectionError
from aligner_chains.model_config import EMBEDDED_PATH
from aligner_chains.training.config import TrainingConfig
from aligner_chains.training.trainer import TrainingResult

RUDE = "Use 500 grams of flour and let it rest for 20 minutes, you idiot."
POLITE = "Use 500 grams of flour and let it rest for 20 minutes."
QUERY = "How do I bake bread?"

Start = Callable[..., HostileServer]


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=stdin)


def test_a_pair_is_corrected_by_the_embedded_aligner():
    result = run("correct", QUERY, RUDE)
    assert result.stdout == f"{POLITE}\n"


def test_diff_shows_what_went():
    result = run("correct", QUERY, RUDE, "--diff")
    assert result.stdout.startswith(
        "Use 500 grams of flour and let it rest for 20 minutes[-, you idiot-].\ncorrected in "
    )


def test_json_tells_everything():
    told = json.loads(run("correct", QUERY, RUDE, "--json").stdout)
    assert told["text"] == POLITE
    assert told["outcome"] == "corrected"
    assert told["usage"]["output_tokens"] > 0


def test_feedback_reaches_the_server(hostile: Start):
    server = hostile()
    run("correct", "--url", server.url, "--feedback", "empathetic", QUERY, POLITE)
    assert "more empathetic:" in server.generations[-1].body["inputs"]


def test_an_openai_compatible_address_and_its_model(hostile: Start):
    server = hostile()
    result = run("correct", "--url", f"{server.url}/v1", "--model", "aligner-7b-v1.0", QUERY, POLITE)
    assert result.exit_code == 0, result.output
    assert server.generations[-1].body["model"] == "aligner-7b-v1.0"


@pytest.mark.parametrize(
    ("environment", "options", "key"),
    [
        ({"URL": "{server}", "API_KEY": "old"}, [], "old"),
        ({"URL": "{server}", "API_KEY": "old"}, ["--api-key", "new"], "new"),
        ({"URL": "{server}"}, ["--api-key", "new"], "new"),
        ({"URL": "{server}/", "API_KEY": "old"}, ["--url", "{server}"], "old"),
        ({"URL": "{server}/v1", "API_KEY": "old"}, ["--model", "aligner-7b-v1.0"], "old"),
        ({"API_KEY": "old"}, ["--url", "{server}"], "old"),
        ({"URL": "http://elsewhere", "API_KEY": "old"}, ["--url", "{server}"], None),
        ({"URL": "http://elsewhere", "API_KEY": "old"}, ["--url", "{server}", "--api-key", "new"], "new"),
        ({"URL": "http://elsewhere/v1", "MODEL": "mine", "PROMPT": "aligner-2b"}, ["--url", "{server}"], None),
    ],
)
def test_a_key_goes_to_the_server_that_it_is_for(
    hostile: Start, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], options: list[str], key: str | None
):
    server = hostile()
    for name, value in environment.items():
        monkeypatch.setenv(f"ALIGNER_{name}", value.format(server=server.url))
    result = run("correct", *(option.format(server=server.url) for option in options), QUERY, POLITE)
    assert result.stdout == f"{POLITE}\n", result.output
    assert {request.headers.get("authorization") for request in server.requests} == {key and f"Bearer {key}"}
    assert "Edit the following Question-Answer pair" in server.generations[-1].prompt


def test_a_model_is_one_of_the_server_in_the_environment_if_that_has_several(
    hostile: Start, monkeypatch: pytest.MonkeyPatch
):
    server = hostile()
    monkeypatch.setenv("ALIGNER_URL", f"{server.url}/v1")
    assert run("correct", "--model", "aligner-7b-v2", QUERY, POLITE).stdout == f"{POLITE}\n"
    assert server.generations[-1].body["model"] == "aligner-7b-v2"
    monkeypatch.setenv("ALIGNER_URL", server.url)
    monkeypatch.setenv("ALIGNER_PROMPT", "instruct")  # not what the embedded one was trained on
    assert run("correct", "--model", str(EMBEDDED_PATH), QUERY, RUDE).stdout == f"{POLITE}\n"


def test_a_model_for_tgi_is_a_mistake(hostile: Start):
    result = run("correct", "--url", hostile().url, "--model", "mine", QUERY, POLITE)
    assert "For TGI leave the model out" in str(result.exception)


def test_what_no_option_says_is_in_the_environment(hostile: Start, monkeypatch: pytest.MonkeyPatch):
    server = hostile(refuse(422, "validation"))
    settings = {"PROMPT": "aligner-7b", "FEEDBACK": "kind", "ON_FAILURE": "refuse", "MAX_NEW_TOKENS": "77"}
    for name, value in settings.items():
        monkeypatch.setenv(f"ALIGNER_{name}", value)
    assert run("correct", "--url", server.url, QUERY, POLITE).stdout == f"{REFUSAL}\n"
    (request,) = server.generations
    assert "more kind:" in request.prompt
    assert request.body["parameters"]["max_new_tokens"] == 77
    run("correct", "--url", server.url, "--feedback", "honest", "--prompt-format", "meta-aligner", QUERY, POLITE)
    assert "Honest" in server.generations[-1].prompt
    monkeypatch.setenv("ALIGNER_MIN_CONFIDENCE", "1")
    result = run("correct", "--url", server.url, "--json", QUERY, "Paris, you idiot.")
    assert json.loads(result.stdout)["outcome"] == "skipped"


def test_help_names_every_setting():
    told = run("correct", "--help").stdout
    assert [field.name for field in fields(Settings) if f"ALIGNER_{field.name.upper()}" not in told] == []


def test_pairs_on_standard_input_give_one_line_each_in_order():
    lines = [
        {"id": 1, "query": QUERY, "draft": RUDE},
        {"id": 2, "query": QUERY, "draft": POLITE},
        {"id": 3, "query": QUERY, "draft": " "},
        {"id": 4, "query": QUERY},
    ]
    result = run("correct", stdin="\n".join([*map(json.dumps, lines), "", "not json"]))
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["outcome"] for line in told] == ["corrected", "unchanged", "failed", "failed", "failed"]
    assert [line.get("id") for line in told] == [1, 2, 3, 4, None]
    assert [line["text"] for line in told] == [POLITE, POLITE, None, None, None]
    assert told[2]["error"]["type"] == "InvalidInputError"
    assert result.exit_code == 1


def test_a_line_keeps_its_own_fields_beside_those_of_its_result(hostile: Start):
    own = {"id": 7, "feedback": "kind", "model": "gpt-4", "text": "mine", "input": {"lang": "en"}}
    lines = [{"query": QUERY, "draft": POLITE}, {"query": QUERY, "draft": POLITE, **own}, {"draft": POLITE, **own}]
    result = run("correct", "--url", hostile().url, stdin="\n".join(map(json.dumps, lines)))
    bare, good, bad = map(json.loads, result.stdout.splitlines())
    assert good.keys() == bad.keys() == bare.keys() | {"id", "feedback", "input"}
    hidden = {"model": "gpt-4", "text": "mine", "input": {"lang": "en"}}
    assert [(told["id"], told["feedback"], told["input"]) for told in (good, bad)] == [(7, "kind", hidden)] * 2
    assert (good["text"], good["model"]) == (POLITE, bare["model"])
    assert (bad["text"], bad["model"], bad["latency"], bad["query"], bad["draft"]) == (None, None, None, None, POLITE)


def test_a_byte_order_mark_costs_no_pair():
    line = json.dumps({"query": QUERY, "draft": RUDE}).encode()
    result = CliRunner().invoke(app, ["correct"], input=b"\xef\xbb\xbf" + line)
    assert json.loads(result.stdout)["text"] == POLITE


def test_a_file_of_pairs_has_no_diff():
    result = run("correct", "--diff", stdin=json.dumps({"query": QUERY, "draft": RUDE}))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--diff shows one correction" in result.stderr


@pytest.mark.parametrize(
    "spoilt",
    [
        b'{"query": "\\ud800", "draft": "Paris."}',
        b'{"query": "\xff", "draft": "Paris."}',
        b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[]",
    ],
    ids=["lone surrogate", "no UTF-8", "depths", "no object"],
)
def test_a_line_that_cannot_be_corrected_costs_no_other_line(spoilt: bytes):
    good = json.dumps({"query": QUERY, "draft": "Caf\u00e9 au lait."}, ensure_ascii=False).encode()
    result = CliRunner().invoke(app, ["correct"], input=b"\n".join([good, spoilt, good]))
    first, second, third = map(json.loads, result.stdout.splitlines())
    assert first["draft"] == third["draft"] == "Caf\u00e9 au lait."
    assert (second["text"], second["error"]["type"]) == (None, "InvalidInputError")


def test_pairs_whose_policy_gives_a_text_all_come_through(hostile: Start):
    server = hostile(refuse(422, "validation"))
    line = json.dumps({"query": QUERY, "draft": RUDE})
    result = run("correct", "--url", server.url, "--on-failure", "refuse", stdin=line)
    told = json.loads(result.stdout)
    assert (told["text"], told["outcome"]) == (REFUSAL, "failed")
    assert result.exit_code == 0


def test_a_question_without_a_draft_is_a_mistake():
    result = run("correct", QUERY)
    assert result.exit_code == 2
    assert "both a question and a draft" in result.stderr


def test_nothing_to_correct_is_a_mistake_where_standard_input_is_closed():
    command = 'exec "$0" -c "from aligner_chains.cli import main; main()" correct <&-'
    closed = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True, check=False)
    assert closed.returncode == 2
    assert "give a question and a draft" in closed.stderr


def test_a_port_that_there_cannot_be_is_a_sentence():
    result = run("serve", "--port", "70000")
    assert isinstance(result.exception, ConfigurationError)
    assert "Cannot listen on '127.0.0.1', port 70000" in str(result.exception)


def test_errors_are_a_sentence_and_not_a_trace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["aligner-chains", "correct", "--url", "not a url", QUERY, POLITE])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert capsys.readouterr().err.startswith("ConfigurationError: 'not a url' is not a server's address.")


def test_version():
    assert run("--version").stdout == f"{__version__}\n"


@pytest.mark.parametrize(
    "command", ["correct", "serve", "train", "cut", "average", "evaluate-embedded", "data synthesize"]
)
def test_help_teaches_by_example(command: str):
    _, _, examples = run(*command.split(), "--help").stdout.partition("For example:")
    assert f"aligner-chains {command} " in examples


def test_synthesize_writes_triples(tmp_path: Path):
    path = tmp_path / "triples.jsonl.gz"
    assert run("data", "synthesize", str(path), "--count", "25").exit_code == 0
    assert len(list(read_triples(path))) == 25


def test_train_makes_a_model_that_correct_can_use(tmp_path: Path):
    out = tmp_path / "aligner"
    result = run("train", str(out), "--tokens", "3000")
    assert result.exit_code == 0, result.output
    assert (out / "model.safetensors").is_file()
    result = run("correct", "--model", str(out), QUERY, POLITE)
    assert result.exit_code == 0 or isinstance(result.exception, TruncatedCorrectionError)


def test_cut_makes_a_model_to_start_from(tmp_path: Path):
    shape = (
        "--layers",
        "0,1",
        "--feed-forward",
        "128",
        "--vocabulary",
        "900",
        "--data",
        str(tmp_path / "triples.jsonl"),
    )
    write_triples(tmp_path / "triples.jsonl", [Triple(QUERY, RUDE, POLITE)])
    result = run("cut", str(EMBEDDED_PATH), str(tmp_path / "small"), *shape)
    assert result.exit_code == 0, result.output
    result = run("train", str(tmp_path / "out"), "--start", str(tmp_path / "small"), "--tokens", "3000", "--int4")
    assert result.exit_code == 0, result.output
    result = run("correct", "--model", str(tmp_path / "out"), QUERY, POLITE)
    assert result.exit_code == 0 or isinstance(result.exception, TruncatedCorrectionError)


def test_cut_says_what_layers_are():
    result = run("cut", "somewhere", "elsewhere", "--layers", "0-5")
    assert isinstance(result.exception, ConfigurationError)
    assert "--layers takes whole numbers with commas between them, not '0-5'" in str(result.exception)


def test_cut_takes_its_tokens_from_one_place():
    result = run("cut", "somewhere", "elsewhere", "--data", "a.jsonl", "--real", "b.jsonl")
    assert isinstance(result.exception, ConfigurationError)
    assert "data and real are given" in str(result.exception)


def test_average_makes_a_model_of_several(tmp_path: Path):
    result = run("average", str(EMBEDDED_PATH), str(EMBEDDED_PATH), "--out", str(tmp_path / "mean"))
    assert result.exit_code == 0, result.output
    assert run("correct", "--model", str(tmp_path / "mean"), QUERY, RUDE).stdout == f"{POLITE}\n"


def test_train_hands_every_option_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[TrainingConfig] = []

    def train(config: TrainingConfig) -> TrainingResult:
        asked.append(config)
        return TrainingResult(config.out, 0, 0)

    monkeypatch.setattr("aligner_chains.training.trainer.train", train)
    options = {
        "--real": "real.jsonl",
        "--start": "first",
        "--tokens": "70",
        "--processes": "2",
        "--batch-tokens": "50",
        "--seed": "5",
        "--lr": "0.1",
        "--muon-lr": "0.2",
    }
    words = [word for pair in options.items() for word in pair]
    result = run("train", str(tmp_path), *words, "--int4", "--bf16", "--torch-compile", "--resume")
    assert result.exit_code == 0, result.output
    assert asked == [
        TrainingConfig(
            tmp_path,
            real=Path("real.jsonl"),
            start=Path("first"),
            tokens=70,
            processes=2,
            batch_tokens=50,
            seed=5,
            lr=0.1,
            muon_lr=0.2,
            int4=True,
            bf16=True,
            torch_compile=True,
            resume=True,
        )
    ]


def test_serve_answers_until_it_is_told_to_stop():
    server = subprocess.Popen(
        [sys.executable, "-c", "from aligner_chains.cli import main; main()", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = next(match[0] for line in server.stdout if (match := re.search(r"http://127\.0\.0\.1:\d+", line)))
        assert run("correct", "--url", url, QUERY, RUDE).stdout == f"{POLITE}\n"
    finally:
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=60)
    assert (server.returncode, errors) == (0, "")
