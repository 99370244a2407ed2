"""Token after token, as generation reads: the same numbers as the model's, at a fraction of the work.

The model keeps its state in values that nobody changes, and makes new ones for each call. For one token that
is nearly all the work. A ``Decoder`` has room for a whole segment, writes into it, and hands out a ``Memory``
only at the segment's end, where the model itself shifts it.

``FeatureDecoder`` does so with features, for agents; ``Decoder`` with tokens, for language.

Shape legend: B batch, C compressed slots, M recent slots, N segment, S slots read, D model width, H heads,
K head width, F position features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from compressive_transformer import ops
from compressive_transformer.memory import EMPTY, KeysValues, LayerMemory, Memory, drop
from compressive_transformer.model.checks import check_resets
from compressive_transformer.model.core import CompressiveTransformer
from compressive_transformer.model.language import LanguageModel
from compressive_transformer.nn.attention import places
from compressive_transformer.nn.layer import CompressiveLayer
from compressive_transformer.ops import graphs


class Decoder:
    """Reads one token of each row at a time, in evaluation mode and without gradients.

    On a GPU ``COMPRESSIVE_GRAPHS=1`` has it launch all kernels of a token at once.

    Args:
        model: its weights must not change while it is read with.
        memory: where to go on from.
    """

    def __init__(self, model: LanguageModel, memory: Memory):
        self.model, device = model, memory.document.device
        with model.arithmetic(device):
            self.features = FeatureDecoder(model.core, memory, graph=graphs.wanted(device))

    @torch.no_grad()
    def read(self, tokens_B: Tensor) -> Tensor:
        """Logits [B, V] of what follows these int64 tokens."""
        with self.model.arithmetic(tokens_B.device):
            features_BD = self.features.read(self.model.embedding(tokens_B))
        return self.model.head(features_BD)

    @property
    def memory(self) -> Memory:
        """The state now, with keys and values; the next ``read`` may change it."""
        return self.features.memory


class FeatureDecoder:
    """Reads the features of one moment of each row at a time, in evaluation mode and without gradients.

    Args:
        core: its weights must not change while it is read with.
        memory: where to go on from.
        graph: read within segments by one CUDA graph (``ops.graphs``), all in the arithmetic of the first.
    """

    @torch.no_grad()
    def __init__(self, core: CompressiveTransformer, memory: Memory, graph: bool = False):
        self.core = core
        self.layers = [_Layer(*both, fixed=graph) for both in zip(core.layers, memory.layers, strict=True)]
        self.graph = _Graph() if graph else None
        self._load(memory)

    @torch.no_grad()
    def read(self, inputs_BF: Tensor, resets_B: Tensor | None = None) -> Tensor:
        """Features [B, D] of these inputs, as the core's of [B, 1, F].

        Args:
            inputs_BF: as wide as the core takes them.
            resets_B: bool, True for the rows of which a document begins here.

        Raises:
            UsageError: the resets are no bools, or the model can't honour them.
        """
        check_resets(resets_B, inputs_BF.shape[:1], self.core.config.faithful)
        if resets_B is not None and not resets_B.any():
            resets_B = None
        if self.fill + 1 == self.start.segment or any(m.usage is not None for m in self.start.layers):
            resets = None if resets_B is None else resets_B[:, None]
            output = self.core(inputs_BF[:, None], self.memory, resets)
            self._load(output.memory)
            return output.features[:, 0]
        if resets_B is not None:
            self._reset(resets_B)
        if self.graph is None:
            features_BD = self._step(inputs_BF, self.fill)
        else:
            features_BD = self.graph(self._step, inputs_BF, self.fill)
        self.fill += 1
        return features_BD

    def _step(self, inputs_BF: Tensor, fill: int | Tensor) -> Tensor:
        hidden = self.core.entered(inputs_BF)
        for layer in self.layers:
            hidden = layer.read(hidden, fill)
        return self.core.final_norm(hidden)

    @property
    def memory(self) -> Memory:
        """The state now, with keys and values; the next ``read`` may change it."""
        layers = tuple(layer.memory() for layer in self.layers)
        cache = tuple(layer.cache(self.fill) for layer in self.layers)
        position = self.start.position - self.start.fill + self.fill
        return self.start._replace(layers=layers, position=position, cache=cache)

    def _load(self, memory: Memory) -> None:
        self.start = memory if memory.cache else self.core.with_cache(memory)
        self.fill = memory.fill
        assert self.start.cache is not None
        for layer, kept, cache in zip(self.layers, self.start.layers, self.start.cache, strict=True):
            layer.load(kept, cache, memory.document)

    def _reset(self, rows_B: Tensor) -> None:
        """Some rows begin their next document."""
        self.start = self.start._replace(document=self.start.document + rows_B)
        for layer in self.layers:
            layer.reset(rows_B, self.start.document, self.fill)


class _Graph:
    """Steps of one graph, which is captured at the first."""

    replay: Callable[[], Tensor] | None = None

    def __call__(self, step: Callable[[Tensor, Tensor], Tensor], inputs_BF: Tensor, fill: int) -> Tensor:
        if self.replay is None:
            self.inputs_BF = inputs_BF.clone()
            self.fill_1 = torch.tensor([fill], device=inputs_BF.device)
            self.replay = graphs.captured(lambda: step(self.inputs_BF, self.fill_1), inputs_BF.device)
        self.inputs_BF.copy_(inputs_BF)
        self.fill_1.fill_(fill)
        return self.replay().clone()


class _Table(NamedTuple):
    """Position keys of a run of slots that stand ``step`` apart, for every place that a query may have.

    A run whose slots all stand at one place has the step 0.
    """

    keys_HKn: Tensor
    """By falling distance, from that of the oldest slot to the last query on."""
    bias_HK: Tensor
    step: int
    slots: slice
    """Of all slots."""

    def count(self, stop: int) -> int:
        """Of its slots, those before ``stop``."""
        return min(self.slots.stop, stop) - self.slots.start


_Seen = tuple[int, list[Tensor], Tensor | None]
"""How many slots a token sees, the position keys of each table, and what is added to the logits."""


class _Layer:
    """A layer with room for a segment.

    A graph needs all at one place, and in one shape: then this is ``fixed``. Else reading costs less, for the
    room that is not filled yet is not looked at.
    """

    def __init__(self, layer: CompressiveLayer, memory: LayerMemory, fixed: bool):
        attention = self.attention = layer.attention
        self.layer, (C, M, self.segment) = layer, memory.sizes
        self.before, self.fixed, self.held = C + M, fixed, ()
        # One product for all three.
        self.weight = torch.cat([attention.query.weight, attention.key.weight, attention.value.weight])
        self.scale = attention.head_dim**-0.5
        self.tables = _tables(layer, memory.sizes)
        self.biases = torch.stack([*(table.bias_HK for table in self.tables), attention.content_bias])

    def load(self, memory: LayerMemory, cache: KeysValues, document_B: Tensor) -> None:
        """Begins from a state."""
        self.start = memory
        filled, slots = cache.keys.shape[2], sum(memory.sizes)
        keys, values = (x.new_zeros(*x.shape[:2], slots, x.shape[3]) for x in cache)
        keys[:, :, :filled], values[:, :, :filled] = cache
        unseen = ~self.layer.sees(memory.document[:, None], document_B[:, None, None])
        unseen[..., filled:] = False  # they will be of the row's document
        bias = torch.zeros_like(unseen, dtype=keys.dtype).masked_fill_(unseen, -torch.inf)
        loaded = (document_B.clone(), memory.window.clone(), memory.document.clone(), keys, values, bias)
        if self.fixed and self.held:
            for held, x in zip(self.held, loaded, strict=True):
                held.copy_(x)
        else:
            self.held = loaded
        self.row, self.window, self.document, self.keys, self.values, self.bias_B1S = self.held
        if not self.fixed and not unseen.any():
            self.bias_B1S = None

    def reset(self, rows_B: Tensor, document_B: Tensor, fill: int) -> None:
        """Empties what some rows hold before the ``fill`` rows of the window are over."""
        self.start = drop(self.start, rows_B[:, None].expand_as(self.start.document))
        self.row.copy_(document_B)
        self.window[rows_B], self.document[rows_B] = 0, EMPTY
        unseen_B1S = rows_B[:, None, None] & self._filled(fill)
        if self.bias_B1S is None:
            self.bias_B1S = torch.zeros_like(unseen_B1S, dtype=self.keys.dtype)
        self.bias_B1S.masked_fill_(unseen_B1S, -torch.inf)

    def _filled(self, fill: int) -> Tensor:
        """bool [S], True for the slots before the present place."""
        return torch.arange(self.keys.shape[2], device=self.keys.device) < self.before + fill

    def read(self, hidden_BD: Tensor, fill: int | Tensor) -> Tensor:
        """The layer's output [B, D] for one token of each row; of a fixed layer, fill is int64 [1]."""
        layer = self.layer
        x_BD = layer.attention_norm(hidden_BD) if layer.pre_norm else hidden_BD
        qkv = linear(x_BD, self.weight).unflatten(1, (3, self.attention.num_heads, -1))
        q, k = self.attention.normed(qkv[:, :2]).unbind(1)
        new = (x_BD, k, qkv[:, 2])
        fixed = not isinstance(fill, int)
        slots, position_keys, bias_B1S = self._write_at(fill, *new) if fixed else self._write(fill, *new)
        *position, content_BHK = torch.add(self.biases, q[:, None], alpha=self.scale).unbind(1)
        logits = []
        for query_BHK, keys_HKS, table in zip(position, position_keys, self.tables, strict=True):
            logits_BHS = (query_BHK.transpose(0, 1) @ keys_HKS).transpose(0, 1)
            logits.append(logits_BHS if table.step else logits_BHS.expand(-1, -1, table.count(slots)))
        logits_BHS = logits[0] if len(logits) == 1 else torch.cat(logits, dim=-1)
        if bias_B1S is not None:
            logits_BHS = logits_BHS + bias_B1S
        attended = scaled_dot_product_attention(
            content_BHK[:, :, None],
            self.keys[:, :, :slots],
            self.values[:, :, :slots],
            attn_mask=logits_BHS[:, :, None],
            scale=1.0,
        )
        return layer.finish(hidden_BD, self.attention.output(attended.flatten(1)))

    def _write(self, fill: int, x_BD: Tensor, k_BHK: Tensor, v_BHK: Tensor) -> _Seen:
        """Puts a token behind the ``fill`` rows of the window. What it sees are the slots up to its own."""
        at, first = self.before + fill, self.segment - 1 - fill
        self.window[:, fill], self.document[:, at] = x_BD, self.row
        self.keys[:, :, at], self.values[:, :, at] = k_BHK, v_BHK
        spans = [max(table.step * table.count(at + 1), 1) for table in self.tables]
        keys = [
            table.keys_HKn[:, :, first : first + span : max(table.step, 1)]
            for table, span in zip(self.tables, spans, strict=True)
        ]
        return at + 1, keys, None if self.bias_B1S is None else self.bias_B1S[..., : at + 1]

    def _write_at(self, fill_1: Tensor, x_BD: Tensor, k_BHK: Tensor, v_BHK: Tensor) -> _Seen:
        """The same at a place that no shape depends on; of all slots, those behind its own are masked."""
        at_1, first_1 = self.before + fill_1, self.segment - 1 - fill_1
        self.window.index_copy_(1, fill_1, x_BD[:, None].to(self.window))
        self.document.index_copy_(1, at_1, self.row[:, None])
        self.keys.index_copy_(2, at_1, k_BHK[:, :, None].to(self.keys))
        self.values.index_copy_(2, at_1, v_BHK[:, :, None].to(self.values))
        slots = self.keys.shape[2]
        place_S = torch.arange(slots, device=at_1.device)
        counts = [table.count(slots) if table.step else 1 for table in self.tables]
        keys = [
            table.keys_HKn.index_select(2, first_1 + table.step * place_S[:count])
            for table, count in zip(self.tables, counts, strict=True)
        ]
        assert self.bias_B1S is not None
        return slots, keys, self.bias_B1S.masked_fill(place_S > at_1, -torch.inf)

    def memory(self) -> LayerMemory:
        """The state now."""
        return self.start._replace(window=self.window, document=self.document)

    def cache(self, fill: int) -> KeysValues:
        """Keys and values of the filled slots."""
        return KeysValues(*(x[:, :, : self.before + fill] for x in (self.keys, self.values)))


