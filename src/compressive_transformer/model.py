"""The model: features or tokens in, features or logits out, memory in, memory out.

Shape legend: B batch, T time, D model width, L layers, V vocabulary, S all slots.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from compressive_transformer.errors import UsageError
from compressive_transformer.memory import Memory, drop_stale, empty_layer, held_rows
from compressive_transformer.nn.attention import PositionScheme, RelativeAttention
from compressive_transformer.nn.compression import COMPRESSORS, Compressor, DilatedConv
from compressive_transformer.nn.layer import (
    ACTIVATIONS,
    CompressiveLayer,
    FeedForward,
    LossName,
    NormPlacement,
    Piece,
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a Compressive Transformer. Lengths are in tokens or slots."""

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
    compressor: Literal["conv", "dilated", "mean", "max", "most-used"] = "conv"
    """Compression function (paper section 3.2)."""
    compression_loss: LossName = "attention"
    """What teaches the compressor; 'none' leaves it to training over several segments."""
    dilations: tuple[int, ...] = (1, 2, 4)
    """Dilations of the dilated compressor."""
    positions: PositionScheme = "continued"
    """Where compressed slots stand: behind the recent ones, at their true time, or with a scale of their own."""
    position_features: int | None = None
    """Sinusoids that describe a distance; dim if not given."""
    norm: NormPlacement = "pre"
    """Layer norm before each sub-layer, or after it as in the paper."""
    final_norm: bool = True
    """A last layer norm over the output (the authors have none)."""
    activation: Literal["gelu", "relu"] = "gelu"
    """Activation of the feed-forward."""
    dropout: float = 0.0
    """Probability of dropping attention weights, hidden units and sub-layer outputs in training."""
    faithful: bool = False
    """As the authors' released code: empty slots are attended to as zeros, dilated convolutions lose rows,
    features enter through a ReLU."""

    def __post_init__(self):
        for name in ("dim", "num_layers", "num_heads", "segment", "compression_rate"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)} is not allowed; use 1 or more")
        if self.dim % self.num_heads:
            raise UsageError(f"dim {self.dim} is not divisible by num_heads {self.num_heads}; change one of them")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout {self.dropout} is not allowed; use 0 or more, and less than 1")
        self._check_choices()
        for recent, compressed in self.layer_sizes():
            check_sizes(recent, compressed, self.segment, self.compression_rate)

    def _check_choices(self) -> None:
        choices = {"compressor": COMPRESSORS, "compression_loss": get_args(LossName), "norm": ("pre", "post"),
                   "positions": get_args(PositionScheme), "activation": ACTIVATIONS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} {getattr(self, name)!r} is unknown; use one of {', '.join(allowed)}")

    def layer_sizes(self) -> list[tuple[int, int]]:
        """(recent, compressed) slots of each layer."""
        return list(zip(_each_layer("memory", self.memory, self.num_layers),
                        _each_layer("compressed_memory", self.compressed_memory, self.num_layers), strict=True))


def _each_layer(name: str, size: int | tuple[int, ...], num_layers: int) -> tuple[int, ...]:
    sizes = (size,) * num_layers if isinstance(size, int) else tuple(size)
    if len(sizes) != num_layers:
        raise UsageError(f"{name} has {len(sizes)} sizes for {num_layers} layers; give one, or one for each layer")
    if min(sizes) < 0:
        raise UsageError(f"{name} {min(sizes)} is not allowed; use 0 or more slots")
    return sizes


def check_sizes(recent: int, compressed: int, segment: int, rate: int) -> None:
    """Refuses a recent memory too small to hold the rows that wait for a whole group of ``rate``."""
    if compressed and segment % rate and recent < rate - 1:
        raise UsageError(f"compression_rate {rate} does not divide segment {segment}; then memory must hold at "
                         f"least {rate - 1} slots, not {recent}: change one of them")


