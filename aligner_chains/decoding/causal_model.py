"""A causal language model in this process: text in, tokens out one by one, stoppable at each."""

from __future__ import annotations

import inspect
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from aligner_chains.errors import MissingDependencyError, ModelLoadError
from aligner_chains.model_config import check_path

try:
    import torch
    from tokenizers.decoders import DecodeStream
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DynamicCache,
        GenerationConfig,
        GenerationMixin,
        LogitsProcessor,
        LogitsProcessorList,
        PreTrainedModel,
        PreTrainedTokenizerFast,
        StoppingCriteria,
        StoppingCriteriaList,
    )
    from transformers.utils import logging as hf_logging

    from aligner_chains.decoding.int4 import is_int4, load_int4
    from aligner_chains.decoding.lookup import Lookup
except ImportError as error:
    raise MissingDependencyError(
        "A model in this process needs torch and transformers: pip install 'aligner-chains[local]'."
    ) from error

# On a CPU, a model of fewer parameters loses more by waiting for threads than it gains: 4M ones were 4 to 15 times
# slower on two threads of two busy cores than on one.
_SMALL = 50_000_000

StopReason: TypeAlias = Literal["eos_token", "length", "stop_sequence", "cancelled"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. The default is greedy.

    Attributes:
        do_sample: Draw from the distribution instead of taking the likeliest token.
        temperature: Divides the logits; above 0.
        top_k: Draw from so many likeliest tokens.
        top_p: Draw from the likeliest tokens that together have this probability, 0 to 1.
        typical_p: Draw from the locally typical tokens that together have this probability, 0 to 1.
        repetition_penalty: Divides the logits of tokens seen before; above 0, 1 for none.
        frequency_penalty: Subtracted from a token's logit for each time that it was written.
        seed: Makes a draw repeatable.
        stop: Texts that end the answer once it ends with one of them.
        top_n: How many of the likeliest tokens to report at each step.
    """

    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_n: int = 0

    @property
    def takes_likeliest(self) -> bool:
        """Whether each token is the one that the model itself holds for the likeliest."""
        return not self.do_sample and self.repetition_penalty in (None, 1.0) and not self.frequency_penalty


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it was written.

    Attributes:
        id: Its number in the vocabulary.
        text: What it adds to the text; empty while a character is incomplete, and for special tokens what they are
            called.
        logprob: Its natural log-probability, before temperature and filters.
        special: Whether it is no part of the text.
        top: The likeliest tokens at this step, where asked for.
    """

    id: int
    text: str
    logprob: float
    special: bool
    top: tuple[Token, ...] = ()


class CausalModel:
    """A causal language model and its tokenizer.

    Not for concurrent use: one answer at a time. Of the model's own `generation_config` only the end tokens count; how
    tokens are chosen is said by `Sampling` alone.

    Args:
        model: The model, on its device, in evaluation mode; its `generation_config` is reset.
        tokenizer: Its fast tokenizer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._special_ids = set(tokenizer.all_special_ids)
        self._is_small = model.device.type == "cpu" and model.num_parameters() < _SMALL
        configured = model.generation_config.eos_token_id if model.generation_config else None
        self._eos_ids = configured if configured is not None else tokenizer.eos_token_id
        # transformers fills up whatever a call leaves unset from the model's own: penalties, beams, banned tokens.
        model.generation_config = GenerationConfig()
        self._suits_guesses = _suits_guesses(model)
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    @classmethod
    def load(cls, path: str | Path, *, device: str | None = None, dtype: str | None = None) -> CausalModel:
        """Loads a model in Hugging Face's layout.

        Args:
            path: A folder or hub id.
            device: Where it runs; by default CUDA, else Apple's GPU, else the CPU.
            dtype: A floating-point type of torch by name; by default 16 bits on a GPU and 32 on a CPU.

        Raises:
            ModelLoadError: There is no causal language model with a fast tokenizer at this path.
        """
        check_path(path)
        device = device or _best_device()
        torch_dtype = getattr(torch, dtype, None) if dtype else _dtype_for(device)
        if not isinstance(torch_dtype, torch.dtype):
            raise ModelLoadError(f"torch has no dtype {dtype!r}; use 'float32', 'bfloat16' or 'float16'.")
        try:
            with _quiet():
                tokenizer = AutoTokenizer.from_pretrained(path)
                model = load_int4(path, torch_dtype) if is_int4(path) else _load(path, torch_dtype)
                model.to(device).eval()
        except Exception as error:  # transformers has no closed set of errors for broken files
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelLoadError(
                f"Cannot load a causal language model from {str(path)!r}: {reason} "
                "Give a folder or hub id that holds config.json, safetensors weights and a tokenizer."
            ) from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ModelLoadError(f"{str(path)!r} has no fast tokenizer (tokenizer.json), which streaming needs.")
        return cls(model, tokenizer)

    @property
    def max_length(self) -> int | None:
        """The most tokens that the model was made for, prompt and answer together; `None` if it does not say."""
        return getattr(self.model.config, "max_position_embeddings", None)

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """Texts that the tokenizer takes for one token wherever they stand."""
        return tuple(str(token) for token in self.tokenizer.get_added_vocab())

    def encode(self, text: str) -> list[int]:
        """The token ids of a prompt, the one that starts a sequence included."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=True)["input_ids"]
        return ids

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The token ids of a chat prompt, up to where the assistant's answer starts.

        Raises:
            ModelLoadError: The tokenizer has no chat template.
        """
        if self.tokenizer.chat_template is None:
            raise ModelLoadError(
                f"{self.tokenizer.name_or_path!r} has no chat template, so it is no chat model. "
                "Use the prompt format that the model was trained on."
            )
        text = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def generate(
        self,
        ids: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        on_token: Callable[[Token], None],
        cancelled: Callable[[], bool],
    ) -> StopReason:
        """Writes an answer, token by token.

        Where nothing changes the model's choice, what it copies from the prompt is guessed and verified, many tokens
        in a pass. These are the tokens that it writes one by one but for near ties, which are rare in float32.

        Args:
            ids: The prompt, [S].
            max_new_tokens: The most tokens to write.
            sampling: How to choose them.
            on_token: Called with each as it is written, in this thread.
            cancelled: Asked after each; true stops.

        Returns:
            Why it stopped.

        Raises:
            ValueError: There is nothing to write.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is a number of tokens, at least 1, not {max_new_tokens}.")
        follower = _Follower(self, ids, sampling, on_token, cancelled)
        with torch.inference_mode(), self.fitting_threads():
            if sampling.takes_likeliest and self._suits_guesses:
                self._write_likeliest(ids, max_new_tokens, follower)
            else:
                self._write_one_by_one(ids, max_new_tokens, sampling, follower)
        follower.flush()
        return follower.reason or "length"

    def _write_likeliest(self, ids: Sequence[int], max_new_tokens: int, follower: _Follower) -> None:
        sequence, cache = Lookup(ids), DynamicCache()
        end = len(ids) + max_new_tokens
        while follower.reason is None and len(sequence.ids) < end:
            guess = sequence.guess()[: end - len(sequence.ids) - 1]
            unread = sequence.ids[cache.get_seq_length() :] + guess  # [U]
            count = len(guess) + 1
            output = self.model(
                torch.tensor([unread], device=self.model.device),
                past_key_values=cache,
                use_cache=True,
                **({"logits_to_keep": count} if self._keeps_logits else {}),
            )
            rows = output.logits[0, -count:].float()  # [G + 1, V]
            for guessed, token, row in zip([*guess, None], rows.argmax(-1).tolist(), rows, strict=True):
                sequence.append(token)
                follower.take(token, row.log_softmax(-1))
                if token != guessed or follower.reason is not None:
                    break
            # The last token has not been read yet; what was guessed wrong must not stay read.
            if (excess := cache.get_seq_length() - (len(sequence.ids) - 1)) > 0:
                cache.crop(-excess)

    def _write_one_by_one(
        self, ids: Sequence[int], max_new_tokens: int, sampling: Sampling, follower: _Follower
    ) -> None:
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=sampling.do_sample,
            temperature=sampling.temperature if sampling.do_sample else None,
            top_k=(sampling.top_k or 0) if sampling.do_sample else None,
            top_p=sampling.top_p if sampling.do_sample else None,
            typical_p=sampling.typical_p if sampling.do_sample else None,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=self._eos_ids,
            pad_token_id=self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0,
        )
        input_ids = torch.tensor([list(ids)], device=self.model.device)  # [1, S]
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices, enabled=sampling.do_sample):
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            self.model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                generation_config=config,
                logits_processor=LogitsProcessorList([follower]),
                stopping_criteria=StoppingCriteriaList([_Stop(follower)]),
                streamer=follower,
            )

    @contextmanager
    def fitting_threads(self) -> Iterator[None]:
        """Has torch use, while the block runs, no more threads than a model of this size gains from."""
        before = torch.get_num_threads()
        torch.set_num_threads(1 if self._is_small else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def prompt_logprobs(self, ids: Sequence[int]) -> list[float | None]:
        """The natural log-probability of each prompt token given those before it; `None` for the first. [S]"""
        with torch.inference_mode():
            input_ids = torch.tensor([list(ids)], device=self.model.device)  # [1, S]
            logprobs = self.model(input_ids).logits[0, :-1].float().log_softmax(-1)  # [S - 1, V]
            return [None, *logprobs.gather(1, input_ids[0, 1:, None])[:, 0].tolist()]

    def is_end(self, token_id: int) -> bool:
        """Whether this token ends an answer."""
        ends = self._eos_ids if isinstance(self._eos_ids, list) else [self._eos_ids]
        return token_id in ends

    def decode_token(self, token_id: int) -> str:
        """A single token as text."""
        return str(self.tokenizer.decode([token_id]))

    def is_special(self, token_id: int) -> bool:
        """Whether this token is no part of a text."""
        return token_id in self._special_ids


class _Follower(LogitsProcessor):
    """Follows one answer: hands on each token with its probability, says when to stop.

    transformers' `generate` takes it as a logits processor, which sees the logits before a token, and as a streamer,
    which sees the token after.
    """

    def __init__(
        self,
        model: CausalModel,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        on_token: Callable[[Token], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self.reason: StopReason | None = None
        self._model = model
        self._prompt_length = len(prompt_ids)
        self._sampling = sampling
        self._on_token = on_token
        self._cancelled = cancelled
        self._decode = DecodeStream(skip_special_tokens=True)
        self._prompt_is_next = True
        self._text = ""
        self._ids: list[int] = []
        # On a GPU `generate` hands tokens over one step late, so more than one row may be waiting for its token.
        self._rows: deque[torch.Tensor] = deque()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Penalises frequent tokens and remembers the distribution. [1, S], [1, V] -> [1, V]"""
        if self._sampling.frequency_penalty:
            written = Counter(input_ids[0, self._prompt_length :].tolist())
            counts = torch.zeros_like(scores[0])  # [V]
            for token_id, count in written.items():
                counts[token_id] = count
            scores = scores - self._sampling.frequency_penalty * counts
        self._rows.append(scores[0].float().log_softmax(-1))  # [V]
        return scores

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt first, then each token. [1, S], [1]"""
        if self._prompt_is_next:
            self._prompt_is_next = False
            return
        for token_id in value.flatten().tolist():
            if self.reason is None:
                self.take(token_id, self._rows.popleft())

    def end(self) -> None:
        """Nothing is left to do when `generate` ends."""

    def flush(self) -> None:
        """Hands out what an incomplete character at the answer's end has kept back, so that no token goes unread."""
        whole = str(self._model.tokenizer.decode(self._ids, skip_special_tokens=True))
        if whole.startswith(self._text) and (rest := whole[len(self._text) :]):
            self._on_token(Token(self._ids[-1], rest, 0.0, special=False))

    def take(self, token_id: int, row: torch.Tensor) -> None:
        """Hands on a token that was chosen from these log-probabilities, [V], and says whether it is the last one."""
        self._ids.append(token_id)
        special = self._model.is_special(token_id)
        piece = self._decode.step(self._model.tokenizer.backend_tokenizer, token_id) or ""
        self._text += piece
        text = self._model.decode_token(token_id) if special else piece
        self._on_token(Token(token_id, text, row[token_id].item(), special, self._top(row)))
        if self._model.is_end(token_id):
            self.reason = "eos_token"
        elif self._sampling.stop and self._text.endswith(self._sampling.stop):
            self.reason = "stop_sequence"
        elif self._cancelled():
            self.reason = "cancelled"

    def _top(self, row: torch.Tensor) -> tuple[Token, ...]:
        if not self._sampling.top_n:
            return ()
        values, ids = row.topk(self._sampling.top_n)  # [top_n], [top_n]
        return tuple(
            Token(token_id, self._model.decode_token(token_id), logprob, self._model.is_special(token_id))
            for logprob, token_id in zip(values.tolist(), ids.tolist(), strict=True)
        )


class _Stop(StoppingCriteria):
    def __init__(self, follower: _Follower) -> None:
        self._follower = follower

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002  # its base's
        """Whether to stop, [1]."""
        return torch.tensor([self._follower.reason is not None], device=input_ids.device)


@contextmanager
def _quiet() -> Iterator[None]:
    # A library that is asked to load a model does not draw a progress bar into the user's terminal.
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _load(path: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    model, report = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{len(missing)} of its weights are missing, such as {missing[0]!r}.")
    return model


def _suits_guesses(model: PreTrainedModel) -> bool:
    """Whether a model reads many tokens as it reads them one by one, and can forget the last of them again.

    Recurrent states cannot; a window could, but would take the memory of all that it saves to forget; rotations that
    depend on the length, and inputs that a model prepares by itself, would be those of the guess.
    """
    config = model.config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    is_windowed = any(getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    layers = getattr(config, "layer_types", None) or ["sliding_attention" if is_windowed else "full_attention"]
    return (
        set(layers) == {"full_attention"}
        and "past_key_values" in inspect.signature(model.forward).parameters
        and type(model).prepare_inputs_for_generation is GenerationMixin.prepare_inputs_for_generation
        # Some hybrid models name no layers, but hold a state or a cache of their own.
        and not getattr(model, "_is_stateful", False)
        and getattr(model, "_supports_default_dynamic_cache", lambda: True)()
        and not any(kind in str(rope) for kind in ("longrope", "dynamic"))
    )


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype_for(device: str) -> torch.dtype:
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float16 if device == "mps" else torch.float32
