"""Multi-head attention over [compressed ; recent ; window] with relative positions.

Shape legend: B batch, T queries, S keys, H heads, K head width, D model width, F position features.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from compressive_transformer import ops
from compressive_transformer.errors import UsageError

PositionScheme = Literal["continued", "time", "separate"]


SHARPNESS = (5.0, 40.0)
"""Beta of the first and of the last head, see ``RelativeAttention.reset_parameters``."""


class Places(NamedTuple):
    """Where queries and keys stand, counted in tokens from the beginning of the segment."""

    query_T: Tensor
    compressed_C: Tensor
    rest_S: Tensor
    """Keys of the recent memory and of the window."""
    even: bool
    """Whether the keys of each position table stand one place apart."""


def places(
    scheme: PositionScheme,
    sizes: tuple[int, int, int],
    learnt: tuple[int, int],
    fill: int,
    length: int,
    rate: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Places:
    """Places for ``length`` queries behind ``fill`` window rows.

    They depend on slot numbers only, never on how full memory is. The schemes differ in where compressed slot
    j of C stands: ``continued``: one place before the next slot, behind the M recent ones; ``time``: at the
    middle of the c tokens that it stands for; ``separate``: as if it touched the segment (the authors' code,
    where a projection of its own tells it from the recent memory).

    A memory may be larger than that of training, of C and M slots ``learnt``. What would stand farther away
    than anything did in training stands at the farthest place of then: attention to distances that it never
    learnt made larger memories worse (``experiments/sizes.py``).
    """
    C, M, _ = sizes
    learnt_C, learnt_M = learnt
    query = torch.arange(fill, fill + length, device=device, dtype=dtype)
    rest = torch.arange(-M, fill + length, device=device, dtype=dtype)
    back = torch.arange(C, 0, -1, device=device, dtype=dtype)
    if scheme == "separate":
        even = learnt_C >= C and learnt_M >= M
        return Places(query, (-back).clamp(min=-learnt_C), rest.clamp(min=-learnt_M), even)
    if scheme == "time":
        compressed = -M - rate * back + (rate - 1) / 2
        first = -learnt_M - (rate * learnt_C - (rate - 1) / 2 if learnt_C else 0)
    else:
        compressed, first = -M - back, -learnt_M - learnt_C
    even = (scheme == "continued" or rate == 1 or not C) and learnt_C + learnt_M >= C + M
    return Places(query, compressed.clamp(min=first), rest.clamp(min=first), even)


class RelativeAttention(nn.Module):
    """Relative multi-head attention; projections without bias but the last.

    Args:
        dim: model width D, a multiple of num_heads.
        num_heads: H.
        scheme: see ``places``.
        learnt: compressed and recent slots of the layer in training, see ``places``.
        position_features: F, sinusoids per distance (even); the authors use D.
        qk_norm: divide the queries and keys of each head by their root mean square (Henry et al. 2020).
        dropout: probability of dropping an attention weight.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        scheme: PositionScheme = "continued",
        learnt: tuple[int, int],
        position_features: int | None = None,
        qk_norm: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise UsageError(f"dim {dim} is not divisible by num_heads {num_heads}; change one of them")
        if scheme not in get_args(PositionScheme):
            raise UsageError(f"position scheme {scheme!r} is unknown; use one of {get_args(PositionScheme)}")
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.scheme: PositionScheme = scheme
        self.learnt = learnt
        self.position_features = position_features or dim
        if self.position_features % 2:
            raise UsageError(f"position_features {self.position_features} is odd; use an even number")
        self.qk_norm, self.dropout = qk_norm, dropout
        self.on_gpu = ops.for_gpu()
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, dim)
        self.content_bias = nn.Parameter(torch.zeros(num_heads, self.head_dim))
        # Table 0 serves recent memory and window, table 1 the compressed memory, if it has its own.
        tables = 2 if scheme == "separate" else 1
        self.position_keys = nn.ModuleList(
            nn.Linear(self.position_features, dim, bias=False) for _ in range(tables)
        )
        self.position_bias = nn.Parameter(torch.zeros(tables, num_heads, self.head_dim))

    def reset_parameters(self) -> None:
        """Position keys and biases such that, before training, heads look near rather than anywhere.

        Random attention spreads over all of memory, whose noise drowns what the last few tokens say, and
        learning begins late. So position keys start orthonormal, and v such that the logit of a distance d is
        beta times the mean of cos(f_k d): 1 at d = 0, falling with log d. Beta grows from head to head, from
        wide to narrow attention.
        """
        features, heads = self.position_features, self.num_heads
        exact = torch.promote_types(self.position_bias.dtype, torch.float32)
        nearness = torch.cat([torch.zeros(features // 2), torch.ones(features // 2)]).to(exact)
        nearness /= features // 2
        sharpness = SHARPNESS[0] * (SHARPNESS[1] / SHARPNESS[0]) ** torch.linspace(0, 1, heads).to(exact)
        for table, linear in enumerate(self.position_keys):
            weight = cast("nn.Linear", linear).weight.detach()
            for head, weight_KF in enumerate(weight.view(heads, self.head_dim, features)):
                basis_Fr = torch.randn(features, min(self.head_dim, features), dtype=exact)
                basis_Fr[:, 0] = nearness  # so that the position keys can tell nearness, also if K < F
                basis_Fr = torch.linalg.qr(basis_Fr).Q
                turn_Kr = nn.init.orthogonal_(torch.empty(self.head_dim, basis_Fr.shape[1], dtype=exact))
                weight_KF.copy_(turn_Kr @ basis_Fr.T)
                bias_K = turn_Kr @ (basis_Fr.T @ nearness)
                self.position_bias.detach()[table, head] = sharpness[head] * bias_K

    def queries(self, x_BTD: Tensor) -> Tensor:
        """[B, H, T, K] queries scaled by K^-1/2, without biases."""
        return self.normed(self._heads(self.query(x_BTD))) * self.head_dim**-0.5

    def keys_values(self, x_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each [B, H, S, K]."""
        return self.normed(self._heads(self.key(x_BSD))), self._heads(self.value(x_BSD))

    def constant_keys_values(self, x_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """``keys_values`` through which gradient flows to x but not to the projections."""
        key, value = (nn.functional.linear(x_BSD, p.weight.detach()) for p in (self.key, self.value))
        return self.normed(self._heads(key)), self._heads(value)

    def normed(self, x: Tensor) -> Tensor:
        """Queries or keys [..., K] as they are compared."""
        # Autocast computes it in float32, and would go on in that.
        return rms_norm(x, (self.head_dim,), eps=1e-6).to(x.dtype) if self.qk_norm else x

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        at: Places,
        visible_BTS: Tensor,
        with_weights: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends from T queries to S keys, their own the last T.

        Returns:
            The output [B, T, D], and the attention weights [B, H, T, S] if they are asked for. Without, a GPU
            uses fused kernels; a CPU is faster in plain products (``docs/performance.md``).
        """
        per_head = (self.num_heads, self.head_dim, self.position_features)
        weight = [cast("nn.Linear", linear).weight.view(per_head) for linear in self.position_keys]
        if self.scheme == "separate":
            tables = [
                ops.PositionTable(weight[1], self.position_bias[1], at.compressed_C),
                ops.PositionTable(weight[0], self.position_bias[0], at.rest_S),
            ]
        else:
            place = torch.cat([at.compressed_C, at.rest_S])
            tables = [ops.PositionTable(weight[0], self.position_bias[0], place)]
        attend = self._attention(queries, keys, at, with_weights)
        attended, weights = attend(
            queries,
            keys,
            values,
            self.content_bias,
            tables,
            at.query_T,
            visible_BTS,
            self.dropout if self.training else 0.0,
        )
        return self.output(attended.transpose(1, 2).flatten(2)), weights

    def _attention(self, queries: Tensor, keys: Tensor, at: Places, with_weights: bool) -> ops.Attention:
        """Which of the equal functions is fastest for these, as far as was measured."""
        if queries.is_cuda and not with_weights:
            return self.on_gpu
        shape = (queries.shape[0], queries.shape[2], keys.shape[2])
        pays = at.even and ops.shift_pays(shape, self.head_dim, self.position_features)
        return ops.shifted if pays else ops.rotated

    def _heads(self, x_BSD: Tensor) -> Tensor:
        return x_BSD.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
