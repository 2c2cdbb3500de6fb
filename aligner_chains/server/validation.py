"""What requests may ask for: TGI's limits, its checks and its words."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from aligner_chains.decoding.causal_model import Sampling
from aligner_chains.errors import ConfigurationError
from aligner_chains.server.bodies import GenerateParameters
from aligner_chains.server.refusals import invalid

# Where a model does not tell its context.
_DEFAULT_CONTEXT = 4096
# A larger `max_new_tokens` is taken for a wish: the answer may end sooner, at `length`.
_LONGEST_PROMISE = 1024
# Below this, logits that are divided by the temperature run over, and sampling is greedy anyway.
_LEAST_TEMPERATURE = 1e-4
# Beyond these, penalised logits run over.
_REPETITION_PENALTIES = (0.01, 100.0)
_MOST_FREQUENCY_PENALTY = 2.0


class Lengths(NamedTuple):
    """The most tokens that a prompt, and a prompt with its answer, may have."""

    max_input_tokens: int
    max_total_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the server accepts; the names and defaults are TGI's.

    Attributes:
        max_concurrent_requests: The most requests under way or waiting at once; more are refused at once.
        max_best_of: The most answers to choose from.
        max_stop_sequences: The most texts that end an answer.
        max_top_n_tokens: The most alternatives to report for each token.
        max_input_tokens: The most tokens of a prompt; by default one less than `max_total_tokens`.
        max_total_tokens: The most tokens of prompt and answer together; by default the model's context.
        max_client_batch_size: The most prompts in one request.
        payload_limit: The most bytes of a request's body.

    Raises:
        ConfigurationError: A limit is not above zero.
    """

    max_concurrent_requests: int = 128
    max_best_of: int = 2
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5
    max_input_tokens: int | None = None
    max_total_tokens: int | None = None
    max_client_batch_size: int = 4
    payload_limit: int = 2_000_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{field.name} must be at least 1, not {value!r}.")

    def lengths(self, context: int | None) -> Lengths:
        """The limits of length for a model.

        Args:
            context: The most tokens that the model was made for, where it tells.

        Raises:
            ConfigurationError: The limits do not fit each other or the model.
        """
        total = self.max_total_tokens or context or _DEFAULT_CONTEXT
        if context is not None and total > context:
            raise ConfigurationError(f"max_total_tokens={total} is more than the model's context of {context} tokens.")
        inputs = self.max_input_tokens or total - 1
        if not 0 < inputs < total:
            raise ConfigurationError(
                f"max_input_tokens={inputs} must be less than max_total_tokens={total}: the answer needs room too."
            )
        return Lengths(inputs, total)


def check_sampling(parameters: GenerateParameters, limits: Limits) -> Sampling:
    """How to choose tokens; with a seed wherever it is by chance, so that an answer can be had again.

    Raises:
        RequestError: A parameter is out of its range, or asks for what this server does not do.
    """
    p = parameters
    chance = (p.temperature, p.top_k, p.top_p, p.typical_p)
    best_of = 1 if p.best_of is None else p.best_of
    if not 0 < best_of <= limits.max_best_of:
        raise invalid(f"`best_of` must be > 0 and <= {limits.max_best_of}. Given: {best_of}")
    if best_of > 1 and not p.do_sample and chance == (None,) * len(chance):
        raise invalid("you must use sampling when `best_of` is > 1")
    if best_of > 1 and p.seed is not None:
        raise invalid("`seed` must not be set when `best_of` > 1")
    _check_values(p)
    if len(p.stop) > limits.max_stop_sequences:
        raise invalid(f"`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {len(p.stop)}")
    if "" in p.stop:
        raise invalid("`stop` sequences cannot be empty")
    if p.top_n_tokens is not None and p.top_n_tokens > limits.max_top_n_tokens:
        raise invalid(f"`top_n_tokens` must be >= 0 and <= {limits.max_top_n_tokens}. Given: {p.top_n_tokens}")
    if p.watermark:
        raise invalid("`watermark` is not supported by this server")
    if p.grammar is not None:
        raise invalid("grammar is not supported")
    if p.adapter_id is not None:
        raise invalid(f"`adapter_id` names an adapter, and this server has none. Given: {p.adapter_id!r}")
    draws = p.do_sample or p.temperature not in (None, 1.0) or chance[1:] != (None,) * len(chance[1:])
    if p.temperature is not None and p.temperature < _LEAST_TEMPERATURE:
        draws = False
    seed = secrets.randbits(63) if p.seed is None else p.seed
    return Sampling(
        do_sample=draws,
        temperature=p.temperature,
        top_k=p.top_k,
        top_p=p.top_p,
        typical_p=p.typical_p,
        repetition_penalty=p.repetition_penalty,
        frequency_penalty=p.frequency_penalty,
        seed=seed if draws else None,
        stop=p.stop,
        top_n=p.top_n_tokens or 0,
    )


