"""Small operations on English text: sentences, capitals, person and verb forms."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_SENTENCE_END: Final = re.compile(r"[.!?][\"')\]\u2019\u201d]*( +)(?=[\"'(\u2018\u201c]?[A-Z0-9])")
_ABBREVIATION: Final = re.compile(r"(?:\b(?:Dr|Mr|Mrs|Ms|St|No|vs|etc|approx|[A-Za-z])\.|\.\.)$")
_MARKER: Final = re.compile(r"[ \t]*(?:[-*\u2022]|\d+[.)])[ \t]+")
_NUMBERED: Final = re.compile(r"\d+")
_LINE: Final = re.compile(r"(\n*)([^\n]+)")
_FIRST_WORD: Final = re.compile(r"[A-Za-z]+(?:['\u2019][a-z]+)?")
_PERSON: Final = re.compile(
    r"\b(?:I['\u2019]m|I am|I was|I|myself|my|mine|me|we|ourselves|ours|our|us)\b", re.IGNORECASE
)
_SECOND_PERSON: Final = {
    "i'm": "you're",
    "i\u2019m": "you\u2019re",
    "i am": "you are",
    "i was": "you were",
    "i": "you",
    "myself": "yourself",
    "my": "your",
    "mine": "yours",
    "me": "you",
    "we": "you",
    "ourselves": "yourselves",
    "ours": "yours",
    "our": "your",
    "us": "you",
}
_DOUBLED: Final = re.compile(
    r"(?:[^aeiou]*|s?qu)[aeiou][bdgklmnprtvz]|gas|(?:ad|be|com|con|de|dis|for|kid|off|per|re|sub|trans|un)"
    r"(?:bug|clog|fer|fog|get|gin|mit|nap|plug|pot|set|til|trol)"
)
_NO_VERBS: Final = frozenset({"never", "not"})
_DECLARATIVE: Final = (
    "The This These Those It You Your My A An Most Many Some People There They We He She His Her Their Its One "
    "Everybody Nobody Everyone It's There's You're You'll They're Both"
)
_STATEMENT_WORDS: Final = frozenset(_DECLARATIVE.split())


class Chunk(NamedTuple):
    """A sentence (or a line, or a block of code) of an answer, with what stands before it.

    Attributes:
        gap: The white space before it.
        marker: The bullet or number that it follows, with its space.
        text: The sentence.
    """

    gap: str
    marker: str
    text: str


def chunks_of(answer: str) -> tuple[Chunk, ...]:
    """The sentences of a Markdown answer; joined again with gaps and markers they give it exactly.

    An answer that holds a code block or a table is one chunk.
    """
    if "```" in answer or "|" in answer:
        return (Chunk("", "", answer),)
    chunks: list[Chunk] = []
    for line in _LINE.finditer(answer):
        gap, text = line.groups()
        match = _MARKER.match(text)
        marker = match[0] if match and match.end() < len(text) else ""
        for space, sentence in _sentences(text[len(marker) :]):
            chunks.append(Chunk(gap, marker, sentence) if space is None else Chunk(space, "", sentence))
    return tuple(chunks)


def _sentences(line: str) -> list[tuple[str | None, str]]:
    sentences: list[tuple[str | None, str]] = []
    start, space = 0, None
    for match in _SENTENCE_END.finditer(line):
        end = match.start(1)
        if _ABBREVIATION.search(line, start, end):
            continue
        sentences.append((space, line[start:end]))
        start, space = match.end(1), match[1]
    sentences.append((space, line[start:]))
    return sentences


def ends_sentence(text: str) -> bool:
    """Whether a text ends as a sentence does, so that another one can follow on the same line."""
    return text.rstrip("\"')\u2019\u201d")[-1:] in (".", "!", "?", "\u2026", ":")


def takes_a_clause(text: str) -> bool:
    """Whether a clause can be put before or behind this sentence, at the cost of its full stop."""
    return text.endswith(".") and "\n" not in text and "`" not in text and not _ABBREVIATION.search(text)


def is_statement(text: str, names: frozenset[str] = frozenset()) -> bool:
    """Whether a sentence surely is a statement (not a request or a fragment) and can follow "I think that"."""
    word = first_word(text)
    return (word in _STATEMENT_WORDS or word in names) and text.count(" ") > 1


def first_word(text: str) -> str:
    """The word that a text begins with, or nothing if it begins otherwise."""
    match = _FIRST_WORD.match(text)
    return match[0] if match else ""


def capitalize(text: str) -> str:
    """The text with a capital at its beginning, the rest as it is."""
    return text[:1].upper() + text[1:]


def lower(text: str, ordinary: frozenset[str]) -> str:
    """The text with a small letter at its beginning, if its first word is one of the ordinary ones."""
    return text[:1].lower() + text[1:] if is_ordinary(text, ordinary) else text


def is_ordinary(text: str, ordinary: frozenset[str]) -> bool:
    """Whether the first word of a text gets a small letter in the middle of a sentence."""
    word = first_word(text)
    return word[:1].lower() + word[1:] in ordinary and word != "I"


def second_person(phrase: str) -> str:
    """A verb phrase said to whoever said it: `"wash my hands"` as `"wash your hands"`."""
    return _PERSON.sub(lambda match: match[0] if match[0] == "US" else _SECOND_PERSON[match[0].lower()], phrase)


def gerund(phrase: str) -> str | None:
    """A verb phrase with its verb in -ing, or `None` where more than one verb might need it."""
    verb, space, rest = phrase.partition(" ")
    is_verb = verb.isalpha() and verb.islower() and not verb.endswith("ly") and verb not in _NO_VERBS
    if not is_verb or " and " in phrase or "," in phrase:
        return None
    if verb.endswith("ie"):
        verb = verb[:-2] + "y"
    elif verb.endswith("c"):
        verb += "k"
    elif verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")) and verb != "be":
        verb = verb[:-1]
    elif _DOUBLED.fullmatch(verb):
        verb += verb[-1]
    return f"{verb}ing{space}{rest}"


def numbered(marker: str, number: int) -> str:
    """A list marker with another number; a bullet stays."""
    return _NUMBERED.sub(str(number), marker, count=1)
