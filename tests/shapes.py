"""What TGI and OpenAI-compatible servers send: whole answers, the events of a stream, errors, models and limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MODEL = "aligner/aligner-7b-v1.0"
MAX_INPUT_TOKENS, MAX_TOTAL_TOKENS = 3072, 4096
INPUT_LENGTH = 11

TGI_INFO = {"model_id": MODEL, "max_input_tokens": MAX_INPUT_TOKENS, "max_total_tokens": MAX_TOTAL_TOKENS}
OPENAI_MODELS = {"object": "list", "data": [{"id": MODEL, "object": "model", "max_model_len": MAX_TOTAL_TOKENS}]}


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def is_openai(self) -> bool:
        return self.path.startswith("/v1")

    @property
    def is_chat(self) -> bool:
        return self.path == "/v1/chat/completions"

    @property
    def is_streamed(self) -> bool:
        return self.path == "/generate_stream" or (self.is_openai and bool(self.body.get("stream")))

    @property
    def wants_text(self) -> bool:
        return self.is_chat or self.path in ("/generate", "/generate_stream", "/v1/completions")

    @property
    def prompt(self) -> str:
        if "messages" in self.body:
            return "\n".join(message["content"] for message in self.body["messages"])
        return str(self.body["inputs" if "inputs" in self.body else "prompt"])


@dataclass(frozen=True)
class Answer:
    """A text as a model wrote it: token by token, and why it stopped."""

    tokens: Sequence[str]
    finish_reason: str = "stop"
    logprob: Any = -0.01


def error(request: Request, kind: str, message: str) -> dict[str, object]:
    if request.is_openai:
        return {"error": {"message": message, "type": kind, "http_status_code": 424}}
    return {"error": message, "error_type": kind}


def whole(request: Request, answer: Answer) -> dict[str, object]:
    text = "".join(answer.tokens)
    if not request.is_openai:
        return {"generated_text": text, "details": _tgi_details(answer)}
    content = {"message": {"role": "assistant", "content": text}} if request.is_chat else {"text": text}
    return {
        "model": MODEL,
        "choices": [_choice(request, answer, content, answer.tokens, answer.finish_reason)],
        "usage": _usage(answer),
    }


def events(request: Request, answer: Answer, *, to_the_end: bool = True) -> list[bytes]:
    """The events of a stream, without their last ones unless it goes `to_the_end`."""
    if request.is_openai:
        return _openai_events(request, answer, to_the_end=to_the_end)
    sent = [event({"token": _tgi_token(text, answer), "generated_text": None}) for text in answer.tokens]
    if to_the_end:
        last = {"token": _tgi_token("</s>", answer, special=True), "generated_text": "".join(answer.tokens)}
        sent.append(event({**last, "details": _tgi_details(answer)}))
    return sent


def event(content: object) -> bytes:
    # TGI leaves U+2028 and its like as they are, which Python's json does not unless told.
    return b"data:" + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


def _openai_events(request: Request, answer: Answer, *, to_the_end: bool) -> list[bytes]:
    sent = [{"delta": {"role": "assistant", "content": ""}}] if request.is_chat else []
    sent += [_choice(request, answer, _piece(request, text), [text], None) for text in answer.tokens]
    if to_the_end:
        sent.append(_choice(request, answer, _piece(request, ""), [], answer.finish_reason))
    body: list[dict[str, object]] = [{"model": MODEL, "choices": [choice], "usage": None} for choice in sent]
    if to_the_end:
        body.append({"model": MODEL, "choices": [], "usage": _usage(answer)})
    return [*map(event, body), *([b"data: [DONE]\n\n"] if to_the_end else [])]


def _piece(request: Request, text: str) -> dict[str, object]:
    return {"delta": {"content": text}} if request.is_chat else {"text": text}


def _choice(
    request: Request, answer: Answer, content: dict[str, object], tokens: Sequence[str], finish_reason: str | None
) -> dict[str, object]:
    logprobs: dict[str, object] | None = None
    if answer.logprob is not None and request.body.get("logprobs"):
        values = [answer.logprob for _ in tokens]
        logprobs = (
            {"content": [{"logprob": value} for value in values]} if request.is_chat else {"token_logprobs": values}
        )
    return {"index": 0, **content, "logprobs": logprobs, "finish_reason": finish_reason}


def _usage(answer: Answer) -> dict[str, int]:
    return {"prompt_tokens": INPUT_LENGTH, "completion_tokens": len(answer.tokens)}


def _tgi_token(text: str, answer: Answer, *, special: bool = False) -> dict[str, object]:
    return {"id": 7, "text": text, "logprob": answer.logprob, "special": special}


def _tgi_details(answer: Answer) -> dict[str, object]:
    return {
        "finish_reason": {"stop": "eos_token"}.get(answer.finish_reason, answer.finish_reason),
        "generated_tokens": len(answer.tokens),
        "input_length": INPUT_LENGTH,
        "tokens": [_tgi_token(text, answer) for text in answer.tokens],
    }
