"""From triples to batches of tokens: what the model reads, and what it should have written."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypedDict, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from aligner_chains.data import Triple
from aligner_chains.errors import ConfigurationError, DataError
from aligner_chains.feedback import Feedback
from aligner_chains.neutralize import neutralize
from aligner_chains.prompts import PROMPT_FORMATS
from aligner_chains.training.streams import TripleStream, endless
from aligner_chains.training.synthetic.text import chunks_of

#: What the model is trained to read.
PROMPT_FORMAT = PROMPT_FORMATS["aligner-7b"]
_LENGTH_JITTER = 8


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence.

    Attributes:
        ids: Prompt, correction and end token.
        prompt_tokens: How many of them are the prompt.
        edited: Places of the draft's tokens, each with whether its sentence is to change.
    """

    ids: tuple[int, ...]
    prompt_tokens: int
    edited: tuple[tuple[int, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of about one length.

    Attributes:
        ids: `[B, S]`, padded on the right.
        places: `[N]`, the places in `ids`, counted through all rows, behind which a token of a correction comes.
        labels: `[N]`, those tokens.
        draft_places: `[M]`, the places of drafts' tokens, counted likewise.
        edited: `[M]`, 1 where the sentence of such a token is to change, else 0.
        tokens: Number of tokens without padding.
    """

    ids: Tensor
    places: Tensor
    labels: Tensor
    draft_places: Tensor
    edited: Tensor
    tokens: int


@dataclass(frozen=True, slots=True)
class Curriculum:
    """What is trained when, by the share of the run that is done.

    Attributes:
        warm_up: Share of the run, at its start, that trains to leave good answers as they are.
        lengths: The longest sequence from a share of the run on: `((0.0, 170), (0.3, 400))`; empty for the context's
            length all along.
        copies: Share of the examples that are random tokens to copy.
        warm_up_copies: The same during the warm-up.
        pool: How many examples are taken from the stream at a time, to be sorted by length.
    """

    warm_up: float
    lengths: tuple[tuple[float, int], ...] = ()
    copies: float = 0.0
    warm_up_copies: float = 0.0
    pool: int = 1000

    def stage(self, share: float, *, context: int) -> tuple[bool, int]:
        """Whether it is the warm-up, and the most tokens that an example may have, at this share of the run."""
        reached = [length for start, length in self.lengths if share >= start]
        return share < self.warm_up, min(context, reached[-1]) if reached else context


#: For a model that starts from the copy circuit: short texts first, as most steps then cost little.
NANO_CURRICULUM = Curriculum(
    warm_up=0.02, lengths=((0.0, 170), (0.25, 400), (0.5, 1024)), copies=0.05, warm_up_copies=0.5
)
#: For one that has been trained so before: it copies, and has seen short texts.
CONTINUED_CURRICULUM = replace(NANO_CURRICULUM, warm_up=0.0, lengths=((0.0, 256), (0.4, 1024)))
#: For a model that knows language: a warm-up on identities, as in the Aligner paper (arXiv 2402.02416, section 3).
BASE_CURRICULUM = Curriculum(warm_up=0.1)


class Position(TypedDict):
    """Where a `BatchStream` stands."""

    taken: int
    random_state: Any
    share: float
    used: int
    dropped: int


class Encoder:
    """Turns triples into token sequences.

    Args:
        tokenizer: The model's tokenizer.

    Raises:
        ConfigurationError: The tokenizer has no end token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.eos_token_id is None:
            raise ConfigurationError(
                f"The tokenizer {tokenizer.name_or_path!r} has no end token, so a correction could not end. Set one."
            )
        self._tokenizer = tokenizer
        self._end = cast(int, tokenizer.eos_token_id)
        self._markers = (*PROMPT_FORMAT.markers, *tokenizer.all_special_tokens)
        fixed = {*tokenizer.get_added_vocab().values(), *tokenizer.all_special_ids}
        self._ordinary = sorted(set(tokenizer.get_vocab().values()) - fixed)
        before, _, rest = PROMPT_FORMAT.template.partition(" {query}")
        between, _, after = rest.partition(" {draft}")
        self._tail = after
        self._before = self._tokens(before.format(objective=Feedback.HELPFUL_AND_HARMLESS))
        self._between, self._after = (self._tokens(text, add_special_tokens=False) for text in (between, after))

    def encode(self, triple: Triple) -> Example:
        """The sequence of a triple, its texts prepared as they are when the model is used."""
        query, draft, correction, objective = neutralize(
            (triple.query.strip(), triple.draft.strip(), triple.correction.strip(), triple.objective), self._markers
        ).texts
        prompt = cast(str, PROMPT_FORMAT.render(query, draft, Feedback(objective)))
        prompt_ids = self._tokens(prompt)
        # Encoded as one text: some tokenizers put a space of their own before whatever they encode.
        ids = self._tokens(f"{prompt} {correction}")
        shared = next((i for i, (a, b) in enumerate(zip(prompt_ids, ids, strict=False)) if a != b), len(prompt_ids))
        return Example((*ids, self._end), min(shared, len(ids)), self._edited(prompt, draft, correction))

    def _edited(self, prompt: str, draft: str, correction: str) -> tuple[tuple[int, bool], ...]:
        if not self._tokenizer.is_fast:  # others do not tell where in the text a token is from
            return ()
        fates: dict[int, bool] = {}  # of the characters of the draft's sentences
        at = len(prompt) - len(self._tail) - len(draft)
        for gap, marker, sentence in chunks_of(draft):
            at += len(gap) + len(marker)
            fates |= dict.fromkeys(range(at, at + len(sentence)), sentence not in correction)
            at += len(sentence)
        offsets = self._tokenizer(prompt, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        return tuple((i, fates[end - 1]) for i, (_, end) in enumerate(offsets) if end - 1 in fates)

    def random_copy(self, rng: random.Random, *, longest: int) -> Example:
        """Random tokens as a draft, to be copied: no knowledge of language helps, only looking does."""
        room = max(4, (longest - 40) // 2)
        length = round(math.exp(rng.uniform(math.log(3), math.log(room))))
        # From few tokens to all: with few, each stands in many places, and more of what precedes has to be compared.
        variety = min(len(self._ordinary), rng.choice((50, 400, len(self._ordinary))))
        first = rng.randrange(len(self._ordinary) - variety + 1)
        draft = [self._ordinary[first + rng.randrange(variety)] for _ in range(length)]
        query = [rng.choice(self._ordinary) for _ in range(rng.randint(2, 10))]
        ids = (*self._before, *query, *self._between, *draft, *self._after)
        return Example((*ids, *draft, self._end), len(ids))

    def _tokens(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        # Not verbose: texts over the context are sorted out, and counted, later.
        return cast(
            "list[int]", self._tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]
        )


class BatchStream:
    """Batches of a run, without end; the same ones for the same seed and shares.

    Args:
        stream: Where the triples come from.
        encoder: Turns them into tokens.
        curriculum: What is trained when.
        seed: Seed of the stream, the random copies and the order.
        batch_tokens: The most tokens of a batch, padding included; a longer example is a batch of its own.
        context: The longest sequence that the model can read; longer examples are left out, and counted.
        pad: Id to pad with.
    """

    def __init__(
        self,
        stream: TripleStream,
        encoder: Encoder,
        curriculum: Curriculum,
        *,
        seed: int,
        batch_tokens: int,
        context: int,
        pad: int,
    ) -> None:
        self._triples = endless(stream, seed)
        self._encoder, self._curriculum = encoder, curriculum
        self._batch_tokens, self._context, self._pad = batch_tokens, context, pad
        self._rng = random.Random(seed)  # noqa: S311 (an order, not a secret)
        self._taken = self._used = self.dropped = 0
        self._batches: list[list[Example]] = []
        self._start = self._mark(share=0.0)

    def next(self, share: float) -> Batch:
        """The next batch.

        Args:
            share: How much of the run is done, 0 to 1.

        Raises:
            DataError: Nothing of what the stream gives fits into the context.
        """
        # A new stage does not wait until what was prepared for the last one is used up.
        if self._used >= len(self._batches) or self._stage(share) != self._stage(self._start["share"]):
            self._start = self._mark(share)
            self._fill(share)
        batch = self._batches[self._used]
        self._used += 1
        return self._collate(batch)

    def position(self) -> Position:
        """Where the stream stands, for `seek`."""
        return {**self._start, "used": self._used}

    def seek(self, position: Position) -> None:
        """Goes to where another stream of the same settings stood; only forwards from a stream's start."""
        for _ in islice(self._triples, position["taken"] - self._taken):
            pass
        self._taken, self.dropped = position["taken"], position["dropped"]
        version, internal, gauss = position["random_state"]
        self._rng.setstate((version, tuple(internal), gauss))
        self._start = self._mark(position["share"])
        if position["used"]:
            self._fill(position["share"])
        self._used = position["used"]

    def _mark(self, share: float) -> Position:
        return {
            "taken": self._taken,
            "random_state": self._rng.getstate(),
            "share": share,
            "used": 0,
            "dropped": self.dropped,
        }

    def _stage(self, share: float) -> tuple[bool, int]:
        return self._curriculum.stage(share, context=self._context)

    def _fill(self, share: float) -> None:
        warm_up, longest = self._stage(share)
        examples = list(self._examples(warm_up=warm_up, longest=longest))
        usable = [example for example in examples if len(example.ids) <= self._context]
        self.dropped += len(examples) - len(usable)
        if not usable:
            raise DataError(
                f"None of {len(examples)} examples fits into the model's context of {self._context} tokens; "
                f"the shortest has {min(len(example.ids) for example in examples)}."
            )
        # Where all texts are long, a curriculum must not leave nothing to train on.
        fitting = [example for example in usable if len(example.ids) <= longest] or usable
        fitting.sort(key=lambda example: len(example.ids) + self._rng.random() * _LENGTH_JITTER)
        self._batches = []
        batch: list[Example] = []
        width = 0
        for example in fitting:
            width = max(width, len(example.ids))
            if batch and (len(batch) + 1) * width > self._batch_tokens:
                self._batches.append(batch)
                batch, width = [], len(example.ids)
            batch.append(example)
        self._batches.append(batch)
        self._rng.shuffle(self._batches)
        self._used = 0

    def _examples(self, *, warm_up: bool, longest: int) -> Iterator[Example]:
        copies = self._curriculum.warm_up_copies if warm_up else self._curriculum.copies
        for _ in range(self._curriculum.pool):
            if self._rng.random() < copies:
                yield self._encoder.random_copy(self._rng, longest=longest)
                continue
            triple = next(self._triples)
            self._taken += 1
            # A correction is a good answer: as a draft it is to be left as it is.
            yield self._encoder.encode(replace(triple, draft=triple.correction) if warm_up else triple)

    def _collate(self, examples: list[Example]) -> Batch:
        width = max(len(example.ids) for example in examples)
        ids = torch.full((len(examples), width), self._pad)  # [B, S]
        places: list[int] = []
        labels: list[int] = []
        edited: list[tuple[int, bool]] = []
        for row, example in enumerate(examples):
            first, last = example.prompt_tokens, len(example.ids)
            ids[row, :last] = torch.tensor(example.ids)
            places.extend(range(row * width + first - 1, row * width + last - 1))
            labels.extend(example.ids[first:])
            edited.extend((row * width + place, edit) for place, edit in example.edited)
        return Batch(
            ids,
            torch.tensor(places),
            torch.tensor(labels),
            torch.tensor([place for place, _ in edited], dtype=torch.long),
            torch.tensor([edit for _, edit in edited], dtype=torch.float32),
            sum(len(example.ids) for example in examples),
        )
