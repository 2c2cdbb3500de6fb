"""OpenAI's routes: `/v1/completions` as TGI serves it, and `/v1/models`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from aiohttp import web

from aligner_chains._version import __version__
from aligner_chains.decoding.causal_model import Token
from aligner_chains.server.bodies import CompletionRequest, read_body
from aligner_chains.server.engine import Answer, Engine, ValidRequest
from aligner_chains.server.refusals import RequestError, invalid
from aligner_chains.server.responses import (
    ENGINE,
    answer_headers,
    compute_headers,
    event_stream,
    finite,
    json_response,
    to_json,
)

# With TGI any other model than this is the name of an adapter.
_ANY_MODEL = "tgi"
# What leaves the answer as it is, in fields of OpenAI's that this server has no use for.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "logit_bias": (None, {}),
    "n": (None, 1),
    "presence_penalty": (None, 0),
}


async def models(request: web.Request) -> web.Response:
    """GET /v1/models: the one model, with its context in vLLM's field."""
    engine = request.app[ENGINE]
    model = {
        "id": engine.model_name,
        "object": "model",
        "created": 0,
        "owned_by": engine.model_name,
        "max_model_len": engine.lengths.max_total_tokens,
    }
    return json_response({"object": "list", "data": [model]})


async def completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/completions: one answer for each prompt."""
    started = time.perf_counter()
    engine = request.app[ENGINE]
    body = await read_body(request, CompletionRequest)
    headers = compute_headers(engine, body.prompts)
    if body.stream:
        return await event_stream(request, _events(engine, body), headers=headers)
    with engine.admitted():
        answers = [await engine.answer(valid) for valid in await _validate(engine, body)]
    choices = [
        _choice(body, index, answer.tokens, finish_reason=_finish_reason(answer))
        for index, answer in enumerate(answers)
    ]
    return json_response(
        _completion(engine, choices) | {"usage": _usage(answers)},
        headers=headers | answer_headers(answers, total_seconds=time.perf_counter() - started),
    )


async def _events(engine: Engine, body: CompletionRequest) -> AsyncGenerator[str, None]:
    """One prompt after the other; usage with each prompt's last event, as TGI does it, or once, as OpenAI does it."""
    usage_at_the_end = body.stream_options is not None and body.stream_options.include_usage
    answers: list[Answer] = []
    try:
        with engine.admitted():
            for index, valid in enumerate(await _validate(engine, body)):
                offset = 0
                async with aclosing(engine.write(valid)) as steps:
                    async for step in steps:
                        reason = _finish_reason(step.answer) if step.answer else ""
                        choice = _choice(body, index, [step.token], finish_reason=reason, offset=offset)
                        offset += len(choice["text"])
                        event = _completion(engine, [choice])
                        if usage_at_the_end:
                            event["usage"] = None
                        elif step.answer:
                            event["usage"] = _usage([step.answer])
                        if step.answer:
                            answers.append(step.answer)
                        yield to_json(event)
            if usage_at_the_end:
                yield to_json(_completion(engine, []) | {"usage": _usage(answers)})
    except RequestError as error:
        yield to_json({"error": {"message": str(error), "http_status_code": error.status}})
    yield "[DONE]"


async def _validate(engine: Engine, body: CompletionRequest) -> list[ValidRequest]:
    if body.suffix is not None:
        raise RequestError(
            "Suffix is not supported and can be achieved by preprocessing the prompt.",
            status=HTTPStatus.UNPROCESSABLE_ENTITY,
            error_type="suffix not supported",
        )
    if len(body.prompts) > engine.limits.max_client_batch_size:
        raise RequestError(
            f"Number of prompts exceeds the maximum allowed batch size of {engine.limits.max_client_batch_size}",
            status=HTTPStatus.UNPROCESSABLE_ENTITY,
            error_type="batch size exceeded",
        )
    for name, harmless in _NEUTRAL.items():
        value = getattr(body, name)
        if value not in harmless:
            raise invalid(f"`{name}` is not supported by this server. Given: {value!r}")
    if body.model not in (None, _ANY_MODEL, engine.model_name):
        raise invalid(f"`model` must be {_ANY_MODEL!r} or {engine.model_name!r}. Given: {body.model!r}")
    return [await engine.validate(prompt, body.parameters) for prompt in body.prompts]


def _completion(engine: Engine, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": "",
        "object": "text_completion",
        "created": int(time.time()),
        "model": engine.model_name,
        "system_fingerprint": f"{__version__}-native",
        "choices": choices,
    }


def _choice(
    body: CompletionRequest, index: int, tokens: Sequence[Token], *, finish_reason: str, offset: int = 0
) -> dict[str, Any]:
    texts = ["" if token.special else token.text for token in tokens]
    logprobs = None
    if body.logprobs is not None:
        offsets = [offset]
        for text in texts[:-1]:
            offsets.append(offsets[-1] + len(text))
        logprobs = {
            "tokens": texts,
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": [{top.text: finite(top.logprob) for top in token.top} for token in tokens],
            "text_offset": offsets,
        }
    return {"index": index, "text": "".join(texts), "logprobs": logprobs, "finish_reason": finish_reason}


def _finish_reason(answer: Answer) -> str:
    return "length" if answer.finish_reason == "length" else "stop"


def _usage(answers: list[Answer]) -> dict[str, int]:
    prompt_tokens = sum(len(answer.request.ids) for answer in answers)
    completion_tokens = sum(len(answer.tokens) for answer in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
