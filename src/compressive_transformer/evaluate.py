"""Scores of a language model on documents, every token counted once, state carried through each stream.

Shape legend: B rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compressive_transformer.data import Corpus, Stream
from compressive_transformer.memory import Memory
from compressive_transformer.model import LanguageModel
from compressive_transformer.precision import Precision, autocast


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a text was predicted."""

    name: str
    num_bytes: int
    """Bytes of the text."""
    num_tokens: int
    """Tokens predicted; document tokens are read but not scored."""
    nats: float
    """Sum over these tokens of -log probability."""

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / max(self.num_bytes, 1)

    @property
    def perplexity(self) -> float:
        """Per token, whatever a token is."""
        nats = self.nats / max(self.num_tokens, 1)
        return math.exp(nats) if nats < 700 else math.inf


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of all documents, and of their sum."""

    documents: tuple[Score, ...]
    unit: str
    """What a token stands for."""

    @property
    def total(self) -> Score:
        """All documents together: each token weighs the same, wherever it stands."""
        return Score(
            name="total",
            num_bytes=sum(d.num_bytes for d in self.documents),
            num_tokens=sum(d.num_tokens for d in self.documents),
            nats=math.fsum(d.nats for d in self.documents),
        )


def evaluate(
    model: LanguageModel,
    corpus: Corpus,
    *,
    memory: int | None = None,
    compressed_memory: int | None = None,
    reset_documents: bool = True,
    num_rows: int = 8,
    precision: Precision = "auto",
    progress: Callable[[int], None] = lambda tokens: None,
) -> Evaluation:
    """Reads every document from beginning to end and scores each of its tokens.

    Args:
        model: is put in evaluation mode.
        corpus: the documents.
        memory, compressed_memory: slots per layer, if other than in training (larger often helps).
        reset_documents: begin each document with an empty state. Otherwise the state is carried on from each
            document to the next, in their order, as in the paper's PG-19.
        num_rows: documents read side by side; changes the speed only.
        precision: see ``autocast``.
        progress: is told the number of tokens read since it was told last.

    Raises:
        UsageError: a memory size is not allowed.
    """
    model.eval()
    device = next(model.parameters()).device
    rows = min(num_rows, corpus.num_documents) if reset_documents else 1
    state = model.init_memory(rows, memory=memory, compressed_memory=compressed_memory)
    nats = torch.zeros(corpus.num_documents, dtype=torch.float64)
    with torch.no_grad(), autocast(device, precision):
        state = model.core.with_cache(state)
        if reset_documents:
            _score_apart(model, corpus, state, nats, progress)
        else:
            _score_stream(model, corpus, state, nats, progress)
    scores = (
        Score(name=name, num_bytes=int(size), num_tokens=len(corpus.document(i)), nats=float(nats[i]))
        for i, (name, size) in enumerate(zip(corpus.names, corpus.num_bytes, strict=True))
    )
    return Evaluation(documents=tuple(scores), unit=corpus.unit)


def _score_apart(
    model: LanguageModel, corpus: Corpus, state: Memory, nats: Tensor, progress: Callable[[int], None]
) -> None:
    """Documents side by side, one in each row; a row takes the next document at a segment boundary.

    So every document begins with a segment, and no score depends on what is read beside it. What pads the
    last segment of a document is neither scored nor remembered: the row is reset, or leaves. If the rate does
    not divide the segment, groups of rows straddle segments, and documents are padded to whole groups too.
    """
    T = state.segment
    compresses = any(layer.sizes[0] for layer in state.layers)
    whole = math.lcm(T, model.config.compression_rate) if compresses else T
    waiting = _inputs_and_targets(corpus, whole)
    rows = [(next(waiting), 0) for _ in range(state.batch_size)]
    while rows:
        inputs = torch.stack([document.inputs[at : at + T] for document, at in rows])
        targets = torch.stack([document.targets[at : at + T] for document, at in rows])
        losses_BT, state = _read(model, inputs, targets, state)
        for (document, _), losses_T in zip(rows, losses_BT, strict=True):
            nats[document.index] += losses_T.sum()
        progress(int((targets >= 0).sum()))
        rows, state = _next_rows(rows, waiting, state)


@dataclass(frozen=True)
class _Document:
    index: int
    inputs: Tensor
    """int64, padded."""
    targets: Tensor
    """int64, -1 where padded."""


def _inputs_and_targets(corpus: Corpus, multiple: int) -> Iterator[_Document]:
    for index in range(corpus.num_documents):
        tokens = torch.from_numpy(corpus.document(index).astype(np.int64))
        padding = -len(tokens) % multiple
        start = torch.tensor([corpus.tokenizer.document_token])
        inputs = torch.cat([start, tokens[:-1], start.expand(padding)])
        yield _Document(index, inputs, torch.cat([tokens, torch.full((padding,), -1)]))


def _next_rows(
    rows: list[tuple[_Document, int]], waiting: Iterator[_Document], state: Memory
) -> tuple[list[tuple[_Document, int]], Memory]:
    """Moves each row one segment on; gives finished rows the next document, or takes them out."""
    moved, finished = [], []
    for document, at in rows:
        done = at + state.segment >= len(document.inputs)
        following = next(waiting, None) if done else document
        moved.append((following, 0 if done else at + state.segment))
        finished.append(done)
    if any(finished):
        state = state.reset(torch.tensor(finished))
    kept = [i for i, (document, _) in enumerate(moved) if document is not None]
    if 0 < len(kept) < len(moved):
        state = state.reorder(kept)
    return [(document, at) for document, at in moved if document is not None], state


def _score_stream(
    model: LanguageModel, corpus: Corpus, state: Memory, nats: Tensor, progress: Callable[[int], None]
) -> None:
    """All documents as one stream, in order, each behind its document token."""
    stream, boundary = Stream(corpus), corpus.tokenizer.document_token
    document = -1
    for start in range(0, len(stream) - 1, state.segment):
        count = min(state.segment, len(stream) - 1 - start)
        tokens = torch.from_numpy(stream.read(start, count + 1))
        document_T = document + (tokens[:-1] == boundary).cumsum(0)
        document = int(document_T[-1])
        targets = tokens[1:].masked_fill(tokens[1:] == boundary, -1)
        losses_BT, state = _read(model, tokens[None, :-1], targets[None], state)
        nats.index_add_(0, document_T, losses_BT[0])
        progress(count)


def _read(model: LanguageModel, inputs: Tensor, targets: Tensor, state: Memory) -> tuple[Tensor, Memory]:
    """float64 [B, T] -log probability of each target, 0 where the target is -1, and the new state."""
    device = state.document.device
    output = model(inputs.to(device), state, targets=targets.to(device))
    return output.losses.double().cpu(), output.memory


def excerpt(corpus: Corpus, *, num_pieces: int, length: int) -> Corpus:
    """Equal pieces spread evenly over a corpus, as documents: a quick look, read side by side.

    Each piece begins with an empty state, so it scores a little worse than the whole.
    """
    length = max(min(length, corpus.num_tokens // num_pieces), 1)
    count = min(num_pieces, corpus.num_tokens // length)
    apart = corpus.num_tokens // max(count, 1)
    pieces = [np.asarray(corpus.tokens[i * apart : i * apart + length]) for i in range(count)]
    sizes = [len(corpus.tokenizer.decode(piece)) for piece in pieces]
    return Corpus(
        tokens=np.concatenate(pieces),
        starts=np.arange(count + 1, dtype=np.int64) * length,
        names=tuple(f"piece {i + 1}" for i in range(count)),
        num_bytes=np.array(sizes, np.int64),
        tokenizer=corpus.tokenizer,
    )


TIERS = ("compressed", "recent", "window")
BUCKETS = 6
"""Parts into which each tier is cut to show where attention goes (paper Figure 2)."""


def attention_by_bucket(
    model: LanguageModel,
    corpus: Corpus,
    *,
    num_rows: int = 8,
    segments: int = 4,
    precision: Precision = "auto",
) -> dict[str, list[float]]:
    """Where attention goes once memory is full (paper Figure 2).

    Args:
        model: is put in evaluation mode.
        corpus: text to read; rows of it are read until memory is full, then ``segments`` more are counted.

    Returns:
        For ``compressed``, ``recent`` and ``window`` six numbers, oldest first: the attention that each sixth
        of the tier receives, mean over rows, heads, queries and layers. A tier of fewer than six slots is
        left out.
    """
    model.eval()
    device = next(model.parameters()).device
    c = model.config
    reach = max(recent + c.compression_rate * compressed for recent, compressed in c.layer_sizes())
    skip = -(-reach // c.segment)
    text = excerpt(corpus, num_pieces=num_rows, length=(skip + segments) * c.segment)
    inputs = torch.from_numpy(text.tokens.astype(np.int64)).view(text.num_documents, -1).to(device)
    skipped = max(min(skip * c.segment, inputs.shape[1] - c.segment), 0)
    with torch.no_grad(), autocast(device, precision):
        state = model(inputs[:, :skipped]).memory if skipped else model.init_memory(len(inputs))
        output = model(inputs[:, skipped:], state, with_attention=True)
    assert output.attention is not None
    per_layer = [bucket_sums(a, m.sizes) for a, m in zip(output.attention, state.layers, strict=True)]
    found = {name: [sums[name] for sums in per_layer if name in sums] for name in TIERS}
    # A layer without the tier gives it nothing, hence the division by all layers.
    return {name: (np.sum(rows, axis=0) / len(per_layer)).tolist() for name, rows in found.items() if rows}


def bucket_sums(attention_S: Tensor, sizes: tuple[int, int, int]) -> dict[str, list[float]]:
    """Sums of attention in six parts of each tier, oldest first; the last part takes the rest."""
    found, start = {}, 0
    for name, size in zip(TIERS, sizes, strict=True):
        if size >= BUCKETS:
            width = size // BUCKETS
            parts = attention_S[start : start + size].split(
                [width] * (BUCKETS - 1) + [size - width * (BUCKETS - 1)]
            )
            found[name] = [float(part.sum()) for part in parts]
        start += size
    return found
