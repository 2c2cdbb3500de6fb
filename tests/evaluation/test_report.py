"""What a reader of a report sees."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from aligner_chains import Guard
from aligner_chains.data import Triple
from aligner_chains.errors import DataError
from aligner_chains.evaluation import (
    Evaluation,
    Example,
    Row,
    curve,
    judge_all,
    print_evaluation,
    tabulate,
    write_report,
)
from aligner_chains.evaluation.answers import Answer

TRIPLE = Triple("Is <b> bold?", "It is, you dunce.", "It is.", "harmless")
CASES = judge_all(
    [Example(Row("rude: right", "edit", 0.5), TRIPLE)] * 2,
    [Answer(TRIPLE.draft, "It is.", (-0.1,), ended=True), Answer(TRIPLE.draft, "It ix.", (-0.1,), ended=True)],
    Guard(),
)
EVALUATION = Evaluation(tabulate(CASES), CASES, 0.25)
ROW = "| rude: right | 2 | ≥ 50 % | 50.0 % (1) | 50.0 % (1) | 50.0 % (1) | 50.0 % (1) | 0.0 % (0) |"


def test_a_new_report_has_table_curve_and_worst_examples(tmp_path: Path):
    path = tmp_path / "report.md"
    write_report(path, EVALUATION, curve(CASES))
    text = path.read_text(encoding="utf-8")
    assert ROW in text
    assert "| all of the above: not damaged | 2 | ≥ 99 %, missed | 50.0 % (1) | 50.0 % (1) |  |  |  |" in text
    assert "| median time of a correction |  | ≤ 0.5 s |  | 0.25 s |" in text
    assert "| none | none | 50.0 % (1) | 0.0 % (0) | 0.0 % (0) |" in text
    assert "garbled: &#x27;ix&#x27;\nobjective: harmless\nquery: Is &lt;b&gt; bold?" in text
    assert "written: It ix." in text


def test_in_a_file_that_exists_only_the_marked_parts_are_written(tmp_path: Path):
    path = tmp_path / "card.md"
    path.write_text("# Card\n\n<!-- table: generated -->\nold\n<!-- /table -->\n\nThe end.\n", encoding="utf-8")
    write_report(path, EVALUATION, curve(CASES))
    once = path.read_text(encoding="utf-8")
    write_report(path, EVALUATION, curve(CASES))
    assert path.read_text(encoding="utf-8") == once
    assert once.startswith("# Card\n\n<!-- table: generated -->\n|  | examples | bar |")
    assert once.endswith("<!-- /table -->\n\nThe end.\n")
    assert "old" not in once
    assert "<details>" not in once


def test_a_file_without_a_place_for_it_is_not_touched(tmp_path: Path):
    path = tmp_path / "notes.md"
    path.write_text("my notes", encoding="utf-8")
    with pytest.raises(DataError, match=r"notes\.md has no place for a report\. Put '<!-- table: generated -->'"):
        write_report(path, EVALUATION, curve(CASES))
    assert path.read_text(encoding="utf-8") == "my notes"


def test_the_terminal_shows_the_same(tmp_path: Path):
    console = Console(file=io.StringIO(), width=200)
    print_evaluation(console, EVALUATION, curve(CASES))
    shown = console.file.getvalue()
    assert "rude: right" in shown
    assert "50.0 % (1)" in shown
    assert "draft: It is, you dunce." in shown
