"""`AlignedChatModel`: a chat model whose answers are corrected, wherever a chat model fits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from langchain_core.caches import BaseCache
from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    BaseCallbackManager,
    BaseRunManager,
    CallbackManager,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig
from langchain_core.runnables.config import ensure_config, get_callback_manager_for_config
from langchain_core.utils.uuid import uuid7
from pydantic import BaseModel, ConfigDict, Field

from aligner_chains.default import default_aligner
from aligner_chains.errors import ConfigurationError
from langchain_aligner.correction_model import CorrectionModel, FailedCorrectionError
from langchain_aligner.messages import ChunkWriter, read_draft
from langchain_aligner.options import OPTIONS, CorrectionOptions
from langchain_aligner.query import question_in
from langchain_aligner.streams import NOT_STREAMED, closing_stream
from langchain_aligner.work import Work

if TYPE_CHECKING:
    from uuid import UUID

    from langchain_core.tools import BaseTool

# The name of the argument that tells the methods below under which run the correction belongs; LangChain itself tells
# it only to those that do not stream.
_CHILDREN = "aligner_run"
# And of the one that remembers what the user asked for where the upstream has another word for it.
_STRUCTURED = "aligner_structured"
# How LangChain's partners are asked for JSON: most of them, Ollama, Google, Anthropic.
_STRUCTURING = ("response_format", "format", "response_mime_type", "response_schema", "output_format")
_PLAIN = (None, "", "text", "text/plain", {"type": "text"})


class AlignedChatModel(CorrectionOptions, BaseChatModel):
    """A chat model with an Aligner behind it: `AlignedChatModel(llm=ChatOpenAI(...), aligner=...)`.

    It takes what the upstream model takes and gives its messages with corrected text. Turns that call tools pass as
    they are; so does structured output, and `with_structured_output` is the upstream's own. The draft is seen by nobody
    but the Aligner: a stream begins when the draft is whole, with the Aligner's first token.

    The upstream's cache holds drafts. A cache given to this model holds corrected answers, what `on_failure` put in
    place of one, and structured output; a global cache is the upstream's alone.
    """

    model_config = ConfigDict(extra="forbid")

    llm: BaseChatModel = Field(description="The upstream model, which writes the drafts.")
    cache: BaseCache | bool | None = Field(default=False, exclude=True, description="Caches corrected answers.")

    @property
    def _llm_type(self) -> str:
        return "aligned-chat-model"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "aligner": repr(self.aligner),
            "conversation": self.conversation,
            "keep_draft": self.keep_draft,
            **{name: getattr(self, name) for name in OPTIONS},
        }

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        upstream = self.llm._get_invocation_params(stop=stop, **self._upstreams(kwargs))  # noqa: SLF001
        return {**upstream, "_type": self._llm_type, "aligned": self._identifying_params}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self.llm._get_ls_params(stop=stop, **self._upstreams(kwargs))  # noqa: SLF001

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        upstream = self.llm._get_llm_string(stop=stop, **self._upstreams(kwargs))  # noqa: SLF001
        return f"{upstream}---{sorted(self._identifying_params.items())}"

    def _resolve_model_profile(self) -> Any:
        return getattr(self.llm, "profile", None)

    def get_token_ids(self, text: str) -> list[int]:
        """The upstream's tokens."""
        return self.llm.get_token_ids(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """The upstream's count of tokens."""
        return self.llm.get_num_tokens_from_messages(messages, tools)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools bound to its upstream, in the upstream's way."""
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        bound = self.llm.bind_tools(tools, **kwargs)
        if not isinstance(bound, RunnableBinding) or not isinstance(bound.bound, BaseChatModel):
            raise ConfigurationError(
                f"{type(self.llm).__name__}.bind_tools gives a {type(bound).__name__}, for which an AlignedChatModel "
                "cannot stand in. Write llm.bind_tools(...) | AlignerRunnable(...) instead."
            )
        aligned = self.model_copy(update={"llm": bound.bound})
        asked = {_STRUCTURED: True} if _is_structured(kwargs) else {}
        return RunnableBinding(bound=aligned, kwargs={**bound.kwargs, **asked}, config=bound.config)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """The upstream's structured output, which is not corrected.

        Its run is the upstream's. This model's callbacks, tags, metadata, rate limiter and cache take part in it.
        """
        upstream = self.llm.model_copy(
            update={
                "callbacks": [*_handlers(self.llm.callbacks), *_handlers(self.callbacks)],
                "tags": [*(self.llm.tags or ()), *(self.tags or ())],
                "metadata": {**(self.llm.metadata or {}), **(self.metadata or {})},
                "cache": self.cache or self.llm.cache,
                "rate_limiter": _both(self.llm.rate_limiter, self.rate_limiter),
            }
        )
        return upstream.with_structured_output(schema, include_raw=include_raw, **kwargs)

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """The upstream's answer, corrected."""
        config, children = _with_children(config)
        return super().invoke(input, config, stop=stop, **{_CHILDREN: children}, **kwargs)

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """The upstream's answer, corrected."""
        config, children = _with_children(config)
        return await super().ainvoke(input, config, stop=stop, **{_CHILDREN: children}, **kwargs)

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Yields the upstream's answer as the Aligner corrects it."""
        config, children = _with_children(config)
        yield from super().stream(input, config, stop=stop, **{_CHILDREN: children}, **kwargs)

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Yields the upstream's answer as the Aligner corrects it."""
        config, children = _with_children(config)
        async with closing_stream(
            super().astream(input, config, stop=stop, **{_CHILDREN: children}, **kwargs)
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        config = _config(kwargs.get(_CHILDREN), run_manager)
        work = self._work(messages, self._draft(messages, stop, kwargs), kwargs)
        if not isinstance(work, Work):
            return _result(work)
        try:
            return _result(work.result(self._model.invoke(work.messages, config, **work.options)))
        except FailedCorrectionError as failed:
            return _result(work.fallback(failed))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        config = _config(kwargs.get(_CHILDREN), run_manager)
        work = self._work(messages, await self._adraft(messages, stop, kwargs), kwargs)
        if not isinstance(work, Work):
            return _result(work)
        try:
            return _result(work.result(await self._model.ainvoke(work.messages, config, **work.options)))
        except FailedCorrectionError as failed:
            return _result(work.fallback(failed))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        config = _config(kwargs.get(_CHILDREN), run_manager)
        work = self._work(messages, self._draft(messages, stop, kwargs), kwargs)
        if not isinstance(work, Work):
            yield _whole(work)
            return
        writer = ChunkWriter(work.draft)
        try:
            for chunk in self._model.stream_untold(work.messages, config, **work.options):
                yield from map(_chunk, work.write(writer, chunk))
        except FailedCorrectionError as failed:
            yield _whole(work.fallback(failed))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        config = _config(kwargs.get(_CHILDREN), run_manager)
        work = self._work(messages, await self._adraft(messages, stop, kwargs), kwargs)
        if not isinstance(work, Work):
            yield _whole(work)
            return
        writer = ChunkWriter(work.draft)
        try:
            async with aclosing(self._model.astream_untold(work.messages, config, **work.options)) as chunks:
                async for chunk in chunks:
                    for written in work.write(writer, chunk):
                        yield _chunk(written)
        except FailedCorrectionError as failed:
            yield _whole(work.fallback(failed))

    # Not by `llm.invoke`: the draft would be a run of its own, streamed to whoever follows this one and counted twice.
    # What the upstream has of caches and rate limits is in these methods too.

    def _draft(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> AIMessage:
        result = self.llm._generate_with_cache(messages, stop=stop, **self._upstreams(kwargs))  # noqa: SLF001
        return cast("AIMessage", result.generations[0].message)

    async def _adraft(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> AIMessage:
        result = await self.llm._agenerate_with_cache(messages, stop=stop, **self._upstreams(kwargs))  # noqa: SLF001
        return cast("AIMessage", result.generations[0].message)

    def _upstreams(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        own = (_CHILDREN,) if isinstance(self.llm, AlignedChatModel) else (_CHILDREN, _STRUCTURED)
        return {name: value for name, value in kwargs.items() if name not in own}

    @property
    def _model(self) -> CorrectionModel:
        return CorrectionModel(aligner=self.aligner or default_aligner(), disable_streaming=True)

    def _asked(self) -> dict[str, Any]:
        """What the upstream is asked for in all calls."""
        if isinstance(self.llm, AlignedChatModel):
            return self.llm._asked()  # noqa: SLF001
        # Not every model tells its parameters what its constructor was asked for.
        return {**vars(self.llm), **self.llm._get_invocation_params()}  # noqa: SLF001

    def _work(self, messages: list[BaseMessage], message: AIMessage, kwargs: dict[str, Any]) -> Work | AIMessage:
        draft = read_draft(message)
        reason = draft.reason_to_skip or ("structured output" if _is_structured(self._asked() | kwargs) else None)
        if reason:
            return cast("AIMessage", draft.skipped(reason))
        return Work(draft, question_in(messages, self.conversation), self._options(), self.keep_draft)


def _with_children(config: RunnableConfig | None) -> tuple[RunnableConfig, CallbackManager]:
    """The config of a run with its id decided beforehand, and the callbacks of the runs under it."""
    config = ensure_config(config)
    manager = get_callback_manager_for_config(config)
    run_id = config.get("run_id") or uuid7()
    return {**config, "callbacks": manager, "run_id": run_id}, _children_of(manager, run_id)


def _children_of(manager: CallbackManager | BaseRunManager, run_id: UUID) -> CallbackManager:
    children = CallbackManager(handlers=[], parent_run_id=run_id)
    children.set_handlers(manager.inheritable_handlers)
    children.add_tags(manager.inheritable_tags)
    children.add_metadata(manager.inheritable_metadata)
    return children


def _config(children: CallbackManager | None, run_manager: BaseRunManager | None) -> RunnableConfig:
    if children is None and run_manager is not None:
        children = _children_of(run_manager, run_manager.run_id)
    return {"callbacks": children, "run_name": "Aligner", "tags": [NOT_STREAMED]}


def _is_structured(asked: dict[str, Any]) -> bool:
    return _STRUCTURED in asked or any(asked.get(name) not in _PLAIN for name in _STRUCTURING)


def _handlers(callbacks: Callbacks) -> list[BaseCallbackHandler]:
    return callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else (callbacks or [])


def _both(first: BaseRateLimiter | None, second: BaseRateLimiter | None) -> BaseRateLimiter | None:
    return _RateLimiters(first, second) if first and second else first or second


class _RateLimiters(BaseRateLimiter):
    def __init__(self, first: BaseRateLimiter, second: BaseRateLimiter) -> None:
        self._first, self._second = first, second

    def acquire(self, *, blocking: bool = True) -> bool:
        return self._first.acquire(blocking=blocking) and self._second.acquire(blocking=blocking)

    async def aacquire(self, *, blocking: bool = True) -> bool:
        return await self._first.aacquire(blocking=blocking) and await self._second.aacquire(blocking=blocking)


def _result(message: AIMessage) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message)])


def _chunk(message: AIMessageChunk) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=message)


def _whole(message: AIMessage) -> ChatGenerationChunk:
    return _chunk(AIMessageChunk(**message.model_dump(exclude={"type"}), chunk_position="last"))
