"""How a run is going: on the terminal, as lines elsewhere, and as a curve on disk."""

from __future__ import annotations

import csv
import time
from dataclasses import astuple, dataclass, fields
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_FILE_NAME = "curve.csv"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One point of the curve.

    Attributes:
        step: Optimiser steps so far.
        tokens: Tokens so far, padding not counted.
        loss: Mean cross entropy of a correction's token since the last point, in nats.
        token_accuracy: Share of those tokens that were the most probable ones.
        tokens_per_second: Speed since the last point, all processes together.
        learning_rate: That of AdamW.
    """

    step: int
    tokens: int
    loss: float
    token_accuracy: float
    tokens_per_second: float
    learning_rate: float


class Reporter:
    """Shows and records a run's progress; a context manager.

    Args:
        out: Folder of `curve.csv`.
        tokens: Tokens at the end of the run.
        done: Tokens at its start, above 0 for a run that is resumed.
        step: Steps at its start; what the curve has beyond them is taken out, as it will be trained again.
    """

    def __init__(self, out: Path, *, tokens: int, done: int, step: int) -> None:
        self._path, self._tokens = out / _FILE_NAME, tokens
        self._console = Console()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("Training", total=tokens, completed=done, figures="")
        self._started, self._done = time.monotonic(), done
        self._begin_curve(step)

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def report(self, point: Measurement) -> None:
        """Shows and records a point of the curve."""
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(f"{x:.6g}" if isinstance(x, float) else x for x in astuple(point))
        average = (point.tokens - self._done) / max(time.monotonic() - self._started, 1e-9)
        left = timedelta(seconds=round(max(0, self._tokens - point.tokens) / max(average, 1e-9)))
        figures = (
            f"loss {point.loss:.4f}  token accuracy {point.token_accuracy:.4f}  "
            f"{point.tokens_per_second:,.0f} tokens/s  {left} left"
        )
        self._bar.update(self._task, completed=point.tokens, figures=figures)
        if not self._console.is_terminal:
            self.say(f"step {point.step}  {point.tokens:,} of {self._tokens:,} tokens  {figures}")

    def _begin_curve(self, step: int) -> None:
        header = [field.name for field in fields(Measurement)]
        rows: list[list[str]] = []
        if step and self._path.is_file():
            with self._path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= step]
        with self._path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
