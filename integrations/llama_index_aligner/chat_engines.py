"""Chat engines whose memory holds corrected answers: the next turn never sees a draft."""

from __future__ import annotations

import inspect
from contextlib import aclosing, closing
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar, cast

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    MessageRole,
)
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.chat_engine.types import (
    AGENT_CHAT_RESPONSE_TYPE,
    AgentChatResponse,
    BaseChatEngine,
    StreamingAgentChatResponse,
)
from llama_index.core.memory import BaseMemory
from typing_extensions import Self, Unpack

from aligner_chains import portal
from aligner_chains.errors import ConfigurationError, InvalidTypeError
from llama_index_aligner.corrector import METADATA_KEY, Corrector
from llama_index_aligner.messages import with_text
from llama_index_aligner.options import CorrectionArguments, CorrectionOptions
from llama_index_aligner.synthesizer import AlignerSynthesizer

_R = TypeVar("_R", AgentChatResponse, StreamingAgentChatResponse)


class _TurnSynthesizer(AlignerSynthesizer):
    # A chat engine passes on only the text of a response; what became of the draft is in its metadata.
    response: RESPONSE_TYPE

    def synthesize(self, *args: Any, **kwargs: Any) -> RESPONSE_TYPE:
        self.response = super().synthesize(*args, **kwargs)
        return self.response

    async def asynthesize(self, *args: Any, **kwargs: Any) -> RESPONSE_TYPE:
        self.response = await super().asynthesize(*args, **kwargs)
        return self.response


class _SynthesizingChatEngine:
    """What the chat engines have in common that build a synthesizer for each turn: it is wrapped."""

    _options = CorrectionOptions()
    _with_context = False
    turn_synthesizer: _TurnSynthesizer

    @classmethod
    def from_defaults(cls, *args: Any, with_context: bool = False, **kwargs: Any) -> Self:
        """An engine made of LlamaIndex's own arguments and those of `AlignerSynthesizer`.

        Args:
            *args: What the engine of LlamaIndex takes.
            with_context: Whether the Aligner reads the retrieved text as well.
            **kwargs: What the engine of LlamaIndex takes, and fields of `CorrectionOptions`.

        Raises:
            InvalidTypeError: Neither knows an argument.
        """
        make = cast("Any", super()).from_defaults
        options = {name: kwargs.pop(name) for name in list(kwargs) if name in CorrectionOptions.model_fields}
        # LlamaIndex takes anything, and says nothing of what it does not use.
        if unknown := kwargs.keys() - inspect.signature(make).parameters.keys():
            raise InvalidTypeError(f"{cls.__name__} has no option {sorted(unknown)}.")
        engine: Self = make(*args, **kwargs)
        engine._options, engine._with_context = CorrectionOptions(**options), with_context
        return engine

    def _get_response_synthesizer(self, chat_history: list[ChatMessage], streaming: bool = False) -> Any:  # noqa: FBT001, FBT002
        inner = cast("Any", super())._get_response_synthesizer(chat_history, streaming)  # noqa: SLF001
        self.turn_synthesizer = _TurnSynthesizer(inner, with_context=self._with_context, **dict(self._options))
        return self.turn_synthesizer

    def chat(self, message: str, *args: Any, **kwargs: Any) -> AgentChatResponse:
        """The answer, corrected; what became of its draft is in `metadata["aligner"]`."""
        turn, engine = self._turn()
        response: AgentChatResponse = engine.chat(message, *args, **kwargs)
        return _labelled(response, turn.turn_synthesizer.response.metadata)

    async def achat(self, message: str, *args: Any, **kwargs: Any) -> AgentChatResponse:
        """The answer, corrected; what became of its draft is in `metadata["aligner"]`."""
        turn, engine = self._turn()
        response: AgentChatResponse = await engine.achat(message, *args, **kwargs)
        return _labelled(response, turn.turn_synthesizer.response.metadata)

    def stream_chat(self, message: str, *args: Any, **kwargs: Any) -> StreamingAgentChatResponse:
        """A stream of the answer as it is corrected; its `metadata` is whole when it ends."""
        turn, engine = self._turn()
        response: StreamingAgentChatResponse = engine.stream_chat(message, *args, **kwargs)
        return _labelled(response, turn.turn_synthesizer.response.metadata)

    async def astream_chat(self, message: str, *args: Any, **kwargs: Any) -> StreamingAgentChatResponse:
        """A stream of the answer as it is corrected; its `metadata` is whole when it ends."""
        turn, engine = self._turn()
        response: StreamingAgentChatResponse = await engine.astream_chat(message, *args, **kwargs)
        return _labelled(response, turn.turn_synthesizer.response.metadata)

    def _turn(self) -> tuple[Self, Any]:
        # What belongs to one turn is kept on a copy, so that turns of several conversations do not mix.
        turn = copy(self)
        return turn, super(_SynthesizingChatEngine, turn)


