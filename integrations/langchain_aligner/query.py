"""Which question a draft answers: what model calls were asked and answered, and how a question is read from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.prompt_values import PromptValue

from aligner_chains.errors import InvalidTypeError, QueryNotFoundError

#: What of a dialogue the Aligner reads: its last human turn, or all of it.
Conversation: TypeAlias = Literal["last", "full"]

# How much of the longer text the shorter one must be, so that a draft counts as made from a model's answer.
_LEAST_OVERLAP = 0.5

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

    def answered(self, test: Callable[[str], bool]) -> bool:
        """Whether the text of an answer passes the test."""
        return any(
            test(str(answer.message.text if isinstance(answer, ChatGeneration) else answer.text).strip())
            for answer in self.answers
        )


def call_behind(levels: Sequence[Sequence[ModelCall]], *, text: str, message_id: str | None) -> ModelCall | None:
    """The call whose answer is the draft; `None` if there was none.

    The message's id decides; without one, or where several calls have answered with it, the text: an answer that is the
    draft, or from which the draft is made. If no text fits, the calls of the nearest run count.

    Args:
        levels: The calls of the run that the draft is corrected in, of the run around it, and so on, oldest first.
        text: The draft.
        message_id: The draft's id, if it is a message.

    Raises:
        QueryNotFoundError: Several calls with different questions may have made the draft.
    """
    draft = text.strip()
    if message_id is not None:
        # Not every server's ids are unique.
        by_id = [[call for call in level if call.answered_with(message_id)] for level in levels]
        if any(by_id):
            levels = by_id
    for level in levels:
        for test in (lambda answer: answer == draft, lambda answer: _overlap(answer, draft)):
            if matches := [call for call in level if call.answered(test)]:
                return _only(matches)
    return next((_only(level) for level in levels if level), None)


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


def _overlap(answer: str, draft: str) -> bool:
    shorter, longer = sorted((answer, draft), key=len)
    return shorter in longer and len(shorter) >= _LEAST_OVERLAP * len(longer)


def _role(message: BaseMessage) -> Literal["Human", "Assistant"] | None:
    if isinstance(message, HumanMessage) or (isinstance(message, ChatMessage) and message.role in ("human", "user")):
        return "Human"
    return "Assistant" if isinstance(message, AIMessage) else None
