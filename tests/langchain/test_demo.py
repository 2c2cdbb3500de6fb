"""`make demo` on the embedded Aligner."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from hostile import HostileServer
from langchain_core.language_models import FakeListChatModel

from aligner_chains import Aligner
from langchain_aligner.demo import EXAMPLES, main

Shown = pytest.CaptureFixture[str]


def demo(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", *arguments])
    main()


def test_the_examples_are_of_every_kind():
    assert len(EXAMPLES) >= 8
    assert sum(example.feedback != EXAMPLES[0].feedback for example in EXAMPLES) >= 2


def test_every_example_is_what_its_title_says():
    with Aligner.embedded() as aligner:
        for example in EXAMPLES:
            correction = aligner.correct(example.question, example.draft, feedback=example.feedback)
            stays = any(word in example.title for word in ("stays", "no lie"))
            assert correction.outcome == ("unchanged" if stays else "corrected"), example.title


def test_every_example_is_shown_with_its_outcome(monkeypatch: pytest.MonkeyPatch, capsys: Shown):
    demo(monkeypatch)
    shown = capsys.readouterr().out
    assert "llm: scripted" in shown
    assert [example.title for example in EXAMPLES if example.title not in shown] == []
    assert shown.count("outcome  ") == len(EXAMPLES)
    assert "[-, you idiot-]" in shown
    assert "{+I can't help with that, because it could do serious harm." in shown


@pytest.mark.parametrize("path", ["", "/v1"])
def test_an_aligner_of_ones_own_is_asked(
    hostile: Callable[..., HostileServer], monkeypatch: pytest.MonkeyPatch, capsys: Shown, path: str
):
    server = hostile()
    demo(monkeypatch, "--url", server.url + path)
    shown = capsys.readouterr().out
    assert f"Aligner: {server.url}{path}\n" in shown
    assert "embedded" not in shown
    assert len(server.generations) == len(EXAMPLES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--url", "http://127.0.0.1:9"), r"BackendConnectionError: .*Is it running"),
        (("--url", "gpu"), r"ConfigurationError: 'gpu' is not a server's address"),
        (("--llm", "openai:gpt-5-mini"), "(?i)Error: .*(api_key|pip install)"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SystemExit, match=message):
        demo(monkeypatch, *arguments)


def test_a_real_upstream_is_named_and_asked(monkeypatch: pytest.MonkeyPatch, capsys: Shown):
    asked: list[str] = []

    def init_chat_model(name: str) -> FakeListChatModel:
        asked.append(name)
        return FakeListChatModel(responses=["Ask a friend, you fool."])

    monkeypatch.setattr("langchain.chat_models.init_chat_model", init_chat_model)
    demo(monkeypatch, "--llm", "openai:gpt-5-mini")
    shown = capsys.readouterr().out
    assert asked == ["openai:gpt-5-mini"]
    assert "llm: openai:gpt-5-mini" in shown
    assert shown.count("Ask a friend, you fool.") >= len(EXAMPLES)
