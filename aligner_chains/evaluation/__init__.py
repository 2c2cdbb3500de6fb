"""Examines Aligners on data that they were not trained on, and calibrates their guards."""

from aligner_chains.evaluation.calibration import Point, calibrate, curve, measure
from aligner_chains.evaluation.cases import Case, Line, judge_all, tabulate
from aligner_chains.evaluation.embedded import Evaluation, evaluate_embedded, examples_for
from aligner_chains.evaluation.examples import Example, Row
from aligner_chains.evaluation.report import print_evaluation, write_report

__all__ = [
    "Case",
    "Evaluation",
    "Example",
    "Line",
    "Point",
    "Row",
    "calibrate",
    "curve",
    "evaluate_embedded",
    "examples_for",
    "judge_all",
    "measure",
    "print_evaluation",
    "tabulate",
    "write_report",
]
