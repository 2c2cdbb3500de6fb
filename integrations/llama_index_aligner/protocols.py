"""Which of a model's texts are read by a program: to correct one would break it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from llama_index.core.base.llms.types import ChatResponse, ToolCallBlock
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.prompts.prompt_type import PromptType

_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*?)\s*```\s*", re.DOTALL | re.IGNORECASE)
_REACT = re.compile(r"^\s*(?:Thought|Action|Answer):", re.MULTILINE)

# Prompts of LlamaIndex whose texts a user reads; all others ask for one step of a program.
_ANSWERS = {
    PromptType.CONVERSATION,
    PromptType.CUSTOM,
    PromptType.QUESTION_ANSWER,
    PromptType.REFINE,
    PromptType.SIMPLE_INPUT,
    PromptType.SQL_RESPONSE_SYNTHESIS,
    PromptType.SQL_RESPONSE_SYNTHESIS_V2,
    PromptType.SUMMARY,
}


def calls_tools(response: ChatResponse, llm: LLM) -> bool:
    """Whether a model wants tools to be called: as it says in the message, or as its own class reads it."""
    message = response.message
    if message.additional_kwargs.get("tool_calls") or any(isinstance(b, ToolCallBlock) for b in message.blocks):
        return True
    if not isinstance(llm, FunctionCallingLLM):
        return False
    try:
        return bool(llm.get_tool_calls_from_response(response, error_on_no_tool_call=False))
    except NotImplementedError:  # LlamaIndex's own default: this model has no way to call tools
        return False


def format_asked_for(prompt: str, text: str, options: Mapping[str, object]) -> str | None:
    """The format that a prompt asks for and that a text has; `None` if it is prose.

    Both are needed: a user must not get around the Aligner with a draft that only looks like a program's.

    Args:
        prompt: All that the model was asked.
        text: What it said.
        options: The keyword arguments of the call.
    """
    if options.get("response_format") not in (None, {"type": "text"}):
        return "structured output"
    asked = prompt.lower()
    return next((name for name, (sign, has) in _FORMATS.items() if sign in asked and has(text)), None)


def is_for_a_program(prompt: BasePromptTemplate) -> bool:
    """Whether what a model says to a prompt template is read by a program."""
    return prompt.output_parser is not None or prompt.metadata.get("prompt_type") not in _ANSWERS


def _is_json(text: str) -> bool:
    fenced = _FENCE.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except ValueError:
        return False
    return isinstance(value, dict | list)


#: By the name of a format: what prompts that ask for it hold, and whether a text has it.
_FORMATS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "structured output": ("json", _is_json),
    "reasoning step": ("action input:", lambda text: _REACT.search(text) is not None),
    "code to execute": ("<execute>", lambda text: "<execute>" in text),
}
