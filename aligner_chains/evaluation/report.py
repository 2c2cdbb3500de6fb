"""An evaluation to read: as tables on a terminal, and as Markdown in a model card."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aligner_chains.errors import DataError
from aligner_chains.evaluation.calibration import Point
from aligner_chains.evaluation.cases import Case, Line
from aligner_chains.evaluation.embedded import Evaluation
from aligner_chains.guard import THRESHOLDS

_MARKER = re.compile(r"<!-- (\w+): generated -->\n.*?<!-- /\1 -->", re.DOTALL)
_LONGEST = 200  # characters of a text in a report
_HEADINGS = (
    "",
    "examples",
    "bar",
    "right, as written",
    "right, guarded",
    "damaged, as written",
    "damaged, guarded",
    "left alone",
)


def print_evaluation(console: Console, evaluation: Evaluation, curve: Sequence[Point]) -> None:
    """Prints the worst examples, the curve and last, where it is seen, the table."""
    for line in evaluation.lines:
        for case in line.worst:
            console.print(Text(line.name, "bold"), Text(_verdict(case), "dim"))
            for name, text in _texts(case).items():
                console.print(Text(f"  {name}: ", "dim"), Text(text), sep="")
    console.print(_rich(_curve_rows(curve)))
    console.print(_rich(_table_rows(evaluation)))


def write_report(path: Path, evaluation: Evaluation, curve: Sequence[Point]) -> None:
    """Writes an evaluation as Markdown.

    A file that is there keeps its text; only what stands between its markers (`<!-- table: generated -->` to
    `<!-- /table -->`, likewise `curve` and `worst`) is written anew. One that is not there gets all three parts.

    Args:
        path: The file.
        evaluation: The table and the worst examples.
        curve: The curve of damage against share left alone.

    Raises:
        DataError: The file is there and has none of the markers.
    """
    parts = {
        "table": _markdown(_table_rows(evaluation)),
        "curve": _markdown(_curve_rows(curve)),
        "worst": "\n".join(_worst(evaluation.lines)),
    }
    if path.exists():
        text = path.read_text(encoding="utf-8")
        if not _MARKER.search(text):
            raise DataError(
                f"{path} has no place for a report. Put '<!-- table: generated -->' and '<!-- /table -->' on lines of "
                "their own where the table should stand, or name a new file."
            )
        text = _MARKER.sub(lambda match: _marked(match[1], parts), text)
    else:
        text = "\n\n".join(_marked(name, parts) for name in parts) + "\n"
    path.write_text(text, encoding="utf-8")


def _marked(name: str, parts: Mapping[str, str]) -> str:
    return f"<!-- {name}: generated -->\n{parts.get(name, '')}\n<!-- /{name} -->"


def _table_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [_HEADINGS]
    for line in evaluation.lines:
        bar = "" if line.bar is None else f"≥ {line.bar:.0%}".replace("%", " %") + ("" if line.passes else ", missed")
        counts = (line.raw, line.guarded, line.damaged_raw, line.damaged, line.left_alone)
        rows.append((line.name, str(line.count), bar, *(_share(count, line.count) for count in counts)))
    seconds = f"{evaluation.seconds:.2f} s"
    missed = "" if evaluation.seconds <= _SECONDS else ", missed"
    return [*rows, ("median time of a correction", "", f"≤ {_SECONDS} s{missed}", "", seconds, "", "", "")]


_SECONDS = 0.5


def _curve_rows(curve: Sequence[Point]) -> list[tuple[str, ...]]:
    return [
        (*(f"`{name}`" for name in THRESHOLDS), "damaged", "changes left alone", "right changes lost"),
        *(
            (
                *(_threshold(getattr(point.guard, name)) for name in THRESHOLDS),
                _share(point.damaged, point.count),
                _share(point.left_alone, point.changed),
                _share(point.lost, point.right),
            )
            for point in curve
        ),
    ]


def _threshold(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def _share(count: int | None, total: int) -> str:
    return "" if count is None or not total else f"{100 * count / total:.1f} % ({count})"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rich(rows: Sequence[Sequence[str]]) -> Table:
    head, *body = rows
    table = Table(*head)
    for row in body:
        table.add_row(*row)
    return table


def _worst(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines:
        if line.worst:
            cases = "\n\n".join(
                "\n".join([_verdict(case), *(f"{name}: {text}" for name, text in _texts(case).items())])
                for case in line.worst
            )
            yield f"<details><summary>{line.name}</summary><pre>\n{escape(cases)}\n</pre></details>"


def _verdict(case: Case) -> str:
    what = case.guarded.damage or ("right" if case.guarded.right else "not right")
    return f"{what}; left alone by the guard" if case.left_alone else what


def _texts(case: Case) -> dict[str, str]:
    triple = case.example.triple
    texts = {"objective": triple.objective, "query": triple.query, "draft": triple.draft}
    if triple.correction != triple.draft:
        texts["right"] = triple.correction
    texts["written"] = case.answer.text
    return {name: _shortened(text) for name, text in texts.items()}


def _shortened(text: str) -> str:
    text = text.replace("\n", " ⏎ ")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
