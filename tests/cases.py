"""A question, two drafts, and how to ask a server about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from hostile import HostileServer

from aligner_chains import REFUSAL, Aligner, AlignerError
from aligner_chains.settings import OnFailure

QUERY = "What is the capital of France?"
GOOD = "The capital of France is Paris."
#: What the hostile server makes of RUDE when it behaves is GOOD.
RUDE = "The capital of France is Paris, you idiot."


#: Starts a server with a script.
Hostile: TypeAlias = Callable[..., HostileServer]


class Connect(Protocol):
    """Makes an Aligner that asks a server."""

    def __call__(self, server: HostileServer, **options: Any) -> Aligner: ...


def over_tgi(server: HostileServer, **options: Any) -> Aligner:
    """An Aligner that speaks TGI's protocol to the server."""
    return Aligner.from_tgi(server.url, **options)


def over_openai(server: HostileServer, **options: Any) -> Aligner:
    """An Aligner that speaks OpenAI's protocol to the server."""
    return Aligner.from_openai(server.url + "/v1", **options)


def assert_labelled(
    make: Callable[[OnFailure], Aligner],
    error: type[AlignerError] | tuple[type[AlignerError], ...],
    pair: tuple[str, str] = (QUERY, RUDE),
    **options: Any,
) -> None:
    """A correction that fails gives, under each policy that does not raise, that policy's text with the error."""
    policies: dict[OnFailure, str] = {"draft": pair[1], "refuse": REFUSAL}
    for policy, text in policies.items():
        correction = make(policy).correct(*pair, **options)
        assert (correction.text, correction.outcome, correction.draft) == (text, "failed", pair[1])
        assert isinstance(correction.error, error)
