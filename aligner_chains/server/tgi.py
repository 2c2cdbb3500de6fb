"""TGI's own routes (https://github.com/huggingface/text-generation-inference), by its OpenAPI document."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from aiohttp import web

from aligner_chains._version import __version__
from aligner_chains.decoding.causal_model import Token
from aligner_chains.server.bodies import (
    CompatGenerateRequest,
    GenerateParameters,
    GenerateRequest,
    TokenizeRequest,
    read_body,
)
from aligner_chains.server.engine import Answer, Engine
from aligner_chains.server.refusals import RequestError, invalid, unhealthy
from aligner_chains.server.responses import (
    ENGINE,
    answer_headers,
    compute_headers,
    event_stream,
    finite,
    json_response,
    to_json,
)


async def generate(request: web.Request) -> web.Response:
    """POST /generate: the answer, whole."""
    body = await read_body(request, GenerateRequest)
    answer, headers = await _answer(request.app[ENGINE], body)
    return json_response(answer, headers=headers)


async def generate_stream(request: web.Request) -> web.StreamResponse:
    """POST /generate_stream: the answer as it is written."""
    return await _stream(request, await read_body(request, GenerateRequest))


async def generate_either(request: web.Request) -> web.StreamResponse:
    """POST /: as the body says; the whole answer comes in a list, and with the prompt if nothing is said."""
    body = await read_body(request, CompatGenerateRequest)
    if body.parameters.return_full_text is None:
        parameters = body.parameters.model_copy(update={"return_full_text": True})
        body = body.model_copy(update={"parameters": parameters})
    if body.stream:
        return await _stream(request, body)
    answer, headers = await _answer(request.app[ENGINE], body)
    return json_response([answer], headers=headers)


async def tokenize(request: web.Request) -> web.Response:
    """POST /tokenize: the prompt's tokens and where they stand in it; with vLLM's body, their number."""
    engine = request.app[ENGINE]
    body = await read_body(request, TokenizeRequest)
    text = body.inputs if body.inputs is not None else body.prompt or ""
    encoding = await asyncio.to_thread(
        engine.model.tokenizer, text, add_special_tokens=True, return_offsets_mapping=True
    )
    ids: list[int] = encoding["input_ids"]
    if body.prompt is not None:
        return json_response({"count": len(ids), "max_model_len": engine.lengths.max_total_tokens, "tokens": ids})
    tokens = [
        {"id": token_id, "text": text[start:stop], "start": start, "stop": stop}
        for token_id, (start, stop) in zip(ids, encoding["offset_mapping"], strict=True)
    ]
    if body.parameters.truncate is not None:
        tokens = tokens[max(0, len(tokens) - body.parameters.truncate) :]
    return json_response(tokens)


async def info(request: web.Request) -> web.Response:
    """GET /info: the model and the server's limits."""
    engine = request.app[ENGINE]
    limits = engine.limits
    return json_response(
        {
            "model_id": engine.model_name,
            "model_sha": None,
            "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": limits.max_concurrent_requests,
            "max_best_of": limits.max_best_of,
            "max_stop_sequences": limits.max_stop_sequences,
            "max_input_tokens": engine.lengths.max_input_tokens,
            "max_total_tokens": engine.lengths.max_total_tokens,
            "validation_workers": 1,
            "max_client_batch_size": limits.max_client_batch_size,
            "router": "aligner-chains",
            "version": __version__,
            "sha": None,
            "docker_label": None,
        }
    )


async def health(request: web.Request) -> web.Response:
    """GET /health: nothing, or why not."""
    if not await request.app[ENGINE].is_healthy():
        raise unhealthy()
    return web.Response()


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics: the server's counts."""
    return web.Response(text=request.app[ENGINE].metrics.exposition(), content_type="text/plain")


async def _answer(engine: Engine, body: GenerateRequest) -> tuple[dict[str, Any], dict[str, str]]:
    started = time.perf_counter()
    with engine.admitted():
        # Each sequence is validated, and so gets a seed of its own.
        requests = [await engine.validate(body.inputs, body.parameters)]
        for _ in range(1, body.parameters.best_of or 1):
            requests.append(await engine.validate(body.inputs, body.parameters))  # noqa: PERF401  # one at a time
        answers = [await engine.answer(request) for request in requests]
    best = max(answers, key=lambda answer: answer.mean_logprob)
    headers = compute_headers(engine, (body.inputs,)) | answer_headers(
        [best], total_seconds=time.perf_counter() - started
    )
    prompt = body.inputs if body.parameters.return_full_text else ""
    result: dict[str, Any] = {"generated_text": prompt + best.text}
    if body.parameters.details or body.parameters.decoder_input_details:
        result["details"] = _details(engine, best)
        if len(answers) > 1:
            result["details"]["best_of_sequences"] = [
                {"generated_text": prompt + other.text, **_details(engine, other)}
                for other in answers
                if other is not best
            ]
    return result, headers


async def _stream(request: web.Request, body: GenerateRequest) -> web.StreamResponse:
    engine = request.app[ENGINE]
    return await event_stream(request, _events(engine, body), headers=compute_headers(engine, (body.inputs,)))


async def _events(engine: Engine, body: GenerateRequest) -> AsyncGenerator[str, None]:
    try:
        with engine.admitted():
            _check_streamable(body.parameters)
            valid = await engine.validate(body.inputs, body.parameters)
            index = 0
            async with aclosing(engine.write(valid)) as steps:
                async for step in steps:
                    index += 1
                    event: dict[str, Any] = {"index": index, "token": _token(step.token)}
                    if step.token.top:
                        event["top_tokens"] = [_token(token) for token in step.token.top]
                    yield to_json(event | _ending(body, step.answer))
    except RequestError as error:
        yield to_json(error.body)


def _check_streamable(parameters: GenerateParameters) -> None:
    if parameters.best_of not in (None, 1):
        raise invalid("`best_of` != 1 is not supported when streaming tokens")
    if parameters.decoder_input_details:
        raise invalid("`decoder_input_details` == true is not supported when streaming tokens")


def _ending(body: GenerateRequest, answer: Answer | None) -> dict[str, Any]:
    if answer is None:
        return {"generated_text": None, "details": None}
    details = {
        "finish_reason": answer.finish_reason,
        "generated_tokens": len(answer.tokens),
        "seed": answer.request.sampling.seed,
        "input_length": len(answer.request.ids),
    }
    prompt = body.inputs if body.parameters.return_full_text else ""
    return {"generated_text": prompt + answer.text, "details": details if body.parameters.details else None}


def _details(engine: Engine, answer: Answer) -> dict[str, Any]:
    prefill = [
        {"id": token_id, "text": engine.model.decode_token(token_id), "logprob": finite(logprob)}
        for token_id, logprob in zip(answer.request.ids, answer.prompt_logprobs or (), strict=False)
    ]
    details: dict[str, Any] = {
        "finish_reason": answer.finish_reason,
        "generated_tokens": len(answer.tokens),
        "seed": answer.request.sampling.seed,
        "prefill": prefill,
        "tokens": [_token(token) for token in answer.tokens],
    }
    if answer.request.sampling.top_n:
        details["top_tokens"] = [[_token(top) for top in token.top] for token in answer.tokens]
    return details


def _token(token: Token) -> dict[str, Any]:
    return {"id": token.id, "text": token.text, "logprob": finite(token.logprob), "special": token.special}
