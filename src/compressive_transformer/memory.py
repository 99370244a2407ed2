"""The state of a Compressive Transformer: what a layer still knows of the stream (paper section 3.1).

Each layer keeps three tiers of the *inputs of its attention* (oldest first):

    compressed [B, C, D]  ->  recent [B, M, D]  ->  window [B, N, D]

The window is the unfinished segment. When it is full, memory *shifts*: the window moves into the recent
memory, the rows that fall out of it are compressed, and the compressed slots queue up in the compressed
memory, whose oldest are forgotten.

Every slot carries the number of the document that it belongs to, or ``EMPTY``. A query sees the slots of
its own document and no others, so a row can be reset anywhere by moving it to the next document.

All rows share one clock, ``position``: the number of tokens read since it was started. It alone decides
where the segment boundaries lie, hence feeding a stream whole or in pieces makes no difference.

Shape legend: B batch, N segment length, M recent slots, C compressed slots, D model width, H heads,
K head width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from compressive_transformer.errors import UsageError
from compressive_transformer.storage import is_count, parse_json, read_header

EMPTY = -1
"""Document number of a slot that holds nothing."""

FORMAT = "compressive-transformer-memory-1"


class LayerMemory(NamedTuple):
    """The three tiers of one layer. Fixed shapes; empty slots hold zeros."""

    compressed: Tensor
    """[B, C, D] compressed slots, oldest first."""
    recent: Tensor
    """[B, M, D] uncompressed slots, oldest first, filled from the right."""
    window: Tensor
    """[B, N, D] the unfinished segment, filled from the left."""
    document: Tensor
    """int64 [B, C + M + N] document of each slot in the order above, or ``EMPTY``."""
    usage: Tensor | None = None
    """[B, M + N, 2] attention received by the slots of recent and window, and by how many queries it was
    given; kept only for the most-used compressor."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """C, M, N."""
        return self.compressed.shape[1], self.recent.shape[1], self.window.shape[1]


class KeysValues(NamedTuple):
    """Keys and values of the filled slots of one layer, each [B, H, C + M + fill, K]."""

    keys: Tensor
    values: Tensor


class Memory(NamedTuple):
    """The whole state: memory in, memory out, nothing hidden. Every method returns a new ``Memory``."""

    layers: tuple[LayerMemory, ...]
    document: Tensor
    """int64 [B] number of the document that each row is reading."""
    position: int = 0
    """Tokens read since the clock was started, the same for all rows."""
    cache: tuple[KeysValues, ...] | None = None
    """Keys and values that follow from ``layers`` and the weights; for reading without gradients only
    (see ``CompressiveTransformer.with_cache``). Never saved."""

    @property
    def batch_size(self) -> int:
        return self.document.shape[0]

    @property
    def segment(self) -> int:
        """N, the length of a full window."""
        return self.layers[0].window.shape[1]

    @property
    def fill(self) -> int:
        """Tokens in the unfinished segment, 0 <= fill < N."""
        return self.position % self.segment

    def detach(self) -> Memory:
        """The same state without a gradient history (truncates back-propagation through time here)."""
        return self._map(lambda x: x.detach())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Memory:
        """Moves the state to a device, or its activations to another floating-point type."""
        return self._map(lambda x: x.to(device=device, dtype=dtype if x.is_floating_point() else None))

    def reorder(self, rows: Tensor | Sequence[int]) -> Memory:
        """Picks rows of the batch, in any order, also repeatedly (beam search, finished streams).

        Args:
            rows: int64 [B'] row numbers; a boolean [B] keeps the rows that are True.
        """
        rows = torch.as_tensor(rows, device=self.document.device)
        if rows.dtype == torch.bool and rows.shape != self.document.shape:
            raise UsageError(
                f"memory.reorder: {rows.numel()} bools for {self.batch_size} rows; give one for each"
            )
        index = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        if index.numel() and not bool(((index >= 0) & (index < self.batch_size)).all()):
            raise UsageError(
                f"memory.reorder: rows {index.tolist()} asked for, but the memory has "
                f"{self.batch_size} rows; use numbers from 0 to {self.batch_size - 1}"
            )
        return self._map(lambda x: x.index_select(0, index))

    def reset(self, rows: Tensor | Sequence[bool] | None = None) -> Memory:
        """Empties the state of some rows: each begins its next document, at the shared clock's place.

        Args:
            rows: bool [B], True for the rows to reset; ``None`` resets all.

        From here on a reset row gives what a stream gives that begins here with the same alignment to the
        segments; the other rows do not change by one bit.
        """
        if rows is None:
            rows = torch.ones_like(self.document, dtype=torch.bool)
        rows = torch.as_tensor(rows, device=self.document.device)
        if rows.dtype != torch.bool or rows.shape != self.document.shape:
            raise UsageError(
                f"memory.reset takes one bool for each of the {self.batch_size} rows, not "
                f"{rows.dtype} of shape {tuple(rows.shape)}"
            )
        layers = tuple(drop(m, rows[:, None].expand_as(m.document)) for m in self.layers)
        cache = self.cache
        if cache is not None:
            keep = ~rows[:, None, None, None]
            cache = tuple(KeysValues(kv.keys.where(keep, 0), kv.values.where(keep, 0)) for kv in cache)
        return Memory(layers, self.document + rows, self.position, cache)

    def num_bytes(self) -> int:
        """Bytes of the state, the cache not counted."""
        tensors = [x for layer in self.layers for x in layer if x is not None] + [self.document]
        return sum(x.numel() * x.element_size() for x in tensors)

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, without the cache; ``from_tensors`` undoes it."""
        tensors = {"document": self.document}
        for i, layer in enumerate(self.layers):
            tensors |= {f"layers.{i}.{name}": x for name, x in layer._asdict().items() if x is not None}
        return {name: x.detach().contiguous() for name, x in tensors.items()}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], position: int) -> Memory:
        """The state of these tensors, with the clock at ``position``.

        Raises:
            UsageError: a tensor is missing or does not fit the others.
        """
        layers = []
        try:
            while f"layers.{len(layers)}.document" in tensors:
                tiers = [tensors[f"layers.{len(layers)}.{name}"] for name in LayerMemory._fields[:4]]
                layers.append(LayerMemory._make([*tiers, tensors.get(f"layers.{len(layers)}.usage")]))
            memory = Memory(tuple(layers), tensors["document"], position)
        except KeyError as error:
            raise UsageError(f"the memory is broken: it has no {error}; save it again") from None
        if not memory._is_sound():
            raise UsageError("the memory is broken: its tensors do not fit each other; save it again")
        return memory

    def _is_sound(self) -> bool:
        """Whether shapes and types are such as a model makes them."""
        if not self.layers or not is_count(self.position):
            return False
        if self.document.ndim != 1 or any(x.ndim != 3 for m in self.layers for x in m[:3]):
            return False
        B, N = self.document.numel(), self.layers[0].window.shape[1]
        if not N:
            return False
        if any(x.dtype != torch.int64 for x in (self.document, *(m.document for m in self.layers))):
            return False
        width, dtype = self.layers[0].window.shape[2:], self.layers[0].window.dtype
        return dtype.is_floating_point and all(
            all(x.shape[::2] == (B, *width) and x.dtype == dtype for x in m[:3])
            and m.window.shape[1] == N
            and m.document.shape == (B, sum(m.sizes))
            and (m.usage is None or m.usage.shape == (B, sum(m.sizes[1:]), 2))
            for m in self.layers
        )

    def save(self, path: str | Path) -> None:
        """Writes the state as one safetensors file (without the cache)."""
        from safetensors.torch import save_file

        header = {"format": FORMAT, "position": str(self.position)}
        save_file(self.tensors(), str(path), metadata={"memory": json.dumps(header)})

    @staticmethod
    def load(path: str | Path, device: torch.device | str = "cpu") -> Memory:
        """Reads a state written by ``save``.

        Raises:
            UsageError: the file is missing, broken, or holds something else.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(path)
        if not os.path.isfile(path):
            raise UsageError(f"{path} does not exist; give a file that Memory.save wrote")
        try:
            header = parse_json(read_header(path).get("__metadata__", {}).get("memory", "{}"))
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise UsageError(f"{path} is not a saved memory; give a file that Memory.save wrote")
            tensors = load_file(path, device=str(device))
            return Memory.from_tensors(tensors, int(str(header.get("position"))))
        except UsageError as error:
            raise error if str(path) in str(error) else UsageError(f"{path}: {error}") from None
        except (OSError, SafetensorError, ValueError) as error:
            raise UsageError(f"{path} is a broken memory file ({error}); save it again") from None

    def _map(self, function: Callable[[Tensor], Tensor]) -> Memory:
        layers = tuple(LayerMemory._make(None if x is None else function(x) for x in m) for m in self.layers)
        cache = self.cache and tuple(KeysValues._make(map(function, kv)) for kv in self.cache)
        return Memory(layers, function(self.document), self.position, cache)


def empty_layer(
    batch_size: int,
    sizes: tuple[int, int, int],
    dim: int,
    track_usage: bool,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> LayerMemory:
    """A layer that has read nothing. ``sizes`` are C, M, N."""
    tiers = [torch.zeros(batch_size, size, dim, device=device, dtype=dtype) for size in sizes]
    document = torch.full((batch_size, sum(sizes)), EMPTY, device=device)
    usage = torch.zeros(batch_size, sizes[1] + sizes[2], 2, device=device, dtype=dtype)
    return LayerMemory._make([*tiers, document, usage if track_usage else None])


def drop(layer: LayerMemory, slots_BS: Tensor) -> LayerMemory:
    """Empties the slots [B, C + M + N] that are True; the others do not change by one bit."""
    C, M, N = layer.sizes
    drops = slots_BS[..., None].split([C, M, N], dim=1)
    tiers = [x.masked_fill(d, 0) for x, d in zip(layer[:3], drops, strict=True)]
    usage = None if layer.usage is None else layer.usage.masked_fill(slots_BS[:, C:, None], 0)
    return LayerMemory._make([*tiers, layer.document.masked_fill(slots_BS, EMPTY), usage])


def drop_stale(layer: LayerMemory, document_B: Tensor) -> LayerMemory:
    """Empties the slots of earlier documents than the row's present one; nobody can see them any more."""
    return drop(layer, (layer.document != document_B[:, None]) & (layer.document != EMPTY))


def append(layer: LayerMemory, x_BTD: Tensor, document_BT: Tensor, fill: int) -> LayerMemory:
    """Writes T new rows behind the ``fill`` rows that the window holds."""
    C, M, _ = layer.sizes
    stop = fill + x_BTD.shape[1]
    window = torch.cat([layer.window[:, :fill], x_BTD, layer.window[:, stop:]], dim=1)
    start = C + M + fill
    document = torch.cat(
        [layer.document[:, :start], document_BT, layer.document[:, start + x_BTD.shape[1] :]], dim=1
    )
    return layer._replace(window=window, document=document)


def held_rows(segments: int, recent: int, segment: int, rate: int) -> int:
    """Rows in a recent memory of ``recent`` slots after a number of segments, empty ones counted.

    Only whole multiples of the compression rate leave, so that no row is dropped and none is padded. If the
    rate divides the segment, the memory is always full; else it holds up to ``rate - 1`` rows fewer.
    """
    pushed = segments * segment
    return recent + pushed - -(-pushed // rate) * rate
