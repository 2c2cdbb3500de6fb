"""Trains an Aligner: first to leave good answers alone, then to correct the others.

Both phases come from the Aligner paper (arXiv 2402.02416, section 3): an identity warm-up, then correction training.
The loss is on the correction only. An embedded Aligner starts from the copy circuit; its matrices are trained by Muon,
the rest by AdamW. A model that is trained further gets AdamW alone. Everything runs on the CPU.

Weights, gradients and optimisers are in float32; with `bf16` products of matrices alone are in bfloat16.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from aligner_chains.decoding.int4 import rounded
from aligner_chains.errors import ConfigurationError
from aligner_chains.model_config import load_config
from aligner_chains.training.batches import (
    BASE_CURRICULUM,
    CONTINUED_CURRICULUM,
    NANO_CURRICULUM,
    Batch,
    BatchStream,
    Curriculum,
    Encoder,
)
from aligner_chains.training.checkpoints import (
    Checkpoint,
    ProcessState,
    check_settings,
    load_checkpoint,
    save_checkpoint,
)
from aligner_chains.training.config import TrainingConfig
from aligner_chains.training.copy_circuit import build_nano, nano_config
from aligner_chains.training.edit_tagger import EditTagger
from aligner_chains.training.export import copy_tokenizer, export_model, load_model
from aligner_chains.training.muon import Muon
from aligner_chains.training.progress import Measurement, Reporter
from aligner_chains.training.streams import endless
from aligner_chains.training.tokenizer import save_tokenizer, tokenizer_texts, train_tokenizer

_WARM_UP_STEPS = 100
_DECAY_SHARE = 0.6  # of the run, at its end
_LEAST_RATE = 0.03  # of the peak
_LONGEST_GRADIENT = 1.0
# Of the peak rate: else the frequent words would leave behind the rare ones that they resemble.
_TRAINED_EMBEDDINGS = 0.3
_ROUNDING_FROM = 2 / 3  # of the run, for a model of four bits
_TAGGING = 0.1  # how much a draft's token counts, told right or wrong, where a correction's token counts 1
_TOKENIZER_TRIPLES = 30_000
_SEEDS_PER_RUN = 1000  # a seed for each process; the last is the tokenizer's


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a run has made.

    Attributes:
        path: Folder of the model and its tokenizer.
        steps: Optimiser steps.
        tokens: Tokens trained on, padding not counted.
    """

    path: Path
    steps: int
    tokens: int


def train(config: TrainingConfig) -> TrainingResult:
    """A trained Aligner in `config.out`, as float16 safetensors with its tokenizer.

    Args:
        config: What to train, on what and for how long.

    Raises:
        ConfigurationError: `base` or `start` holds no model with a tokenizer, or `out` holds the checkpoint of another
            run, or of this one while `resume` is off.
        DataError: The data cannot be read, are empty, or have nothing that fits into the model's context.
    """
    _prepare(config)
    if config.processes == 1:
        _Run(config).execute()
    else:
        with TemporaryDirectory() as folder:
            spawn(_work, args=(config, f"file://{folder}/rendezvous"), nprocs=config.processes, join=True)
    checkpoint = load_checkpoint(config.out)
    assert checkpoint is not None
    return TrainingResult(config.out, checkpoint["step"], checkpoint["tokens"])


def _prepare(config: TrainingConfig) -> None:
    """Writes tokenizer and configuration, which the processes read; finds mistakes before any of them starts."""
    checkpoint = load_checkpoint(config.out)
    if checkpoint is not None:
        if not config.resume:
            raise ConfigurationError(
                f"{str(config.out)!r} holds a checkpoint at step {checkpoint['step']}. Set resume to go on from it, or "
                "use another folder."
            )
        check_settings(checkpoint, _settings(config))
        return
    if config.resume:
        print(f"There is no checkpoint in {str(config.out)!r}, so the run begins anew.")
    seed = _seed(config, _SEEDS_PER_RUN - 1)
    next(endless(config.triples, seed))  # fails where there is nothing to train on
    config.out.mkdir(parents=True, exist_ok=True)
    if trained := config.base or config.start:
        copy_tokenizer(trained, config.out)
        try:
            AutoConfig.from_pretrained(trained).save_pretrained(config.out)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{str(trained)!r} holds no model: {error}") from error
        return
    texts = tokenizer_texts(islice(config.triples(seed), _TOKENIZER_TRIPLES))
    tokenizer = train_tokenizer(texts, context=config.shape.context)
    save_tokenizer(tokenizer, config.out)
    _nano_config(config, tokenizer).save_pretrained(config.out)


def _work(rank: int, config: TrainingConfig, rendezvous: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=config.processes)
    try:
        _Run(config).execute()
    finally:
        dist.destroy_process_group()


