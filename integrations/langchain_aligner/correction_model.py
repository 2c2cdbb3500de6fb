"""The correction as LangChain sees it: a call of a chat model, with a trace, tokens, usage and errors of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.outputs.chat_generation import merge_chat_generation_chunks
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_async_callback_manager_for_config, get_callback_manager_for_config
from pydantic import ConfigDict

from aligner_chains.aligner import Aligner
from aligner_chains.correction import Correction, CorrectionChunk
from aligner_chains.errors import AlignerError
from langchain_aligner.messages import METADATA_KEY
from langchain_aligner.recorder import CORRECTION_TYPE
from langchain_aligner.streams import closing_stream


class FailedCorrectionError(AlignerError):
    """No correction arrived, and `on_failure` says what to use in its place.

    It ends the model's run as an error, for the trace; the chain goes on with what it carries.

    Attributes:
        correction: The text to use, and what went wrong.
    """

    def __init__(self, correction: Correction) -> None:
        super().__init__(str(correction.error))
        self.correction = correction

    def __repr__(self) -> str:
        return repr(self.correction.error)


class CorrectionModel(BaseChatModel):
    """Answers a query and a draft with the corrected draft.

    Attributes:
        aligner: Corrects.
    """

    model_config = ConfigDict(defer_build=True)  # as in `CorrectionOptions`

    aligner: Aligner
    # A global cache would take corrections of two Aligners for the same: it knows models by their parameters.
    cache: bool = False

    @property
    def _llm_type(self) -> str:
        return CORRECTION_TYPE

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:  # noqa: ARG002
        return LangSmithParams(ls_provider="aligner-chains", ls_model_name=self.aligner.model, ls_model_type="chat")

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **options: Any,
    ) -> ChatResult:
        query, draft = messages
        return _result(self.aligner.correct(str(query.content), str(draft.content), **options), draft.id)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **options: Any,
    ) -> ChatResult:
        query, draft = messages
        return _result(await self.aligner.acorrect(str(query.content), str(draft.content), **options), draft.id)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **options: Any,
    ) -> Iterator[ChatGenerationChunk]:
        query, draft = messages
        for chunk in self.aligner.stream(str(query.content), str(draft.content), **options):
            yield _chunk(chunk, draft.id)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **options: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        query, draft = messages
        async with aclosing(self.aligner.astream(str(query.content), str(draft.content), **options)) as chunks:
            async for chunk in chunks:
                yield _chunk(chunk, draft.id)

    def stream_untold(
        self, messages: list[BaseMessage], config: RunnableConfig, **options: Any
    ) -> Iterator[AIMessageChunk]:
        """Yields what `stream` yields; its run does not tell of tokens, since the caller's own run does."""
        manager = get_callback_manager_for_config(self._with_ls_params(config))
        (run,) = manager.on_chat_model_start(self._serialized, [messages], **self._start(config, options))
        chunks: list[ChatGenerationChunk] = []
        try:
            for chunk in self._stream(messages, **options):
                chunks.append(chunk)
                yield cast("AIMessageChunk", chunk.message)
        except BaseException as error:
            run.on_llm_error(error, response=_llm_result(chunks))
            raise
        run.on_llm_end(_llm_result(chunks))

    async def astream_untold(
        self, messages: list[BaseMessage], config: RunnableConfig, **options: Any
    ) -> AsyncGenerator[AIMessageChunk, None]:
        """Yields what `astream` yields; its run does not tell of tokens, since the caller's own run does."""
        manager = get_async_callback_manager_for_config(self._with_ls_params(config))
        (run,) = await manager.on_chat_model_start(self._serialized, [messages], **self._start(config, options))
        chunks: list[ChatGenerationChunk] = []
        try:
            async with closing_stream(self._astream(messages, **options)) as stream:
                async for chunk in stream:
                    chunks.append(chunk)
                    yield cast("AIMessageChunk", chunk.message)
        except BaseException as error:
            await run.on_llm_error(error, response=_llm_result(chunks))
            raise
        await run.on_llm_end(_llm_result(chunks))

    def _with_ls_params(self, config: RunnableConfig) -> RunnableConfig:
        return {**config, "metadata": {**config.get("metadata", {}), **self._get_ls_params_with_defaults()}}

    def _start(self, config: RunnableConfig, options: dict[str, Any]) -> dict[str, Any]:
        return {
            "invocation_params": self._get_invocation_params(**options),
            "options": {},
            "name": config.get("run_name"),
            "batch_size": 1,
        }

    # LangGraph's newer streams ask for protocol events. Those that LangChain makes of `_stream` by itself carry the
    # run's id in place of the message's, so that the answer would show twice.

    def _stream_chat_model_events(
        self,
        messages: list[BaseMessage],
        *,
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **options: Any,
    ) -> Iterator[dict[str, Any]]:
        query, draft = messages
        events = _EventWriter(draft.id)
        for chunk in self.aligner.stream(str(query.content), str(draft.content), **options):
            yield from events.write(chunk)

    async def _astream_chat_model_events(
        self,
        messages: list[BaseMessage],
        *,
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **options: Any,
    ) -> AsyncIterator[dict[str, Any]]:
        query, draft = messages
        events = _EventWriter(draft.id)
        async with aclosing(self.aligner.astream(str(query.content), str(draft.content), **options)) as chunks:
            async for chunk in chunks:
                for event in events.write(chunk):
                    yield event


