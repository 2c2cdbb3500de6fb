"""Which backend the environment names."""

from __future__ import annotations

import logging
from functools import cache

from aligner_chains.backends.base import Backend
from aligner_chains.checks import without_password
from aligner_chains.errors import ConfigurationError
from aligner_chains.settings import Settings

logger = logging.getLogger("aligner_chains")


def backend_from(settings: Settings, max_concurrency: int) -> Backend:
    """The backend that the settings name; the embedded Aligner's, with a warning, where they name none.

    Raises:
        ConfigurationError: They contradict each other.
    """
    if settings.url is None:
        from aligner_chains.backends.local import LocalBackend

        if settings.model is not None:
            return LocalBackend.from_pretrained(settings.model)
        _warn_of_the_embedded_one()
        return LocalBackend.embedded()
    if is_openai_address(settings.url):
        from aligner_chains.backends.openai import OpenAIBackend

        return OpenAIBackend(
            settings.url, model=settings.model, api_key=settings.api_key, max_concurrency=max_concurrency
        )
    if settings.model is not None:
        raise ConfigurationError(
            f"The model {settings.model!r} is named for an OpenAI-compatible server, but the address "
            f"{without_password(settings.url)!r} does not end in /v1. For TGI leave the model out: ALIGNER_MODEL, on "
            "the command line --model."
        )
    from aligner_chains.backends.tgi import TgiBackend

    return TgiBackend(settings.url, api_key=settings.api_key, max_concurrency=max_concurrency)


def is_openai_address(url: str | None) -> bool:
    """Whether this is an OpenAI-compatible server's address, rather than TGI's root or none."""
    return url is not None and url.rstrip("/").endswith("/v1")


@cache  # once is enough
def _warn_of_the_embedded_one() -> None:
    logger.warning(
        "Neither ALIGNER_URL nor ALIGNER_MODEL is set: this is the embedded Aligner, which shows how things work "
        "and is too small for production."
    )
