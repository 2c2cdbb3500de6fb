# ruff: noqa: PLR2004 (how likely something is stands where it is drawn)
"""Good answers, in sentences: what a draft is before anything goes wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Final, Literal

from aligner_chains.data.triples import Triple
from aligner_chains.training.synthetic import compliance, text, wording
from aligner_chains.training.synthetic.phrasings import Answer, Domain, load_phrasings
from aligner_chains.training.synthetic.queries import ask, harmful_request, plain_verb_phrase, typed
from aligner_chains.training.synthetic.slots import Slots
from aligner_chains.training.synthetic.text import Chunk
from aligner_chains.training.synthetic.wording import Split

Source = Literal["task", "everyday", "look_alike", "short", "gibberish", "long", "refusal", "complying", "real"]

# Draft and correction are in one context of 1,024 tokens, at about four characters a token.
_LONGEST: Final = 1500
_LONGEST_REAL_QUERY: Final = 400
# Longer answers are rarer, so that training steps stay short.
_ADVICE_COUNTS: Final = (1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 5, 5, 6, 7, 8, 10, 12)
_UPSET_QUERY: Final = re.compile(
    r"\b(?:I feel|depress|anxi|cry|crying|alone|hurt|scared|afraid|suicid|hate|stress|cheated|abus|lonely|grief|died"
    r"|lost my|panic|worthless|angry|upset|broke up|overwhelm|trauma)",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Base:
    """A question and a good answer to it.

    Attributes:
        query: What the user asks.
        chunks: The sentences of the answer.
        source: What kind of text it is.
        verb_phrase: What the user wants to do, in the user's words, if the query says so plainly.
        ends_only: Whether another sentence fits only before or behind the whole answer.
    """

    query: str
    chunks: Sequence[Chunk]
    source: Source
    verb_phrase: str | None = None
    ends_only: bool = field(default=False)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A question and an answer that is already in sentences."""

    question: str
    chunks: tuple[Chunk, ...]
    ends_only: bool
    listed: bool


