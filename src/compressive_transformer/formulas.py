"""What a shape costs and how far it sees (paper section 3.3), computed from the config alone.

Every number is tested against counting: parameters against a model on the meta device, bytes against a state,
attention against the logits that are computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from compressive_transformer.model.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The figures of one model."""

    parameters: int
    """Weights of the core, without embedding and head."""
    compressor_parameters: int
    """Of these, weights of compressors and decoders: conv adds c D^2 a layer."""
    temporal_range: int
    """Tokens that can reach an output through memory: the sum over layers of M + c C."""
    attention_per_token: int
    """Query-key products of one head per token: the sum over layers of N + M + C."""
    state_bytes: int
    """Bytes of the memory of one row, in float32."""


def costs(config: ModelConfig) -> Costs:
    """The figures of a core of this shape."""
    c = config
    sizes = c.layer_sizes()
    if c.core == "wavenet":
        return _wavenet_costs(c)
    learned = [_compressor_parameters(c) if compressed else 0 for _, compressed in sizes]
    layers = sum(_layer_parameters(c, compressed > 0) for _, compressed in sizes)
    final_norm = 2 * c.dim if c.final_norm else 0
    return Costs(
        parameters=layers + sum(learned) + final_norm,
        compressor_parameters=sum(learned),
        temporal_range=sum(recent + c.compression_rate * compressed for recent, compressed in sizes),
        attention_per_token=sum(c.segment + recent + compressed for recent, compressed in sizes),
        state_bytes=8 + sum(_state_bytes(c, recent, compressed) for recent, compressed in sizes),
    )


def _wavenet_costs(c: ModelConfig) -> Costs:
    dilations = [recent for recent, _ in c.layer_sizes()]
    layer = 4 * c.dim**2 + 2 * c.dim + 2 * c.dim**2 + 2 * c.dim
    return Costs(
        parameters=len(dilations) * layer + c.dim**2 + c.dim,
        compressor_parameters=0,
        temporal_range=sum(dilations),
        attention_per_token=0,
        state_bytes=8 + sum(_state_bytes(c, dilation, 0) for dilation in dilations),
    )


def vocabulary_parameters(config: ModelConfig, vocab_size: int) -> int:
    """Weights of embedding and head; adaptive ones share theirs."""
    if config.sample_bits:
        return _sample_parameters(config)
    if not config.adaptive_cutoffs:
        return 2 * vocab_size * config.dim
    first, ends = config.adaptive_cutoffs[0], (*config.adaptive_cutoffs[1:], vocab_size)
    total = (first + len(ends)) * config.dim
    for i, (low, high) in enumerate(zip(config.adaptive_cutoffs, ends, strict=True), start=1):
        total += max(config.dim // config.adaptive_factor**i, 1) * (config.dim + high - low)
    return total


def _sample_parameters(c: ModelConfig) -> int:
    tables, waves = 257 + (256 if c.sample_bits == 16 else 0), 2 * c.sample_bits + 1
    head = 257 * c.dim if c.sample_bits == 8 else 3 * c.mixtures * (c.dim + 1)
    return (tables + waves) * c.dim + head


def _layer_parameters(c: ModelConfig, compressed: bool) -> int:
    hidden, features = c.mlp_dim or 4 * c.dim, c.position_features or c.dim
    tables = 2 if compressed and c.positions == "separate" else 1
    attention = 4 * c.dim**2 + c.dim + c.dim + tables * (features * c.dim + c.dim)
    feed_forward = 2 * c.dim * hidden + hidden + c.dim
    gates = 2 * (6 * c.dim**2 + c.dim) if c.gating == "gru" else 0
    return attention + feed_forward + gates + 4 * c.dim


def _compressor_parameters(c: ModelConfig) -> int:
    if c.compressor not in ("conv", "dilated"):
        return 0
    conv = c.compression_rate * c.dim**2
    stack = 2 * c.dim**2 * len(c.dilations) if c.compressor == "dilated" else 0
    decoder = conv if c.compression_loss == "auto-encoding" else 0
    return conv + stack + decoder


def _state_bytes(c: ModelConfig, recent: int, compressed: int) -> int:
    slots = compressed + recent + c.segment
    usage = 2 * (recent + c.segment) * 4 if compressed and c.compressor == "most-used" else 0
    return slots * (4 * c.dim + 8) + usage
