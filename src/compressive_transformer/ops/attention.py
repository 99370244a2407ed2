"""Attention with Transformer-XL's relative positions, as pure functions of one signature.

The logit of query i for key j is (Transformer-XL, Dai et al. 2019, eq. 3.3; u and v are the two biases):

    (q_i + u) . k_j  +  (q_i + v) . W sinusoid(p_i - p_j)

``reference`` computes just that, slowly. ``rotated`` computes the same as a plain dot product, see there, and
``fused`` gives that to the attention kernels of torch, ``tiled`` to kernels of our own. ``shifted`` makes
position keys for distances, as the authors do, which costs less where they have many features.

Shape legend: B batch, T queries, S keys, H heads, K head width, F position features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import pad, scaled_dot_product_attention

from compressive_transformer.errors import UsageError

Attention = Callable[..., tuple[Tensor, Any]]
"""``reference``, or one that is equal to it."""
WIDEST_TILE = 128
"""Head width, or position features, that ``tiled`` can do."""


class PositionTable(NamedTuple):
    """How queries see the places of a run of consecutive keys."""

    weight_HKF: Tensor
    """W: turns the F sinusoids of a distance into a position key of each head."""
    bias_HK: Tensor
    """v: what is added to the query before it meets position keys."""
    key_place_S: Tensor
    """p_j of the run's keys; a query at place p_i is ``p_i - p_j`` away."""


