"""Answers of every kind that LlamaIndex has, with their text corrected."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from dataclasses import replace
from typing import Any, TypeVar

from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    PydanticResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.types import RESPONSE_TEXT_TYPE, TokenAsyncGen, TokenGen
from pydantic import ValidationError

from aligner_chains import portal
from aligner_chains.correction import Correction
from aligner_chains.errors import InvalidTypeError
from llama_index_aligner.corrector import METADATA_KEY, Corrector, skipped

_R = TypeVar("_R", bound=RESPONSE_TYPE)

#: What LlamaIndex answers where nothing was retrieved, or a model said nothing.
EMPTY_RESPONSE = "Empty Response"


def corrected(response: RESPONSE_TYPE, corrector: Corrector, *, empty: str = EMPTY_RESPONSE) -> RESPONSE_TYPE:
    """What `acorrected` returns, for code that is not async."""
    if isinstance(response, StreamingResponse | AsyncStreamingResponse):
        return _streamed(response, corrector, empty)
    return portal.run(lambda: acorrected(response, corrector, empty=empty))


async def acorrected(response: RESPONSE_TYPE, corrector: Corrector, *, empty: str = EMPTY_RESPONSE) -> RESPONSE_TYPE:
    """The same response with corrected text, and what became of the draft in `metadata["aligner"]`.

    A stream reads its draft when it is first read itself; its metadata is whole when it ends.

    Args:
        response: The response with the draft.
        corrector: Corrects.
        empty: What stands for no answer.

    Raises:
        InvalidTypeError: It is none of LlamaIndex's responses.
    """
    if isinstance(response, StreamingResponse | AsyncStreamingResponse):
        return _streamed(response, corrector, empty)
    if isinstance(response, PydanticResponse):
        return await _pydantic(response, corrector)
    if not isinstance(response, Response):
        raise InvalidTypeError(f"An engine must answer with one of LlamaIndex's responses, not {type(response)!r}.")
    draft = response.response or ""
    text, provenance = await corrector.atext(draft, skip=_reason_to_skip(draft, empty))
    return replace(with_provenance(response, provenance), response=text)


def with_provenance(response: _R, provenance: dict[str, Any]) -> _R:
    """The same response, which says what became of its draft."""
    return replace(response, metadata={**(response.metadata or {}), METADATA_KEY: provenance})


def as_response(text: RESPONSE_TEXT_TYPE) -> RESPONSE_TYPE:
    """A response with this text, whatever its kind."""
    if isinstance(text, AsyncGenerator):
        return AsyncStreamingResponse(text)
    if isinstance(text, Generator):
        return StreamingResponse(text)
    return Response(text) if isinstance(text, str) else PydanticResponse(text)


def as_text(response: RESPONSE_TYPE) -> RESPONSE_TEXT_TYPE:
    """The text of a response, in its own kind."""
    if isinstance(response, StreamingResponse | AsyncStreamingResponse):
        return response.response_gen
    return response.response or ""


def _reason_to_skip(draft: str, empty: str) -> str | None:
    return "no answer" if draft in (EMPTY_RESPONSE, empty) else None


def _streamed(
    response: StreamingResponse | AsyncStreamingResponse, corrector: Corrector, empty: str
) -> StreamingResponse | AsyncStreamingResponse:
    metadata = dict(response.metadata or {})

    def tokens(draft: str) -> TokenAsyncGen:
        return corrector.atokens(draft, metadata, skip=_reason_to_skip(draft, empty))

    # `get_response` reads what is left of a stream, and knows what somebody has read of it before.
    if isinstance(response, AsyncStreamingResponse):

        async def aread() -> TokenAsyncGen:
            draft = await response.get_response()
            async with aclosing(tokens(draft.response or "")) as pieces:
                async for piece in pieces:
                    yield piece

        return replace(response, response_gen=aread(), response_txt=None, metadata=metadata)

    def read() -> TokenGen:
        draft = response.get_response().response or ""
        with closing(portal.iterate(lambda: tokens(draft))) as pieces:
            yield from pieces

    return replace(response, response_gen=read(), response_txt=None, metadata=metadata)


async def _pydantic(response: PydanticResponse, corrector: Corrector) -> RESPONSE_TYPE:
    model = response.response
    if model is None:
        return with_provenance(response, skipped("no text"))

    def check(correction: Correction) -> Correction:
        try:
            type(model).model_validate_json(correction.text)
        except ValidationError:
            if correction.error is not None:
                return correction
            reason = f"not a valid {type(model).__name__}"
            return replace(correction, text=correction.draft, outcome="skipped", reason=reason)
        return correction

    correction = await corrector.acorrect(model.model_dump_json(), check=check)
    told = with_provenance(response, corrector.provenance(correction))
    if not correction.changed:
        return told
    if correction.error is not None:  # a refusal fits into no model
        return Response(correction.text, source_nodes=told.source_nodes, metadata=told.metadata)
    return replace(told, response=type(model).model_validate_json(correction.text))
