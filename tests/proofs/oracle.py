"""The Compressive Transformer told of single vectors: Algorithms 1 and 2 of the paper in plain loops.

One stream, one token after the other, lists of slots. Nothing is batched, nothing is shared with the package
but the settings and the names of the weights, and nothing is fast. What the paper leaves open is decided as
the package documents it: empty slots are hidden (a ``faithful`` model sees their zeros), only whole groups of
c rows leave the recent memory, and the losses are mean squares.

B batch, T time, D width, K head width, N segment, M recent slots, C compressed slots, c compression rate.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from compressive_transformer import ModelConfig

EMPTY = -1
Vector = np.ndarray
Weights = dict[str, np.ndarray]


@dataclass
class Slot:
    """What a slot holds, of which document it is, how many queries saw it, and what they gave in all."""

    vector: Vector
    document: int = EMPTY
    readers: int = 0
    received: float = 0.0

    @property
    def usage(self) -> float:
        return self.received / max(self.readers, 1)


@dataclass
class LayerState:
    """Slots of one layer, oldest first. ``recent`` and ``window`` are shorter than M and N at times."""

    C: int
    M: int
    compressed: list[Slot]
    recent: list[Slot]
    window: list[Slot]
    forgotten: int = 0
    """Compressed slots that fell out at the old end."""
    attention: dict[int, float] = field(default_factory=dict)
    """Weight that each place of [compressed ; recent ; window] got so far, mean over heads."""

    def all_slots(self) -> list[Slot]:
        return self.compressed + self.recent + self.window


@dataclass
class Stream:
    """The state of one stream, and the errors of which each layer's loss in each segment is the mean."""

    layers: list[LayerState]
    document: int = 0
    position: int = 0
    errors: list[list[list[float]]] = field(default_factory=list)


def mean_loss(streams: list[Stream], first_segment: int, num_layers: int) -> list[float]:
    """The loss of each layer: the mean over streams and queries (or rows), then over segments."""
    losses = []
    for layer in range(num_layers):
        of_segments = []
        for segment in range(first_segment, len(streams[0].errors)):
            errors = [e for stream in streams for e in stream.errors[segment][layer]]
            of_segments.append(sum(errors) / len(errors) if errors else 0.0)
        losses.append(sum(of_segments) / len(of_segments) if of_segments else 0.0)
    return losses


class Oracle:
    """A core of ``CompressiveTransformer(config)`` with these weights."""

    def __init__(self, config: ModelConfig, weights: Weights):
        self.config, self.weights = config, weights
        self.layers = [
            OracleLayer(config, below(weights, f"layers.{i}."), learnt)
            for i, learnt in enumerate(config.layer_sizes())
        ]

    def begin(self, position: int = 0, sizes: list[tuple[int, int]] | None = None) -> Stream:
        """An empty stream, as if ``position`` tokens had been read; ``sizes`` are (M, C) of each layer."""
        sizes = sizes or self.config.layer_sizes()
        layers = [layer.begin(M, C, position) for layer, (M, C) in zip(self.layers, sizes, strict=True)]
        return Stream(layers, position=position)

    def reset(self, stream: Stream) -> None:
        """The next token begins a document: everything is forgotten but the place in the segment."""
        stream.document += 1
        for state in stream.layers:
            for slots in (state.compressed, state.recent, state.window):
                slots[:] = [empty(self.config.dim) for _ in slots]

    def read(self, stream: Stream, x: Vector) -> Vector:
        """Algorithm 1 for the next token."""
        if "input.weight" in self.weights:
            x = self.weights["input.weight"] @ x + self.weights["input.bias"]
            x = relu(x) if self.config.faithful else x
        for layer, state in zip(self.layers, stream.layers, strict=True):
            x = layer.read(x, state, stream.document)
        stream.position += 1
        if stream.position % self.config.segment == 0:
            pairs = zip(self.layers, stream.layers, strict=True)
            stream.errors.append([layer.shift(state, stream.document) for layer, state in pairs])
        return layer_norm(x, self.weights, "final_norm") if self.config.final_norm else x


