"""What a training run is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from aligner_chains.errors import ConfigurationError
from aligner_chains.training.copy_circuit import NanoShape
from aligner_chains.training.streams import JsonlStream, SyntheticStream, TripleStream


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """A training run: an embedded Aligner from nothing or from `start`, or with `base` any causal language model.

    Attributes:
        out: Folder for the model, the curve (`curve.csv`) and, while it runs, the checkpoint.
        data: JSONL file of triples to train on, gzipped or not.
        stream: What gives the triples, in place of a file; it has to be importable by name where `processes` is above
            1. Without `data` and `stream` the synthetic generator gives them.
        real: JSONL file of triples whose texts the synthetic generator mixes in.
        base: Folder of a causal language model and its tokenizer to train further; all of its weights are trained.
        start: Folder of an embedded Aligner to go on from, or of a model that was cut to be one (`training.cut`); its
            size and tokenizer stay.
        shape: Size of the embedded Aligner; not used with `base` and `start`.
        tokens: When to stop: after this many tokens, prompts included, padding not.
        seed: Seed of weights, data and order. The same configuration gives the same model on the same machine.
        processes: How many processes share the work. Above 1 each computes on one thread, which is faster for a small
            model than threads are; with 1 PyTorch's own setting stays.
        batch_tokens: The most tokens of a batch in each process, padding included.
        lr: Peak learning rate of AdamW; `None` for 1.5e-3, with `base` 2e-5.
        muon_lr: Peak learning rate of Muon, which trains the matrices of an embedded Aligner; `None` for AdamW alone,
            which is faster a token where matrices are large and batches small.
        int4: Make a model with its matrices in four bits: in the last third of the run they are rounded at each step.
        bf16: Multiply in bfloat16, with weights and optimisers in float32. About twice as fast on a processor with
            bfloat16 arithmetic (AVX-512 BF16, AMX), slower on others.
        torch_compile: Compile the model with `torch.compile` first, which needs a C++ compiler and takes minutes; steps
            of an embedded Aligner then take three quarters of the time.
        resume: Go on from the checkpoint in `out`; where there is none, start.
        log_every: Steps between two reports.
        checkpoint_every: Steps between two checkpoints.

    Raises:
        ConfigurationError: Settings that contradict each other, or a number that is out of range.
    """

    out: Path
    data: Path | None = None
    stream: TripleStream | None = None
    real: Path | None = None
    base: Path | None = None
    start: Path | None = None
    shape: NanoShape = field(default_factory=NanoShape)
    tokens: int = 36_000_000
    seed: int = 0
    processes: int = 1
    batch_tokens: int = 3000
    lr: float | None = None
    muon_lr: float | None = 0.004
    int4: bool = False
    bf16: bool = False
    torch_compile: bool = False
    resume: bool = False
    log_every: int = 25
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        given = [name for name in ("data", "stream", "real") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigurationError(
                f"{' and '.join(given)} are given, but the triples come from one place: a file (data), a function "
                "(stream), or the synthetic generator, which alone takes real."
            )
        if self.base and self.start:
            raise ConfigurationError(
                "base and start are given, but a run has one beginning: a causal language model (base), or an embedded "
                "Aligner (start)."
            )
        for name in ("tokens", "processes", "batch_tokens", "lr", "muon_lr", "log_every", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigurationError(f"{name} must be above 0, not {value!r}.")

    @property
    def triples(self) -> TripleStream:
        """Where the triples come from."""
        if self.stream:
            return self.stream
        return JsonlStream(self.data) if self.data else SyntheticStream(self.real)

    @property
    def peak_lr(self) -> float:
        """The learning rate of AdamW at its peak."""
        return self.lr or (2e-5 if self.base else 1.5e-3)
