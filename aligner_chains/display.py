"""Corrections on a terminal."""

from __future__ import annotations

from rich.text import Text

from aligner_chains.correction import Correction, Outcome

_STYLES = {"equal": "", "delete": "red strike", "insert": "bold green"}
_OUTCOME_STYLES: dict[Outcome, str] = {
    "corrected": "bold green",
    "unchanged": "bold blue",
    "skipped": "bold yellow",
    "failed": "bold red",
}


def diff_text(correction: Correction) -> Text:
    """The way from draft to text in one piece: what went is struck through in red, what came is bold and green.

    A correction that keeps little of its draft is shown as the whole draft and then the whole text, which reads
    better than a mosaic of chance matches.
    """
    text = Text()
    if correction.edit_ratio > _REWRITE:
        text.append(correction.draft.strip(), _STYLES["delete"])
        text.append("\n")
        text.append(correction.text.strip(), _STYLES["insert"])
        return text
    for operation, part in correction.diff():
        text.append(part, _STYLES[operation])
    return text


def outcome_text(correction: Correction) -> Text:
    """The outcome, why, and how long it took: `corrected in 0.21 s`."""
    text = Text(correction.outcome, _OUTCOME_STYLES[correction.outcome])
    text.append(f" in {correction.latency:.2f} s", "dim")
    if correction.reason:
        text.append(f" ({correction.reason})", "dim")
    if correction.error is not None:
        text.append(f" ({type(correction.error).__name__}: {correction.error})", "dim")
    return text


# Above this share of differing words the two texts have too little in common to be woven together.
_REWRITE = 0.7
