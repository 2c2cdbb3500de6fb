"""The bodies of requests, as TGI's OpenAPI document describes them.

Types are checked here, and as strictly as TGI does it; what values mean is checked in `validation`. A field that this
server does not know is refused: what is ignored in silence surprises later.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from aiohttp import web

from aligner_chains.errors import MissingDependencyError
from aligner_chains.server.refusals import RequestError, invalid

try:
    from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
except ImportError as error:
    raise MissingDependencyError("The server needs pydantic: pip install 'aligner-chains[serve]'.") from error

_Unsigned32 = Annotated[int, Field(ge=0, lt=2**32)]
_Signed32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
_Unsigned64 = Annotated[int, Field(ge=0, lt=2**64)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class GenerateParameters(_Body):
    """How to write an answer: TGI's `parameters`."""

    adapter_id: str | None = None
    best_of: _Unsigned64 | None = None
    decoder_input_details: bool = False
    details: bool = False
    do_sample: bool = False
    frequency_penalty: float | None = None
    grammar: Any = None
    max_new_tokens: _Unsigned32 | None = None
    repetition_penalty: float | None = None
    return_full_text: bool | None = None
    seed: _Unsigned64 | None = None
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    top_k: _Signed32 | None = None
    top_n_tokens: _Unsigned32 | None = None
    top_p: float | None = None
    truncate: _Unsigned64 | None = None
    typical_p: float | None = None
    watermark: bool = False


class GenerateRequest(_Body):
    """The body of `/generate` and `/generate_stream`."""

    inputs: str
    # TGI samples where `parameters` is left out, and decodes greedily where it is empty.
    parameters: GenerateParameters = GenerateParameters(do_sample=True)


class CompatGenerateRequest(GenerateRequest):
    """The body of `/`."""

    stream: bool = False


class TokenizeRequest(_Body):
    """The body of `/tokenize`: TGI's, with `inputs`, or vLLM's, with `prompt`."""

    inputs: str | None = None
    parameters: GenerateParameters = GenerateParameters()
    prompt: str | None = None
    model: str | None = None

    @model_validator(mode="after")
    def _has_a_text(self) -> TokenizeRequest:
        if (self.inputs is None) == (self.prompt is None):
            raise ValueError("give `inputs`, or else `prompt`")
        return self


class StreamOptions(_Body):
    """What a stream of `/v1/completions` tells besides the text."""

    include_usage: bool = False


class CompletionRequest(_Body):
    """The body of `/v1/completions`: TGI's fields, and of OpenAI's those that are often sent with their default."""

    prompt: str | Annotated[tuple[str, ...], Field(min_length=1)]
    model: str | None = None
    frequency_penalty: float | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    max_tokens: _Unsigned32 | None = None
    repetition_penalty: float | None = None
    seed: _Unsigned64 | None = None
    stop: tuple[str, ...] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None
    best_of: int | None = None
    echo: bool | None = None
    logit_bias: dict[str, float] | None = None
    n: int | None = None
    presence_penalty: float | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt, or each of several."""
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt

    @property
    def parameters(self) -> GenerateParameters:
        """The same in TGI's parameters: greedy at temperature 0 only."""
        is_greedy = self.temperature == 0
        return GenerateParameters(
            do_sample=not is_greedy,
            temperature=None if is_greedy else self.temperature,
            top_p=self.top_p,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            max_new_tokens=self.max_tokens,
            seed=self.seed,
            stop=self.stop or (),
            top_n_tokens=self.logprobs,
        )


_AnyBody = TypeVar("_AnyBody", bound=_Body)


async def read_body(request: web.Request, kind: type[_AnyBody]) -> _AnyBody:
    """The request's body.

    Raises:
        web.HTTPException: It is too large (413), no JSON by its content type (415) or its content (400), or not of the
            right shape (422): as plain text, as TGI's web framework does it.
        RequestError: It has fields that this server does not know.
    """
    content_type = request.content_type
    if content_type != "application/json" and not (
        content_type.startswith("application/") and content_type.endswith("+json")
    ):
        raise web.HTTPUnsupportedMediaType(text="Expected request with `Content-Type: application/json`")
    body = await request.read()
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from error


def _refusal(error: ValidationError) -> web.HTTPException | RequestError:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    unknown = [".".join(map(str, problem["loc"])) for problem in problems if problem["type"] == "extra_forbidden"]
    if len(unknown) == len(problems):
        return invalid(f"this server does not know {', '.join(f'`{name}`' for name in unknown)}")
    problem = next(problem for problem in problems if problem["type"] != "extra_forbidden")
    if problem["type"] == "json_invalid":
        return web.HTTPBadRequest(text=f"Failed to parse the request body as JSON: {problem['msg']}")
    where = ".".join(map(str, problem["loc"])) or "body"
    return web.HTTPUnprocessableEntity(
        text=f"Failed to deserialize the JSON body into the target type: {where}: {problem['msg']}"
    )
