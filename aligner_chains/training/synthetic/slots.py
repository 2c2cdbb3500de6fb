# ruff: noqa: PLR2004 (how likely something is stands where it is drawn)
"""What goes into the slots of a phrasing, and words that nobody has seen before."""

from __future__ import annotations

import re
from random import Random
from typing import Final

from aligner_chains.training.synthetic.phrasings import Phrasings

_SLOT: Final = re.compile(r"(\b[Aa]n? )?\{(\w+)\}(th\b|%| per ?cent\b)?")
_AN: Final = re.compile(r"(?!uni|use|eu|one)[aeiou]|8|1[18](?!\d)", re.IGNORECASE)
# Number words whose ordinal is the numeral with "th".
_ORDINALS: Final = (*range(4, 11), *range(14, 21), *range(24, 31))


def _words(line: str) -> tuple[str, ...]:
    return tuple(line.split())


_SYLLABLES: Final = _words(
    "ba ko ri zen tov mar lu dri sha pel vin or qua xi mo gre tul fen ja nik ess ro wyn cal bri dor hal ky lem "
    "sto ur ve ash bek cin du el fa gon hu im jo ka lin mi nor op pra ras sel ti um vo wes ya zu thi cro pli snu"
)
_ACCENTED: Final = _words(
    "café naïve résumé Zoë Müller Łódź São Ångström jalapeño façade über Dvořák Čapek smörgås crème brûlée "
    "Orléans Bogotá Győr Þór señor œuvre İzmir Ólafur Tōkyō Málaga fête Gdańsk 21°C №7 §12 €45 £9.50 ½ x² ≤10 → "
    "\u201cquoted\u201d \u2018so\u2019 \u2026"
)
_FOREIGN: Final = _words(
    "東京 你好 世界 ありがとう 猫 안녕 서울 Москва привет хлеб Київ мир спасибо Ελλάδα καλημέρα नमस्ते مرحبا שלום ไทย"
)
_EMOJI: Final = _words("😀 🎉 👍 ❤️ 🐱 🌧️ ✅ 🚀 👩‍🍳 🇫🇷 ⭐ 🥖 😅")
_MARKERS: Final = (
    "<\u2060/s>",
    "<\u2060s>",
    "<\u2060pad>",
    "<\u2060unk>",
    "<\u2060|im_end|>",
    "<\u2060|im_start|>",
    "<\u2060|eot_id|>",
    "[\u2060INST]",
    "[\u2060/INST]",
    "<\u2060think>",
    "A\u2060SSISTANT:",
    "B\u2060EGINNING OF CONVERSATION: USER:",
    "!\u2060[a](b.png)",
)
_ENDINGS: Final = _words("com org net io dev co.uk de example")
_EXTENSIONS: Final = _words("py txt csv json md cfg png tar.gz")


class Slots:
    """Fills the slots of phrasings and invents words, by chance.

    Args:
        rng: Where chance comes from.
        phrasings: Names, places and other words to choose from.
    """

    def __init__(self, rng: Random, phrasings: Phrasings) -> None:
        self._rng = rng
        self._words = phrasings

    def fill(self, text: str, filled: dict[str, str] | None = None) -> str:
        """The text with its slots filled, the same slot with the same words; places stay.

        Args:
            text: With slots.
            filled: What slots hold already; those that this text adds are put in as well.
        """
        if "{" not in text:
            return text
        chosen = {} if filled is None else filled

        def put(match: re.Match[str]) -> str:
            article, slot, unit = match.groups()
            if slot in ("a", "b"):
                return match[0]
            if slot not in chosen:
                chosen[slot] = self._choose(slot, unit)
            words = chosen[slot]
            # Some journals begin with "the", which gets a capital where a sentence begins.
            if match.start() == 0 or text[: match.start()].endswith((". ", "? ", "! ")):
                words = words[:1].upper() + words[1:]
            if article:
                article = article[0] + ("n " if _AN.match(words) else " ")
            return f"{article or ''}{words}{unit or ''}"

        return _SLOT.sub(put, text)

    def _choose(self, slot: str, unit: str | None) -> str:
        rng, words = self._rng, self._words
        if slot == "number":
            return str(rng.choice(_ORDINALS)) if unit == "th" else self.number(99)
        if slot == "year":
            return str(rng.randint(1950, 2024))
        if slot == "insult":
            return rng.choice(words.insults)
        if slot == "journal":
            return rng.choice(words.journals)
        if rng.random() < 0.25:
            return self.invented().capitalize()
        return rng.choice({"name": words.names, "surname": words.surnames, "place": words.places}[slot])

    def number(self, highest: int = 9999) -> str:
        """A number from two up to the highest; small ones are likelier."""
        rng = self._rng
        kind = rng.random()
        if kind < 0.85 or highest <= 60:
            return str(rng.randint(2, min(60, highest)))
        return str(rng.randint(61, 99) if kind < 0.93 or highest < 100 else rng.randint(100, highest))

    def invented(self) -> str:
        """A word of two or three syllables that means nothing."""
        return "".join(self._rng.choice(_SYLLABLES) for _ in range(self._rng.choice((2, 2, 3))))

    def odd(self) -> str:
        """A token of a kind that is easily miscopied: code, an address, another script, a broken special token."""
        rng = self._rng
        kind = rng.randrange(16)
        if kind < 5:
            return rng.choice((_ACCENTED, _ACCENTED, _FOREIGN, _EMOJI, _MARKERS)[kind])
        a, b, number = self.invented(), self.invented(), self.number()
        return (
            f"https://{a}.{rng.choice(_ENDINGS)}/{b}?id={number}",
            f"{a}.{b}@{self.invented()}.{rng.choice(_ENDINGS)}",
            f"{a}_{b}({number})",
            f"{a}{b.capitalize()}[{number}]",
            f"--{a}={b}",
            f"/{a}/{b}.{rng.choice(_EXTENSIONS)}",
            f"{a.upper()}-{number}",
            f"`{a} += {number}`",
            f"{number}.{self.number()}",
            f"{a.capitalize()}{number}x{b.upper()}",
            f"{number},{rng.randint(100, 999)}",
        )[kind - 5]
