"""Relative attention by Triton kernels of our own, which write no logits down: for GPUs.

``rotated`` turns the logits into ``query . key + position query . position key``, of which the position keys
are features of the keys' places, alike for all rows and heads. ``fused`` must copy them to each of these, and
have the visible keys spelt out in numbers for each; these kernels read both as they are, tile by tile. The
softmax is made as it goes (Milakov & Gimelshein 2018), and the gradient makes its tiles again
(Dao et al. 2022): once by queries, once by keys, so that no two programs write to one place, and equal inputs
give equal bits.

Without a GPU they run by Triton's interpreter (``TRITON_INTERPRET=1``), slowly: that is how they are tested.

Shape legend: B batch, H heads, T queries, S keys, K head width, F position features. In kernels: a program
has M queries or N keys, and all of it in tiles [M, N]; widths are filled up to powers of two.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, library

from compressive_transformer.ops.attention import WIDEST_TILE

LOG2_E = tl.constexpr(1.4426950408889634)


class Tiles:
    """How kernels are cut, by head width K and features F."""

    def __init__(self, K: int, F: int, dtype: torch.dtype):
        wide = max(K, F) > WIDEST_TILE // 2
        # What tl.dot does with float32, like the matrix products around it.
        precision = "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
        if dtype == torch.float32:
            self.M = self.N = 16 if wide and precision == "tf32" else 32
        else:
            self.M, self.N = 64, 32 if wide else 64
        self.settings: dict[str, Any] = {
            "K": K,
            "F": F,
            "BLOCK_K": max(triton.next_power_of_2(K), 16),
            "BLOCK_F": max(triton.next_power_of_2(F), 16),
            "M": self.M,
            "N": self.N,
            "PRECISION": precision,
        }
        self.options: dict[str, int] = {"num_warps": 4, "num_stages": 1 if dtype == torch.float32 else 2}


@library.custom_op("compressive_transformer::tiled_attention", mutates_args=())
def attend(
    query_BHTK: Tensor,
    position_query_BHTF: Tensor,
    key_BHSK: Tensor,
    position_key_SF: Tensor,
    value_BHSK: Tensor,
    visible_BTS: Tensor,
) -> tuple[Tensor, Tensor]:
    """The attended values [B, H, T, K], and log2 of each query's softmax denominator, float32 [B, H, T]."""
    (B, H, T, K), S, F = query_BHTK.shape, key_BHSK.shape[2], position_key_SF.shape[1]
    attended_BHTK = query_BHTK.new_empty(B, H, T, K)
    norm_BHT = query_BHTK.new_empty(B, H, T, dtype=torch.float32)
    tiles = Tiles(K, F, query_BHTK.dtype)
    inputs = [query_BHTK, position_query_BHTF, key_BHSK, position_key_SF, value_BHSK, visible_BTS]
    arguments: list[Any] = [*(x.contiguous() for x in inputs), attended_BHTK, norm_BHT, H, T, S]
    with torch.cuda.device_of(query_BHTK):  # Triton launches where torch is
        forward_kernel[(triton.cdiv(T, tiles.M) * B * H,)](*arguments, **tiles.settings, **tiles.options)
    return attended_BHTK, norm_BHT