def pair(query: str, draft: str, message_id: str | None) -> list[BaseMessage]:
    """What `CorrectionModel` reads; its answer has this id."""
    return [HumanMessage(query), AIMessage(draft, id=message_id)]


def _result(correction: Correction, message_id: str | None) -> ChatResult:
    message = AIMessage(correction.text, id=message_id, **_fields(correction))
    return ChatResult(generations=[ChatGeneration(message=message)])


def _chunk(chunk: CorrectionChunk, message_id: str | None) -> ChatGenerationChunk:
    if chunk.correction is None:
        return ChatGenerationChunk(message=AIMessageChunk(content=chunk.text, id=message_id))
    last = AIMessageChunk(content=chunk.text, id=message_id, chunk_position="last", **_fields(chunk.correction))
    return ChatGenerationChunk(message=last)


def _llm_result(chunks: list[ChatGenerationChunk]) -> LLMResult:
    merged = merge_chat_generation_chunks(chunks)
    return LLMResult(generations=[[merged]] if merged else [])


class _EventWriter:
    """Turns the chunks of a correction into LangChain's protocol events (package `langchain-protocol`)."""

    def __init__(self, message_id: str | None) -> None:
        self._message_id = message_id
        self._started = False

    def write(self, chunk: CorrectionChunk) -> Iterator[dict[str, Any]]:
        fields = _fields(chunk.correction) if chunk.correction else {}
        if not self._started:
            self._started = True
            yield {"event": "message-start", "role": "ai", "id": self._message_id or ""}
            yield {"event": "content-block-start", "index": 0, "content": {"type": "text", "text": ""}}
        if chunk.text:
            yield {"event": "content-block-delta", "index": 0, "delta": {"type": "text-delta", "text": chunk.text}}
        if chunk.correction:
            text = {"type": "text", "text": chunk.correction.text}
            yield {"event": "content-block-finish", "index": 0, "content": text}
            usage = {"usage": fields["usage_metadata"]} if fields["usage_metadata"] else {}
            yield {"event": "message-finish", "metadata": fields["response_metadata"], **usage}


def _fields(correction: Correction) -> dict[str, Any]:
    if correction.error is not None:
        raise FailedCorrectionError(correction) from correction.error
    usage = correction.usage and UsageMetadata(
        input_tokens=correction.usage.input_tokens,
        output_tokens=correction.usage.output_tokens,
        total_tokens=correction.usage.total_tokens,
    )
    metadata = {
        "model_name": correction.model,
        "finish_reason": correction.finish_reason,
        METADATA_KEY: correction.provenance(),
    }
    return {"usage_metadata": usage, "response_metadata": metadata}
