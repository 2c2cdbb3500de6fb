"""A whole greedy answer in few passes: what the model has read before is guessed to come again, and then verified."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from aligner_chains.decoding.causal_model import CausalModel

_CONTEXT = 2  # tokens that have to agree before what followed them is guessed again
_GUESSED = 32


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """An answer that was written in one go.

    Attributes:
        text: The text, without special tokens.
        logprobs: The natural log-probability of each token, the end token's included. [S]
        ended: Whether the model ended it, and not the limit.
    """

    text: str
    logprobs: tuple[float, ...]
    ended: bool


def write_whole(model: CausalModel, ids: Sequence[int], *, max_new_tokens: int) -> WholeAnswer:
    """What `CausalModel.generate` writes greedily, several times as fast where the answer copies from the prompt.

    Args:
        model: A model of full attention; it is left as it is.
        ids: The prompt, [S].
        max_new_tokens: The most tokens to write.
    """
    sequence = _Sequence(ids)
    logprobs: list[float] = []
    cache = DynamicCache()
    ended = False
    with torch.inference_mode(), model.fitting_threads():
        while not ended and len(logprobs) < max_new_tokens:
            guess = sequence.guess()
            unread = sequence.ids[cache.get_seq_length() :] + guess  # [U]
            output = model.model(
                torch.tensor([unread], device=model.model.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=len(guess) + 1,
            )
            rows = output.logits[0].float().log_softmax(-1)  # [G + 1, V]
            best, chosen = (column.tolist() for column in rows.max(-1))  # [G + 1], [G + 1]
            for guessed, token, logprob in zip([*guess, None], chosen, best, strict=True):
                sequence.append(token)
                logprobs.append(logprob)
                ended = model.is_end(token)
                if token != guessed or ended or len(logprobs) == max_new_tokens:
                    break
            # The last token has not been read yet; what was guessed wrong must not stay read.
            if (excess := cache.get_seq_length() - (len(sequence.ids) - 1)) > 0:
                cache.crop(-excess)
    text = model.tokenizer.decode(sequence.ids[len(ids) :], skip_special_tokens=True)
    return WholeAnswer(str(text), tuple(logprobs), ended)


class _Sequence:
    """Prompt and answer so far, and where in them each run of `_CONTEXT` tokens ended."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids: list[int] = []
        self._ends: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        self._cursor = 0
        for token in ids:
            self.append(token)

    def append(self, token: int) -> None:
        self.ids.append(token)
        self._cursor += 1
        self._ends[tuple(self.ids[-_CONTEXT:])].append(len(self.ids))

    def guess(self) -> list[int]:
        """What followed the last tokens elsewhere: at the next such place behind the last one, where there is one."""
        *places, _ = self._ends[tuple(self.ids[-_CONTEXT:])]
        if not places:
            return []
        place = next((end for end in places if end >= self._cursor), places[-1])
        self._cursor = place
        return self.ids[place : place + _GUESSED]