@library.custom_op("compressive_transformer::tiled_attention_backward", mutates_args=())
def attend_backward(
    query_BHTK: Tensor,
    position_query_BHTF: Tensor,
    key_BHSK: Tensor,
    position_key_SF: Tensor,
    value_BHSK: Tensor,
    visible_BTS: Tensor,
    attended_BHTK: Tensor,
    norm_BHT: Tensor,
    slope_BHTK: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of queries, position queries, keys and values, by that of what was attended to."""
    (B, H, T, K), S, F = query_BHTK.shape, key_BHSK.shape[2], position_key_SF.shape[1]
    tiles = Tiles(K, F, query_BHTK.dtype)
    inputs = [query_BHTK, position_query_BHTF, key_BHSK, position_key_SF, value_BHSK, visible_BTS, slope_BHTK]
    inputs = [x.contiguous() for x in inputs]
    # The mean slope of a query's weights: softmax takes it from each.
    mean_BHT = (slope_BHTK.float() * attended_BHTK.float()).sum(dim=-1)
    gradients = [
        torch.empty_like(x, memory_format=torch.contiguous_format)
        for x in (query_BHTK, position_query_BHTF, key_BHSK, value_BHSK)
    ]
    for kernel, count, size, results in (
        (backward_queries_kernel, T, tiles.M, gradients[:2]),
        (backward_keys_kernel, S, tiles.N, gradients[2:]),
    ):
        arguments: list[Any] = [*inputs, norm_BHT, mean_BHT, *results, H, T, S]
        with torch.cuda.device_of(query_BHTK):
            kernel[(triton.cdiv(count, size) * B * H,)](*arguments, **tiles.settings, **tiles.options)
    query, position_query, key, value = gradients
    return query, position_query, key, value


@attend.register_fake
def _(query, position_query, key, position_key, value, visible):
    norm = query.new_empty(query.shape[:3], dtype=torch.float32)
    return query.new_empty(query.shape), norm


@attend_backward.register_fake
def _(query, position_query, key, position_key, value, visible, attended, norm, slope):
    return tuple(x.new_empty(x.shape) for x in (query, position_query, key, value))


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, slope_BHTK: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    query, position_query, key, value = attend_backward(*ctx.saved_tensors, slope_BHTK)
    return query, position_query, key, None, value, None


attend.register_autograd(_gradients, setup_context=_keep)


@triton.jit
def _read(at, first, count, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Rows of a matrix; zeros beyond its end."""
    row, column = first + tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (row < count) & (column < WIDTH)
    return tl.load(at + row.to(tl.int64) * WIDTH + column, mask=inside, other=0.0)


@triton.jit
def _write(at, x, first, count, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Rows of a matrix, as far as it goes."""
    row, column = first + tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (row < count) & (column < WIDTH)
    tl.store(at + row.to(tl.int64) * WIDTH + column, x.to(at.dtype.element_ty), mask=inside)


@triton.jit
def _logits(
    query, position_query, key, position_key, visible_at, first_m, first_n, T, S, PRECISION: tl.constexpr
):
    """A tile of logits to the base 2, of which the power is faster; minus infinity where nothing is seen."""
    row = first_m + tl.arange(0, query.shape[0])[:, None]
    column = first_n + tl.arange(0, key.shape[0])[None, :]
    inside = (row < T) & (column < S)
    visible = tl.load(visible_at + row.to(tl.int64) * S + column, mask=inside, other=0)
    logits = tl.dot(query, tl.trans(key), input_precision=PRECISION)
    logits += tl.dot(position_query, tl.trans(position_key), input_precision=PRECISION)
    return tl.where(visible != 0, logits * LOG2_E, float("-inf"))


@triton.jit
def forward_kernel(
    query_at,
    position_query_at,
    key_at,
    position_key_at,
    value_at,
    visible_at,
    attended_at,
    norm_at,
    H,
    T,
    S,
    K: tl.constexpr,
    F: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_F: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """M queries of a head, key after key; the sum is made smaller whenever a larger logit comes."""
    blocks = tl.cdiv(T, M)
    first_m, head = (tl.program_id(0) % blocks) * M, (tl.program_id(0) // blocks).to(tl.int64)
    visible_at += (head // H) * T * S
    key_at += head * S * K
    value_at += head * S * K
    query = _read(query_at + head * T * K, first_m, T, K, M, BLOCK_K)
    position_query = _read(position_query_at + head * T * F, first_m, T, F, M, BLOCK_F)
    largest = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    attended = tl.zeros([M, BLOCK_K], tl.float32)
    for first_n in range(0, S, N):
        key = _read(key_at, first_n, S, K, N, BLOCK_K)
        position_key = _read(position_key_at, first_n, S, F, N, BLOCK_F)
        value = _read(value_at, first_n, S, K, N, BLOCK_K)
        logits = _logits(
            query, position_query, key, position_key, visible_at, first_m, first_n, T, S, PRECISION
        )
        larger = tl.maximum(largest, tl.max(logits, 1))
        origin = tl.where(larger == float("-inf"), 0.0, larger)  # nothing was seen yet
        weights, shrink = tl.exp2(logits - origin[:, None]), tl.exp2(largest - origin)
        total = total * shrink + tl.sum(weights, 1)
        attended = attended * shrink[:, None]
        attended += tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)
        largest = larger
    row, nothing = first_m + tl.arange(0, M), total == 0  # was seen: zeros, as torch's kernels give
    total = tl.where(nothing, 1.0, total)
    _write(attended_at + head * T * K, attended / total[:, None], first_m, T, K, M, BLOCK_K)
    norm = tl.where(nothing, 0.0, largest + tl.log2(total))
    tl.store(norm_at + head * T + row, norm, mask=row < T)


@triton.jit
def _weights_and_slopes(logits, norm, mean, slope, value, PRECISION: tl.constexpr):
    """A tile of weights, and of the gradients of its logits."""
    weights = tl.exp2(logits - norm[:, None])
    return weights, weights * (tl.dot(slope, tl.trans(value), input_precision=PRECISION) - mean[:, None])


@triton.jit
def backward_queries_kernel(
    query_at,
    position_query_at,
    key_at,
    position_key_at,
    value_at,
    visible_at,
    slope_at,
    norm_at,
    mean_at,
    query_slope_at,
    position_query_slope_at,
    H,
    T,
    S,
    K: tl.constexpr,
    F: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_F: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of M queries of a head."""
    blocks = tl.cdiv(T, M)
    first_m, head = (tl.program_id(0) % blocks) * M, (tl.program_id(0) // blocks).to(tl.int64)
    visible_at += (head // H) * T * S
    key_at += head * S * K
    value_at += head * S * K
    norm_at += head * T
    mean_at += head * T
    query = _read(query_at + head * T * K, first_m, T, K, M, BLOCK_K)
    position_query = _read(position_query_at + head * T * F, first_m, T, F, M, BLOCK_F)
    slope = _read(slope_at + head * T * K, first_m, T, K, M, BLOCK_K)
    row = first_m + tl.arange(0, M)
    norm = tl.load(norm_at + row, mask=row < T, other=0.0)
    mean = tl.load(mean_at + row, mask=row < T, other=0.0)
    query_slope = tl.zeros([M, BLOCK_K], tl.float32)
    position_query_slope = tl.zeros([M, BLOCK_F], tl.float32)
    for first_n in range(0, S, N):
        key = _read(key_at, first_n, S, K, N, BLOCK_K)
        position_key = _read(position_key_at, first_n, S, F, N, BLOCK_F)
        value = _read(value_at, first_n, S, K, N, BLOCK_K)
        logits = _logits(
            query, position_query, key, position_key, visible_at, first_m, first_n, T, S, PRECISION
        )
        _, slopes = _weights_and_slopes(logits, norm, mean, slope, value, PRECISION)
        query_slope += tl.dot(slopes.to(key.dtype), key, input_precision=PRECISION)
        position_query_slope += tl.dot(slopes.to(key.dtype), position_key, input_precision=PRECISION)
    _write(query_slope_at + head * T * K, query_slope, first_m, T, K, M, BLOCK_K)
    _write(position_query_slope_at + head * T * F, position_query_slope, first_m, T, F, M, BLOCK_F)


@triton.jit
def backward_keys_kernel(
    query_at,
    position_query_at,
    key_at,
    position_key_at,
    value_at,
    visible_at,
    slope_at,
    norm_at,
    mean_at,
    key_slope_at,
    value_slope_at,
    H,
    T,
    S,
    K: tl.constexpr,
    F: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_F: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of N keys of a head and of their values; position keys learn nothing."""
    blocks = tl.cdiv(S, N)
    first_n, head = (tl.program_id(0) % blocks) * N, (tl.program_id(0) // blocks).to(tl.int64)
    visible_at += (head // H) * T * S
    query_at += head * T * K
    position_query_at += head * T * F
    slope_at += head * T * K
    norm_at += head * T
    mean_at += head * T
    key = _read(key_at + head * S * K, first_n, S, K, N, BLOCK_K)
    position_key = _read(position_key_at, first_n, S, F, N, BLOCK_F)
    value = _read(value_at + head * S * K, first_n, S, K, N, BLOCK_K)
    key_slope = tl.zeros([N, BLOCK_K], tl.float32)
    value_slope = tl.zeros([N, BLOCK_K], tl.float32)
    for first_m in range(0, T, M):
        query = _read(query_at, first_m, T, K, M, BLOCK_K)
        position_query = _read(position_query_at, first_m, T, F, M, BLOCK_F)
        slope = _read(slope_at, first_m, T, K, M, BLOCK_K)
        row = first_m + tl.arange(0, M)
        norm = tl.load(norm_at + row, mask=row < T, other=0.0)
        mean = tl.load(mean_at + row, mask=row < T, other=0.0)
        logits = _logits(
            query, position_query, key, position_key, visible_at, first_m, first_n, T, S, PRECISION
        )
        weights, slopes = _weights_and_slopes(logits, norm, mean, slope, value, PRECISION)
        value_slope += tl.dot(tl.trans(weights.to(slope.dtype)), slope, input_precision=PRECISION)
        key_slope += tl.dot(tl.trans(slopes.to(query.dtype)), query, input_precision=PRECISION)
    _write(key_slope_at + head * S * K, key_slope, first_n, S, K, N, BLOCK_K)
    _write(value_slope_at + head * S * K, value_slope, first_n, S, K, N, BLOCK_K)
