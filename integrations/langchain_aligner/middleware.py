"""`AlignerMiddleware`: the Aligner in an agent of `langchain.agents.create_agent`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, set_config_context
from langchain_core.runnables.utils import coro_with_context

from aligner_chains.aligner import Aligner
from aligner_chains.feedback import Feedback
from aligner_chains.settings import OnFailure
from langchain_aligner.query import Conversation
from langchain_aligner.runnable import AlignerRunnable
from langchain_aligner.streams import NOT_STREAMED


class AlignerMiddleware(AgentMiddleware):
    """Corrects an agent's answers: `create_agent(model, tools, middleware=[AlignerMiddleware()])`.

    Only what the agent says to the user is corrected: turns that call tools and structured responses pass as they are.
    The corrected message has the draft's id and takes its place in the state, in checkpoints and in streams; tokens of
    a draft are not streamed.

    As the first of several middleware it corrects what all others have done to the answer; as the last, what the model
    has written.

    Args:
        aligner: Corrects; by default `Aligner()`, which is made when it is first needed.
        conversation: What the Aligner reads of the agent's messages: the last human turn, or the dialogue (`"full"`).
        feedback: What to make answers more of.
        on_failure: When no correction arrives: `"raise"` the error, pass the `"draft"` on, or `"refuse"` in a fixed
            text.
        timeout: Seconds for a whole correction, retries included.
        max_new_tokens: The most tokens that a correction may have.
        keep_draft: Whether `response_metadata["aligner"]` holds the draft as well.
    """

    def __init__(
        self,
        *,
        aligner: Aligner | None = None,
        conversation: Conversation = "last",
        feedback: Feedback | str | None = None,
        on_failure: OnFailure | None = None,
        timeout: float | None = None,
        max_new_tokens: int | None = None,
        keep_draft: bool = False,
    ) -> None:
        super().__init__()
        self._runnable = AlignerRunnable(
            aligner=aligner,
            conversation=conversation,
            feedback=feedback,
            on_failure=on_failure,
            timeout=timeout,
            max_new_tokens=max_new_tokens,
            keep_draft=keep_draft,
        )

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """The model's response, with its answer corrected."""
        with set_config_context(_not_streamed()) as context:
            response = context.run(handler, request)
        draft = _answer(response)
        if draft is None:
            return response
        return _with_answer(response, self._runnable.invoke({"query": request.messages, "draft": draft}))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """The model's response, with its answer corrected."""

        async def handle() -> ModelResponse[Any]:
            return await handler(request)

        with set_config_context(_not_streamed()) as context:
            response = await coro_with_context(handle(), context)
        draft = _answer(response)
        if draft is None:
            return response
        return _with_answer(response, await self._runnable.ainvoke({"query": request.messages, "draft": draft}))


def _not_streamed() -> RunnableConfig:
    # By the config and not by the model: middleware in between may call another one.
    config = ensure_config()
    return {**config, "tags": [*config["tags"], NOT_STREAMED]}


def _answer(response: ModelResponse[Any]) -> AIMessage | None:
    message = response.result[-1] if response.result else None
    if response.structured_response is not None or not isinstance(message, AIMessage):
        return None
    # A turn that calls tools is no answer yet, and as what it was it stays in the state.
    return None if message.tool_calls else message


def _with_answer(response: ModelResponse[Any], answer: AIMessage) -> ModelResponse[Any]:
    return replace(response, result=[*response.result[:-1], answer])
