"""Where the triples of a training run come from."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from aligner_chains.data import Triple, read_triples
from aligner_chains.errors import DataError

#: Called with a seed, gives triples; the same ones for the same seed. Each process of a run calls it with its own seed.
TripleStream: TypeAlias = Callable[[int], Iterator[Triple]]


@dataclass(frozen=True, slots=True)
class SyntheticStream:
    """Triples composed by the synthetic generator, without end.

    Attributes:
        real: A JSONL file of triples whose texts are mixed in; `None` for composed texts alone.
    """

    real: Path | None = None

    def __call__(self, seed: int) -> Iterator[Triple]:
        """Triples for a seed."""
        from aligner_chains.training.synthetic import synthesize

        return synthesize(seed=seed, real=tuple(read_triples(self.real)) if self.real else ())


@dataclass(frozen=True, slots=True)
class JsonlStream:
    """The triples of a JSONL file, once, in an order that depends on the seed.

    Attributes:
        path: The file, as `read_triples` takes it.
    """

    path: Path

    def __call__(self, seed: int) -> Iterator[Triple]:
        """Triples for a seed."""
        triples = list(read_triples(self.path))
        random.Random(seed).shuffle(triples)  # noqa: S311 (an order, not a secret)
        return iter(triples)


def endless(stream: TripleStream, seed: int) -> Iterator[Triple]:
    """The triples of a stream, started again whenever it ends.

    Raises:
        DataError: The stream has no triples.
    """
    while True:
        count = 0
        for triple in stream(seed):
            count += 1
            yield triple
        if not count:
            raise DataError(f"{stream!r} gives no triples to train on.")
        # Another order or another part for the next pass; far from the seeds of other processes.
        seed += 1_000_003