class OracleLayer:
    """One layer: reading a token, and shifting its memory when the window is full."""

    def __init__(self, config: ModelConfig, weights: Weights, learnt: tuple[int, int]):
        self.config, self.weights, self.learnt = config, weights, learnt
        self.head_width = config.dim // config.num_heads

    def begin(self, M: int, C: int, position: int) -> LayerState:
        held = M
        for _ in range(position // self.config.segment):
            held += self.config.segment
            held -= self.leaving(held, M, C)
        tiers = [
            [empty(self.config.dim) for _ in range(n)] for n in (C, held, position % self.config.segment)
        ]
        return LayerState(C, M, compressed=tiers[0], recent=tiers[1], window=tiers[2])

    def present(self, slot: Slot) -> bool:
        return slot.document != EMPTY or self.config.faithful

    # Algorithm 1: attention over both memories and the window, then the feed-forward.

    def read(self, hidden: Vector, state: LayerState, document: int) -> Vector:
        pre, w = self.config.norm == "pre", self.weights
        x = layer_norm(hidden, w, "attention_norm") if pre else hidden
        state.window.append(Slot(x, document))
        hidden = hidden + self.attend(x, state)
        if not pre:
            hidden = layer_norm(hidden, w, "attention_norm")
        y = layer_norm(hidden, w, "feed_forward_norm") if pre else hidden
        up = w["feed_forward.up.weight"] @ y + w["feed_forward.up.bias"]
        up = {"relu2": relu2, "relu": relu, "gelu": gelu}[self.config.activation](up)
        hidden = hidden + w["feed_forward.down.weight"] @ up + w["feed_forward.down.bias"]
        return hidden if pre else layer_norm(hidden, w, "feed_forward_norm")

    def attend(self, x: Vector, state: LayerState) -> Vector:
        """What the newest slot of the window, x, reads from all slots that it sees."""
        missing = [empty(self.config.dim) for _ in range(state.M - len(state.recent))]
        slots = state.compressed + missing + state.recent + state.window
        now = len(state.window) - 1
        seen = [j for j, slot in enumerate(slots) if self.present(slot)]
        heads = []
        for head in range(self.config.num_heads):
            query = self.project("query", x, head) / math.sqrt(self.head_width)
            logits = []
            for j in seen:
                table, place = self.place(j, state)
                content = (query + self.weights["attention.content_bias"][head]) @ self.project(
                    "key", slots[j].vector, head
                )
                key = self.project(f"position_keys.{table}", sinusoid(now - place, self.features), head)
                bias = self.weights["attention.position_bias"][table, head]
                logits.append(content + (query + bias) @ key)
            shares = softmax(logits)
            for j, share in zip(seen, shares, strict=True):
                slots[j].received += share / self.config.num_heads
                state.attention[j] = state.attention.get(j, 0.0) + share / self.config.num_heads
            values = [self.project("value", slots[j].vector, head) for j in seen]
            heads.append(sum(share * value for share, value in zip(shares, values, strict=True)))
        for j in seen:
            slots[j].readers += 1
        w = self.weights
        return w["attention.output.weight"] @ np.concatenate(heads) + w["attention.output.bias"]

    @property
    def features(self) -> int:
        return self.config.position_features or self.config.dim

    def place(self, j: int, state: LayerState) -> tuple[int, float]:
        """Position table and place of slot j, which is no farther away than any slot was in training."""
        M, C = self.learnt
        table, place = self.place_of(j, state.C, state.M)
        learnt = [self.place_of(i, C, M) for i in range(C + M)]
        known = [p for t, p in learnt if t == table]
        return table, max(place, min(known, default=0))

    def place_of(self, j: int, C: int, M: int) -> tuple[int, float]:
        """Position table and place of slot j of C + M, in tokens from the beginning of the segment."""
        c = self.config.compression_rate
        if j >= C:
            return 0, j - C - M
        back = C - j  # 1 for the newest compressed slot
        if self.config.positions == "continued":
            return 0, -M - back
        if self.config.positions == "separate":
            return 1, -back
        first = -M - back * c  # the tokens that it stands for, if nothing waits
        return 0, sum(range(first, first + c)) / c

    def project(self, name: str, x: Vector, head: int) -> Vector:
        rows = slice(head * self.head_width, (head + 1) * self.head_width)
        y = self.weights[f"attention.{name}.weight"][rows] @ x
        normed = self.config.qk_norm and name in ("query", "key")
        return y / math.sqrt(mean_square(y) + 1e-6) if normed else y

    # Algorithm 1: what falls out of the recent memory is compressed; both memories are queues.

    def leaving(self, rows: int, M: int, C: int) -> int:
        """How many of so many rows leave: all but M, and then until a group of c is whole."""
        count, c = 0, self.config.compression_rate if C else 1
        while rows - count > M:
            count += c
        return count

    def shift(self, state: LayerState, document: int) -> list[float]:
        """Empties the full window; gives the errors that the auxiliary loss is the mean of."""
        rows = state.recent + state.window
        count = self.leaving(len(rows), state.M, state.C)
        old, stayed = rows[:count], state.window[max(count - len(state.recent), 0) :]
        state.recent, state.window = rows[count:], []
        if not state.C:
            return []
        new = self.compress(old, document)
        queue = state.compressed + new
        state.forgotten += sum(slot.document != EMPTY for slot in queue[: -state.C])
        state.compressed = queue[-state.C :]
        return self.reconstruction_errors(stayed, old, new)

    def compress(self, old: list[Slot], document: int) -> list[Slot]:
        """f_c: every c rows become a slot, which holds something if any of the rows does."""
        kind, c = self.config.compressor, self.config.compression_rate
        if kind == "most-used":
            used = sorted(range(len(old)), key=lambda i: old[i].usage if self.present(old[i]) else -math.inf)
            kept = sorted(used[len(old) - len(old) // c :])  # the most used, again in the order of time
            return [
                Slot(old[i].vector, document) if self.present(old[i]) else Slot(0 * old[i].vector)
                for i in kept
            ]
        rows = [slot.vector for slot in old]
        if kind == "dilated":
            rows = self.dilated(rows)
        new = []
        for start in range(0, len(rows) - c + 1, c):
            present = [self.present(slot) for slot in old[start : start + c]]
            group = [row for row, here in zip(rows[start : start + c], present, strict=True) if here]
            if not group:
                new.append(empty(self.config.dim))
            elif kind == "mean":
                new.append(Slot(np.array([sum(f) / len(group) for f in zip(*group, strict=True)]), document))
            elif kind == "max":
                new.append(Slot(np.array([max(f) for f in zip(*group, strict=True)]), document))
            else:
                new.append(
                    Slot(taps(self.weights["compressor.kernel.weight"], rows[start : start + c]), document)
                )
        return new

    def dilated(self, rows: list[Vector]) -> list[Vector]:
        """A stack of convolutions of two taps, the older first; a faithful one loses rows at the old end."""
        for i, dilation in enumerate(self.config.dilations):
            before = [] if self.config.faithful else [np.zeros(self.config.dim)] * dilation
            rows = before + rows
            weight = self.weights[f"compressor.taps.{i}.weight"]
            rows = [relu(taps(weight, [rows[t - dilation], rows[t]])) for t in range(dilation, len(rows))]
        return rows

    # Algorithm 2, and the auto-encoding loss.

    def reconstruction_errors(self, queries: list[Slot], old: list[Slot], new: list[Slot]) -> list[float]:
        """Mean square error of each query that stayed in the window, or of each row that is rebuilt; 0 where
        there is nothing to read or to rebuild."""
        if self.config.compressor not in ("conv", "dilated") or self.config.compression_loss == "none":
            return []
        if self.config.compression_loss == "auto-encoding":
            decoder, errors = self.weights["auto_encoding.decoder.weight"], []
            for i, row in enumerate(old):
                slot, tap = divmod(i, self.config.compression_rate)
                part = decoder[tap * self.config.dim : (tap + 1) * self.config.dim]
                error = mean_square(part @ new[slot].vector - row.vector)
                errors.append(error if self.present(row) else 0.0)
            return errors
        readable = any(self.present(row) for row in old)
        return [
            mean_square(self.content(q.vector, old) - self.content(q.vector, new))
            if readable and self.present(q)
            else 0.0
            for q in queries
        ]

    def content(self, x: Vector, slots: list[Slot]) -> Vector:
        """attn(h, m) = softmax((hQ)(mK)) (mV), by content alone."""
        present, heads = [slot.vector for slot in slots if self.present(slot)], []
        for head in range(self.config.num_heads):
            query = self.project("query", x, head) / math.sqrt(self.head_width)
            shares = softmax([float(query @ self.project("key", vector, head)) for vector in present])
            read = np.zeros(self.head_width)
            for share, vector in zip(shares, present, strict=True):
                read = read + share * self.project("value", vector, head)
            heads.append(read)
        return np.concatenate(heads)


def empty(dim: int) -> Slot:
    return Slot(np.zeros(dim))


def below(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def taps(weight: np.ndarray, rows: list[Vector]) -> Vector:
    """A convolution at one place: each row, the oldest first, goes through its own tap [D, D]."""
    D = weight.shape[0]
    total = np.zeros(D)
    for k, row in enumerate(rows):
        total = total + weight[:, k * D : (k + 1) * D] @ row
    return total


def sinusoid(distance: float, features: int) -> Vector:
    angles = [distance / 10000 ** (2 * k / features) for k in range(features // 2)]
    return np.array([math.sin(a) for a in angles] + [math.cos(a) for a in angles])


def softmax(logits: list[float]) -> list[float]:
    exponentials = [math.exp(logit - max(logits)) for logit in logits]
    return [e / sum(exponentials) for e in exponentials]


def layer_norm(x: Vector, weights: Weights, name: str) -> Vector:
    centred = x - x.mean()
    return (
        centred / math.sqrt(mean_square(centred) + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    )


def relu(x: Vector) -> Vector:
    return np.array([max(a, 0.0) for a in x])


def relu2(x: Vector) -> Vector:
    return relu(x) * relu(x)


def gelu(x: Vector) -> Vector:
    return np.array([a * (1 + math.erf(a / math.sqrt(2))) / 2 for a in x])


def mean_square(x: Vector) -> float:
    return float(sum(a * a for a in x) / len(x))
