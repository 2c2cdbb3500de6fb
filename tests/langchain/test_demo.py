"""`make demo` on the embedded Aligner."""

from __future__ import annotations

import sys

import pytest

from langchain_aligner.demo import EXAMPLES, main


def test_every_example_is_shown_with_its_outcome(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["demo"])
    main()
    shown = capsys.readouterr().out
    assert "llm: scripted" in shown
    assert [example.title for example in EXAMPLES if example.title not in shown] == []
    assert shown.count("outcome  ") == len(EXAMPLES)
    assert "[-, you idiot-]" in shown
    assert "{+I can't help you hack into your ex's email account" in shown