def check_length(ids: Sequence[int], parameters: GenerateParameters, lengths: Lengths) -> tuple[Sequence[int], int]:
    """The prompt as the model reads it, and the most tokens to write.

    Args:
        ids: The prompt's token ids, [S].
        parameters: `truncate` keeps the last so many ids.
        lengths: The limits.

    Raises:
        RequestError: They do not fit.
    """
    if parameters.truncate is not None:
        ids = ids[-parameters.truncate :]
    room = lengths.max_total_tokens - len(ids)
    wanted = room if parameters.max_new_tokens is None else min(parameters.max_new_tokens, _LONGEST_PROMISE)
    if wanted > room:
        raise invalid(
            f"`inputs` tokens + `max_new_tokens` must be <= {lengths.max_total_tokens}. "
            f"Given: {len(ids)} `inputs` tokens and {parameters.max_new_tokens} `max_new_tokens`"
        )
    if len(ids) > lengths.max_input_tokens:
        raise invalid(f"`inputs` must have less than {lengths.max_input_tokens + 1} tokens. Given: {len(ids)}")
    return ids, room if parameters.max_new_tokens is None else min(parameters.max_new_tokens, room)


def check_inputs(inputs: str, parameters: GenerateParameters, lengths: Lengths) -> None:
    """Raises `RequestError` where it is clear without a tokenizer that a prompt cannot be read."""
    if not inputs:
        raise invalid("`inputs` cannot be empty")
    if parameters.truncate is not None and not 0 < parameters.truncate <= lengths.max_input_tokens:
        raise invalid(
            f"`truncate` must be strictly positive and less than {lengths.max_input_tokens + 1}. "
            f"Given: {parameters.truncate}"
        )


def _check_values(p: GenerateParameters) -> None:
    if p.temperature is not None and p.temperature <= 0:
        raise invalid("`temperature` must be strictly positive")
    least, most = _REPETITION_PENALTIES
    if p.repetition_penalty is not None and not least <= p.repetition_penalty <= most:
        raise invalid(
            "`repetition_penalty` must be strictly positive"
            if p.repetition_penalty <= 0
            else f"`repetition_penalty` must be >= {least} and <= {most}"
        )
    if p.frequency_penalty is not None and abs(p.frequency_penalty) > _MOST_FREQUENCY_PENALTY:
        raise invalid("`frequency_penalty` must be >= -2.0 and <= 2.0")
    if p.top_p is not None and not 0 < p.top_p < 1:
        raise invalid("`top_p` must be > 0.0 and < 1.0")
    if p.typical_p is not None and not 0 < p.typical_p < 1:
        raise invalid("`typical_p` must be > 0.0 and < 1.0")
    if p.top_k is not None and p.top_k <= 0:
        raise invalid("`top_k` must be strictly positive")
    if p.max_new_tokens == 0:
        raise invalid("`max_new_tokens` must be strictly positive")
