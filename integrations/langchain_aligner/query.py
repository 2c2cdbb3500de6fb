"""Which question a draft answers: what model calls were asked and answered, and how a question is read from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.prompt_values import PromptValue

from aligner_chains.errors import InvalidTypeError, QueryNotFoundError

#: What of a dialogue the Aligner reads: its last human turn, or all of it.
Conversation: TypeAlias = Literal["last", "full"]

# What part of a draft must be in a model's answer so that it counts as made from it, looked at in pieces of so many
# characters: fewer are in any text of a language.
_LEAST_SHARE = 0.5
_PIECE = 8

_HOW_TO_GIVE_ONE = (
    'Give it in one of three ways: {"query": ..., "draft": ...} as the input, a list of messages that ends in the '
    "draft as the input, or AlignerRunnable(query=...) with a name of a prompt variable, a text or a function of the "
    "input."
)


@dataclass(slots=True, eq=False)
class ModelCall:
    """One call of an upstream model.

    Attributes:
        asked: The messages that it was given; of a completion model, the prompt.
        variables: The variables of the prompt template before it.
        answers: What it wrote; empty while it is writing.
    """

    asked: Sequence[BaseMessage] | str
    variables: Mapping[str, Any] | None = None
    answers: Sequence[Generation] = ()

    def answered_with(self, message_id: str) -> bool:
        """Whether a message with this id is its answer."""
        return any(isinstance(answer, ChatGeneration) and answer.message.id == message_id for answer in self.answers)

    @property
    def texts(self) -> list[str]:
        """The texts of its answers."""
        return [
            str(answer.message.text if isinstance(answer, ChatGeneration) else answer.text) for answer in self.answers
        ]


def call_behind(levels: Sequence[Sequence[ModelCall]], *, text: str, message_id: str | None) -> ModelCall | None:
    """The call that the draft is the answer of, or is made from the answer of; `None` if that shows of none.

    The message's id decides; without one, or where several calls have answered with it, the text. An answer that is the
    draft comes before the one that has most of the draft in it and the least beside it, and then a near run before one
    around it. Neither white space nor case counts.

    Args:
        levels: The calls of the run that the draft is corrected in, of the run around it, and so on, oldest first.
        text: The draft.
        message_id: The draft's id, if it is a message.

    Raises:
        QueryNotFoundError: Several calls with different questions fit the draft alike.
    """
    draft = _bare(text)
    named: list[list[ModelCall]] = []
    if message_id is not None:
        # Not every server's ids are unique.
        named = [[call for call in level if call.answered_with(message_id)] for level in levels]
        if any(named):
            levels = named
    answers = {call: [_bare(answer) for answer in call.texts] for level in levels for call in level}
    shares = {call: (1.0, 1.0) for call, texts in answers.items() if draft in texts}
    if not shares:
        none = (0.0, 0.0)
        shares = {call: max((_shares(draft, text) for text in texts), default=none) for call, texts in answers.items()}
    most = max(shares.values(), default=(0.0, 0.0))
    if most[0] < _LEAST_SHARE:
        return _nearest(named)
    return _nearest([[call for call in level if shares.get(call) == most] for level in levels])


def only_call(levels: Sequence[Sequence[ModelCall]]) -> ModelCall | None:
    """The one call that there was, whatever it answered; `None` if there was none.

    Args:
        levels: As for `call_behind`.

    Raises:
        QueryNotFoundError: There were several with different questions.
    """
    calls = [call for level in levels for call in level]
    return _only(calls) if calls else None


def question_in(value: object, conversation: Conversation) -> str:
    """The question in what a model was asked, or in what a user gave as the query.

    Args:
        value: A text, a message, a prompt or a list of messages.
        conversation: For several messages, what of them.

    Raises:
        InvalidTypeError: It is none of these.
        QueryNotFoundError: There is no text in it.
    """
    if isinstance(value, PromptValue):
        value = value.to_messages()
    if isinstance(value, BaseMessage):
        value = str(value.text)
    if isinstance(value, str):
        if not value.strip():
            raise not_found("The query is blank.")
        return value
    if isinstance(value, Sequence) and all(isinstance(message, BaseMessage) for message in value):
        return _question_among(value, conversation)
    raise InvalidTypeError(f"A query must be a text or messages, not {type(value).__name__}.")


def not_found(what_happened: str) -> QueryNotFoundError:
    """The error for a draft whose question is not known, with the ways to give one."""
    return QueryNotFoundError(f"{what_happened} {_HOW_TO_GIVE_ONE}")


def _question_among(messages: Sequence[BaseMessage], conversation: Conversation) -> str:
    turns = [(role, text) for message in messages if (role := _role(message)) and (text := str(message.text)).strip()]
    humans = [index for index, (role, _) in enumerate(turns) if role == "Human"]
    if not humans:
        raise not_found("No message before the draft is a human's with text in it.")
    # System messages and tools are not part of the dialogue.
    dialogue = turns[: humans[-1] + 1]
    if conversation == "last" or len(dialogue) == 1:
        return dialogue[-1][1]
    return "\n\n".join(f"{role}: {text}" for role, text in dialogue)


def _only(calls: Sequence[ModelCall]) -> ModelCall:
    questions = {_comparable(call) for call in calls}
    if len(questions) > 1:
        raise not_found(f"{len(calls)} model calls with different questions may have made this draft.")
    return calls[-1]


def _comparable(call: ModelCall) -> str | None:
    try:
        return question_in(call.asked, "last")
    except QueryNotFoundError:
        return None


def _nearest(levels: Sequence[Sequence[ModelCall]]) -> ModelCall | None:
    return next((_only(level) for level in levels if level), None)


def _bare(text: str) -> str:
    return "".join(text.split()).casefold()


def _shares(draft: str, answer: str) -> tuple[float, float]:
    """How much of the draft is in the answer, and how nearly they have one length: any long text has a word in it."""
    pieces = _pieces(draft)
    share = 1.0 if draft in answer else len(pieces & _pieces(answer)) / len(pieces)
    return share, min(len(draft), len(answer)) / max(len(draft), len(answer))


def _pieces(text: str) -> set[str]:
    return {text[start : start + _PIECE] for start in range(max(1, len(text) - _PIECE + 1))}


def _role(message: BaseMessage) -> Literal["Human", "Assistant"] | None:
    if isinstance(message, HumanMessage) or (isinstance(message, ChatMessage) and message.role in ("human", "user")):
        return "Human"
    return "Assistant" if isinstance(message, AIMessage) else None
