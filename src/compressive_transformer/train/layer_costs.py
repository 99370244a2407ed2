"""What one layer keeps for the gradient and computes, for one segment of one lane, from the settings alone.

Shape legend: D model width, N segment, S all slots, R rows that leave, n slots that they become, H heads,
T queries of the auxiliary loss, F position features.
"""

from __future__ import annotations

from typing import NamedTuple

from compressive_transformer import ops
from compressive_transformer.model import ModelConfig
from compressive_transformer.train.config import TrainConfig


class LayerCosts(NamedTuple):
    """What one layer keeps and computes for one segment of one lane; masks in bytes, the rest in numbers."""

    exact: int
    """Numbers kept in float32 whatever the precision."""
    other: int
    masks: int
    fixed: int
    """Numbers kept once for all lanes."""
    flops: int
    """Of the forward pass; twice as many backward, but for those that nobody needs."""
    unneeded: int
    """Flops backward that would give gradient to a memory that has none: that of before the step."""
    fixed_flops: int
    """Of the forward pass, once for all lanes; as many backward."""
    auxiliary_flops: int
    """Of compression and its loss, forward and backward, which go different ways."""
    again: int
    """Flops of computing the layer again."""


def in_bfloat16(config: TrainConfig) -> bool:
    """Whether it is planned in bfloat16: ``auto`` is, as on a GPU."""
    return config.precision != "float32"


def layer_costs(config: TrainConfig, index: int, lanes: int) -> LayerCosts:
    """Those of one layer of the stack, if a process has so many lanes."""
    c = config.model
    (M, C), N, D, H = c.layer_sizes()[index], c.segment, c.dim, c.num_heads
    S, F, hidden = C + M + N, c.position_features or D, c.mlp_dim or 4 * D
    half = in_bfloat16(config)
    tables = 2 if C and c.positions == "separate" else 1
    # Both norms' inputs with their mean and deviation.
    exact = 2 * N * D + 4 * N
    # Inputs of the projections: slots and x; values; attended; feed-forward in, hidden twice.
    other = D * (S + S + N + N) + 2 * N * hidden
    even = c.positions != "time" or c.compression_rate == 1 or not C
    shifted = even and ops.shift_pays((lanes, N, S), D // H, F)
    distances = tables * N + S
    if shifted:  # queries with each bias; keys; weights. Position keys, and what they are made of.
        other += (tables + 1) * N * D + S * D + H * N * S
        fixed, fixed_flops = distances * (D + F), 2 * distances * D * F
    else:
        # Rotated queries, their start and what turns them (copied for each lane); long keys; weights.
        other += tables * (N * D + D * F + N * (D + H * F)) + S * (D + H * F) + H * N * S
        fixed, fixed_flops = tables * N * F, 0
    if c.qk_norm:  # queries and keys before it, and what they were divided by
        exact += (N + S) * (D + H)
    # CUDA's autocast computes softmax in float32 and keeps that beside the bfloat16; CPU's does not.
    exact += H * N * S if half else 0
    other += (S + N) * D if half else 0  # cast once for the keys, once for the values, once for the queries
    flops = 2 * D * D * (2 * N + 2 * S) + 4 * N * D * hidden
    flops += 2 * N * (distances * D if shifted else tables * D * F + S * H * F) + 2 * N * S * 2 * D
    if c.gating == "gru":  # of each gate four nonlinearities, and what U_h is applied to
        other += 2 * 5 * N * D
        flops += 2 * 2 * N * 6 * D * D
    compressed = _compression(c, M, N, H) if C else _Compression(0, 0, 0, 0, 0)
    weights = 2 * D * D if C and _learns_by(c) == "attention" and half else 0
    return LayerCosts(
        exact + compressed.exact,
        other + compressed.other,
        masks=C + M + N + compressed.masks,
        fixed=fixed + weights,
        flops=flops,
        unneeded=2 * D * D * 2 * (C + M),
        fixed_flops=fixed_flops,
        auxiliary_flops=compressed.flops,
        # What recomputing needs last is the input of the feed-forward's second map, so that is not applied;
        # a gate needs its output.
        again=flops + compressed.again - (0 if c.gating == "gru" else 2 * N * D * hidden),
    )


class _Compression(NamedTuple):
    """The part of ``LayerCosts`` that the compressor and its loss add."""

    exact: int
    other: int
    masks: int
    flops: int
    again: int
    """Flops of the forward pass."""


def _compression(c: ModelConfig, recent: int, N: int, H: int) -> _Compression:
    """For a rate that divides the segment; otherwise rows leave in groups, as many in the mean."""
    D, R = c.dim, N
    n = R // c.compression_rate
    if c.compressor not in ("conv", "dilated"):
        return _Compression(0, 0, 0, 0, 0)
    exact, other, masks = 0, R * D, R
    flops, again = 2 * 2 * R * D * D, 2 * R * D * D
    if c.compressor == "dilated":
        other = 3 * R * D * len(c.dilations)  # the last of these is the convolution's input
        # The first stage reads constants, and gives gradient to its weights alone.
        flops += 2 * R * 2 * D * D * (3 * len(c.dilations) - 1) + 2 * R * D * D
        again += 2 * R * 2 * D * D * len(c.dilations)
    if _learns_by(c) == "auto-encoding":
        exact += R * D
        other += n * D
        flops += 3 * 2 * R * D * D
        again += 2 * R * D * D
    if _learns_by(c) == "attention":
        T = N - max(R - recent, 0)
        exact += T * D + (n * (D + H) if c.qk_norm else 0)
        other += (N if c.qk_norm else T) * D + H * T * n + n * D
        masks += T
        # Keys and values of the slots; reading the rows; reading the slots, whose queries are constant.
        flops += 2 * 2 * 2 * n * D * D + 2 * 2 * T * R * D + (2 + 3) * 2 * T * n * D
        again += 2 * 2 * n * D * D + 2 * 2 * T * R * D + 2 * 2 * T * n * D
    return _Compression(exact, other, masks, flops, again)


def _learns_by(c: ModelConfig) -> str:
    return c.compression_loss if c.compressor in ("conv", "dilated") else "none"
