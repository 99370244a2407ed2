"""The core: features in, features out, memory in, memory out.

Shape legend: B batch, T time, D model width, L layers, H heads, N segment, M recent slots, C compressed
slots, S all slots.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from compressive_transformer.errors import UsageError
from compressive_transformer.memory import Memory, empty_layer
from compressive_transformer.model.checks import check_inputs, check_memory, check_resets
from compressive_transformer.model.config import ModelConfig, check_sizes, configure, each_layer
from compressive_transformer.nn.attention import RelativeAttention
from compressive_transformer.nn.compression import COMPRESSORS, Compressor, DilatedConv
from compressive_transformer.nn.dropout import Dropout
from compressive_transformer.nn.feed_forward import FeedForward
from compressive_transformer.nn.layer import CompressiveLayer
from compressive_transformer.nn.piece import Piece


class Output(NamedTuple):
    """What the model gives for [B, T] inputs."""

    features: Tensor
    """[B, T, D]; from a language model logits [B, T, V], or losses [B, T] if it was given targets."""
    memory: Memory
    """The state after the last input."""
    compression_losses: Tensor
    """[L] auxiliary loss of each layer, mean over the segments that ended in this call; zeros if none
    did, and in evaluation mode, where nothing learns from it."""
    attention: tuple[Tensor, ...] | None = None
    """If asked for: of each layer [C + M + N], the attention weight of each slot, mean over batch, heads and
    queries."""

    @property
    def logits(self) -> Tensor:
        """``features``, by its name in a language model."""
        return self.features

    @property
    def losses(self) -> Tensor:
        """``features``, by its name in a language model with targets: -log probabilities in nats."""
        return self.features

    @property
    def compression_loss(self) -> Tensor:
        """Scalar auxiliary loss: the mean over layers, as in the authors' code (the paper writes a sum)."""
        return self.compression_losses.mean()