class Output(NamedTuple):
    """What the model gives for [B, T] inputs."""

    features: Tensor
    """[B, T, D], or logits [B, T, V] from a language model."""
    memory: Memory
    """The state after the last input."""
    compression_losses: Tensor
    """[L] auxiliary loss of each layer, mean over the segments that ended in this call; zeros if none did."""
    attention: tuple[Tensor, ...] | None = None
    """If asked for: of each layer [C + M + N], the attention weight of each slot, mean over batch, heads and
    queries."""

    @property
    def logits(self) -> Tensor:
        """``features``, by its name in a language model."""
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
        self.config = _configure(config, settings)
        self.input = nn.Linear(input_dim, self.config.dim) if input_dim else None
        self.layers = nn.ModuleList(_build_layer(self.config, i) for i in range(self.config.num_layers))
        self.final_norm = nn.LayerNorm(self.config.dim) if self.config.final_norm else nn.Identity()
        self.dropout = nn.Dropout(self.config.dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal weights of variance 1 / fan_in; each sub-layer's last map is divided by sqrt(2 L)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                std = module.in_features**-0.5
                if name.endswith(("attention.output", "feed_forward.down")):
                    std /= math.sqrt(2 * self.config.num_layers)
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def init_memory(self, batch_size: int, *, memory: int | tuple[int, ...] | None = None,
                    compressed_memory: int | tuple[int, ...] | None = None, position: int = 0) -> Memory:
        """An empty state on the model's device and in its dtype.

        Args:
            batch_size: B.
            memory, compressed_memory: other sizes than the model was trained with (evaluation may enlarge).
            position: where the clock starts, i.e. the alignment of the stream to the segments.
        """
        if batch_size < 1 or position < 0:
            raise UsageError(f"batch_size {batch_size} and position {position}: use at least 1, and at least 0")
        c = self.config
        recent = _each_layer("memory", c.memory if memory is None else memory, c.num_layers)
        compressed = _each_layer("compressed_memory",
                                 c.compressed_memory if compressed_memory is None else compressed_memory, c.num_layers)
        weight = self.layers[0].attention.query.weight
        layers = []
        for layer, M, C in zip(self.layers, recent, compressed, strict=True):
            if C and layer.compressor is None:
                raise UsageError(f"compressed_memory {C}: this model was made without a compressor (Transformer-XL); "
                                 "use 0, or train one with compressed_memory")
            check_sizes(M, C, c.segment, layer.rate)
            layers.append(empty_layer(batch_size, (C, M, c.segment), c.dim, c.compressor == "most-used" and C > 0,
                                      weight.device, weight.dtype))
        document = torch.zeros(batch_size, dtype=torch.int64, device=weight.device)
        return Memory(tuple(layers), document, position)

    def with_cache(self, memory: Memory) -> Memory:
        """The same state with keys and values kept along, so that reading on costs less. No gradients.

        The cache follows from the weights: after changing them call this again (or drop it by
        ``memory._replace(cache=None)``).
        """
        self.check_memory(memory, memory.batch_size)
        with torch.no_grad():
            from compressive_transformer.memory import KeysValues

            cache = tuple(
                KeysValues(*layer.attention.keys_values(layer.slots(m, memory.fill)))
                for layer, m in zip(self.layers, memory.layers, strict=True)
            )
        return memory._replace(cache=cache)

    def forward(self, inputs: Tensor, memory: Memory | None = None, resets: Tensor | None = None, *,
                with_attention: bool = False) -> Output:
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
        self._check(inputs, memory, resets)
        if self.input is not None:
            inputs = self.input(inputs)
            inputs = self.dropout(inputs).relu() if self.config.faithful else self.dropout(inputs)
        document_BT = memory.document[:, None].expand(inputs.shape[:2])
        if resets is not None:
            document_BT = document_BT + resets.cumsum(dim=1)
        outputs, losses, attention = [], [], _AttentionMeter(memory) if with_attention else None
        for start, stop in _pieces(memory.position, inputs.shape[1], memory.segment):
            hidden, memory, loss = self._read_piece(inputs[:, start:stop], memory, document_BT[:, start:stop],
                                                    resets is not None, attention)
            outputs.append(hidden)
            losses += loss
        features = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        total = torch.stack(losses).mean(dim=0) if losses else features.new_zeros(len(self.layers))
        return Output(self.final_norm(features), memory, total, attention and attention.mean())

    def _read_piece(self, hidden: Tensor, memory: Memory, document_BT: Tensor, resets: bool,
                    attention: _AttentionMeter | None) -> tuple[Tensor, Memory, list[Tensor]]:
        """Reads tokens of one segment; shifts memory if they finish it."""
        fill, segments = memory.fill, memory.position // memory.segment
        piece = Piece(document_BT, fill, segments)
        document_B = document_BT[:, -1]
        finished = fill + hidden.shape[1] == memory.segment
        layers, caches, losses = [], [], []
        for i, layer in enumerate(self.layers):
            hidden, layer_memory, cache, weights = layer(hidden, memory.layers[i], memory.cache and memory.cache[i],
                                                         piece)
            if attention is not None:
                attention.add(i, weights)
            if resets:
                layer_memory = drop_stale(layer_memory, document_B)
            cache = cache if memory.cache else None
            if finished:
                layer_memory, cache, loss = layer.shift(layer_memory, cache, document_B, segments, self.training)
                losses.append(loss)
            layers.append(layer_memory)
            caches.append(cache)
        memory = Memory(tuple(layers), document_B, memory.position + piece.document_BT.shape[1],
                        tuple(caches) if memory.cache else None)
        return hidden, memory, [torch.stack(losses)] if losses else []

    def check_memory(self, memory: Memory, batch_size: int) -> None:
        """Refuses a memory of another model, batch, dtype or device.

        Raises:
            UsageError: names what differs and what to do.
        """
        remedy = "make one by model.init_memory(batch_size) and pass on the memory that each call returns"
        weight, c = self.layers[0].attention.query.weight, self.config
        if len(memory.layers) != c.num_layers:
            raise UsageError(f"memory has {len(memory.layers)} layers, the model {c.num_layers}; {remedy}")
        if memory.batch_size != batch_size:
            raise UsageError(f"memory has {memory.batch_size} rows, the inputs {batch_size}; {remedy}")
        for layer, m in zip(self.layers, memory.layers, strict=True):
            C, M, N = m.sizes
            if (N, m.window.shape[2]) != (c.segment, c.dim):
                raise UsageError(f"memory is of a model with segment {N} and dim {m.window.shape[2]}, this one has "
                                 f"{c.segment} and {c.dim}; {remedy}")
            if (C > 0 and layer.compressor is None) or (m.usage is not None) != (c.compressor == "most-used" and C > 0):
                raise UsageError(f"memory is of a model with another compressor; {remedy}")
            if m.window.dtype != weight.dtype or m.window.device != weight.device:
                raise UsageError(f"memory is {m.window.dtype} on {m.window.device}, the model {weight.dtype} on "
                                 f"{weight.device}; use memory.to(device, dtype)")

    def _check(self, inputs: Tensor, memory: Memory, resets: Tensor | None) -> None:
        width = self.input.in_features if self.input is not None else self.config.dim
        if inputs.ndim != 3 or inputs.shape[2] != width or inputs.shape[1] < 1:
            raise UsageError(f"inputs have shape {tuple(inputs.shape)}; give [batch, time >= 1, {width}]")
        self.check_memory(memory, inputs.shape[0])
        if memory.cache is not None and torch.is_grad_enabled():
            raise UsageError("memory keeps keys and values, which give no gradient; use torch.no_grad() for reading, "
                             "or memory._replace(cache=None) for training")
        if resets is None:
            return
        if resets.dtype != torch.bool or resets.shape != inputs.shape[:2]:
            raise UsageError(f"resets are {resets.dtype} of shape {tuple(resets.shape)}; give bool "
                             f"{tuple(inputs.shape[:2])}")
        if self.config.faithful:
            raise UsageError("resets inside a call need empty slots to be hidden; a faithful model attends to them: "
                             "use memory.reset(rows) between calls")


class LanguageModel(nn.Module):
    """Tokens in, logits of the next token out, around the same core.

    Args:
        config: the shape of the core.
        vocab_size: V.
        settings: fields of ``ModelConfig`` to change.
    """

    def __init__(self, config: ModelConfig | None = None, *, vocab_size: int = 257, **settings: Any):
        super().__init__()
        self.core = CompressiveTransformer(config, **settings)
        self.vocab_size = vocab_size
        dim = self.config.dim
        self.embedding = nn.Embedding(vocab_size, dim)
        self.head = nn.Linear(dim, vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=1.0)
        nn.init.zeros_(self.head.weight)

    @property
    def config(self) -> ModelConfig:
        return self.core.config

    def init_memory(self, batch_size: int, **sizes: Any) -> Memory:
        """See ``CompressiveTransformer.init_memory``."""
        return self.core.init_memory(batch_size, **sizes)

    def forward(self, tokens: Tensor, memory: Memory | None = None, resets: Tensor | None = None, *,
                with_attention: bool = False) -> Output:
        """Reads int64 tokens [B, T]; ``logits[:, t]`` are for the token after t. See the core's ``forward``.

        Raises:
            UsageError: a token is not in the vocabulary (checked on CPU; a GPU would have to wait for it).
        """
        if tokens.ndim != 2 or tokens.is_floating_point() or tokens.shape[1] < 1:
            raise UsageError(f"tokens are {tokens.dtype} of shape {tuple(tokens.shape)}; give int64 [batch, time >= 1]")
        if tokens.device.type == "cpu" and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise UsageError(f"token ids run from {int(tokens.min())} to {int(tokens.max())}; the vocabulary has "
                             f"{self.vocab_size}: use ids from 0 to {self.vocab_size - 1}")
        output = self.core(self.core.dropout(self.embedding(tokens)), memory, resets, with_attention=with_attention)
        return output._replace(features=self.head(output.features))


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


def _configure(config: ModelConfig | None, settings: dict[str, Any]) -> ModelConfig:
    known = {f.name for f in fields(ModelConfig)}
    if unknown := set(settings) - known:
        raise UsageError(f"unknown setting {', '.join(sorted(unknown))}; ModelConfig has {', '.join(sorted(known))}")
    return replace(config or ModelConfig(), **settings)


def _build_layer(c: ModelConfig, index: int) -> CompressiveLayer:
    compressed = c.layer_sizes()[index][1]
    scheme = c.positions if compressed else "continued"
    attention = RelativeAttention(c.dim, c.num_heads, scheme=scheme, position_features=c.position_features,
                                  dropout=c.dropout)
    feed_forward = FeedForward(c.dim, c.mlp_dim or 4 * c.dim, c.activation, c.dropout)
    compressor = _build_compressor(c) if compressed else None
    return CompressiveLayer(c.dim, attention, feed_forward, compressor, loss=c.compression_loss, norm=c.norm,
                            dropout=c.dropout, mask_empty=not c.faithful)


def _build_compressor(c: ModelConfig) -> Compressor:
    if c.compressor == "dilated":
        return DilatedConv(c.dim, c.compression_rate, c.dilations, padded=not c.faithful)
    return COMPRESSORS[c.compressor](c.dim, c.compression_rate)  # type: ignore[call-arg]


def _pieces(position: int, length: int, segment: int) -> Iterator[tuple[int, int]]:
    """Cuts ``length`` tokens at the segment boundaries."""
    start = 0
    while start < length:
        stop = min(start + segment - (position + start) % segment, length)
        yield start, stop
        start = stop