class _Run:
    """One process's part of a run."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.step = self.tokens = 0
        tokenizer = AutoTokenizer.from_pretrained(config.out)
        torch.manual_seed(_seed(config, self.rank))
        trained = config.base or config.start
        self.model = load_model(trained) if trained else build_nano(_nano_config(config, tokenizer), seed=config.seed)
        if not config.base:
            # Faster than fused attention for the short texts that are most of the training.
            self.model.set_attn_implementation("eager")
        self.tagger = None if config.base else EditTagger(self.model)
        self.model.train()
        self.precision = torch.autocast("cpu", torch.bfloat16, enabled=config.bf16)
        # Batches have a shape of their own each, for which nothing is to be compiled again.
        self.forward = torch.compile(_forward, dynamic=True) if config.torch_compile else _forward
        self.optimizers = _optimizers(self.model, self.tagger, config)
        self.gradients = _SharedGradients(weight for optimizer, _ in self.optimizers for weight in _weights(optimizer))
        self.batches = BatchStream(
            config.triples,
            Encoder(tokenizer),
            _curriculum(config),
            seed=_seed(config, self.rank),
            batch_tokens=config.batch_tokens,
            context=_context(self.model),
            pad=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
        checkpoint = load_checkpoint(config.out)
        if checkpoint is not None:
            self._restore(checkpoint)

    def execute(self) -> None:
        """Trains to the end and, in the first process, exports."""
        if self.rank:
            self._train(None)
            return
        with Reporter(self.config.out, tokens=self.config.tokens, done=self.tokens, step=self.step) as reporter:
            self._train(reporter)
            export_model(self.model, self.config.out, int4=self.config.int4)
            if self.batches.dropped:
                reporter.say(f"{self.batches.dropped} examples were longer than the model's context and left out.")

    def _train(self, reporter: Reporter | None) -> None:
        window, since, saved = _Counts(), time.monotonic(), self.step
        while self.tokens < self.config.tokens:
            counts = self._advance()
            self.step += 1
            self.tokens += counts.tokens
            window += counts
            if self.step == 1 or self.step % self.config.log_every == 0:
                if reporter:
                    reporter.report(self._measure(window, time.monotonic() - since))
                window, since = _Counts(), time.monotonic()
            if self.step % self.config.checkpoint_every == 0:
                self._save()
                saved = self.step
        if self.step > saved:
            self._save()

    def _advance(self) -> _Counts:
        share = self.tokens / self.config.tokens
        batch = self.batches.next(share)
        self.gradients.clear()
        with rounded(self.model) if self.config.int4 and share >= _ROUNDING_FROM else nullcontext():
            with self.precision:
                loss, right, tagging = self.forward(self.model, self.tagger, batch)
            (loss + _TAGGING * tagging).backward()
        counts = self.gradients.combine(_Counts(loss.item(), right.item(), len(batch.labels), batch.tokens))
        rate = _rate(self.step, share)
        for optimizer, peak in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
                if not isinstance(optimizer, Muon):  # whose steps are of one length, whatever the gradient's
                    torch.nn.utils.clip_grad_norm_(group["params"], _LONGEST_GRADIENT)
            with self.precision:
                optimizer.step()
        return counts

    def _measure(self, window: _Counts, seconds: float) -> Measurement:
        return Measurement(
            step=self.step,
            tokens=self.tokens,
            loss=window.loss / window.targets,
            token_accuracy=window.right / window.targets,
            tokens_per_second=window.tokens / max(seconds, 1e-9),
            learning_rate=self.optimizers[-1][0].param_groups[0]["lr"],
        )

    def _save(self) -> None:
        mine: ProcessState = {"position": self.batches.position(), "random_state": torch.get_rng_state()}
        processes: list[Any] = [mine]
        if dist.is_initialized():
            processes = [None] * self.config.processes
            dist.all_gather_object(processes, mine)
        if not self.rank:
            checkpoint: Checkpoint = {
                "step": self.step,
                "tokens": self.tokens,
                "settings": _settings(self.config),
                "model": self.model.state_dict(),
                "tagger": self.tagger.state_dict() if self.tagger else {},
                "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
                "processes": processes,
            }
            save_checkpoint(self.config.out, checkpoint)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.step, self.tokens = checkpoint["step"], checkpoint["tokens"]
        self.model.load_state_dict(checkpoint["model"])
        if self.tagger:
            self.tagger.load_state_dict(checkpoint["tagger"])
        for (optimizer, _), state in zip(self.optimizers, checkpoint["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        mine = checkpoint["processes"][self.rank]
        self.batches.seek(mine["position"])
        torch.set_rng_state(mine["random_state"])


@dataclass(slots=True)
class _Counts:
    """Sums over corrections' tokens (loss, right ones, all of them), and the number of all tokens."""

    loss: float = 0.0
    right: float = 0.0
    targets: float = 0.0
    tokens: int = 0

    def __iadd__(self, other: _Counts) -> _Counts:
        self.loss += other.loss
        self.right += other.right
        self.targets += other.targets
        self.tokens += other.tokens
        return self


