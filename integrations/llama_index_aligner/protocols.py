"""Which of a model's texts are read by a program: to correct one would break it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from llama_index.core.base.llms.types import ChatResponse, ToolCallBlock
from llama_index.core.chat_engine.condense_plus_context import DEFAULT_CONDENSE_PROMPT_TEMPLATE
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.prompts.prompt_type import PromptType
from llama_index.core.retrievers.fusion_retriever import QUERY_GEN_PROMPT

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

# What LlamaIndex's steps tell their prompts and no answer's prompt is told: where the prompt is of one's own, its type
# is CUSTOM, which says nothing.
_OF_STEPS = {
    "context_list",
    "dialect",
    "max_keywords",
    "num_choices",
    "num_chunks",
    "num_queries",
    "prev_reasoning",
    "schema",
    "schema_str",
    "tools_str",
}

# A longer line is no query: it could be an answer.
_LONGEST_QUERY = 300


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


def step_asked_for(prompt: str, text: str) -> str | None:
    """The step of LlamaIndex that a prompt of its own asks for and that a text fits; `None` if there is none.

    Args:
        prompt: What the model was asked, as one text.
        text: What it said.
    """
    for name, (template, fits) in _STEPS.items():
        # Both ends, so that what a user has written inside another prompt is not taken for it.
        head, tail = template.partition("{")[0], template.rpartition("}")[2]
        if prompt.startswith(head) and prompt.endswith(tail) and fits(text):
            return name
    return None


def is_for_a_program(prompt: BasePromptTemplate, arguments: Mapping[str, object]) -> bool:
    """Whether what a model says to a prompt template is read by a program.

    Args:
        prompt: The template.
        arguments: What it is filled with.
    """
    if prompt.output_parser is not None:
        return True
    kind = prompt.metadata.get("prompt_type")
    if kind == PromptType.CUSTOM:
        return not _OF_STEPS.isdisjoint({*prompt.template_vars, *prompt.kwargs, *arguments})
    return kind not in _ANSWERS


def _is_json(text: str) -> bool:
    fenced = _FENCE.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except ValueError:
        return False
    return isinstance(value, dict | list)


def _is_one_query(text: str) -> bool:
    return "\n" not in text.strip() and _are_queries(text)


def _are_queries(text: str) -> bool:
    return all(len(line) <= _LONGEST_QUERY for line in text.splitlines())


#: By the name of a step whose prompt has become a mere text: LlamaIndex's prompt for it, and whether a text fits.
_STEPS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "standalone question": (DEFAULT_CONDENSE_PROMPT_TEMPLATE, _is_one_query),
    "search queries": (QUERY_GEN_PROMPT, _are_queries),
}

#: By the name of a format: what prompts that ask for it hold, and whether a text has it.
_FORMATS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "structured output": ("json", _is_json),
    "reasoning step": ("action input:", lambda text: _REACT.search(text) is not None),
    "code to execute": ("<execute>", lambda text: "<execute>" in text),
}
