"""What a model has read before is guessed to come again: a copy then takes few passes, each of many tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

_CONTEXT = 2  # tokens that have to agree before what followed them is guessed again
_LONGEST = 64  # a pass with more tokens than that costs more than it saves, most of all on a CPU


class Lookup:
    """A sequence, and where in it each run of tokens ended, so that its end can be looked up.

    Args:
        ids: What has been read, [S].

    Attributes:
        ids: All tokens so far.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids: list[int] = []
        self._ends: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        self._cursor = 0
        for token in ids:
            self.append(token)

    def append(self, token: int) -> None:
        """Takes the next token."""
        self.ids.append(token)
        self._cursor += 1
        self._ends[tuple(self.ids[-_CONTEXT:])].append(len(self.ids))

    def guess(self) -> list[int]:
        """What followed the last tokens elsewhere: at the next such place behind the last one, where there is one.

        The more tokens agree, the more are guessed, so that a rewrite, where few do, costs hardly more than without.
        """
        ends = self._ends[tuple(self.ids[-_CONTEXT:])]
        here = len(ends) - 1
        if here < 1:
            return []
        place = self._cursor = ends[min(bisect_left(ends, self._cursor, hi=here), here - 1)]
        return self.ids[place : place + min(2 + 4 * self._agreeing(place), _LONGEST)]

    def _agreeing(self, place: int) -> int:
        count = _CONTEXT
        while count < min(place, _LONGEST) and self.ids[-count - 1] == self.ids[place - count - 1]:
            count += 1
        return count
