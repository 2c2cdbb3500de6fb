"""What `aligner-chains evaluate-embedded` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from aligner_chains.evaluation.answers import write_answers
from aligner_chains.evaluation.calibration import calibrate, curve
from aligner_chains.evaluation.cases import judge_all
from aligner_chains.evaluation.embedded import evaluate_embedded, examples_for
from aligner_chains.evaluation.report import print_evaluation, write_report
from aligner_chains.guard import Guard
from aligner_chains.model_config import config_for_model


def run(
    model: Path,
    *,
    count: int,
    real: Path | None,
    drafts: Path | None,
    seed: int,
    save_guard: bool,
    report: Path | None,
) -> None:
    """Examines a model, prints what it found and writes it into a report.

    Args:
        model: Folder of the model.
        count: How many examples a row.
        real: Triples whose short corrections are good drafts.
        drafts: Real drafts.
        seed: Chooses the examples.
        save_guard: Whether to choose the guard first, on examples of the following seed, and save it with the model.
        report: A Markdown file to write.

    Raises:
        ModelLoadError: There is no Aligner in this folder.
        DataError: A file cannot be read as what it should be, or has no place for the report.
    """
    config = config_for_model(str(model))
    if save_guard:
        examples = examples_for(count=count, seed=seed + 1, real=real, drafts=drafts)
        with _progress("calibrating", len(examples)) as on_answer:
            answers = write_answers(model, [example.triple for example in examples], on_answer=on_answer)
        config = replace(config, guard=calibrate(judge_all(examples, answers, Guard())))
        config.save(model)
    examples = examples_for(count=count, seed=seed, real=real, drafts=drafts)
    with _progress("evaluating", len(examples)) as on_answer:
        evaluation = evaluate_embedded(examples, model=model, guard=config.guard, on_answer=on_answer)
    points = curve(evaluation.cases)
    print_evaluation(Console(highlight=False), evaluation, points)
    if report is not None:
        write_report(report, evaluation, points)


@contextmanager
def _progress(task: str, total: int) -> Iterator[Callable[[], None]]:
    with Progress(*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        bar = progress.add_task(task, total=total)
        yield lambda: progress.advance(bar)
