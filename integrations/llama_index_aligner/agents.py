"""Agents whose last answer is corrected, before the user or the memory gets it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from llama_index.core.agent.react.types import ResponseReasoningStep
from llama_index.core.agent.workflow import AgentContext, AgentOutput, AgentStream, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.llms import LLM
from llama_index.core.memory import BaseMemory
from llama_index.core.tools import AsyncBaseTool
from pydantic import Field

from aligner_chains.errors import ConfigurationError
from llama_index_aligner.corrector import METADATA_KEY, Corrector
from llama_index_aligner.messages import last_question, question_without_text, with_text
from llama_index_aligner.options import CorrectionOptions, UntimedOptions


class _CorrectingAgent(UntimedOptions):
    """What the agents have in common: which of their steps is an answer, and what becomes of it."""

    correction_timeout: float | None = Field(
        default=None, description="Seconds for a whole correction; `timeout` is that of the agent's run."
    )

    if TYPE_CHECKING:
        # Type checkers do not see that the agent's own constructor takes all fields.
        def __init__(self, **fields: Any) -> None: ...

    async def take_step(
        self, ctx: AgentContext, llm_input: list[ChatMessage], tools: Sequence[AsyncBaseTool], memory: BaseMemory
    ) -> AgentOutput:
        """A step of the agent; if it answers the user, corrected."""
        await _refuse_what_passes_by(ctx)
        quiet = _WithoutStream(ctx)
        output: AgentOutput = await cast("Any", super()).take_step(quiet, llm_input, tools, memory)
        if output.tool_calls or output.retry_messages:
            quiet.release()
            return output
        question, skip = await _question(ctx, llm_input)
        lead, draft = await self._draft(ctx)
        text = None
        try:
            text, output[METADATA_KEY] = await self._corrected(ctx, question, lead, draft, skip=skip)
        finally:
            await self._replace(ctx, output, text)  # after a failure too, or the next run would go on from the draft
        return output

    async def _get_llm_response(
        self, ctx: AgentContext, llm_input: list[ChatMessage], llm: LLM | None = None
    ) -> ChatResponse:
        # The answer of an agent that has made too many steps.
        quiet = _WithoutStream(ctx)
        response: ChatResponse = await cast("Any", super())._get_llm_response(quiet, llm_input, llm)  # noqa: SLF001
        question, skip = await _question(ctx, llm_input)
        text, provenance = await self._corrected(ctx, question, "", response.message.content or "", skip=skip)
        return response.model_copy(
            update={
                "message": with_text(response.message, text),
                "additional_kwargs": {**response.additional_kwargs, METADATA_KEY: provenance},
            }
        )

    async def _corrected(
        self, ctx: AgentContext, question: str, lead: str, draft: str, *, skip: str | None
    ) -> tuple[str, dict[str, Any]]:
        fields = {name: getattr(self, name) for name in UntimedOptions.model_fields}
        corrector = Corrector.of(CorrectionOptions(timeout=self.correction_timeout, **fields), question)
        agent: Any = self
        if not agent.streaming:
            return await corrector.atext(draft, skip=skip)
        text, metadata = "", dict[str, Any]()
        if lead:
            ctx.write_event_to_stream(AgentStream(delta=lead, response=lead, current_agent_name=agent.name))
        async with aclosing(corrector.atokens(draft, metadata, skip=skip)) as tokens:
            async for token in tokens:
                text += token
                ctx.write_event_to_stream(AgentStream(delta=token, response=lead + text, current_agent_name=agent.name))
        return text, metadata[METADATA_KEY]

    @abstractmethod
    async def _draft(self, ctx: AgentContext) -> tuple[str, str]:
        """What the agent has said before its answer, and the answer."""

    @abstractmethod
    async def _replace(self, ctx: AgentContext, output: AgentOutput, text: str | None) -> None:
        """Puts a text in place of the draft, where the agent keeps it for its memory too; `None` takes it out."""


class AlignerFunctionAgent(_CorrectingAgent, FunctionAgent):
    """A `FunctionAgent` with corrected answers: `AlignerFunctionAgent(llm=llm, tools=[...], aligner=aligner)`.

    Steps that call tools are not touched. The answer is corrected to what the user has asked; the corrected one is what
    the run returns and the memory keeps, what became of its draft is in `response["aligner"]`, and no event streams a
    draft. It works alone and in an `AgentWorkflow`. What a tool returns directly is no draft, and passes.
    """

    async def _draft(self, ctx: AgentContext) -> tuple[str, str]:
        message: ChatMessage = (await ctx.store.get(self.scratchpad_key))[-1]
        return "", message.content or ""

    async def _replace(self, ctx: AgentContext, output: AgentOutput, text: str | None) -> None:
        *scratchpad, _ = await ctx.store.get(self.scratchpad_key)
        if text is not None:
            output.response = with_text(output.response, text)
            scratchpad.append(output.response)
        await ctx.store.set(self.scratchpad_key, scratchpad)


class AlignerReActAgent(_CorrectingAgent, ReActAgent):
    """A `ReActAgent` with corrected answers: `AlignerReActAgent(llm=llm, tools=[...], aligner=aligner)`.

    Thoughts, actions and their arguments are not touched, only what follows the last "Answer:". All else is as with
    `AlignerFunctionAgent`.
    """

    async def _draft(self, ctx: AgentContext) -> tuple[str, str]:
        step: ResponseReasoningStep = (await ctx.store.get(self.reasoning_key))[-1]
        return step.model_copy(update={"response": ""}).get_content(), step.response

    async def _replace(self, ctx: AgentContext, output: AgentOutput, text: str | None) -> None:
        *reasoning, step = await ctx.store.get(self.reasoning_key)
        if text is not None:
            answer = step.model_copy(update={"response": text})
            output.response = with_text(output.response, answer.get_content())
            reasoning.append(answer)
        await ctx.store.set(self.reasoning_key, reasoning)


class _WithoutStream:
    """An agent's context that keeps the model's text out of the stream of events."""

    def __init__(self, ctx: AgentContext) -> None:
        self._ctx = ctx
        self._held_back: list[AgentStream] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def write_event_to_stream(self, event: Any) -> None:
        # A model that thinks before it writes streams events without text.
        if isinstance(event, AgentStream) and (event.delta or event.response):
            self._held_back.append(event)
        else:
            self._ctx.write_event_to_stream(event)

    def release(self) -> None:
        for event in self._held_back:
            self._ctx.write_event_to_stream(event)


async def _question(ctx: AgentContext, llm_input: list[ChatMessage]) -> tuple[str, str | None]:
    # What the user asked, and why no answer to that can be corrected.
    if question := await ctx.store.get("user_msg_str", default=None):
        return question, None
    # Only the memory has the message itself: what the model is given may end with a message of the agent's.
    memory: BaseMemory | None = await ctx.store.get("memory", default=None)
    messages = llm_input if memory is None else await memory.aget_all()
    return last_question(messages), question_without_text(messages)


async def _refuse_what_passes_by(ctx: AgentContext) -> None:
    # Only an AgentWorkflow knows a current agent.
    is_workflow = await ctx.store.get("current_agent_name", default=None) is not None
    if is_workflow and await ctx.store.get("early_stopping_method", default=None) == "generate":
        raise ConfigurationError(
            "An AgentWorkflow with early_stopping_method='generate' asks the model itself for its last answer, past "
            "the agent that would correct it. Leave it at 'force', or run the agent by itself."
        )