class AlignerContextChatEngine(_SynthesizingChatEngine, ContextChatEngine):
    """A `ContextChatEngine` with corrected answers, made by `from_defaults(retriever=..., aligner=...)`.

    It retrieves for each message and answers from what it has found. The Aligner corrects the answer to the message;
    what it has corrected is what memory holds and the next turn sees.
    """


class AlignerCondensePlusContextChatEngine(_SynthesizingChatEngine, CondensePlusContextChatEngine):
    """A `CondensePlusContextChatEngine` with corrected answers, made by `from_defaults(retriever=..., aligner=...)`.

    It turns message and conversation into a question that stands by itself, which is not corrected, and retrieves for
    that. The Aligner corrects the answer to the message; what it has corrected is what memory holds and the next turn
    sees.
    """


class AlignerChatEngine(BaseChatEngine):
    """Corrects what another chat engine answers: `AlignerChatEngine(chat_engine, aligner=aligner)`.

    The memory of the engine inside gets the corrected answer in place of the draft, and nothing of a turn that fails
    but the user's message. A stream begins when the draft is whole, with the Aligner's first token; the answer is
    remembered once the stream has been read to its end.

    Args:
        chat_engine: Writes the drafts.
        **options: Fields of `CorrectionOptions`.

    Raises:
        ConfigurationError: The engine has no memory that could be kept from its drafts.
    """

    def __init__(self, chat_engine: BaseChatEngine, **options: Unpack[CorrectionArguments]) -> None:
        if "_memory" not in vars(chat_engine):
            raise ConfigurationError(
                f"{type(chat_engine).__name__} keeps no memory where LlamaIndex's engines do (`_memory`), so its next "
                "turn would see the draft of this one."
            )
        self._chat_engine = chat_engine
        self._options = CorrectionOptions(**options)

    def chat(self, message: str, chat_history: list[ChatMessage] | None = None) -> AgentChatResponse:
        """The answer, corrected; what became of its draft is in `metadata["aligner"]`."""
        corrector, turn = Corrector.of(self._options, message), _Turn(self._chat_engine)
        draft = turn.draft(turn.engine.chat(message, chat_history))
        text, provenance = portal.run(lambda: corrector.atext(draft.response))
        turn.memory.put_messages(turn.corrected(text))
        return replace(draft, response=text, metadata={**(draft.metadata or {}), METADATA_KEY: provenance})

    async def achat(self, message: str, chat_history: list[ChatMessage] | None = None) -> AgentChatResponse:
        """The answer, corrected; what became of its draft is in `metadata["aligner"]`."""
        corrector, turn = Corrector.of(self._options, message), _Turn(self._chat_engine)
        draft = turn.draft(await turn.engine.achat(message, chat_history))
        text, provenance = await corrector.atext(draft.response)
        await turn.memory.aput_messages(turn.corrected(text))
        return replace(draft, response=text, metadata={**(draft.metadata or {}), METADATA_KEY: provenance})

    def stream_chat(self, message: str, chat_history: list[ChatMessage] | None = None) -> StreamingAgentChatResponse:
        """A stream of the answer as it is corrected; its `metadata` is whole when it ends."""
        corrector, turn = Corrector.of(self._options, message), _Turn(self._chat_engine)
        draft = turn.draft(turn.engine.chat(message, chat_history))
        metadata = dict(draft.metadata or {})

        def read() -> ChatResponseGen:
            text = ""
            with closing(portal.iterate(lambda: corrector.atokens(draft.response, metadata))) as tokens:
                for token in tokens:
                    text += token
                    yield _chunk(text, token)
            turn.memory.put_messages(turn.corrected(text))

        return _streaming(draft, metadata, chat_stream=read())

    async def astream_chat(
        self, message: str, chat_history: list[ChatMessage] | None = None
    ) -> StreamingAgentChatResponse:
        """A stream of the answer as it is corrected; its `metadata` is whole when it ends."""
        corrector, turn = Corrector.of(self._options, message), _Turn(self._chat_engine)
        draft = turn.draft(await turn.engine.achat(message, chat_history))
        metadata = dict(draft.metadata or {})

        async def read() -> ChatResponseAsyncGen:
            text = ""
            async with aclosing(corrector.atokens(draft.response, metadata)) as tokens:
                async for token in tokens:
                    text += token
                    yield _chunk(text, token)
            await turn.memory.aput_messages(turn.corrected(text))

        return _streaming(draft, metadata, achat_stream=read())

    def reset(self) -> None:
        """Forgets the conversation."""
        self._chat_engine.reset()

    @property
    def chat_history(self) -> list[ChatMessage]:
        """The conversation, with corrected answers."""
        return self._chat_engine.chat_history