class CompressiveTransformer(nn.Module):
    """The core: a stack of layers with compressed memories (Rae et al. 2020).

    ``CompressiveTransformer(ModelConfig(dim=512))`` and ``CompressiveTransformer(dim=512)`` are the same.

    Args:
        config: the shape.
        input_dim: width of the inputs, if they are features that need a linear map to D first.
        settings: fields of ``ModelConfig`` to change.
    """

    def __init__(self, config: ModelConfig | None = None, *, input_dim: int | None = None, **settings: Any):
        super().__init__()
        self.config = configure(config, settings)
        self.input = nn.Linear(input_dim, self.config.dim) if input_dim else None
        layers = nn.ModuleList(self.make_layer(i) for i in range(self.config.num_layers))
        self.layers = cast("list[CompressiveLayer]", layers)
        self.final_norm = nn.LayerNorm(self.config.dim) if self.config.final_norm else nn.Identity()
        self.dropout = Dropout(self.config.dropout, self.config.variational_dropout)
        c = self.config
        self._period = math.lcm(c.segment, c.compression_rate)
        self.reset_parameters()

    def make_layer(self, index: int) -> nn.Module:
        """A layer, with whatever weights."""
        return _build_layer(self.config, index)

    def reset_parameters(self) -> None:
        """Normal weights of variance 1 / fan_in; each sub-layer's last map is divided by sqrt(2 L).

        Position keys and biases have a start of their own, see ``RelativeAttention.reset_parameters``.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                std = module.in_features**-0.5
                if name.endswith(("attention.output", "feed_forward.down")):
                    std /= math.sqrt(2 * self.config.num_layers)
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in self.layers:
            layer.attention.reset_parameters()

    def init_memory(
        self,
        batch_size: int,
        *,
        memory: int | tuple[int, ...] | None = None,
        compressed_memory: int | tuple[int, ...] | None = None,
        position: int = 0,
    ) -> Memory:
        """An empty state on the model's device and in its dtype.

        Args:
            batch_size: B.
            memory, compressed_memory: other sizes than the model was trained with (evaluation may enlarge).
            position: where the clock starts, i.e. the alignment of the stream to the segments.
        """
        if batch_size < 1 or position < 0:
            raise UsageError(f"batch_size {batch_size}, position {position}: use at least 1, and at least 0")
        c = self.config
        memory = c.memory if memory is None else memory
        compressed_memory = c.compressed_memory if compressed_memory is None else compressed_memory
        recent = each_layer("memory", memory, c.num_layers)
        compressed = each_layer("compressed_memory", compressed_memory, c.num_layers)
        weight = next(self.layers[0].parameters())
        layers = []
        for layer, M, C in zip(self.layers, recent, compressed, strict=True):
            if C and layer.compressor is None:
                raise UsageError(
                    f"compressed_memory {C}: this model was made without a compressor (Transformer-XL); "
                    "use 0, or train one with compressed_memory"
                )
            check_sizes(M, C, c.segment, layer.rate)
            sizes, track_usage = (C, M, c.segment), c.compressor == "most-used" and C > 0
            layers.append(empty_layer(batch_size, sizes, c.dim, track_usage, weight.device, weight.dtype))
        document = torch.zeros(batch_size, dtype=torch.int64, device=weight.device)
        return Memory(tuple(layers), document, position)

    def with_cache(self, memory: Memory) -> Memory:
        """The same state with keys and values kept along, so that reading on costs less. No gradients.

        The cache follows from the weights: after changing them call this again (or drop it by
        ``memory._replace(cache=None)``).
        """
        check_memory(self, memory, memory.batch_size)
        with torch.no_grad():
            cache = tuple(
                layer.cache(m, memory.fill) for layer, m in zip(self.layers, memory.layers, strict=True)
            )
        return memory._replace(cache=cache)

    def entered(self, inputs: Tensor) -> Tensor:
        """Inputs [..., D] or [..., input_dim] as the first layer takes them, [..., D]."""
        if self.input is None:
            return inputs
        hidden = self.dropout(self.input(inputs))
        return hidden.relu() if self.config.faithful else hidden

    def forward(
        self,
        inputs: Tensor,
        memory: Memory | None = None,
        resets: Tensor | None = None,
        *,
        with_attention: bool = False,
    ) -> Output:
        """Reads T inputs after what memory has seen. T is free: chopping a stream changes nothing.

        Args:
            inputs: [B, T, D] features, or [B, T, input_dim].
            memory: the state; None is the empty one.
            resets: bool [B, T], True where a document begins: nothing before is seen from there on.
            with_attention: also return the mean attention of each slot.

        Raises:
            UsageError: inputs, memory and resets do not fit each other or the model.
        """
        if memory is None:
            memory = self.init_memory(inputs.shape[0])
        check_inputs(inputs, self.input.in_features if self.input is not None else self.config.dim)
        check_memory(self, memory, inputs.shape[0])
        check_resets(resets, inputs.shape[:2], self.config.faithful)
        inputs = self.begin(self.entered(inputs))
        document_BT = memory.document[:, None].expand(inputs.shape[:2])
        if resets is not None:
            document_BT = document_BT + resets.cumsum(dim=1)
        outputs, losses, attention = [], [], _AttentionMeter(memory) if with_attention else None
        for start, stop in _pieces(memory.position, inputs.shape[1], memory.segment):
            phase = memory.position % self._period
            piece = Piece(document_BT[:, start:stop], phase, resets is not None, with_attention)
            hidden, memory, loss = self._read_piece(inputs[:, start:stop], memory, piece, attention)
            outputs.append(hidden)
            losses += loss
        features = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        total = torch.stack(losses).mean(dim=0) if losses else features.new_zeros(len(self.layers))
        return Output(self.final_norm(features), memory, total, attention and attention.mean())

    def begin(self, inputs: Tensor) -> Tensor:
        """What the first layer reads, of inputs [B, T, D]."""
        return inputs

    def _read_piece(
        self, hidden: Tensor, memory: Memory, piece: Piece, attention: _AttentionMeter | None
    ) -> tuple[Tensor, Memory, list[Tensor]]:
        """Reads tokens of one segment; memory shifts if they finish it."""
        layers, caches, losses = [], [], []
        visible: dict[object, Tensor] = {}
        for i, layer in enumerate(self.layers):
            old, cache = memory.layers[i], memory.cache[i] if memory.cache else None
            # Layers of equal sizes hold the same documents in the same places, if usage has no say in it.
            alike = old.sizes if old.usage is None else i
            if alike not in visible:
                visible[alike] = layer.visible(old, piece)
            hidden, layer_memory, cache, loss, weights = layer(
                hidden, old, cache, piece, visible[alike], self.training
            )
            if attention is not None and weights is not None:
                attention.add(i, weights)
            layers.append(layer_memory)
            caches.append(cache)
            losses.append(loss)
        memory = Memory(
            tuple(layers),
            piece.last_document,
            memory.position + piece.length,
            tuple(caches) if memory.cache else None,
        )
        return hidden, memory, [torch.stack(losses)] if losses[0] is not None else []


class _AttentionMeter:
    """Adds up attention weights per slot, over the pieces of a call."""

    def __init__(self, memory: Memory):
        self.totals = [layer.window.new_zeros(sum(layer.sizes)) for layer in memory.layers]
        self.queries = [0] * len(memory.layers)

    def add(self, layer: int, weights_BHTS: Tensor) -> None:
        B, H, T, S = weights_BHTS.shape
        self.totals[layer][:S] += weights_BHTS.detach().sum(dim=(0, 1, 2)) / (B * H)
        self.queries[layer] += T

    def mean(self) -> tuple[Tensor, ...]:
        return tuple(total / n for total, n in zip(self.totals, self.queries, strict=True))


def _build_layer(c: ModelConfig, index: int) -> CompressiveLayer:
    recent, compressed = c.layer_sizes()[index]
    scheme = c.positions if compressed else "continued"
    attention = RelativeAttention(
        c.dim,
        c.num_heads,
        scheme=scheme,
        learnt=(compressed, recent),
        position_features=c.position_features,
        qk_norm=c.qk_norm,
        dropout=c.dropout,
    )
    dropout = Dropout(c.dropout, c.variational_dropout)
    feed_forward = FeedForward(c.dim, c.mlp_dim or 4 * c.dim, c.activation, dropout)
    compressor = _build_compressor(c) if compressed else None
    return CompressiveLayer(
        c.dim,
        attention,
        feed_forward,
        compressor,
        loss=c.compression_loss,
        norm=c.norm,
        dropout=dropout,
        gated=c.gating == "gru",
        mask_empty=not c.faithful,
    )


def _build_compressor(c: ModelConfig) -> Compressor:
    if c.compressor == "dilated":
        return DilatedConv(c.dim, c.compression_rate, c.dilations, padded=not c.faithful)
    return COMPRESSORS[c.compressor](c.dim, c.compression_rate)


def _pieces(position: int, length: int, segment: int) -> Iterator[tuple[int, int]]:
    """Cuts ``length`` tokens at the segment boundaries."""
    start = 0
    while start < length:
        stop = min(start + segment - (position + start) % segment, length)
        yield start, stop
        start = stop
