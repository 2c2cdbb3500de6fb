"""OpenAI-compatible servers: vLLM, SGLang, llama.cpp, `transformers serve`, and TGI's own `/v1`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from aligner_chains.backends.base import Generation, GenerationChunk, GenerationRequest, ModelInfo
from aligner_chains.backends.http import HttpClient, error_for_status, finish_reason, logprob, message_in, parsing
from aligner_chains.correction import Usage
from aligner_chains.errors import (
    BackendError,
    BackendNotFoundError,
    ConfigurationError,
    GenerationError,
    IncompleteResponseError,
    ProtocolError,
    RequestRejectedError,
)
from aligner_chains.prompts import Prompt


class OpenAIBackend:
    """An Aligner behind an OpenAI-compatible server: `/completions`, and `/chat/completions` for chat prompts.

    Args:
        url: The address that ends in `/v1`.
        model: The model's name there; `None` for the only one that the server has.
        api_key: The server's key.
        max_concurrency: The most requests under way at once in an event loop.
        max_total_tokens: The model's context in tokens, where the server does not tell (vLLM and SGLang do).
        parameters: Further fields of the request, over the default of greedy decoding.

    Attributes:
        url: The server's address, without a password that may be in it.
        name: The model's name, if it was given.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        max_concurrency: int = 64,
        max_total_tokens: int | None = None,
        parameters: Mapping[str, object] | None = None,
    ) -> None:
        self._prefix = "/v1" if isinstance(url, str) and url.rstrip("/").endswith("/v1") else ""
        root = url.rstrip("/").removesuffix("/v1") if isinstance(url, str) else url
        self._http = HttpClient(root, api_key=api_key, max_concurrency=max_concurrency)
        self.url = self._http.url + self._prefix
        self.name = model
        self._max_total_tokens = max_total_tokens
        self._parameters = dict(parameters or {})
        self._info: ModelInfo | None = None

    def __repr__(self) -> str:
        return f"OpenAIBackend({self.url!r}, model={self.name!r})"

    async def info(self) -> ModelInfo:
        """The model in `/models`, and its context where the server tells; asked for once."""
        if self._info is None or self._http.was_lost:
            self._http.was_lost = False
            entry = await self._model_entry()
            told = entry.get("max_model_len")
            with parsing(f"{self._http.url}{self._prefix}/models"):
                self._info = ModelInfo(
                    name=self.name or str(entry["id"]),
                    max_total_tokens=self._max_total_tokens or (None if told is None else int(told)),
                )
        return self._info

    async def _model_entry(self) -> dict[str, Any]:
        path = f"{self._prefix}/models"
        try:
            answer = await self._http.get(path)
            with parsing(f"{self._http.url}{path}"):
                entries: dict[str, dict[str, Any]] = {entry["id"]: entry for entry in answer["data"]}
        except (BackendNotFoundError, ProtocolError, GenerationError):
            # Some gateways serve completions only, and `transformers serve` fails to list models where it has no
            # cache. With a model's name that is enough.
            if self.name is None:
                raise
            return {}
        if self.name is not None:
            return entries.get(self.name, {})
        if len(entries) == 1:
            return next(iter(entries.values()))
        names = ", ".join(map(repr, entries))
        raise ConfigurationError(f"{self._http.url!r} has the models {names or '(none)'}: say which with model=.")

    async def count_tokens(self, prompt: Prompt) -> int | None:
        """The prompt's length by vLLM's `/tokenize`; `None` from servers without it."""
        body: dict[str, object] = {"model": (await self.info()).name}
        body |= {"prompt": prompt} if isinstance(prompt, str) else {"messages": list(prompt)}
        try:
            answer, _ = await self._http.post("/tokenize", body)
            with parsing(f"{self._http.url}/tokenize"):
                return int(answer["count"])
        except (BackendNotFoundError, RequestRejectedError, ProtocolError):
            return None

    async def generate(self, request: GenerationRequest) -> Generation:
        """The answer of `/completions` or `/chat/completions`."""
        path, body = await self._request(request)
        where = f"{self._http.url}{path}"
        answer, _ = await self._http.post(path, body)
        with parsing(where):
            if answer.get("error"):  # some gateways answer 200 with it
                raise _error(answer["error"], where)
            choice = answer["choices"][0]
            return Generation(
                text=_text(choice, "message"),
                model=answer.get("model") or self.name or "",
                finish_reason=finish_reason(choice["finish_reason"], where),
                usage=_usage(answer),
                logprobs=tuple(_logprobs(choice)) or None,
            )

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """The events of a streamed `/completions` or `/chat/completions`."""
        path, body = await self._request(request)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        where = f"{self._http.url}{path}"
        pieces: list[str] = []
        logprobs: list[float] = []
        model, reason, usage = self.name or "", None, None
        with parsing(where):
            async with aclosing(self._http.post_stream(path, body)) as stream:
                async for event in stream:
                    if event.get("error"):
                        raise _error(event["error"], where)
                    model, usage = event.get("model") or model, _usage(event) or usage
                    if not event["choices"]:  # the last event may hold the usage alone
                        continue
                    choice = event["choices"][0]
                    pieces.append(_text(choice, "delta"))
                    logprobs += _logprobs(choice)
                    if choice.get("finish_reason"):
                        reason = finish_reason(choice["finish_reason"], where)
                    yield GenerationChunk(pieces[-1])
        if reason is None:
            raise IncompleteResponseError(
                f"{where} ended its stream after {len(pieces)} events without a finish_reason."
            )
        yield GenerationChunk("", Generation("".join(pieces), model, reason, usage, tuple(logprobs) or None))

    async def aclose(self) -> None:
        """Closes the connections of the event loop that this runs in."""
        await self._http.aclose()

    async def _request(self, request: GenerationRequest) -> tuple[str, dict[str, object]]:
        body: dict[str, object] = {"model": (await self.info()).name, "temperature": 0}
        if request.max_new_tokens is not None:
            body["max_tokens"] = request.max_new_tokens
        if isinstance(request.prompt, str):
            path = f"{self._prefix}/completions"
            body |= {"prompt": request.prompt} | ({"logprobs": 1} if request.logprobs else {})
        else:
            path = f"{self._prefix}/chat/completions"
            body |= {"messages": list(request.prompt)} | ({"logprobs": True} if request.logprobs else {})
        return path, body | self._parameters


def _text(choice: dict[str, Any], chat_field: str) -> str:
    text = choice["text"] if "text" in choice else choice[chat_field].get("content")
    if text is not None and not isinstance(text, str):
        raise TypeError(f"a text is {text!r}")
    return text or ""


def _usage(answer: dict[str, Any]) -> Usage | None:
    usage = answer.get("usage")
    return Usage(int(usage["prompt_tokens"]), int(usage["completion_tokens"])) if usage else None


def _logprobs(choice: dict[str, Any]) -> list[float]:
    logprobs = choice.get("logprobs") or {}
    if "content" in logprobs:
        return [logprob(token["logprob"]) for token in logprobs["content"] or ()]
    return [logprob(value) for value in logprobs.get("token_logprobs") or ()]


def _error(error: Any, where: str) -> BackendError:
    fields = error if isinstance(error, dict) else {"message": error}
    status = next((fields[name] for name in ("http_status_code", "code") if isinstance(fields.get(name), int)), 500)
    return error_for_status(status, f"{where} sent an error: {message_in(str(fields.get('message')))}.")
