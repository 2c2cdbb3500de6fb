"""The guard: whether a correction can be trusted, or the draft had better stay as it is."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from aligner_chains.errors import ConfigurationError

#: The rules that look at token probabilities, each of them a probability.
THRESHOLDS = ("min_confidence", "min_sequence_confidence", "min_replacement_confidence")

_NGRAM = 4
_REPLACED = 1 / 3  # of a draft's words; of 100 refusals and offers to help 92 keep fewer, of edits 8


@dataclass(frozen=True, slots=True)
class Guard:
    """What a correction must be like to be trusted. Each rule is off where it is `None` or `False`.

    A small Aligner fails by losing its place in a copy, or by editing what it has not understood; it then hesitates at
    some tokens, and their probabilities are low. The thresholds belong to a model and are calibrated on data that it
    was not trained on.

    Attributes:
        min_confidence: The least mean probability of a token, 0 to 1: `exp` of the mean log-probability.
        min_sequence_confidence: The least probability of the correction as a whole, 0 to 1: the product of its tokens'
            probabilities. It suits Aligners that copy, whose tokens are nearly certain but for the few that matter; it
            weighs those alike whether the draft is edited or replaced, and trusts long corrections less than short
            ones.
        min_replacement_confidence: The same for a correction that keeps less than a third of the draft's words, such as
            a refusal; `None` for no difference. A replacement may be worded in several ways, of which a model that is
            sure that one is needed finds each less likely than the only right edit.
        reject_repetition: Distrust four words in a row that the correction says more often than the draft does and says
            at least twice: a model that loops. `correct` then reads a stream as well, to end it there; an
            OpenAI-compatible server that tells no usage in a stream then tells none at all.
        reject_skips: Distrust a correction that leaves out, from within sentences, what stands between two occurrences
            of the same words: a model that lost its place and went on behind the wrong one. It suits Aligners that
            copy; one that rewrites may leave out the like on purpose.
    """

    min_confidence: float | None = None
    min_sequence_confidence: float | None = None
    min_replacement_confidence: float | None = None
    reject_repetition: bool = False
    reject_skips: bool = False

    def __post_init__(self) -> None:
        for name in THRESHOLDS:
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
                raise ConfigurationError(f"{name} is a probability from 0 to 1, not {value!r}.")

    @property
    def needs_logprobs(self) -> bool:
        """Whether the guard looks at token probabilities."""
        return any(getattr(self, name) is not None for name in THRESHOLDS)

    @property
    def is_on(self) -> bool:
        """Whether any rule is on, so that a correction must be whole before it can be shown."""
        return self.needs_logprobs or self.reject_repetition or self.reject_skips

    def doubt(self, text: str, *, draft: str, logprobs: Sequence[float] | None) -> str | None:
        """Why this correction is not to be trusted; `None` if it is.

        Args:
            text: The correction.
            draft: What it corrects.
            logprobs: The natural log-probability of each of its tokens.

        Raises:
            ConfigurationError: A rule needs token probabilities and there are none.
        """
        if text == draft:
            return None
        if self.needs_logprobs:
            if not logprobs:
                raise ConfigurationError(
                    "The guard needs the probabilities of tokens, and this server gives none. Serve the Aligner with "
                    "TGI or vLLM, or do without: no min_confidence=, and guard=Guard() if the model comes with one."
                )
            # A broken model's probabilities are NaN, which no comparison is true of: hence `not >=`.
            mean, whole = confidence(logprobs), math.exp(sum(logprobs))
            if self.min_confidence is not None and not mean >= self.min_confidence:
                return f"not confident: mean token probability {mean:.2f} is below {self.min_confidence:g}"
            least = self.min_sequence_confidence
            if self.min_replacement_confidence is not None and _replaces(text, draft):
                least = self.min_replacement_confidence
            if least is not None and not whole >= least:
                return f"not confident: probability {whole:.2f} of the whole is below {least:g}"
        if self.reject_repetition and (repeated := repetition(text, draft=draft)):
            return f"repeats itself: {repeated!r}"
        if self.reject_skips and (skipped := skip(text, draft=draft)):
            return f"lost its place: {skipped!r}"
        return None


def confidence(logprobs: Sequence[float]) -> float:
    """The mean probability of tokens: `exp` of the mean of their natural log-probabilities."""
    return math.exp(sum(logprobs) / len(logprobs))


def repetition(text: str, *, draft: str) -> str | None:
    """The first four words in a row that a text says once more than the draft, and at least twice; `None` if none."""
    return RepetitionWatch(draft).read(f"{text} ")


def skip(text: str, *, draft: str) -> str | None:
    """The words at which a text went on behind a later occurrence of them in the draft; `None` if it did nowhere.

    Whole sentences are left out on purpose: a draft may say "Stir it." twice, and what stands between may be rude.
    """
    old, new = draft.split(), text.split()
    for operation, start, end, _, _ in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if operation != "delete" or start == 0:
            continue
        before = _shared(zip(old[:start][::-1], old[start:end][::-1], strict=False))
        behind = _shared(zip(old[start:end], old[end:], strict=False))
        # Which of the equal words are the ones left out is the diff's choice, so the cut may be at any of them.
        cuts = range(max(-before, 1 - start), behind + 1)
        if end - start > before + behind > 0 and not any(
            _ends_sentence(old[start + cut - 1]) and _ends_sentence(old[end + cut - 1]) for cut in cuts
        ):
            return " ".join(old[end - before : end + behind])
    return None


class RepetitionWatch:
    """Notices a model that loops while it writes, so that it need not be heard to the end.

    Args:
        draft: What it corrects, and may repeat as often as it is in there.
    """

    def __init__(self, draft: str) -> None:
        self._allowed = Counter(_ngrams(draft.split()))
        self._said: Counter[tuple[str, ...]] = Counter()
        self._words: list[str] = []
        self._begun = ""

    def read(self, piece: str) -> str | None:
        """The four words in a row that, with this piece of the correction, are said too often; `None` if none."""
        begun = self._begun + piece
        words = begun.split()
        # A word may go on in the next piece, unless something stands behind it.
        self._begun = words.pop() if words and not begun[-1].isspace() else ""
        self._words = [*self._words[1 - _NGRAM :], *words]
        for ngram in _ngrams(self._words):
            self._said[ngram] += 1
            if self._said[ngram] > max(1, self._allowed[ngram]):
                return " ".join(ngram)
        return None


def _replaces(text: str, draft: str) -> bool:
    before = Counter(draft.split())
    return (before & Counter(text.split())).total() < _REPLACED * before.total()


def _ngrams(words: list[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(_NGRAM)), strict=False)


def _shared(pairs: Iterable[tuple[str, str]]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _ends_sentence(word: str) -> bool:
    return word.rstrip("\"')*_").endswith((".", "!", "?"))
