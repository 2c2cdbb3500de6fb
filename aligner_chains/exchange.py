"""One exchange with a model, without the I/O: from query and draft to the prompt, from its answer to the correction."""

from __future__ import annotations

from dataclasses import dataclass

from aligner_chains.checks import check_characters
from aligner_chains.errors import InvalidInputError
from aligner_chains.feedback import Feedback
from aligner_chains.neutralize import NeutralTexts, neutralize
from aligner_chains.prompts import Prompt, PromptFormat


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is sent for one draft, and how to read what comes back.

    Attributes:
        prompt: What the model reads.
        draft: The draft as it was given.
    """

    prompt: Prompt
    draft: str
    _neutral: NeutralTexts

    @classmethod
    def prepare(
        cls,
        query: str,
        draft: str,
        feedback: Feedback,
        *,
        prompt_format: PromptFormat,
        special_tokens: tuple[str, ...] = (),
    ) -> Exchange:
        """Checks the texts, neutralises them and renders the prompt.

        Raises:
            InvalidInputError: Query or draft is blank, holds NUL or a lone surrogate.
            FeedbackNotSupportedError: The prompt format has no place for this feedback.
        """
        for name, text, wanted in (("query", query, "what the user asked"), ("draft", draft, "the answer to correct")):
            if not text.strip():
                raise InvalidInputError(
                    f"The {name} is {'blank' if text else 'empty'}, so there is nothing to correct. Give {wanted}."
                )
            check_characters(name, text)
        neutral = neutralize(
            (query.strip(), draft.strip(), feedback.objective, feedback.instruction or ""),
            markers=(*prompt_format.markers, *special_tokens),
        )
        safe_query, safe_draft, objective, instruction = neutral.texts
        if objective != feedback.objective or instruction != (feedback.instruction or ""):
            feedback = Feedback(objective, instruction=instruction or None)
        prompt = prompt_format.render(safe_query, safe_draft, feedback)
        return cls(prompt, draft, neutral)

    def reader(self) -> AnswerReader:
        """Reads one answer to the prompt."""
        return AnswerReader(self.draft, self._neutral)


class AnswerReader:
    """Turns the pieces of a model's answer into pieces of the correction.

    Copied special tokens come back as they were, and the white space around the draft stays around the correction:
    models begin their answer with a space, and drop the draft's own.
    """

    def __init__(self, draft: str, neutral: NeutralTexts) -> None:
        stripped = draft.strip()
        start = draft.index(stripped)
        self._before, self._after = draft[:start], draft[start + len(stripped) :]
        self._neutral = neutral
        self._held_back = ""
        self._read: list[str] = []

    @property
    def text(self) -> str:
        """All pieces handed out so far."""
        return "".join(self._read)

    def read(self, piece: str) -> str:
        """The piece of the correction that a piece of the answer makes; empty as long as it is only white space."""
        piece = self._held_back + self._neutral.restore(piece)
        if not self._read:
            piece = piece.lstrip()
            if not piece:
                return ""
            piece = self._before + piece
        shown = piece.rstrip()
        self._held_back = piece[len(shown) :]
        return self._hand_out(shown)

    def finish(self) -> str:
        """The last piece, after the answer's end: the white space behind the draft. Empty if the answer was empty."""
        return self._hand_out(self._after) if self._read else ""

    def _hand_out(self, piece: str) -> str:
        if piece:
            self._read.append(piece)
        return piece
