"""What a user gets back: a correction, the chunks of a streamed one, and the difference to the draft."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Any, Literal, NamedTuple, TypeAlias

from aligner_chains.errors import AlignerError

#: What became of a draft. `corrected`: the Aligner changed it. `unchanged`: the Aligner copied it. `skipped`: the
#: Aligner's answer was not asked for or not trusted, the draft stays. `failed`: no correction arrived, `on_failure`
#: chose the text.
Outcome: TypeAlias = Literal["corrected", "unchanged", "skipped", "failed"]
FinishReason: TypeAlias = Literal["stop", "length"]
Operation: TypeAlias = Literal["equal", "delete", "insert"]

_WORD = re.compile(r"\w+|[^\w\s]")

_ALWAYS_TOLD = ("outcome", "model", "latency", "edit_ratio", "usage")
_TOLD_IF_ANY = ("reason", "confidence", "error")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a correction took.

    Attributes:
        input_tokens: Length of the prompt, in tokens.
        output_tokens: Length of what the Aligner wrote, in tokens.
    """

    input_tokens: int
    output_tokens: int

    @property
    def total_tokens(self) -> int:
        """Prompt and answer together."""
        return self.input_tokens + self.output_tokens


class DiffPart(NamedTuple):
    """A stretch of text that draft and correction share, or that only one of them has."""

    operation: Operation
    text: str


@dataclass(frozen=True)
class Correction:
    """A corrected answer, and how it came about.

    Attributes:
        text: The answer to use.
        draft: The answer that was to be corrected.
        query: What the user had asked.
        outcome: What became of the draft: `corrected`, `unchanged`, `skipped` or `failed`.
        reason: For `skipped`, why.
        model: The Aligner's name, as its server gives it.
        finish_reason: Why the Aligner stopped writing: at its end token (`stop`) or at a limit (`length`).
        usage: Tokens read and written, where the server tells.
        confidence: Mean probability of the Aligner's tokens, 0 to 1, where the server tells.
        latency: Seconds from the call to the result, retries included.
        error: For `failed`, what went wrong.
    """

    text: str
    draft: str
    query: str
    outcome: Outcome
    reason: str | None = None
    model: str | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    confidence: float | None = None
    latency: float = 0.0
    error: AlignerError | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        from aligner_chains.display import diff_html

        return diff_html(self)

    @property
    def changed(self) -> bool:
        """Whether `text` differs from the draft."""
        return self.text != self.draft

    @cached_property
    def edit_ratio(self) -> float:
        """Share of words and punctuation marks that differ: 0.0 for a copy, 1.0 for nothing in common."""
        if not self.changed:
            return 0.0
        matcher = difflib.SequenceMatcher(None, _WORD.findall(self.draft), _WORD.findall(self.text), autojunk=False)
        return 1.0 - matcher.ratio()

    def diff(self) -> list[DiffPart]:
        """The way from draft to text, word by word, as parts to show.

        The `equal` and `delete` parts joined are the draft, the `equal` and `insert` parts joined are the text.
        """
        old, new = list(_WORD.finditer(self.draft)), list(_WORD.finditer(self.text))
        matcher = difflib.SequenceMatcher(None, [word[0] for word in old], [word[0] for word in new], autojunk=False)
        parts: list[DiffPart] = []
        at_old = at_new = 0
        for i, j, size in matcher.get_matching_blocks():
            at_an_end = i == j == 0 or (i + size == len(old) and j + size == len(new))
            if not at_an_end and not any(word[0].isalnum() for word in old[i : i + size]):
                continue  # a full stop between two changes is nothing that the texts have in common
            for before, after in zip(old[i : i + size], new[j : j + size], strict=True):
                _add_change(parts, self.draft[at_old : before.start()], self.text[at_new : after.start()])
                _add(parts, "equal", before[0])
                at_old, at_new = before.end(), after.end()
        _add_change(parts, self.draft[at_old:], self.text[at_new:])
        return parts

    def to_dict(self) -> dict[str, Any]:
        """Everything in JSON's types; `error` as its type and message."""
        return {
            "text": self.text,
            "outcome": self.outcome,
            "reason": self.reason,
            "query": self.query,
            "draft": self.draft,
            "changed": self.changed,
            "edit_ratio": round(self.edit_ratio, 4),
            "confidence": None if self.confidence is None else round(self.confidence, 4),
            "model": self.model,
            "finish_reason": self.finish_reason,
            "usage": None
            if self.usage is None
            else {"input_tokens": self.usage.input_tokens, "output_tokens": self.usage.output_tokens},
            "latency": round(self.latency, 4),
            "error": None if self.error is None else {"type": type(self.error).__name__, "message": str(self.error)},
        }

    def provenance(self) -> dict[str, Any]:
        """What became of the draft, in JSON's types and without the texts: what frameworks keep beside an answer."""
        everything = self.to_dict()
        told = {name: everything[name] for name in _ALWAYS_TOLD}
        return told | {name: everything[name] for name in _TOLD_IF_ANY if everything[name] is not None}


@dataclass(frozen=True, slots=True)
class CorrectionChunk:
    """A piece of a correction that is still being written.

    Attributes:
        text: What comes next; the texts of all chunks joined are the correction's text.
        correction: On the last chunk, the whole correction.
    """

    text: str
    correction: Correction | None = None

    def __str__(self) -> str:
        return self.text


def _add_change(parts: list[DiffPart], old: str, new: str) -> None:
    """Adds what stands between two shared words: the white space that both have at its ends is shared too."""
    before = _shared_space(old, new)
    old, new = old[len(before) :], new[len(before) :]
    after = _shared_space(old[::-1], new[::-1])[::-1]
    _add(parts, "equal", before)
    _add(parts, "delete", old[: len(old) - len(after)])
    _add(parts, "insert", new[: len(new) - len(after)])
    _add(parts, "equal", after)


def _shared_space(old: str, new: str) -> str:
    pairs = zip(old, new, strict=False)
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1] and pair[0].isspace(), pairs))


def _add(parts: list[DiffPart], operation: Operation, text: str) -> None:
    if not text:
        return
    if parts and parts[-1].operation == operation:
        text = parts.pop().text + text
    parts.append(DiffPart(operation, text))
