"""What an Aligner in this process writes for examples, without its guard: once, whatever is asked of it later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from aligner_chains.data import Triple
from aligner_chains.errors import ConfigurationError
from aligner_chains.exchange import Exchange
from aligner_chains.feedback import Feedback
from aligner_chains.guard import Guard
from aligner_chains.model_config import config_for_model

_FEW = 100  # are written sooner than another process has started


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote for a draft.

    Attributes:
        draft: The draft.
        text: The correction as the Aligner would return it.
        logprobs: The natural log-probability of each of its tokens.
        ended: Whether the model ended it; an answer that ran into the end of the context is a failure to the Aligner.
    """

    draft: str
    text: str
    logprobs: tuple[float, ...]
    ended: bool

    def guarded(self, guard: Guard) -> str:
        """What a user gets under a guard who wants the draft where there is no correction."""
        if not self.ended or not self.text or guard.doubt(self.text, draft=self.draft, logprobs=self.logprobs):
            return self.draft
        return self.text


def write_answers(
    model: Path, triples: Sequence[Triple], *, processes: int = 2, on_answer: Callable[[], None] = lambda: None
) -> list[Answer]:
    """The model's answers to the drafts of triples, in their order.

    Args:
        model: Folder of the model.
        triples: Queries, drafts and objectives.
        processes: How many processes share the work, each on one thread.
        on_answer: Called with each answer that is there.

    Raises:
        ModelLoadError: There is no Aligner in this folder.
        ConfigurationError: Its prompt format is a chat.
        MissingDependencyError: torch or transformers is not installed.
    """
    # Long ones first, so that no process is left alone with one at the end.
    order = sorted(range(len(triples)), key=lambda index: -len(triples[index].draft))
    found: dict[int, Answer] = {}

    def collect(answers: Iterable[Answer]) -> None:
        for index, answer in zip(order, answers, strict=True):
            found[index] = answer
            on_answer()

    todo = [triples[index] for index in order]
    if processes == 1 or len(triples) < _FEW:
        collect(map(_Writer(model).write, todo))
    else:
        _Writer(model)  # what cannot be loaded fails here; a pool would start its processes again and again
        with get_context("spawn").Pool(processes, _start, (model,)) as pool:
            collect(pool.imap(_write, todo, chunksize=4))
    return [found[index] for index in range(len(triples))]


class _Writer:
    def __init__(self, model: Path) -> None:
        from aligner_chains.decoding.causal_model import CausalModel

        self._format = config_for_model(str(model)).prompt_format
        self._model = CausalModel.load(model, device="cpu", dtype="float32")

    def write(self, triple: Triple) -> Answer:
        from aligner_chains.decoding.causal_model import Sampling, Token

        exchange = Exchange.prepare(
            triple.query,
            triple.draft,
            Feedback(triple.objective),
            prompt_format=self._format,
            special_tokens=self._model.added_tokens,
        )
        if not isinstance(exchange.prompt, str):
            raise ConfigurationError(
                f"This evaluation is of Aligners that read one text, but the prompt format {self._format.name!r} is a "
                "chat."
            )
        ids = self._model.encode(exchange.prompt)
        room = (self._model.max_length or len(ids)) - len(ids)
        if room < 1:
            return Answer(triple.draft, "", (), ended=False)
        tokens: list[Token] = []
        reason = self._model.generate(
            ids, max_new_tokens=room, sampling=Sampling(), on_token=tokens.append, cancelled=lambda: False
        )
        reader = exchange.reader()
        reader.read("".join(token.text for token in tokens if not token.special))
        reader.finish()
        logprobs = tuple(token.logprob for token in tokens)
        return Answer(triple.draft, reader.text, logprobs, ended=reason == "eos_token")


_writer: _Writer | None = None


def _start(model: Path) -> None:
    global _writer  # noqa: PLW0603 (a process of its own, which has nothing else)
    _writer = _Writer(model)


def _write(triple: Triple) -> Answer:
    assert _writer is not None
    return _writer.write(triple)
