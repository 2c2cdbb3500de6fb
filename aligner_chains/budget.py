"""Lengths: whether query and draft fit into the model's context, and how long the correction may become."""

from __future__ import annotations

from aligner_chains.backends.base import Backend, ModelInfo
from aligner_chains.errors import ContextLengthError
from aligner_chains.prompts import Prompt

# A token stands for at least one byte of UTF-8, so a prompt has no more tokens than bytes, plus what starts a
# sequence and what a chat template puts around each message.
_EXTRA_TOKENS = 8
_EXTRA_TOKENS_PER_MESSAGE = 64

# The longest tokens in use stand for runs of about this many bytes.
_MOST_BYTES_PER_TOKEN = 128

# No correction is longer than this many times its draft (in bytes, taken as tokens) and this many tokens.
_ROOM_BY_DRAFT = 4
_LEAST_ROOM = 1024


def refuse_hopeless(query: str, draft: str, *, info: ModelInfo, max_new_tokens: int | None) -> None:
    """Refuses texts of so many bytes that no tokenizer makes them fit, before a prompt is made of them.

    Args:
        query: What the user asked.
        draft: The draft to correct.
        info: The model's limits.
        max_new_tokens: What the user allows, if anything.

    Raises:
        ContextLengthError: They cannot fit.
    """
    # What cannot be encoded is an error of its own, later.
    at_least = sum(len(text.encode(errors="surrogatepass")) for text in (query, draft)) // _MOST_BYTES_PER_TOKEN
    if _is_limited(info) and _room(at_least, info) < 1:
        raise _too_long(at_least, info, max_new_tokens)


async def fit(prompt: Prompt, draft: str, *, info: ModelInfo, backend: Backend, max_new_tokens: int | None) -> int:
    """The most tokens that the correction may have: `max_new_tokens`, or else what the context leaves.

    The server is asked for the exact length of the prompt only where a bound that needs no request does not settle
    it, so that all but the longest drafts cost one request. Where it tells its context but counts no tokens, prompt and
    correction share the context in proportion to their bytes, the correction taken to be as long as the draft (1,024
    bytes at least): if there is room for both, the server takes the request and the correction comes to its end. If
    not, the server refuses it or the correction ends by length, and either is an error.

    Args:
        prompt: What the model is to read.
        draft: The draft in it.
        info: The model's limits.
        backend: Counts tokens.
        max_new_tokens: What the user allows, if anything.

    Raises:
        ContextLengthError: The prompt, or the prompt and `max_new_tokens`, do not fit.
    """
    wanted = max_new_tokens or max(_LEAST_ROOM, _ROOM_BY_DRAFT * len(draft.encode()))
    if not _is_limited(info):
        return wanted
    at_most = _most_tokens(prompt)
    if _room(at_most, info) >= wanted:
        return max_new_tokens or _room(at_most, info)
    counted = await backend.count_tokens(prompt)
    if counted is None:
        if max_new_tokens or info.max_total_tokens is None:
            return wanted
        correction = max(_LEAST_ROOM, len(draft.encode()))
        return info.max_total_tokens * correction // (at_most + correction)
    room = _room(counted, info)
    if room < (max_new_tokens or 1):
        raise _too_long(counted, info, max_new_tokens)
    return max_new_tokens or room


def _is_limited(info: ModelInfo) -> bool:
    return info.max_total_tokens is not None or info.max_input_tokens is not None


def _most_tokens(prompt: Prompt) -> int:
    if isinstance(prompt, str):
        return len(prompt.encode()) + _EXTRA_TOKENS
    return sum(len(message["content"].encode()) + _EXTRA_TOKENS_PER_MESSAGE for message in prompt) + _EXTRA_TOKENS


def _room(prompt_tokens: int, info: ModelInfo) -> int:
    if info.max_input_tokens is not None and prompt_tokens > info.max_input_tokens:
        return 0
    return info.max_total_tokens - prompt_tokens if info.max_total_tokens is not None else _LEAST_ROOM


def _too_long(prompt_tokens: int, info: ModelInfo, max_new_tokens: int | None) -> ContextLengthError:
    limits = [info.max_total_tokens - (max_new_tokens or 1)] if info.max_total_tokens is not None else []
    if info.max_input_tokens is not None:
        limits.append(info.max_input_tokens)
    limit = min(limits)
    less = f" beside max_new_tokens={max_new_tokens}" if max_new_tokens else ""
    return ContextLengthError(
        f"Query and draft make a prompt of at least {prompt_tokens} tokens, but {info.name!r} "
        f"has room for {limit}{less}. "
        "Nothing was sent: shorten them, correct the draft in parts, or serve the Aligner with a longer context.",
        prompt_tokens=prompt_tokens,
        limit=limit,
    )
