"""WaveNet (van den Oord et al. 2016): dilated causal convolutions, as a baseline on the same streams.

It keeps its state as a Transformer does, in a ``Memory`` without compressed slots: the recent memory of a
layer holds as many of its inputs as it is dilated, so that each layer finds what stood ``dilation`` samples
ago. Hence lanes, resets, checkpoints and resume are those of the Compressive Transformer.

Shape legend: B batch, T time, D width, E dilation, N segment.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from compressive_transformer.errors import UsageError
from compressive_transformer.memory import EMPTY, LayerMemory, Memory, append, drop_stale
from compressive_transformer.model.config import ModelConfig
from compressive_transformer.model.core import CompressiveTransformer, Output
from compressive_transformer.nn.piece import Piece, Step


class WaveNetLayer(nn.Module):
    """A gated convolution over two samples, ``dilation`` apart, to the residual and to the skip sum.

    What goes from layer to layer is [B, T, 2 D]: the residual stream, and the sum of what skips to the end.

    Args:
        dim: D.
        dilation: E.
        num_layers: of the stack, by which the skip sum is scaled.
    """

    compressor = None
    rate = 1

    def __init__(self, dim: int, dilation: int, num_layers: int):
        super().__init__()
        self.dim, self.dilation = dim, dilation
        self.gate = nn.Linear(2 * dim, 2 * dim)
        """Of [past ; present] to [filter ; gate]."""
        self.output = nn.Linear(dim, 2 * dim)
        """To [residual ; skip]."""
        nn.init.normal_(self.gate.weight, std=(2 * dim) ** -0.5)
        nn.init.normal_(self.output.weight, std=(dim * num_layers) ** -0.5)
        for bias in (self.gate.bias, self.output.bias):
            nn.init.zeros_(bias)

    def forward(
        self, hidden: Tensor, memory: LayerMemory, cache: None, piece: Piece, visible: None, with_loss: bool
    ) -> Step:
        """See ``CompressiveLayer.forward``: the same call, so that it can be sharded and compiled alike."""
        N, fill, T = memory.sizes[2], piece.phase % memory.sizes[2], piece.length
        x_BTD = hidden[..., : self.dim]
        memory = append(memory, x_BTD.to(memory.window.dtype), piece.document_BT, fill)
        rows = torch.cat([memory.recent, memory.window], dim=1)
        same = memory.document[:, fill : fill + T] == piece.document_BT
        past_BTD = rows[:, fill : fill + T].where(same[..., None], 0)
        if piece.resets:
            memory = drop_stale(memory, piece.last_document)
        if fill + T == N:
            memory = self._shift(memory)
        return Step(hidden + self.mix(past_BTD, x_BTD), memory, None, None, None)

    def mix(self, past: Tensor, present: Tensor) -> Tensor:
        """[..., 2 D] that is added to the residual stream and the skip sum."""
        filtered, gate = self.gate(torch.cat([past, present], dim=-1)).chunk(2, dim=-1)
        return self.output(filtered.tanh() * gate.sigmoid())

    def _shift(self, memory: LayerMemory) -> LayerMemory:
        """Moves a full window into the recent memory."""
        N = memory.sizes[2]
        recent = torch.cat([memory.recent, memory.window], dim=1)[:, N:].contiguous()
        empty = torch.full_like(memory.document[:, :N], EMPTY)
        document = torch.cat([memory.document[:, N:], empty], dim=1)
        return memory._replace(recent=recent, window=torch.zeros_like(memory.window), document=document)

    def visible(self, memory: LayerMemory, piece: Piece) -> None:
        """Nothing is attended to."""

    def matrices(self) -> list[nn.Parameter]:
        """Weights of the linear maps."""
        return [p for p in self.parameters() if p.ndim == 2]


class Skips(nn.Module):
    """The features [..., D] that the head reads, of the skip sum."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.map = nn.Linear(dim, dim)
        nn.init.normal_(self.map.weight, std=dim**-0.5)
        nn.init.zeros_(self.map.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Of [..., 2 D]."""
        return self.map(hidden[..., self.dim :].relu()).relu()


class WaveNet(CompressiveTransformer):
    """A stack of dilated convolutions with the interface of the core.

    Args:
        config: ``dim`` is the width of residual and skip connections, ``memory`` the dilation of each layer.
        input_dim, settings: as for ``CompressiveTransformer``.
    """

    def __init__(self, config: ModelConfig | None = None, *, input_dim: int | None = None, **settings: Any):
        super().__init__(config, input_dim=input_dim, **settings)
        self.final_norm = Skips(self.config.dim)

    def make_layer(self, index: int) -> nn.Module:
        """A convolution."""
        c = self.config
        return WaveNetLayer(c.dim, c.layer_sizes()[index][0], c.num_layers)

    def reset_parameters(self) -> None:
        """Layers have their own start."""

    def begin(self, inputs: Tensor) -> Tensor:
        """The residual stream, and a skip sum of nothing."""
        return torch.cat([inputs, torch.zeros_like(inputs)], dim=-1)

    def init_memory(self, batch_size: int, *, position: int = 0, **sizes: Any) -> Memory:
        """As of the core; but the memory of a layer is as long as it is dilated, in evaluation too.

        Raises:
            UsageError: another size is asked for.
        """
        own = {"memory": self.config.memory, "compressed_memory": 0}
        for name, size in sizes.items():
            if size is not None and size != own[name]:
                raise UsageError(f"{name} {size}: a WaveNet has no memory of other sizes; leave it out")
        return super().init_memory(batch_size, position=position)

    def forward(self, inputs: Tensor, *args: Any, with_attention: bool = False, **settings: Any) -> Output:
        """As of the core.

        Raises:
            UsageError: as of the core, or attention is asked for.
        """
        if with_attention:
            raise UsageError("a WaveNet has no attention; leave with_attention out")
        return super().forward(inputs, *args, **settings)

    def with_cache(self, memory: Memory) -> Memory:
        """The state itself: there are no keys and values."""
        return memory


class WaveNetDecoder:
    """Reads one token of each row at a time: two products a layer, whatever the receptive field.

    Args:
        model: a language model around a WaveNet; its weights must not change while it is read with.
        memory: where to go on from.
    """

    @torch.no_grad()
    def __init__(self, model: Any, memory: Memory):
        self.model, self.at = model, 0
        self.layers = cast("list[WaveNetLayer]", model.core.layers)
        fill = memory.fill
        self.past = []
        for m in memory.layers:
            E = m.sizes[1]
            seen = m.document[:, : E + fill, None] == memory.document[:, None, None]
            rows = torch.cat([m.recent, m.window[:, :fill]], dim=1).where(seen, 0)
            self.past.append(list(rows[:, rows.shape[1] - E :].unbind(1)))

    @torch.no_grad()
    def read(self, tokens_B: Tensor) -> Tensor:
        """Logits [B, V] of what follows these int64 tokens."""
        with self.model.arithmetic(tokens_B.device):
            features_BD = self._features(self.model.embedding(tokens_B))
        return self.model.head(features_BD)

    def _features(self, x: Tensor) -> Tensor:
        D = x.shape[-1]
        skips = torch.zeros_like(x)
        for layer, past in zip(self.layers, self.past, strict=True):
            at = self.at % layer.dilation
            made = layer.mix(past[at], x)
            past[at] = x
            x, skips = x + made[:, :D], skips + made[:, D:]
        self.at += 1
        return self.model.core.final_norm(torch.cat([x, skips], dim=-1))
