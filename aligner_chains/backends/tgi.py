"""Text Generation Inference, over its native API (https://github.com/huggingface/text-generation-inference)."""

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
    IncompleteResponseError,
    ProtocolError,
)
from aligner_chains.prompts import Prompt

# Errors inside a stream come with HTTP status 200 and a type; these are the statuses that the types stand for.
_STATUS_BY_ERROR_TYPE = {
    "overloaded": 429,
    "healthcheck": 503,
    "generation": 424,
    "validation": 422,
    "template_error": 422,
    "tool_error": 422,
}


class TgiBackend:
    """An Aligner behind Text Generation Inference.

    Args:
        url: The server's root, `http://gpu-1:8080`.
        api_key: The server's `--api-key`, or a token for the endpoint in front of it.
        max_concurrency: The most requests under way at once in an event loop. TGI refuses what exceeds its
            `--max-concurrent-requests` (128) at once.
        parameters: TGI's generation parameters over the default of greedy decoding, such as `{"repetition_penalty":
            1.05}`.

    Attributes:
        url: The server's address, without a password that may be in it.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        max_concurrency: int = 64,
        parameters: Mapping[str, object] | None = None,
    ) -> None:
        self._http = HttpClient(url, api_key=api_key, max_concurrency=max_concurrency)
        self.url = self._http.url
        self._parameters = dict(parameters or {})
        self._info: ModelInfo | None = None

    def __repr__(self) -> str:
        return f"TgiBackend({self.url!r})"

    async def info(self) -> ModelInfo:
        """The model and limits in `/info`, asked for once, and again after the server could not be reached."""
        if self._info is None or self._http.was_lost:
            self._http.was_lost = False
            try:
                answer = await self._http.get("/info")
                with parsing(f"{self._http.url}/info"):
                    self._info = ModelInfo(
                        name=str(answer["model_id"]),
                        max_input_tokens=int(answer["max_input_tokens"]),
                        max_total_tokens=int(answer["max_total_tokens"]),
                    )
            except (BackendNotFoundError, ProtocolError) as error:
                raise ProtocolError(f"{self._http.url!r} is not TGI: {error.args[0]}", status=error.status) from error
        return self._info

    async def count_tokens(self, prompt: Prompt) -> int:
        """The prompt's length by `/tokenize`."""
        tokens, _ = await self._http.post("/tokenize", {"inputs": _text(prompt)})
        with parsing(f"{self._http.url}/tokenize"):
            return len([token["id"] for token in tokens])

    async def generate(self, request: GenerationRequest) -> Generation:
        """The answer of `/generate`."""
        model = (await self.info()).name
        answer, headers = await self._http.post("/generate", self._body(request))
        where = f"{self._http.url}/generate"
        with parsing(where):
            details = answer["details"]
            prompt_tokens = headers.get("x-prompt-tokens")
            return Generation(
                text=_string(answer["generated_text"]),
                model=model,
                finish_reason=finish_reason(details["finish_reason"], where),
                usage=Usage(int(prompt_tokens), int(details["generated_tokens"])) if prompt_tokens else None,
                logprobs=_logprobs(details["tokens"]),
            )

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """The events of `/generate_stream`."""
        model = (await self.info()).name
        where = f"{self._http.url}/generate_stream"
        tokens: list[Any] = []
        pieces: list[str] = []
        events = self._http.post_stream("/generate_stream", self._body(request), is_last=_is_last)
        with parsing(where):
            async with aclosing(events) as stream:
                async for event in stream:
                    if "error" in event:
                        raise _stream_error(event, where)
                    token = event["token"]
                    tokens.append(token)
                    pieces.append("" if token["special"] else _string(token["text"]))
                    if not _is_last(event):
                        yield GenerationChunk(pieces[-1])
                        continue
                    details = event["details"]
                    prompt_tokens = details.get("input_length")  # which older servers do not tell here
                    generation = Generation(
                        text="".join(pieces),
                        model=model,
                        finish_reason=finish_reason(details["finish_reason"], where),
                        usage=Usage(int(prompt_tokens), int(details["generated_tokens"])) if prompt_tokens else None,
                        logprobs=_logprobs(tokens),
                    )
                    yield GenerationChunk(pieces[-1], generation)
                    return
        raise IncompleteResponseError(f"{where} ended after {len(tokens)} tokens without its last event.")

    async def aclose(self) -> None:
        """Closes the connections of the event loop that this runs in."""
        await self._http.aclose()

    def _body(self, request: GenerationRequest) -> dict[str, object]:
        # Everything is said: TGI samples when `parameters` is absent, and other defaults differ between its routes.
        return {
            "inputs": _text(request.prompt),
            "parameters": {
                "do_sample": False,
                "return_full_text": False,
                "details": True,
                "decoder_input_details": False,
                "truncate": None,
                "stop": [],
                "max_new_tokens": request.max_new_tokens,
                **self._parameters,
            },
        }


def _is_last(event: Any) -> bool:
    return isinstance(event, dict) and event.get("generated_text") is not None


def _text(prompt: Prompt) -> str:
    if not isinstance(prompt, str):
        raise ConfigurationError(
            "TGI's native API takes a text, but this prompt format makes chat messages. "
            "Use Aligner.from_openai(url + '/v1', ...): TGI serves the chat API there."
        )
    return prompt


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is {value!r}")
    return value


def _logprobs(tokens: list[Any]) -> tuple[float, ...] | None:
    values = [token["logprob"] for token in tokens]
    return None if None in values else tuple(map(logprob, values))


def _stream_error(event: dict[str, Any], where: str) -> BackendError:
    kind = event.get("error_type", "unknown")
    return error_for_status(
        _STATUS_BY_ERROR_TYPE.get(kind, 500), f"{where} sent an error ({kind}): {message_in(str(event['error']))}."
    )
