"""Examines the embedded Aligner, or another of its kind, on held-out data: row by row, with and without its guard."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aligner_chains.aligner import Aligner
from aligner_chains.evaluation.answers import write_answers
from aligner_chains.evaluation.cases import Case, Line, judge_all, tabulate
from aligner_chains.evaluation.examples import Example, composed_examples, long_examples, real_examples
from aligner_chains.guard import Guard
from aligner_chains.model_config import EMBEDDED_PATH

#: Real drafts are examined in larger numbers than each of the other rows has.
LONG_SHARE = 2.5

_TIMED = 40
_LEAST_STEP = 3  # a small examination is soon over


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an examination found.

    Attributes:
        lines: The table.
        cases: Every example, for curves and the like.
        seconds: The median time of a correction by itself, in seconds, on one thread.
    """

    lines: tuple[Line, ...]
    cases: tuple[Case, ...]
    seconds: float


def examples_for(
    *, count: int = 200, seed: int = 0, real: Path | None = None, drafts: Path | None = None
) -> list[Example]:
    """The examples of an examination.

    Args:
        count: How many a row; real drafts are 2.5 times as many.
        seed: Chooses them.
        real: Triples whose short corrections are good drafts; see `real_examples`.
        drafts: Real drafts; see `long_examples`.

    Raises:
        DataError: A file cannot be read as what it should be.
    """
    examples = list(composed_examples(count, seed=seed))
    if real is not None:
        examples += real_examples(real, count, seed=seed)
    if drafts is not None:
        examples += long_examples(drafts, int(count * LONG_SHARE), seed=seed)
    return examples


def evaluate_embedded(
    examples: Sequence[Example],
    *,
    guard: Guard,
    model: Path = EMBEDDED_PATH,
    processes: int = 2,
    on_answer: Callable[[], None] = lambda: None,
) -> Evaluation:
    """The table of an Aligner's rows.

    Args:
        examples: What to examine it on; see `examples_for`.
        guard: The guard to apply to what the model writes.
        model: Folder of the model.
        processes: How many processes write corrections.
        on_answer: Called with each correction that is there.

    Raises:
        ModelLoadError: There is no Aligner in this folder.
    """
    answers = write_answers(model, [example.triple for example in examples], processes=processes, on_answer=on_answer)
    cases = judge_all(examples, answers, guard)
    return Evaluation(tabulate(cases), cases, _seconds(model, examples[:: max(_LEAST_STEP, len(examples) // _TIMED)]))


def _seconds(model: Path, examples: Sequence[Example]) -> float:
    with Aligner.from_pretrained(model, device="cpu", dtype="float32", on_failure="draft", timeout=600.0) as aligner:
        triples = [example.triple for example in examples]
        corrections = [aligner.correct(t.query, t.draft, feedback=t.objective) for t in triples]
    return statistics.median(correction.latency for correction in corrections)
