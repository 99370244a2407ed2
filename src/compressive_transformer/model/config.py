"""The shape of a model, as a value that can be written down."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from compressive_transformer.errors import UsageError
from compressive_transformer.nn.attention import PositionScheme
from compressive_transformer.nn.feed_forward import ActivationName
from compressive_transformer.nn.layer import LossName, NormPlacement

CompressorName = Literal["conv", "dilated", "mean", "max", "most-used"]
CoreName = Literal["compressive", "wavenet"]
Gating = Literal["none", "gru"]
SampleBits = Literal[0, 8, 16]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a Compressive Transformer. Lengths are in tokens or slots."""

    core: CoreName = "compressive"
    """wavenet is a baseline for sound: width dim, and dilations memory; compressed_memory must be 0."""

    dim: int = 256
    """Model width D."""
    num_layers: int = 4
    """Layers."""
    num_heads: int = 4
    """Attention heads; must divide dim."""
    mlp_dim: int | None = None
    """Hidden width of the feed-forward; 4 dim if not given."""
    segment: int = 128
    """Tokens read in parallel; memory shifts after each segment."""
    memory: int | tuple[int, ...] = 128
    """Recent slots, for all layers or for each."""
    compressed_memory: int | tuple[int, ...] = 128
    """Compressed slots, for all layers or for each; 0 is Transformer-XL."""
    compression_rate: int = 4
    """Rows that become one compressed slot."""
    compressor: CompressorName = "conv"
    """Compression function (paper section 3.2)."""
    compression_loss: LossName = "attention"
    """What teaches the compressor; 'none' leaves it to training over several segments."""
    dilations: tuple[int, ...] = (1, 2, 4)
    """Dilations of the dilated compressor."""
    positions: PositionScheme = "continued"
    """Where compressed slots stand: behind the recent ones, there at their true time, or by a scale of
    their own."""
    position_features: int | None = None
    """Sinusoids that describe a distance; dim if not given."""
    norm: NormPlacement = "pre"
    """Layer norm before each sub-layer, or after it as in the paper."""
    final_norm: bool = True
    """A last layer norm over the output (the authors have none)."""
    gating: Gating = "none"
    """gru: a gate joins each sub-layer to the stream, as in GTrXL, instead of a sum; it steadies agents."""
    activation: ActivationName = "relu2"
    """Activation of the feed-forward; relu2 is the square of relu."""
    qk_norm: bool = True
    """RMS norm of each head's queries and keys, which lets them learn fast (the paper has none)."""
    dropout: float = 0.0
    """Probability of dropping attention weights, hidden units and sub-layer outputs in training."""
    variational_dropout: bool = False
    """Drop the same hidden units for all tokens of a segment and row, as the paper trained."""
    adaptive_cutoffs: tuple[int, ...] = ()
    """Adaptive embedding and softmax, tied: first words of the clusters of rare words. None: plain tables."""
    adaptive_factor: int = 4
    """Each such cluster has so much narrower vectors than the one before."""
    sample_bits: SampleBits = 0
    """Tokens are samples of sound: 8 bits of µ-law with a softmax, or 16 with a mixture of logistics."""
    mixtures: int = 10
    """Components of this mixture."""
    faithful: bool = False
    """As the authors' released code: empty slots are attended to as zeros, dilated convolutions lose rows,
    features enter through a ReLU."""

    def __post_init__(self):
        counts = (
            "dim",
            "num_layers",
            "num_heads",
            "segment",
            "compression_rate",
            "mlp_dim",
            "position_features",
            "adaptive_factor",
            "mixtures",
        )
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} {value} is not allowed; use 1 or more")
        if self.dim % self.num_heads:
            raise UsageError(
                f"dim {self.dim} is not divisible by num_heads {self.num_heads}; change one of them"
            )
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout {self.dropout} is not allowed; use 0 or more, and less than 1")
        if (self.position_features or self.dim) % 2:
            given = f"position_features {self.position_features or self.dim}"
            raise UsageError(f"{given} (dim if not given) is odd; use an even number")
        self._check_choices()
        if list(self.adaptive_cutoffs) != sorted({n for n in self.adaptive_cutoffs if n > 0}):
            raise UsageError(f"adaptive_cutoffs {self.adaptive_cutoffs} must rise, and begin with 1 or more")
        if self.faithful and (self.compressor, self.compression_loss) == ("dilated", "auto-encoding"):
            raise UsageError(
                "a faithful dilated compressor loses rows, which auto-encoding can't rebuild: use the "
                "attention loss, or faithful=False"
            )
        if self.sample_bits and self.adaptive_cutoffs:
            raise UsageError("adaptive_cutoffs are for words, and sample_bits for sound; give one of them")
        sizes = self.layer_sizes()
        if self.core == "wavenet" and any(compressed or not recent for recent, compressed in sizes):
            raise UsageError(
                "a WaveNet has a dilation of 1 or more in each layer and compresses nothing; give memory as "
                "its dilations, and compressed_memory 0"
            )
        for recent, compressed in sizes:
            check_sizes(recent, compressed, self.segment, self.compression_rate)

    def _check_choices(self) -> None:
        choices = {
            "core": CoreName,
            "sample_bits": SampleBits,
            "compressor": CompressorName,
            "compression_loss": LossName,
            "positions": PositionScheme,
            "norm": NormPlacement,
            "activation": ActivationName,
            "gating": Gating,
        }
        for name, literal in choices.items():
            value, allowed = getattr(self, name), get_args(literal)
            if value not in allowed:
                raise UsageError(f"{name} {value!r} is unknown; use one of {', '.join(map(str, allowed))}")

    def layer_sizes(self) -> list[tuple[int, int]]:
        """(recent, compressed) slots of each layer."""
        recent = each_layer("memory", self.memory, self.num_layers)
        compressed = each_layer("compressed_memory", self.compressed_memory, self.num_layers)
        return list(zip(recent, compressed, strict=True))


def each_layer(name: str, size: int | tuple[int, ...], num_layers: int) -> tuple[int, ...]:
    """One size for each layer, from one for all or from one for each."""
    sizes = (size,) * num_layers if isinstance(size, int) else tuple(size)
    if len(sizes) != num_layers:
        raise UsageError(
            f"{name} has {len(sizes)} sizes for {num_layers} layers; give one, or one for each layer"
        )
    if min(sizes) < 0:
        raise UsageError(f"{name} {min(sizes)} is not allowed; use 0 or more slots")
    return sizes


def check_sizes(recent: int, compressed: int, segment: int, rate: int) -> None:
    """Refuses a recent memory too small to hold the rows that wait for a whole group of ``rate``."""
    if compressed and segment % rate and recent < rate - 1:
        raise UsageError(
            f"compression_rate {rate} does not divide segment {segment}; then memory must hold at "
            f"least {rate - 1} slots, not {recent}: change one of them"
        )


def configure(config: ModelConfig | None, settings: dict[str, Any]) -> ModelConfig:
    """The config with some settings changed; unknown ones are refused by name."""
    known = {f.name for f in fields(ModelConfig)}
    if unknown := set(settings) - known:
        raise UsageError(
            f"unknown setting {', '.join(sorted(unknown))}; ModelConfig has {', '.join(sorted(known))}"
        )
    return replace(config or ModelConfig(), **settings)