class _Turn:
    """One turn of an engine whose answer does not get into its memory."""

    def __init__(self, chat_engine: BaseChatEngine) -> None:
        # On a copy, so that turns of several conversations do not mix.
        self.engine = copy(chat_engine)
        self.memory: BaseMemory = vars(chat_engine)["_memory"]
        self._without_drafts = vars(self.engine)["_memory"] = _WithoutDrafts(self.memory)

    def draft(self, response: AGENT_CHAT_RESPONSE_TYPE) -> AgentChatResponse:
        """The engine's response, if it is whole."""
        if not isinstance(response, AgentChatResponse):
            raise InvalidTypeError(f"`chat` must answer with an AgentChatResponse, not {type(response).__name__}.")
        # Where a model has said nothing, some engines say "None".
        said = [message.content or "" for message in self._without_drafts.held_back]
        return replace(response, response=said[-1]) if said else response

    def corrected(self, text: str) -> list[ChatMessage]:
        """What the memory gets in place of the draft."""
        *others, last = self._without_drafts.held_back or [ChatMessage(text, role=MessageRole.ASSISTANT)]
        return [*others, with_text(last, text)]


class _WithoutDrafts:
    """A memory that keeps to itself what an assistant says to the user."""

    def __init__(self, memory: BaseMemory) -> None:
        self._memory = memory
        self.held_back: list[ChatMessage] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)

    def put(self, message: ChatMessage) -> None:
        if message.role == MessageRole.ASSISTANT:
            self.held_back.append(message)
        else:
            self._memory.put(message)

    async def aput(self, message: ChatMessage) -> None:
        if message.role == MessageRole.ASSISTANT:
            self.held_back.append(message)
        else:
            await self._memory.aput(message)

    def put_messages(self, messages: list[ChatMessage]) -> None:
        for message in messages:
            self.put(message)

    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        for message in messages:
            await self.aput(message)


def _chunk(text: str, token: str) -> ChatResponse:
    return ChatResponse(message=ChatMessage(text, role=MessageRole.ASSISTANT), delta=token)


def _streaming(draft: AgentChatResponse, metadata: dict[str, Any], **streams: Any) -> StreamingAgentChatResponse:
    # Without LlamaIndex's thread that writes to memory: a failure in there is seen by nobody.
    response = StreamingAgentChatResponse(
        sources=draft.sources, source_nodes=draft.source_nodes, is_writing_to_memory=False, **streams
    )
    return _labelled(response, metadata)


def _labelled(response: _R, metadata: dict[str, Any] | None) -> _R:
    vars(response)["metadata"] = metadata  # a streaming response of LlamaIndex has no such field by itself
    return response