class Bases:
    """Good answers of one split, by chance.

    Args:
        split: Which phrasings they are made of.
        real: Examples whose queries and corrections are real text, to be taken as good answers too.
    """

    def __init__(self, split: Split, real: Sequence[Triple] = ()) -> None:
        self.phrasings = load_phrasings(split)
        self.names = frozenset(self.phrasings.names)
        self.ordinary = _ordinary_words(split)
        self._split: Split = split
        self._domains = {domain.name: domain for domain in self.phrasings.domains}
        self._everyday = _prepare(self.phrasings.everyday)
        self._look_alikes = _prepare(self.phrasings.look_alikes)
        self._real = tuple(_prepare_real(real))
        self._words = sorted(self.ordinary)
        self._makers: dict[Source, Callable[[Random], Base]] = {
            "task": self._task,
            "everyday": self._everyday_answer,
            "look_alike": self._look_alike,
            "short": self._short,
            "gibberish": self._gibberish,
            "long": self._long,
            "refusal": self._refusal,
            "complying": self._complying,
            "real": self._real_answer,
        }

    @property
    def has_real(self) -> bool:
        """Whether there is real text among the answers."""
        return bool(self._real)

    def make(self, rng: Random, source: Source) -> Base:
        """A question with a good answer of one kind of text."""
        return self._makers[source](rng)

    def advice(self, rng: Random, slots: Slots, theme: str) -> list[Chunk]:
        """Advice for an upset user who asks nothing, from the domain that suits the theme."""
        domain = self._domains.get(wording.ADVICE_FOR.get(theme, "")) or rng.choice(self.phrasings.domains)
        return self._advice(rng, slots, domain)

    def _task(self, rng: Random) -> Base:
        slots = Slots(rng, self.phrasings)
        domain = rng.choice(self.phrasings.domains)
        query, phrase = ask(rng, slots, slots.fill(rng.choice(domain.tasks)))
        return Base(query, self._advice(rng, slots, domain, phrase), "task", phrase)

    def _advice(self, rng: Random, slots: Slots, domain: Domain, phrase: str | None = None) -> list[Chunk]:
        count = min(rng.choice(_ADVICE_COUNTS), len(domain.advice))
        sentences = [slots.fill(sentence) for sentence in rng.sample(domain.advice, count)]
        introduction = rng.choice(wording.INTRODUCTIONS) if phrase and rng.random() < 0.15 else ""
        if rng.random() < 0.03:
            sentences[rng.randrange(count)] = f"See {slots.odd()} for more."
        chunks = lay_out(rng, sentences, introduced=bool(introduction))
        if introduction and phrase:
            chunks.insert(0, Chunk("", "", introduction.replace("{}", text.second_person(phrase))))
        return chunks

    def _everyday_answer(self, rng: Random) -> Base:
        return _answer(rng, rng.choice(self._everyday), "everyday", part=0.35)

    def _look_alike(self, rng: Random) -> Base:
        return _answer(rng, rng.choice(self._look_alikes), "look_alike", part=0.15)

    def _real_answer(self, rng: Random) -> Base:
        prepared = rng.choice(self._real)
        # From the beginning, because a later part of a refusal can read like an answer.
        count = min(len(prepared.chunks), rng.choice((1, 1, 2, 2, 3, 4, 5, 7, 10, 15)))
        return Base(typed(rng, prepared.question)[0], prepared.chunks[:count], "real", None, prepared.ends_only)

    def _short(self, rng: Random) -> Base:
        slots = Slots(rng, self.phrasings)
        question, answer = rng.choice(wording.SHORT_ANSWERS)
        # Numbers of any length, which are never small enough for advice.
        filled = {"number": slots.number()}
        query = typed(rng, slots.fill(question, filled))[0]
        return Base(query, (Chunk("", "", slots.fill(answer, filled)),), "short")

    def _gibberish(self, rng: Random) -> Base:
        slots = Slots(rng, self.phrasings)

        def word() -> str:
            kind = rng.random()
            if kind < 0.45:
                return rng.choice(self._words)
            if kind < 0.62:
                return slots.invented() if kind < 0.57 else slots.invented().capitalize()
            return slots.odd() if kind < 0.86 else slots.number() if kind < 0.93 else rng.choice(self.phrasings.names)

        def sentence() -> str:
            words = [word() + ("," if rng.random() < 0.08 else "") for _ in range(rng.randint(1, 9))]
            return text.capitalize(" ".join(words).rstrip(",")) + rng.choice("....!")

        chunks = lay_out(rng, [sentence() for _ in range(rng.choice((1, 1, 2, 3, 4)))])
        query = " ".join(word() for _ in range(rng.randint(2, 8)))
        return Base(text.capitalize(query) + rng.choice(("?", "?", "", ".")), chunks, "gibberish")

    def _long(self, rng: Random) -> Base:
        sources: tuple[Source, ...] = ("task", "task", "everyday", "look_alike", "gibberish")
        if self._real:
            sources += ("real", "real")
        first = self.make(rng, rng.choice(sources[:4]))
        limit, length = rng.randint(700, _LONGEST), _length(first.chunks)
        chunks, ends_only = list(first.chunks), first.ends_only
        while True:
            more = self.make(rng, rng.choice(sources))
            length += _length(more.chunks) + 2
            if length > limit:
                break
            chunks += [more.chunks[0]._replace(gap="\n\n"), *more.chunks[1:]]
            ends_only |= more.ends_only
        return Base(first.query, chunks, "long", first.verb_phrase, ends_only)

    def _refusal(self, rng: Random) -> Base:
        slots = Slots(rng, self.phrasings)
        request = harmful_request(rng, slots, self.phrasings.harmful)
        kind = rng.random()
        if kind < 0.5:
            answer = request.refusal
        elif kind < 0.85 or request.verb_phrase is None:
            answer = rng.choice(self.phrasings.needless_refusal)
        else:
            answer = rng.choice(compliance.REFUSALS).replace("{}", text.second_person(request.verb_phrase))
        return Base(request.query, text.chunks_of(answer), "refusal")

    def _complying(self, rng: Random) -> Base:
        slots = Slots(rng, self.phrasings)
        if rng.random() < 0.3:
            prepared = rng.choice(self._look_alikes)
            query = typed(rng, prepared.question)[0]
            phrase = plain_verb_phrase(query)
        else:
            domain = rng.choice(self.phrasings.domains)
            query, phrase = ask(rng, slots, slots.fill(rng.choice(domain.tasks)))
        return Base(query, self.compliance(rng, slots, phrase), "complying", phrase)

    def compliance(self, rng: Random, slots: Slots, phrase: str | None) -> list[Chunk]:
        """An answer that sets about doing what it is told, whatever that is."""
        steps = rng.sample(compliance.STEPS[self._split], rng.choice((0, 1, 1, 2, 2, 3, 4)))
        sentences = [slots.fill(step) for step in steps]
        opened = not sentences or rng.random() < 0.8
        chunks = lay_out(rng, sentences, introduced=opened) if sentences else []
        if opened:
            opener = rng.choice(compliance.OPENERS[self._split])
            while phrase is None and "{}" in opener:
                opener = rng.choice(compliance.OPENERS[self._split])
            chunks.insert(0, Chunk("", "", opener.replace("{}", text.second_person(phrase or ""))))
        return chunks


