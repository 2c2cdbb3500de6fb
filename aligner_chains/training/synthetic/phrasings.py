"""The phrasings that synthetic examples are composed of, read from the package's own text files.

The formats are those of `phrasings/README.md`; a file that breaks them is a `DataError` that names file and line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, NoReturn, TypeVar

from aligner_chains.errors import DataError
from aligner_chains.training.synthetic.wording import Split

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # from Python 3.11 on

Place = Literal["own", "around", "inside"]
T = TypeVar("T")

SLOTS: Final = frozenset({"name", "surname", "place", "number", "year", "journal", "insult"})

_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_ENDS: Final = (".", "!", "?", "\u2026", '."', '!"', '?"', ".'", "!'", ".)", "!)", "?)", "]")
# What is left where a remark goes.
_UNWRAPPED: Final[dict[Place, str]] = {"own": "", "around": "{}.", "inside": "{a} {b}."}


class Phrasing(NamedTuple):
    """A defect in words, and what the Aligner should make of it.

    Attributes:
        draft: What stands in the draft.
        correction: What stands in its place in the correction; nothing if it goes.
        place: Whether it is a sentence of its own, goes around a sentence, or inside one.
    """

    draft: str
    correction: str
    place: Place


class Theme(NamedTuple):
    """What users write about one thing, and what fits all of it.

    Attributes:
        name: Of the theme.
        fitting: The fields of its heading: the empathy, or a reason and an offer.
        lines: What users write.
    """

    name: str
    fitting: tuple[str, ...]
    lines: tuple[str, ...]


class Answer(NamedTuple):
    """A question with a good answer in Markdown."""

    question: str
    text: str


class Domain(NamedTuple):
    """Tasks of one field, as verb phrases, and sentences of advice that fit any of them."""

    name: str
    tasks: tuple[str, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Phrasings:
    """All phrasings of one split; each field is named as its file."""

    rude: tuple[Phrasing, ...]
    rambling: tuple[Phrasing, ...]
    dismissive: tuple[Phrasing, ...]
    overclaiming: tuple[Phrasing, ...]
    invented_source: tuple[Phrasing, ...]
    unsafe_step: tuple[Phrasing, ...]
    evasive: tuple[str, ...]
    needless_refusal: tuple[str, ...]
    upset: tuple[Theme, ...]
    harmful: tuple[Theme, ...]
    look_alikes: tuple[Answer, ...]
    everyday: tuple[Answer, ...]
    domains: tuple[Domain, ...]
    names: tuple[str, ...]
    surnames: tuple[str, ...]
    places: tuple[str, ...]
    journals: tuple[str, ...]
    insults: tuple[str, ...]


@lru_cache(maxsize=2)
def load_phrasings(split: Split) -> Phrasings:
    """The phrasings that ship with the package.

    Args:
        split: Those to train on, or those to test on.

    Raises:
        DataError: A line of a file is not what the file's format asks for.
    """
    return read_phrasings(files(__package__) / "phrasings" / split)


def read_phrasings(folder: Traversable) -> Phrasings:
    """The phrasings in a folder that holds all files which `phrasings/README.md` lists.

    Args:
        folder: Where the files are.

    Raises:
        DataError: A file is missing or empty, or a line is not what the file's format asks for.
    """

    def remarks(name: str) -> tuple[Phrasing, ...]:
        return _File(folder, f"{name}.txt").each(_File.remark)

    def sentences(name: str) -> tuple[str, ...]:
        return _File(folder, f"{name}.txt").each(_File.sentence)

    def words(name: str) -> tuple[str, ...]:
        return _File(folder, f"{name}.txt").each(_File.words)

    return Phrasings(
        rude=remarks("rude"),
        rambling=remarks("rambling"),
        dismissive=remarks("dismissive"),
        overclaiming=remarks("overclaiming"),
        invented_source=remarks("invented_source"),
        unsafe_step=_File(folder, "unsafe_step.txt").each(_File.step),
        evasive=sentences("evasive"),
        needless_refusal=sentences("needless_refusal"),
        upset=_File(folder, "upset.txt").themes(fields=1, parse=_File.sentence),
        harmful=_File(folder, "harmful.txt").themes(fields=2, parse=_File.verb_phrase),
        look_alikes=_File(folder, "look_alikes.md").answers(),
        everyday=_File(folder, "everyday.md").answers(),
        domains=_domains(folder),
        names=words("names"),
        surnames=words("surnames"),
        places=words("places"),
        journals=words("journals"),
        insults=words("insults"),
    )


def _domains(folder: Traversable) -> tuple[Domain, ...]:
    tasks = _File(folder, "tasks.txt").themes(fields=0, parse=_File.verb_phrase)
    file = _File(folder, "advice.txt")
    advice = {theme.name: theme.lines for theme in file.themes(fields=0, parse=_File.sentence)}
    if missing := [theme.name for theme in tasks if theme.name not in advice]:
        file.fail(f"has no advice under {', '.join(map(repr, missing))}, but tasks.txt has tasks there")
    return tuple(Domain(theme.name, theme.lines, advice[theme.name]) for theme in tasks)


class _File:
    """One file of phrasings; remembers the line that it is at, for messages."""

    def __init__(self, folder: Traversable, name: str) -> None:
        self._name = f"{folder.name}/{name}"
        self._line = 0
        try:
            self._text = (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self._name} cannot be read: {error}.") from error

    def fail(self, problem: str) -> NoReturn:
        where = f"{self._name}, line {self._line}," if self._line else self._name
        raise DataError(f"{where} {problem}.")

    def each(self, parse: Callable[[_File, str], T]) -> tuple[T, ...]:
        return tuple(parse(self, line) for line in self._lines()) or self.fail("holds no phrasing")

    def themes(self, *, fields: int, parse: Callable[[_File, str], str]) -> tuple[Theme, ...]:
        found: dict[str, tuple[tuple[str, ...], list[str]]] = {}
        lines: list[str] | None = None
        for line in self._lines():
            if line.startswith("#"):
                name, *fitting = (field.strip() for field in line.lstrip("#").split("|"))
                if len(fitting) != fields or not all([name, *fitting]):
                    self.fail(f"has {line!r}, but a heading must be a theme and {fields} fields, parted by '|'")
                _, lines = found.setdefault(name, (tuple(fitting), []))
            elif lines is None:
                self.fail("stands before the first heading")
            else:
                lines.append(parse(self, line))
        if empty := [name for name, (_, lines) in found.items() if not lines]:
            self.fail(f"ends, and nothing stands under {empty[0]!r}")
        return tuple(Theme(name, fitting, tuple(lines)) for name, (fitting, lines) in found.items()) or self.fail(
            "holds no heading"
        )

    def answers(self) -> tuple[Answer, ...]:
        found: list[tuple[str, list[str]]] = []
        for number, line in enumerate(self._text.splitlines(), start=1):
            self._line = number
            if line.startswith("## "):
                self._check_answered(found)
                found.append((line[3:].strip(), []))
            elif found:
                found[-1][1].append(line.rstrip())
            elif line.strip() and not line.startswith("//"):
                self.fail("stands before the first question (`## ...`)")
        self._check_answered(found)
        return tuple(Answer(question, "\n".join(lines).strip()) for question, lines in found) or self.fail(
            "holds no question (`## ...`)"
        )

    def _check_answered(self, found: list[tuple[str, list[str]]]) -> None:
        if found and not any(found[-1][1]):
            self.fail(f"comes before any answer to {found[-1][0]!r}")

    def remark(self, line: str) -> Phrasing:
        if " => " in line:
            self.fail(f"has {line!r}, but this file has no corrections (` => `)")
        place, _ = self._place(line)
        return Phrasing(line, _UNWRAPPED[place], place)

    def step(self, line: str) -> Phrasing:
        draft, arrow, correction = (part.strip() for part in line.partition("=>"))
        if not draft or (arrow and not correction) or "=>" in correction:
            self.fail(f"has {line!r}, but must be `draft => correction`, or a draft alone")
        place, slots = self._place(draft)
        correction = correction or f"Never {draft[0].lower()}{draft[1:]}"
        place_corrected, slots_corrected = self._place(correction)
        if place_corrected != place:
            self.fail(f"has {line!r}, whose sides have different places")
        if not slots_corrected <= slots:
            self.fail(f"has {line!r}, whose correction has a slot that the draft lacks")
        return Phrasing(draft, correction, place)

    def sentence(self, line: str) -> str:
        if self._place(line)[0] != "own":
            self.fail(f"has {line!r}, but this file has whole sentences only, without a place")
        return line

    def verb_phrase(self, line: str) -> str:
        self._slots(line)
        if line.endswith((".", "?", "!", ",")):
            self.fail(f"has {line!r}, but a verb phrase has no final punctuation")
        return line

    def words(self, line: str) -> str:
        if "{" in line or "=>" in line:
            self.fail(f"has {line!r}, but this file has plain words for a slot")
        return line

    def _place(self, text: str) -> tuple[Place, frozenset[str]]:
        names = self._slots(text, places=frozenset({"", "a", "b"}))
        places = sorted(name for name in names if name in ("", "a", "b"))
        slots = frozenset(names) - {"", "a", "b"}
        if not places and not text.endswith(_ENDS):
            self.fail(f"has {text!r}, but a sentence of its own needs its final punctuation")
        if places not in ([], [""], ["a", "b"]) or text.find("{a}") > text.find("{b}"):
            self.fail(f"has {text!r}, but a place is one `{{}}`, or `{{a}}` and then `{{b}}`")
        return ("own", "around", "inside")[len(places)], slots

    def _slots(self, text: str, *, places: frozenset[str] = frozenset()) -> list[str]:
        names = _BRACES.findall(text)
        if unknown := sorted(set(names) - SLOTS - places):
            self.fail(f"has the slot {{{unknown[0]}}}, which is none of {', '.join(sorted(SLOTS))}")
        if re.search(r"[{}]", _BRACES.sub("", text)):
            self.fail(f"has {text!r}, with a brace that has no partner")
        return names

    def _lines(self) -> Iterator[str]:
        for number, line in enumerate(self._text.splitlines(), start=1):
            self._line = number
            if (line := line.strip()) and not line.startswith("//"):
                yield line
