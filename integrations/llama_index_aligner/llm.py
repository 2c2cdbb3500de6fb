"""`AlignerLLM`: a model whose answers are corrected, wherever a model fits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.llms import LLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.types import Model, TokenAsyncGen, TokenGen
from pydantic import BaseModel, Field, SerializeAsAny, model_validator

from aligner_chains import portal
from aligner_chains.errors import ConfigurationError
from llama_index_aligner.corrector import Corrector
from llama_index_aligner.messages import acorrected, astreamed, last_question, question_without_text, text_of
from llama_index_aligner.options import CorrectionOptions
from llama_index_aligner.protocols import calls_tools, format_asked_for, is_for_a_program, step_asked_for

if TYPE_CHECKING:
    from llama_index.core.llms.llm import ToolSelection
    from llama_index.core.tools.types import BaseTool

_R = TypeVar("_R", ChatResponse, CompletionResponse)

# What an LLM does with its prompts, which is the upstream's affair.
_UPSTREAMS = (
    "system_prompt",
    "messages_to_prompt",
    "completion_to_prompt",
    "output_parser",
    "pydantic_program_mode",
    "query_wrapper_prompt",
)


class AlignerLLM(CorrectionOptions, FunctionCallingLLM):
    """A model with an Aligner behind it: `AlignerLLM(llm=OpenAI(...), aligner=aligner)`.

    It takes what the upstream model takes and gives its responses with corrected text; the question is the last message
    of the user, or the prompt. What became of the draft is in `additional_kwargs["aligner"]` of the response. A stream
    begins when the draft is whole, with the Aligner's first token.

    What programs read passes as it is. That is known so: tool calls, as the upstream reads them from its responses;
    structured prediction, which is the upstream's own; prompt templates with an output parser, or with a type or
    variables that ask for a step of a program, such as a selection or a database query; LlamaIndex's own prompts for
    search queries and standalone questions; and a draft that is in a format (JSON, ReAct's Thought and Action, code to
    execute) which its prompt asks for. A prompt template that tells no question (`query_str`) is refused.

    For the answers of a RAG engine `AlignerSynthesizer` is the better place, and for agents `AlignerFunctionAgent` and
    `AlignerReActAgent`: what they correct is known to be an answer. Parts that use a model for something else, such as
    evaluators, should get the upstream itself.
    """

    llm: SerializeAsAny[LLM] = Field(description="The upstream model, which writes the drafts.")

    @model_validator(mode="before")
    @classmethod
    def _prompts_of_upstream(cls, values: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(llm := values.get("llm"), LLM):
            return values
        own = {name: getattr(llm, name) for name in _UPSTREAMS}
        for name, value in own.items():
            if values.get(name) not in (None, value):
                raise ConfigurationError(f"{name} is the upstream's: give it to {type(llm).__name__}.")
        return {**values, **own}

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised form."""
        return "AlignerLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """The upstream's."""
        return self.llm.metadata

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The upstream's answer, corrected."""
        corrector = Corrector.of(self, last_question(messages))
        draft = self.llm.chat(messages, **kwargs)
        skip = self._reason_to_skip(messages, draft, kwargs)
        return portal.run(lambda: acorrected(corrector, draft, skip=skip))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The upstream's answer, corrected."""
        corrector = Corrector.of(self, last_question(messages))
        draft = await self.llm.achat(messages, **kwargs)
        return await acorrected(corrector, draft, skip=self._reason_to_skip(messages, draft, kwargs))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """A stream of the upstream's answer as it is corrected."""
        corrector = Corrector.of(self, last_question(messages))
        return self._streamed(corrector, self.llm.stream_chat(messages, **kwargs), messages, kwargs)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """A stream of the upstream's answer as it is corrected."""
        corrector = Corrector.of(self, last_question(messages))
        return self._astreamed(corrector, await self.llm.astream_chat(messages, **kwargs), messages, kwargs)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:  # noqa: FBT001, FBT002
        """The upstream's answer, corrected."""
        corrector = Corrector.of(self, prompt)
        draft = self.llm.complete(prompt, formatted=formatted, **kwargs)
        skip = self._reason_to_skip(prompt, draft, kwargs)
        return portal.run(lambda: acorrected(corrector, draft, skip=skip))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:  # noqa: FBT001, FBT002
        """The upstream's answer, corrected."""
        corrector = Corrector.of(self, prompt)
        draft = await self.llm.acomplete(prompt, formatted=formatted, **kwargs)
        return await acorrected(corrector, draft, skip=self._reason_to_skip(prompt, draft, kwargs))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:  # noqa: FBT001, FBT002
        """A stream of the upstream's answer as it is corrected."""
        corrector = Corrector.of(self, prompt)
        return self._streamed(
            corrector, self.llm.stream_complete(prompt, formatted=formatted, **kwargs), prompt, kwargs
        )

    @llm_completion_callback()
    async def astream_complete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> CompletionResponseAsyncGen:
        """A stream of the upstream's answer as it is corrected."""
        corrector = Corrector.of(self, prompt)
        stream = await self.llm.astream_complete(prompt, formatted=formatted, **kwargs)
        return self._astreamed(corrector, stream, prompt, kwargs)

    def predict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """What the upstream says to a prompt template, corrected if it is an answer."""
        corrector = self._corrector(prompt, prompt_args)
        draft = self.llm.predict(prompt, **prompt_args)
        if corrector is None:
            return draft
        return portal.run(lambda: corrector.atext(draft, skip=self._format_asked_for(prompt, draft)))[0]

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """What the upstream says to a prompt template, corrected if it is an answer."""
        corrector = self._corrector(prompt, prompt_args)
        draft = await self.llm.apredict(prompt, **prompt_args)
        if corrector is None:
            return draft
        return (await corrector.atext(draft, skip=self._format_asked_for(prompt, draft)))[0]

    def stream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenGen:
        """A stream of what the upstream says to a prompt template, corrected if it is an answer."""
        corrector = self._corrector(prompt, prompt_args)
        draft = self.llm.stream(prompt, **prompt_args)
        if corrector is None:
            return draft

        def read() -> TokenGen:
            text = "".join(draft)
            skip = self._format_asked_for(prompt, text)
            with closing(portal.iterate(lambda: corrector.atokens(text, {}, skip=skip))) as tokens:
                yield from tokens

        return read()

    async def astream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
        """A stream of what the upstream says to a prompt template, corrected if it is an answer."""
        corrector = self._corrector(prompt, prompt_args)
        draft = await self.llm.astream(prompt, **prompt_args)
        if corrector is None:
            return draft

        async def read() -> TokenAsyncGen:
            text = "".join([token async for token in draft])
            async with aclosing(corrector.atokens(text, {}, skip=self._format_asked_for(prompt, text))) as tokens:
                async for token in tokens:
                    yield token

        return read()

    # Structured prediction is the upstream's own: what comes out is no answer in words.

    def structured_predict(self, output_cls: type[Model], prompt: PromptTemplate, *args: Any, **kwargs: Any) -> Model:
        """The upstream's structured prediction, which is not corrected."""
        predicted: Model = self.llm.structured_predict(output_cls, prompt, *args, **kwargs)
        return predicted

    async def astructured_predict(
        self, output_cls: type[Model], prompt: PromptTemplate, *args: Any, **kwargs: Any
    ) -> Model:
        """The upstream's structured prediction, which is not corrected."""
        predicted: Model = await self.llm.astructured_predict(output_cls, prompt, *args, **kwargs)
        return predicted

    def stream_structured_predict(
        self, output_cls: type[Model], prompt: PromptTemplate, *args: Any, **kwargs: Any
    ) -> Generator[Any, None, None]:
        """A stream of the upstream's structured prediction, which is not corrected."""
        return self.llm.stream_structured_predict(output_cls, prompt, *args, **kwargs)

    async def astream_structured_predict(
        self, output_cls: type[Model], prompt: PromptTemplate, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        """A stream of the upstream's structured prediction, which is not corrected."""
        return await self.llm.astream_structured_predict(output_cls, prompt, *args, **kwargs)

    def as_structured_llm(self, output_cls: type[BaseModel], **kwargs: Any) -> StructuredLLM:
        """The upstream as a structured model, which is not corrected."""
        return self.llm.as_structured_llm(output_cls, **kwargs)

    def get_tool_calls_from_response(self, response: ChatResponse, *args: Any, **kwargs: Any) -> list[ToolSelection]:
        """The tool calls that the upstream reads from a response."""
        return self._function_calling.get_tool_calls_from_response(response, *args, **kwargs)

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        *args: Any,
        tool_required: bool = False,  # looked for by its name
        **kwargs: Any,
    ) -> dict[str, Any]:
        prepare: Callable[..., dict[str, Any]] = self._function_calling._prepare_chat_with_tools_compat  # noqa: SLF001
        return prepare(tools, *args, tool_required=tool_required, **kwargs)

    def _validate_chat_with_tools_response(
        self, response: ChatResponse, tools: Sequence[BaseTool], *args: Any, **kwargs: Any
    ) -> ChatResponse:
        validate = self._function_calling._validate_chat_with_tools_response  # noqa: SLF001
        return validate(response, tools, *args, **kwargs)

    @property
    def _function_calling(self) -> FunctionCallingLLM:
        if not isinstance(self.llm, FunctionCallingLLM):
            raise ConfigurationError(f"{type(self.llm).__name__} cannot call tools: it is no FunctionCallingLLM.")
        return self.llm

    def _reason_to_skip(
        self, asked: str | Sequence[ChatMessage], draft: ChatResponse | CompletionResponse, kwargs: dict[str, Any]
    ) -> str | None:
        if isinstance(draft, ChatResponse) and calls_tools(draft, self.llm):
            return "tool calls"
        if isinstance(asked, str):
            return step_asked_for(asked, text_of(draft)) or format_asked_for(asked, text_of(draft), kwargs)
        return format_asked_for(_prompt(asked), text_of(draft), kwargs) or question_without_text(asked)

    def _format_asked_for(self, prompt: BasePromptTemplate, draft: str) -> str | None:
        return format_asked_for(prompt.get_template(self.llm), draft, {})

    def _streamed(
        self,
        corrector: Corrector,
        draft: Generator[_R, None, None],
        asked: str | Sequence[ChatMessage],
        kwargs: dict[str, Any],
    ) -> Generator[_R, None, None]:
        whole: _R | None = None
        for response in draft:
            whole = response
        if whole is None:
            return
        skip = self._reason_to_skip(asked, whole, kwargs)
        with closing(portal.iterate(lambda: astreamed(corrector, whole, skip=skip))) as responses:
            yield from responses

    async def _astreamed(
        self,
        corrector: Corrector,
        draft: AsyncGenerator[_R, None],
        asked: str | Sequence[ChatMessage],
        kwargs: dict[str, Any],
    ) -> AsyncGenerator[_R, None]:
        whole: _R | None = None
        async for response in draft:
            whole = response
        if whole is None:
            return
        skip = self._reason_to_skip(asked, whole, kwargs)
        async with aclosing(astreamed(corrector, whole, skip=skip)) as responses:
            async for response in responses:
                yield response

    def _corrector(self, prompt: BasePromptTemplate, prompt_args: dict[str, Any]) -> Corrector | None:
        if self.output_parser is not None or is_for_a_program(prompt, prompt_args):
            return None
        question = {**prompt.kwargs, **prompt_args}.get("query_str")
        if not isinstance(question, str):
            raise ConfigurationError(
                "The prompt template has no variable query_str, so there is no way to know whether its text is an "
                "answer, and to what. Call complete or chat, or give whatever uses the template the upstream itself."
            )
        return Corrector.of(self, question)


def _prompt(messages: Sequence[ChatMessage]) -> str:
    return "\n".join(message.content or "" for message in messages)
