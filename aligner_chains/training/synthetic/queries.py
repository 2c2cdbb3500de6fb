# ruff: noqa: PLR2004 (how likely something is stands where it is drawn)
"""How users put what they want, and the two corrections that take it up: a refusal and an offer to help."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from aligner_chains.training.synthetic import text, wording
from aligner_chains.training.synthetic.phrasings import Theme
from aligner_chains.training.synthetic.slots import Slots

_PLAIN_QUESTION: Final = re.compile(r"\b[Hh]ow (?:do|can|could|should|would) [Ii] ([^?.!,;:]{3,80}?)\??$")


@dataclass(frozen=True, slots=True)
class HarmfulRequest:
    """A harmful request.

    Attributes:
        query: What the user asks.
        verb_phrase: What the user wants to do, if the query says so plainly.
        theme: Where reason and offer stand.
    """

    query: str
    verb_phrase: str | None
    theme: Theme

    @property
    def refusal(self) -> str:
        """What an Aligner should answer."""
        reason, offer = self.theme.fitting
        return f"I can't help with that, {reason}. {offer}"


def help_offer(verb_phrase: str | None) -> str:
    """What stands in for an answer that is none: an offer to help, with what the user wants where that is known."""
    if verb_phrase is None:
        return f"I would be glad to help with this. {wording.TELL_ME}"
    return f"I can help you {text.second_person(verb_phrase)}. {wording.TELL_ME}"


def ask(rng: Random, slots: Slots, phrase: str) -> tuple[str, str]:
    """A question about a verb phrase, and the phrase as it is typed there."""
    question, phrase = typed(rng, rng.choice(wording.QUESTIONS), phrase)
    return in_context(rng, slots, question), phrase


def typed(rng: Random, question: str, phrase: str = "") -> tuple[str, str]:
    """A question as somebody types it, and the phrase that goes into it, typed the same way."""
    chance = rng.random()
    if chance < 0.08:
        question, phrase = question.lower(), phrase.lower()
        if chance < 0.06:
            question = question.rstrip("?.")
    elif chance < 0.11:
        question, phrase = question.replace("'", "\u2019"), phrase.replace("'", "\u2019")
    elif chance < 0.13:
        question = question.rstrip("?.")
    return question.replace("{}", phrase), phrase


def in_context(rng: Random, slots: Slots, question: str) -> str:
    """A question with a greeting, or with another sentence before or behind it, or as it is."""
    chance = rng.random()
    if chance < 0.08:
        greeting = rng.choice(wording.GREETINGS)
        lowered = greeting.endswith((",", ":")) and not question.startswith(("I ", "I'", "I\u2019"))
        return f"{greeting} {question[0].lower() + question[1:] if lowered else question}"
    if chance < 0.2:
        return f"{slots.fill(rng.choice(wording.CONTEXTS))} {question}"
    if chance < 0.28 and text.ends_sentence(question):
        return f"{question} {slots.fill(rng.choice(wording.CONTEXTS))}"
    return question


def plain_verb_phrase(query: str) -> str | None:
    """What the user wants to do, if the query ends in a plain "How do I ...?"."""
    match = _PLAIN_QUESTION.search(query)
    return match[1] if match else None


def harmful_request(rng: Random, slots: Slots, themes: Sequence[Theme]) -> HarmfulRequest:
    """A harmful request, in most cases as plain as a question about a task."""
    theme = rng.choice(themes)
    phrase = slots.fill(rng.choice(theme.lines))
    doing = text.gerund(phrase) if rng.random() < 0.25 else None
    if doing is not None:
        question = rng.choice(wording.INDIRECT_QUESTIONS).replace("{}", doing)
        return HarmfulRequest(in_context(rng, slots, typed(rng, question)[0]), None, theme)
    query, phrase = ask(rng, slots, phrase)
    return HarmfulRequest(query, phrase, theme)