_Run = tuple[Tensor, int, int, int]
"""Places of consecutive slots, how far apart they are, the first slot, and the position table."""


def _divided(runs: list[_Run]) -> Iterator[_Run]:
    """The runs; slots that were all put at the farthest place (``places``) are a run of their own."""
    for place_S, step, start, which in runs:
        irregular = (place_S.diff() != step).nonzero()
        same = int(irregular[-1]) + 1 if len(irregular) else 0
        if same:
            yield place_S[:same], 0, start, which
        if same < len(place_S):
            yield place_S[same:], step, start + same, which


def _tables(layer: CompressiveLayer, sizes: tuple[int, int, int]) -> list[_Table]:
    """Position keys and biases of each run of slots, oldest first."""
    attention, (C, _, N) = layer.attention, sizes
    weights = [cast("nn.Linear", module).weight for module in attention.position_keys]
    dtype = torch.promote_types(weights[0].dtype, torch.float32)
    at = places(attention.scheme, sizes, attention.learnt, 0, N, layer.rate, weights[0].device, dtype)
    if attention.scheme == "continued":
        runs = [(torch.cat([at.compressed_C, at.rest_S]), 1, 0, 0)]
    else:
        separate = attention.scheme == "separate"
        runs = [(at.compressed_C, 1 if separate else layer.rate, 0, int(separate)), (at.rest_S, 1, C, 0)]
    tables = []
    for place_S, step, start, which in _divided(runs):
        farthest = N - 1 - place_S[0]
        distance_n = farthest - torch.arange(N + (len(place_S) - 1) * step).to(place_S)
        feature_nF = ops.sinusoid(distance_n, attention.position_features).to(weights[which])
        weight_HKF = weights[which].view(attention.num_heads, attention.head_dim, -1)
        slots = slice(start, start + len(place_S))
        tables.append(_Table(weight_HKF @ feature_nF.T, attention.position_bias[which], step, slots))
    return tables