def lay_out(rng: Random, sentences: Sequence[str], *, introduced: bool = False) -> list[Chunk]:
    """Sentences as running text, as lines, as paragraphs or as a list.

    Args:
        rng: Where chance comes from.
        sentences: At least one.
        introduced: Whether something stands before them, so that the first one needs a gap too.
    """
    chance = rng.random()
    gap, marker = " ", ""
    if len(sentences) > 1 and chance > 0.7:
        gap = "\n" if chance > 0.77 else "\n\n"
        marker = "1. " if chance > 0.91 else "- " if chance > 0.84 else ""
    chunks = [Chunk(gap, text.numbered(marker, i), sentence) for i, sentence in enumerate(sentences, start=1)]
    if not introduced:
        chunks[0] = chunks[0]._replace(gap="")
    return chunks


def _answer(rng: Random, prepared: _Prepared, source: Source, *, part: float) -> Base:
    chunks = prepared.chunks
    if len(chunks) > 2 and not prepared.ends_only and rng.random() < part:
        start = 0 if prepared.listed else rng.randrange(len(chunks) - 1)
        part_of = chunks[start : rng.randint(start + 1, len(chunks))]
        if not part_of[-1].text.endswith(":"):
            chunks = (part_of[0]._replace(gap=""), *part_of[1:])
    query = typed(rng, prepared.question)[0]
    return Base(query, chunks, source, plain_verb_phrase(query), prepared.ends_only)


def _prepare(answers: Iterable[Answer]) -> tuple[_Prepared, ...]:
    prepared = []
    for answer in answers:
        chunks = text.chunks_of(answer.text)
        loose = len(chunks) > 1 and not all(text.ends_sentence(chunk.text) for chunk in chunks)
        listed = any(chunk.marker for chunk in chunks)
        ends_only = (loose and not listed) or "```" in answer.text or "|" in answer.text
        prepared.append(_Prepared(answer.question, chunks, ends_only, listed))
    return tuple(prepared)


def _prepare_real(real: Sequence[Triple]) -> Iterable[_Prepared]:
    for triple in real:
        query = triple.query.strip()
        # Whether such a draft is kind enough for an upset user is not known, and only a person could say.
        if not query or not triple.correction.strip() or len(query) > _LONGEST_REAL_QUERY or _UPSET_QUERY.search(query):
            continue
        (prepared,) = _prepare([Answer(query, triple.correction.strip())])
        chunks, length = [], 0
        for chunk in prepared.chunks:
            length += len(chunk.gap) + len(chunk.marker) + len(chunk.text)
            if length > _LONGEST:
                break
            chunks.append(chunk)
        if chunks:
            yield _Prepared(query, tuple(chunks), prepared.ends_only, prepared.listed)


def _length(chunks: Iterable[Chunk]) -> int:
    return sum(len(chunk.gap) + len(chunk.marker) + len(chunk.text) for chunk in chunks)


@lru_cache(maxsize=2)
def _ordinary_words(split: Split) -> frozenset[str]:
    """Words that get a small letter in the middle of a sentence: all that stand there with one."""
    phrasings = load_phrasings(split)
    texts = [answer.text for answer in (*phrasings.everyday, *phrasings.look_alikes)]
    texts += [sentence for domain in phrasings.domains for sentence in (*domain.advice, *domain.tasks)]
    texts += [pair.draft for pair in phrasings.unsafe_step]
    words = {word for line in texts for word in re.findall(r"(?<![\w`'])[a-z]+(?:'[a-z]+)?(?![\w`])", line)}
    named = {word.lower() for word in (*phrasings.names, *phrasings.surnames, *phrasings.places)}
    return frozenset(word for word in words - named if len(word) > 1 or word == "a")
