"""Settings of a training run, beside the code that obeys them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from compressive_transformer.errors import UsageError
from compressive_transformer.model import ModelConfig
from compressive_transformer.precision import Device, Precision
from compressive_transformer.train.sinks import SinkName


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights learn."""

    name: Literal["muon", "adamw"] = "muon"
    """muon: Muon for the matrices of the layers, AdamW for all else; adamw: AdamW for everything."""
    lr: float = 3e-3
    """Peak learning rate of AdamW."""
    muon_lr: float = 0.02
    """Peak learning rate of Muon."""
    beta2: float = 0.95
    """Decay of AdamW's mean of squared gradients."""
    weight_decay: float = 0.1
    """Decay of AdamW's matrices, per unit of learning rate."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises linearly from 0."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How the learning rate falls from its peak to the end of the budget; the paper's is cosine."""
    final_lr: float = 0.0
    """Where it ends, as a fraction of the peak."""
    clip: float = 1.0
    """Largest gradient norm, for the model and for the compressors apart, so that neither slows the other."""
    update_period: int = 1
    """Steps per update, from step update_period_from on (paper section 5.5.1: 4)."""
    update_period_from: int = 0
    """Step from which the update period holds (paper: 60000)."""

    def __post_init__(self):
        for name in ("lr", "muon_lr", "clip"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} {getattr(self, name)} is not allowed; use more than 0")
        for name in ("weight_decay", "warmup_steps", "final_lr", "update_period_from"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} {getattr(self, name)} is not allowed; use 0 or more")
        if not 0 <= self.beta2 < 1:
            raise UsageError(f"beta2 {self.beta2} is not allowed; use 0 or more, and less than 1")
        if self.update_period < 1:
            raise UsageError(f"update_period {self.update_period} is not allowed; use 1 or more")


@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """When a run is saved, and which checkpoints stay. The one with the best score always stays."""

    minutes: float = 5.0
    """Save at least this often."""
    steps: int | None = None
    """Save at every multiple of this step too."""
    keep_latest: int = 2
    """Keep so many of the newest checkpoints."""
    keep_every: int | None = None
    """Save at every multiple of this step, and keep these for good."""

    def __post_init__(self):
        if not self.minutes > 0:
            raise UsageError(f"save.minutes {self.minutes} is not allowed; use more than 0")
        for name in ("steps", "keep_latest", "keep_every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"save.{name} {value} is not allowed; use 1 or more")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole training run. Give one budget: minutes, steps or tokens."""

    data: tuple[str, ...] = ()
    """Text to train on: files, folders, patterns, .gz, .xz, .bz2, - for standard input, a folder that
    'compressive prepare' made, or hf:NAME to stream a data set. Or recordings. If nothing is given, two
    novels or a minute of speech that come with the package."""
    out: str | None = None
    """Run folder to make; runs/RECIPE-DATE-TIME if not given."""
    minutes: float | None = None
    """Budget in minutes of training on this machine. Without any budget it is the recipe's."""
    steps: int | None = None
    """Budget in steps (calls of the model)."""
    tokens: int | None = None
    """Budget in training tokens."""
    seed: int = 0
    """Decides weights, order of documents and dropout."""
    validation: tuple[str, ...] = ()
    """Text to validate on, of much text pieces from everywhere; the last documents of the data (5 %) are held
    out if nothing is given."""
    separator: str | None = None
    """Divides files into documents, e.g. '\\n\\n'; a file is a document if not given."""
    join_folders: bool = False
    """Files of one folder are one document, in their order: a speaker, an author."""
    tokenizer: str = "bytes"
    """bytes; the file of a tokenizer that 'compressive tokenizer train' made; or of recordings mulaw-RATE (8
    bits) or linear-RATE (16 bits), which also resample them."""
    reset_documents: bool = True
    """Begin each document with an empty memory; the paper carries memory on."""
    lanes: int = 32
    """Streams read side by side: the batch size, of all processes together."""
    unroll: int = 1
    """Segments per step through which gradients flow; from 2 on compressors learn from the main loss too."""
    precision: Precision = "auto"
    """bfloat16 for matrix products where the processor is fast at it."""
    device: Device = "auto"
    """Where to train; auto takes a GPU if there is one."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What processes started by torchrun share out: ddp the lanes only; fsdp weights and optimiser too."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the layers: a minute at the start, then faster steps. auto does so for --minutes 4 or more,
    and never for a WaveNet, which gained nothing by it on a CPU."""
    recompute: bool = False
    """Activation checkpointing: keep no activations within layers, compute them again for the gradient."""
    max_skipped: int = 5
    """Updates in a row that may be skipped, because a loss or gradient is no number, before the run stops."""
    validate_minutes: float = 15.0
    """Score an excerpt of the validation text at least this often, besides four times in a run."""
    sinks: tuple[SinkName, ...] = ()
    """Where metrics also go: tensorboard, trackio, wandb."""
    save: SaveConfig = field(default_factory=SaveConfig)
    """When the run is saved, and which checkpoints stay."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The shape of the model."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How weights learn."""

    def __post_init__(self):
        given = {k: v for k in ("minutes", "steps", "tokens") if (v := getattr(self, k)) is not None}
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} are both budgets; give one of minutes, steps, tokens")
        for name, value in given.items():
            if not value > 0:
                raise UsageError(f"{name} {value} is not allowed; use more than 0")
        if not self.validate_minutes > 0:
            raise UsageError(f"validate_minutes {self.validate_minutes} is not allowed; use more than 0")
        for name in ("lanes", "unroll", "max_skipped"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)} is not allowed; use 1 or more")
        if self.model.faithful and self.reset_documents:
            raise UsageError(
                "reset_documents needs empty slots to be hidden, and a faithful model attends to them; use "
                "reset_documents=False (--no-reset-documents)"
            )
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed {self.seed} is not allowed; use 0 or more, and less than 2^63")
        self._check_compressors()

    def _check_compressors(self) -> None:
        """Refuses compressors that nothing would ever teach."""
        m = self.model
        sizes = [recent for recent, compressed in m.layer_sizes() if compressed]
        if not sizes or m.compressor not in ("conv", "dilated"):
            return
        if m.compression_loss == "none" and self.unroll == 1:
            raise UsageError(
                "compression_loss 'none' leaves the compressor to training over several segments; use unroll "
                "2 or more, or another compression_loss"
            )
        if m.compression_loss == "attention" and min(sizes) == 0:
            raise UsageError(
                "compression_loss 'attention' compares what is read of recent memory, and memory 0 has none; "
                "use memory 1 or more, or compression_loss 'auto-encoding'"
            )
