"""Corrections on a terminal and in a notebook."""

from __future__ import annotations

from html import escape

from rich.text import Text

from aligner_chains.correction import Correction, DiffPart, Outcome

_STYLES = {"equal": "", "delete": "red strike", "insert": "bold green"}
_DELETED = "background: #ffd7d5; color: #82071e"
_INSERTED = "background: #ccffd8; color: #055d20; text-decoration: none"
_MARKS = {"equal": ("", ""), "delete": ("[-", "-]"), "insert": ("{+", "+}")}
# Below this share of common text two texts have too little in common to be woven together.
_LEAST_SHARED = 0.3
_OUTCOME_STYLES: dict[Outcome, str] = {
    "corrected": "bold green",
    "unchanged": "bold blue",
    "skipped": "bold yellow",
    "failed": "bold red",
}


def diff_text(correction: Correction, *, coloured: bool = True) -> Text:
    """The way from draft to text in one piece: what went is struck through in red, what came is bold and green.

    A correction that keeps little of its draft is shown as the whole draft and then the whole text, which reads better
    than a mosaic of chance matches.

    Args:
        correction: What to show.
        coloured: Whether the terminal has colours; without them what went stands in `[-...-]`, what came in `{+...+}`.
    """
    text = Text()
    for operation, part in _parts(correction):
        before, after = ("", "") if coloured else _MARKS[operation]
        shown = part.rstrip() if operation != "equal" else part
        text.append(f"{before}{shown}{after}", _STYLES[operation])
        text.append(part[len(shown) :])
    return text


def diff_html(correction: Correction) -> str:
    """What `diff_text` shows, and the outcome, as HTML for a notebook."""
    tags = {
        "equal": "{}",
        "delete": f'<del style="{_DELETED}">{{}}</del>',
        "insert": f'<ins style="{_INSERTED}">{{}}</ins>',
    }
    shown = "".join(tags[operation].format(escape(part)) for operation, part in _parts(correction))
    outcome = escape(outcome_text(correction).plain)
    return f'<div style="white-space: pre-wrap; max-width: 50em">{shown}</div><small>{outcome}</small>'


def outcome_text(correction: Correction) -> Text:
    """The outcome, why, and how long it took: `corrected in 0.21 s`."""
    text = Text()
    text.append(correction.outcome, _OUTCOME_STYLES[correction.outcome])
    text.append(f" in {correction.latency:.2f} s", "dim")
    if correction.reason:
        text.append(f" ({correction.reason})", "dim")
    if correction.error is not None:
        text.append(f" ({type(correction.error).__name__}: {correction.error})", "dim")
    return text


def _parts(correction: Correction) -> list[DiffPart]:
    parts = correction.diff()
    shared = sum(len(part.text) for part in parts if part.operation == "equal")
    if shared >= _LEAST_SHARED * max(len(correction.draft), len(correction.text)):
        return parts
    return [DiffPart("delete", correction.draft.strip() + "\n"), DiffPart("insert", correction.text.strip())]
