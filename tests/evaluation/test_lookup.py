"""Whole answers with guesses are what the model writes without them, token by token."""

import pytest

from aligner_chains.backends.local import LocalBackend
from aligner_chains.decoding.causal_model import Sampling, Token
from aligner_chains.decoding.lookup import write_whole
from aligner_chains.prompts import PROMPT_FORMATS

SEA = "The sea is blue and the sea is deep. The sea is cold, and the sea is blue when the sky is blue."
PROMPTS = (
    PROMPT_FORMATS["aligner-7b"].render("What is the sea like?", SEA),
    PROMPT_FORMATS["aligner-7b"].render("What is the sea like?", f"{SEA} Only a fool would ask."),
    "one two three one two four one two three one two",
    SEA,
)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("max_new_tokens", [1, 7, 60])
def test_the_same_tokens_as_without_guesses(embedded_backend: LocalBackend, prompt: str, max_new_tokens: int):
    model = embedded_backend.model
    ids = model.encode(prompt)
    tokens: list[Token] = []
    reason = model.generate(
        ids, max_new_tokens=max_new_tokens, sampling=Sampling(), on_token=tokens.append, cancelled=lambda: False
    )
    whole = write_whole(model, ids, max_new_tokens=max_new_tokens)
    assert whole.text == "".join(token.text for token in tokens if not token.special)
    assert whole.logprobs == pytest.approx([token.logprob for token in tokens], abs=1e-3)
    assert whole.ended == (reason == "eos_token")