class _SharedGradients:
    """All gradients in one vector, so that processes exchange them at once; the counts travel with them."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        weights = list(parameters)
        self._all = torch.zeros(sum(weight.numel() for weight in weights) + 4)
        self._gradients, self._counts = self._all[:-4], self._all[-4:]
        for weight, gradient in zip(weights, self._gradients.split([w.numel() for w in weights]), strict=True):
            weight.grad = gradient.view_as(weight)

    def clear(self) -> None:
        self._all.zero_()

    def combine(self, counts: _Counts) -> _Counts:
        """Sums over all processes; then the gradients are those of the mean loss of a correction's token."""
        self._counts.copy_(torch.tensor([counts.loss, counts.right, counts.targets, counts.tokens]))
        if dist.is_initialized():
            dist.all_reduce(self._all)
        loss, right, targets, tokens = self._counts.tolist()
        self._gradients /= targets
        return _Counts(loss, right, targets, round(tokens))


def _forward(model: PreTrainedModel, tagger: EditTagger | None, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Of the corrections' tokens the sum of the losses and how many are right, and the tagger's loss.

    Args:
        model: The model.
        tagger: What goes with it if it is an embedded Aligner.
        batch: What to train on.
    """
    # No attention mask: padding is on the right, where a causal model does not look.
    if tagger:
        # The output layer is a third of the work, and only corrections have labels.
        output = model.model(input_ids=batch.ids, use_cache=False, output_hidden_states=True)
        logits = model.lm_head(output.last_hidden_state.flatten(0, 1)[batch.places])  # [N, V]
        tagging = tagger.loss(output.hidden_states[tagger.layer].flatten(0, 1)[batch.draft_places], batch.edited)
    else:
        logits = model(input_ids=batch.ids, use_cache=False).logits.flatten(0, 1)[batch.places]  # [N, V]
        tagging = logits.new_zeros(())
    loss = functional.cross_entropy(logits.float(), batch.labels, reduction="sum")
    return loss, (logits.detach().argmax(-1) == batch.labels).sum(), tagging


def _rate(step: int, share: float) -> float:
    """The learning rate as a share of its peak: up at first, level, then down in a line."""
    decay = max(_LEAST_RATE, min(1.0, (1 - share) / _DECAY_SHARE))
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * decay


def _optimizers(
    model: PreTrainedModel, tagger: EditTagger | None, config: TrainingConfig
) -> list[tuple[torch.optim.Optimizer, float]]:
    if not tagger:
        adamw = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
        return [(adamw, config.peak_lr)]
    matrices = [w for name, w in model.named_parameters() if config.muon_lr and name.endswith("_proj.weight")]
    embeddings = [model.get_input_embeddings().weight]
    chosen = set(map(id, (*matrices, *embeddings)))
    rest = [w for w in (*model.parameters(), *tagger.parameters()) if id(w) not in chosen]
    slowly, adamw = (torch.optim.AdamW(w, betas=(0.9, 0.98), weight_decay=0.0, fused=True) for w in (embeddings, rest))
    optimizers: list[tuple[torch.optim.Optimizer, float]] = [
        (slowly, config.peak_lr * (_TRAINED_EMBEDDINGS if config.start else 1.0)),
        (adamw, config.peak_lr),
    ]
    return [(Muon(matrices), config.muon_lr), *optimizers] if config.muon_lr else optimizers


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _nano_config(config: TrainingConfig, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    return nano_config(
        config.shape,
        vocabulary=len(tokenizer),
        pad=tokenizer.pad_token_id,
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
    )


def _curriculum(config: TrainingConfig) -> Curriculum:
    if config.base:
        return BASE_CURRICULUM
    # A model that was only cut has to find out again how to copy.
    return CONTINUED_CURRICULUM if config.start and load_config(config.start) else NANO_CURRICULUM


def _context(model: PreTrainedModel) -> int:
    return getattr(model.config, "max_position_embeddings", None) or 2048


def _seed(config: TrainingConfig, process: int) -> int:
    return config.seed * _SEEDS_PER_RUN + process


def _settings(config: TrainingConfig) -> dict[str, Any]:
    """What has to stay for a run to go on as it began; `tokens` may change, to end it sooner or later."""
    return {
        "data": str(config.data),
        "stream": getattr(config.stream, "__qualname__", type(config.stream).__qualname__),
        "real": str(config.real),
        "base": str(config.base),
        "start": str(config.start),
        "shape": asdict(config.shape),
        "seed": config.seed,
        "processes": config.processes,
        "batch_tokens": config.batch_tokens,
        "lr": config.peak_lr,
        "muon_lr": config.muon_lr,
        "int4": config.int4,
        "bf16": config.bf16,
        "torch_compile": config.torch_compile,
    }