def frequencies(
    features: int, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """[F / 2] angular frequencies 10000^(-2k/F) of the sinusoids."""
    return 10000.0 ** (-torch.arange(0, features, 2, device=device, dtype=dtype) / features)


def sinusoid(distance: Tensor, features: int) -> Tensor:
    """[..., F] position features of real distances [...]: all sines, then all cosines."""
    angle = distance[..., None] * frequencies(features, distance.device, distance.dtype)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def reference(
    q_BHTK: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    content_bias_HK: Tensor,
    tables: Sequence[PositionTable],
    query_place_T: Tensor,
    visible_BTS: Tensor,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The definition. Obvious and slow: it makes a position key for every pair of query and key.

    Args:
        q_BHTK: queries, already scaled by K^-1/2 (the biases are not scaled, as in the authors' code).
        k_BHSK, v_BHSK: keys and values.
        content_bias_HK: u.
        tables: position tables of consecutive runs of keys, together S keys.
        query_place_T: p_i of the queries.
        visible_BTS: bool, which keys a query sees; at least one for each query.
        dropout: probability of dropping an attention weight.

    Returns:
        The attended values [B, H, T, K], and the attention weights [B, H, T, S] before dropout.
    """
    content = torch.einsum("bhtk,bhsk->bhts", q_BHTK + content_bias_HK[:, None], k_BHSK)
    position = []
    for weight_HKF, bias_HK, key_place_S in tables:
        distance_TS = query_place_T[:, None] - key_place_S
        key_HTSK = torch.einsum("tsf,hkf->htsk", sinusoid(distance_TS, weight_HKF.shape[-1]), weight_HKF)
        position.append(torch.einsum("bhtk,htsk->bhts", q_BHTK + bias_HK[:, None], key_HTSK))
    logits = content + torch.cat(position, dim=-1)
    weights = logits.masked_fill(~visible_BTS[:, None], -torch.inf).softmax(dim=-1)
    return torch.einsum("bhts,bhsk->bhtk", drop(weights, dropout), v_BHSK), weights


def rotated(
    q_BHTK: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    content_bias_HK: Tensor,
    tables: Sequence[PositionTable],
    query_place_T: Tensor,
    visible_BTS: Tensor,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The same as ``reference``, as plain dot-product attention with longer queries and keys.

    With a = W^T (q + v), the angle-addition formulas divide a . sinusoid(p_i - p_j) into a rotation of ``a``
    that knows p_i only and fixed features of p_j. So position keys are never made for pairs, and never
    shifted: ``[q + u ; rotate(a, p_i)] . [k ; cos p_j ; sin p_j]`` is the whole logit.
    """
    query_content = q_BHTK + content_bias_HK[:, None].to(q_BHTK.dtype)
    logits, start = [], 0
    for table in tables:
        stop = start + table.key_place_S.shape[0]
        position_query, position_key = _halves(q_BHTK, table, query_place_T)
        query = torch.cat([query_content, position_query], dim=-1)
        key = torch.cat([k_BHSK[:, :, start:stop], position_key.expand(*k_BHSK.shape[:2], -1, -1)], dim=-1)
        logits.append(query @ key.transpose(-1, -2))
        start = stop
    logits_BHTS = logits[0] if len(logits) == 1 else torch.cat(logits, dim=-1)
    return _attended(logits_BHTS, v_BHSK, visible_BTS, dropout)


def _attended(
    logits_BHTS: Tensor, v_BHSK: Tensor, visible_BTS: Tensor, dropout: float
) -> tuple[Tensor, Tensor]:
    """Values and weights; the logits, which nobody needs again, are written over."""
    bias_BTS = torch.zeros_like(visible_BTS, dtype=logits_BHTS.dtype).masked_fill_(~visible_BTS, -torch.inf)
    weights = logits_BHTS.add_(bias_BTS[:, None]).softmax(dim=-1)
    return drop(weights, dropout) @ v_BHSK, weights


def shifted(
    q_BHTK: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    content_bias_HK: Tensor,
    tables: Sequence[PositionTable],
    query_place_T: Tensor,
    visible_BTS: Tensor,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The same as ``reference``, where queries, and the keys of each run, stand one place apart.

    Then there are T + S - 1 distances only. A query's products with their position keys, farthest first, hold
    those of its own keys side by side, beginning one earlier for each query before it (the shift of
    Transformer-XL's appendix B): a view of memory, not a copy.
    """
    position = [_shifted_product(q_BHTK, table, query_place_T) for table in tables]
    logits_BHTS = (q_BHTK + content_bias_HK[:, None].to(q_BHTK.dtype)) @ k_BHSK.transpose(-1, -2)
    logits_BHTS.add_(position[0] if len(position) == 1 else torch.cat(position, dim=-1))
    del position  # as large as the logits
    return _attended(logits_BHTS, v_BHSK, visible_BTS, dropout)


def _shifted_product(q_BHTK: Tensor, table: PositionTable, query_place_T: Tensor) -> Tensor:
    """[B, H, T, S] the position term of the logits of a run of keys."""
    (weight_HKF, bias_HK, key_place_S), dtype, T = table, q_BHTK.dtype, q_BHTK.shape[2]
    count = key_place_S.shape[0]
    farthest = query_place_T[-1] - (key_place_S[0] if count else 0)
    # One more than there are, so that rows that are one shorter hold all keys even of a single query.
    distance_D = farthest - torch.arange(T + count, device=farthest.device, dtype=farthest.dtype)
    feature_DF = sinusoid(distance_D, weight_HKF.shape[-1]).to(dtype)
    key_HKD = torch.einsum("hkf,df->hkd", weight_HKF, feature_DF)
    product_BHTD = torch.einsum("bhtk,hkd->bhtd", q_BHTK + bias_HK[:, None].to(dtype), key_HKD)
    rows = product_BHTD.flatten(2)[..., T - 1 : -1].unflatten(2, (T, T + count - 1))
    return rows[..., :count]


def shift_pays(shape_BTS: tuple[int, int, int], head_dim: int, features: int) -> bool:
    """Whether ``shifted`` is faster than ``rotated``: it takes less than half the products.

    Where products are equal it is slower, for it reads what it shifts once more
    (``benchmarks/attention.py``).
    """
    B, T, S = shape_BTS
    rotating = B * T * (head_dim + S) * features
    shifting = (T + S) * head_dim * (B * T + features)
    return 2 * shifting < rotating


def fused(
    q_BHTK: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    content_bias_HK: Tensor,
    tables: Sequence[PositionTable],
    query_place_T: Tensor,
    visible_BTS: Tensor,
    dropout: float = 0.0,
) -> tuple[Tensor, None]:
    """The same as ``rotated``, by torch's kernels that write no logits down. It has no weights to return."""
    position_query, position_key = _all_halves(q_BHTK, tables, query_place_T)
    query = torch.cat([q_BHTK + content_bias_HK[:, None].to(q_BHTK.dtype), position_query], dim=-1)
    key = torch.cat([k_BHSK, position_key.expand(*k_BHSK.shape[:2], -1, -1)], dim=-1)
    mask = visible_BTS[:, None]
    return scaled_dot_product_attention(query, key, v_BHSK, mask, dropout, scale=1.0), None


def tiled(
    q_BHTK: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    content_bias_HK: Tensor,
    tables: Sequence[PositionTable],
    query_place_T: Tensor,
    visible_BTS: Tensor,
    dropout: float = 0.0,
) -> tuple[Tensor, None]:
    """The same as ``fused``, by the Triton kernels of ``ops.tiles``.

    What these can't do, ``fused`` does: dropout, float64, heads or features wider than a tile.
    """
    from compressive_transformer.ops import tiles

    widest = max(q_BHTK.shape[-1], sum(table.weight_HKF.shape[-1] for table in tables))
    if dropout or q_BHTK.dtype == torch.float64 or widest > WIDEST_TILE:
        return fused(
            q_BHTK, k_BHSK, v_BHSK, content_bias_HK, tables, query_place_T, visible_BTS, dropout=dropout
        )
    dtype = q_BHTK.dtype
    query_content = q_BHTK + content_bias_HK[:, None].to(dtype)
    position_query, position_key = _all_halves(q_BHTK, tables, query_place_T)
    # Autocast does not know these kernels.
    position_query, key, value = (x.to(dtype) for x in (position_query, k_BHSK, v_BHSK))
    attended, _ = tiles.attend(query_content, position_query, key, position_key, value, visible_BTS)
    return attended, None


def for_gpu() -> Attention:
    """What to attend with on a GPU: ``fused``, or ``tiled`` if ``COMPRESSIVE_ATTENTION`` says triton.

    Raises:
        UsageError: it says something else, or triton is not there.
    """
    name = os.environ.get("COMPRESSIVE_ATTENTION", "torch")
    if name not in ("torch", "triton"):
        raise UsageError(f"COMPRESSIVE_ATTENTION={name} is not known; use torch or triton")
    if name == "triton" and find_spec("triton") is None:
        raise UsageError(
            "COMPRESSIVE_ATTENTION=triton: triton is not installed; it comes with torch for CUDA on Linux"
        )
    return fused if name == "torch" else tiled


def _all_halves(
    q_BHTK: Tensor, tables: Sequence[PositionTable], query_place_T: Tensor
) -> tuple[Tensor, Tensor]:
    """``_halves`` of all tables side by side.

    Keys of a run have zeros where the features of other runs stand, so that all are read at once.
    """
    queries, keys, start = [], [], 0
    total = sum(table.key_place_S.shape[0] for table in tables)
    for table in tables:
        count = table.key_place_S.shape[0]
        position_query, position_key = _halves(q_BHTK, table, query_place_T)
        queries.append(position_query)
        keys.append(pad(position_key, (0, 0, start, total - start - count)))
        start += count
    return torch.cat(queries, dim=-1), torch.cat(keys, dim=-1)


def _halves(q_BHTK: Tensor, table: PositionTable, query_place_T: Tensor) -> tuple[Tensor, Tensor]:
    """[B, H, T, F] and [S, F], whose product is the position term of the logits."""
    weight_HKF, bias_HK, key_place_S = table
    dtype = q_BHTK.dtype  # under autocast the parameters are float32, the queries are not
    a_BHTF = (q_BHTK + bias_HK[:, None].to(dtype)) @ weight_HKF
    feature_SF = _key_features(key_place_S, weight_HKF.shape[-1]).to(dtype)
    return _rotate(a_BHTF, query_place_T), feature_SF


def _rotate(a_BHTF: Tensor, place_T: Tensor) -> Tensor:
    """Turns (sine half, cosine half) of ``a`` by the angles of the places."""
    sine, cosine = a_BHTF.chunk(2, dim=-1)
    angle = place_T[:, None] * frequencies(a_BHTF.shape[-1], place_T.device, place_T.dtype)
    sin, cos = angle.sin().to(a_BHTF.dtype), angle.cos().to(a_BHTF.dtype)
    return torch.cat([sine * sin + cosine * cos, cosine * sin - sine * cos], dim=-1)


def _key_features(place_S: Tensor, features: int) -> Tensor:
    """[S, F] cosines, then sines, of the keys' places: the other half of the angle-addition formulas."""
    angle = place_S[:, None] * frequencies(features, place_S.device, place_S.dtype)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
