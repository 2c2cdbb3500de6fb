"""`AlignerRunnable`: the Aligner as a step of a chain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from langchain_core.runnables.config import patch_config
from langchain_core.runnables.utils import ConfigurableFieldSpec
from pydantic import BaseModel, ConfigDict, Field

from aligner_chains.default import default_aligner
from aligner_chains.errors import InvalidTypeError
from langchain_aligner.correction_model import CorrectionModel, FailedCorrectionError
from langchain_aligner.messages import ChunkWriter, Draft, read_draft
from langchain_aligner.options import OPTIONS, CorrectionOptions
from langchain_aligner.query import ModelCall, call_behind, not_found, only_call, question_in
from langchain_aligner.recorder import RECORDER
from langchain_aligner.streams import closing_stream, joined
from langchain_aligner.work import Work

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

#: What an `AlignerRunnable` takes.
AlignerInput: TypeAlias = str | AIMessage | PromptValue | Sequence[BaseMessage] | Mapping[str, Any]


class AlignerRunnable(CorrectionOptions, RunnableSerializable[AlignerInput, Any]):
    """Corrects the drafts that come down a chain: `prompt | llm | AlignerRunnable()`.

    A text gives the corrected text; an `AIMessage` gives the same message, with the same id, with corrected text and
    what became of the draft in `response_metadata["aligner"]`. Messages that end in an `AIMessage`, and
    `{"query": ..., "draft": ...}`, give the corrected last message, or the corrected draft. Tool calls, structured
    output and blocks that are not text pass as they are.

    The question behind a draft is found by itself: it is what the model was asked whose answer the draft is. `stream`
    and `astream` read the draft to its end and then pass on the Aligner's tokens as they come.

    `feedback`, `on_failure`, `timeout` and `max_new_tokens` may also be given for each call, by `bind` or as
    `config={"configurable": {"feedback": "empathetic"}}`; the former wins over the latter, and both over the fields.

    Raises:
        QueryNotFoundError: There is no way to know the question; the message says how to give it.
        InvalidTypeError: The input holds no draft.
        AlignerError: With `on_failure="raise"`, whatever kept a whole, valid correction from arriving.
    """

    model_config = ConfigDict(extra="forbid")

    #: How a chain is known to end in a correction.
    corrects_drafts: ClassVar[bool] = True

    query: str | Callable[[Any], Any] | None = Field(
        default=None,
        description="The question, where it is not to be found: a single word is the name of a key of the input or of "
        "a variable of the prompt, any other text is the question itself, a function gets the input and returns it.",
    )

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """The options that `config={"configurable": {...}}` may hold for a call."""
        fields = type(self).model_fields
        return [
            ConfigurableFieldSpec(id=name, annotation=fields[name].annotation, description=fields[name].description)
            for name in OPTIONS
        ]

    def as_tool(
        self,
        args_schema: type[BaseModel] | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        arg_types: dict[str, type] | None = None,
    ) -> BaseTool:
        """A tool that corrects a draft; by default with the arguments `query` and `draft`."""
        if args_schema is None and arg_types is None:
            arg_types = {"query": str, "draft": str}
        return super().as_tool(
            args_schema,
            name=name,
            description=description or "Corrects a draft answer to a query.",
            arg_types=arg_types,
        )

    def invoke(self, input: AlignerInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """The corrected draft."""
        return self._call_with_config(self._invoke, input, config, **kwargs)

    async def ainvoke(
        self,
        input: AlignerInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """The corrected draft."""
        return await self._acall_with_config(self._ainvoke, input, config, **kwargs)

    def stream(
        self,
        input: AlignerInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Yields the corrected draft as the Aligner writes it."""
        yield from self.transform(iter([input]), config, **kwargs)

    async def astream(
        self,
        input: AlignerInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Yields the corrected draft as the Aligner writes it."""

        async def whole() -> AsyncIterator[AlignerInput]:
            yield input

        async with closing_stream(self.atransform(whole(), config, **kwargs)) as chunks:
            async for chunk in chunks:
                yield chunk

    def transform(
        self,
        input: Iterator[AlignerInput],  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Yields the corrected draft as the Aligner writes it, once the last chunk of the draft is there."""
        yield from self._transform_stream_with_config(input, self._transform, config, **kwargs)

    async def atransform(
        self,
        input: AsyncIterator[AlignerInput],  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Yields the corrected draft as the Aligner writes it, once the last chunk of the draft is there."""
        async with closing_stream(
            self._atransform_stream_with_config(input, self._atransform, config, **kwargs)
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    def _invoke(
        self, value: AlignerInput, run_manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> Any:
        work = self._work(value, run_manager.run_id, config, kwargs)
        if not isinstance(work, Work):
            return work
        try:
            return work.result(self._model.invoke(work.messages, _for_model(config), **work.options))
        except FailedCorrectionError as failed:
            return work.fallback(failed)

    async def _ainvoke(
        self, value: AlignerInput, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> Any:
        work = self._work(value, run_manager.run_id, config, kwargs)
        if not isinstance(work, Work):
            return work
        try:
            return work.result(await self._model.ainvoke(work.messages, _for_model(config), **work.options))
        except FailedCorrectionError as failed:
            return work.fallback(failed)

    def _transform(
        self,
        values: Iterator[AlignerInput],
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Iterator[Any]:
        work = self._work(joined(list(values)), run_manager.run_id, config, kwargs)
        if not isinstance(work, Work):
            yield work
            return
        writer = ChunkWriter(work.draft)
        try:
            for chunk in self._model.stream(work.messages, _for_model(config), **work.options):
                yield from work.write(writer, chunk)
        except FailedCorrectionError as failed:
            yield work.fallback(failed)

    async def _atransform(
        self,
        values: AsyncIterator[AlignerInput],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        work = self._work(joined([value async for value in values]), run_manager.run_id, config, kwargs)
        if not isinstance(work, Work):
            yield work
            return
        writer = ChunkWriter(work.draft)
        try:
            async with closing_stream(self._model.astream(work.messages, _for_model(config), **work.options)) as chunks:
                async for chunk in chunks:
                    for written in work.write(writer, chunk):
                        yield written
        except FailedCorrectionError as failed:
            yield work.fallback(failed)

    @property
    def _model(self) -> CorrectionModel:
        return CorrectionModel(aligner=self.aligner or default_aligner())

    def _work(self, value: AlignerInput, run_id: UUID, config: RunnableConfig, given: Mapping[str, Any]) -> Work | Any:
        """What to do for an input, or what comes out where there is nothing to do."""
        if unknown := given.keys() - {*OPTIONS, "query"}:
            raise InvalidTypeError(f"AlignerRunnable has no option {sorted(unknown)!r}; it has {[*OPTIONS, 'query']}.")
        query = given.get("query", self.query)
        draft = read_draft(value)
        if reason := draft.reason_to_skip:
            return draft.skipped(reason)
        options = self._options(config.get("configurable") or {}, given)
        return Work(draft, self._question(value, draft, query, run_id), options, self.keep_draft)

    def _question(self, value: AlignerInput, draft: Draft, query: object, run_id: UUID) -> str:
        if query is None:
            query = draft.query if draft.query is not None else (draft.history or _call_behind(draft, run_id).asked)
        elif callable(query):
            query = query(value)
        elif isinstance(query, str) and (query.isidentifier() or (isinstance(value, Mapping) and query in value)):
            query = _named(query, value, draft, run_id)
        return question_in(query, self.conversation)


def _call_behind(draft: Draft, run_id: UUID) -> ModelCall:
    message_id = draft.message.id if draft.message else None
    levels = RECORDER.calls_around(run_id)
    call = call_behind(levels, text=draft.text, message_id=message_id)
    if call is None and message_id is not None:
        call = RECORDER.call_that_answered(message_id)
    if call is None:
        call = call_behind([RECORDER.calls_beside(run_id)], text=draft.text, message_id=message_id)
    call = call or only_call(levels)
    if call is None:
        raise not_found("No model call is known that made this draft.")
    return call


def _named(name: str, value: AlignerInput, draft: Draft, run_id: UUID) -> object:
    if isinstance(value, Mapping) and name in value:
        return value[name]
    variables = _call_behind(draft, run_id).variables or {}
    if name not in variables:
        raise not_found(f"Neither the input nor the prompt of this draft has a {name!r}.")
    return variables[name]


def _for_model(config: RunnableConfig) -> RunnableConfig:
    return patch_config(config, run_name="Aligner")
