"""What a model does with its memory, and what it gains by it: attention by tier, loss by place and by word.

Shape legend: S slots.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressive_transformer.data import Corpus, Tokenizer, excerpt
from compressive_transformer.data.words import END_OF_LINE, UNKNOWN
from compressive_transformer.errors import UsageError
from compressive_transformer.model import LanguageModel
from compressive_transformer.precision import Precision, autocast


@dataclass(frozen=True, kw_only=True)
class Part:
    """The loss of some tokens."""

    name: str
    count: int
    """Tokens, or words where words are meant."""
    nats: float


def loss_by_position(losses: Sequence[NDArray[np.float32]], edges: Sequence[int]) -> list[Part]:
    """Loss by the place of a token in its document.

    Args:
        losses: of each document, see ``evaluate``.
        edges: places at which a new part begins, rising; the first part begins at 0.
    """
    parts = []
    for start, stop in zip([0, *edges], [*edges, None], strict=True):
        pieces = [document[start:stop] for document in losses]
        name = f"{start:,} and on" if stop is None else f"{start:,} to {stop - 1:,}"
        count = sum(map(len, pieces))
        parts.append(Part(name=name, count=count, nats=float(sum(p.sum(dtype=np.float64) for p in pieces))))
    return parts


FREQUENCIES = (10_000, 1_000, 100)
"""Where the parts of the paper's Table 7 begin."""


def loss_by_frequency(
    corpus: Corpus, losses: Sequence[NDArray[np.float32]], vocabulary: Tokenizer
) -> list[Part]:
    """Loss by how often a word stood in the training text (paper Table 7), frequent words first.

    Args:
        corpus: what was scored. Unless its tokens are words, a word is what stands between spaces, and its
            tokens are those that begin behind the word before it.
        losses: of each document, see ``evaluate``.
        vocabulary: of the words of the training text, with their counts.

    Raises:
        UsageError: the vocabulary has no counts.
    """
    counts, words = (getattr(vocabulary, name, None) for name in ("counts", "words"))
    if counts is None or words is None:
        raise UsageError(
            f"{vocabulary.name} has no words with counts; make some of the training text by 'compressive "
            "tokenizer train --kind words'"
        )
    part_of = (np.array(counts)[:, None] <= FREQUENCIES).sum(axis=1)
    known = [count for word, count in zip(words, counts, strict=True) if word not in (UNKNOWN, END_OF_LINE)]
    if min(known, default=0) > FREQUENCIES[-1]:
        raise UsageError(
            f"{vocabulary.name} has no words that occur {FREQUENCIES[-1]} times or less, which would all be "
            "missed; make it of the training text without --vocab-size"
        )
    last = len(FREQUENCIES)  # also of words that the training text has not
    lengths = np.array([len(corpus.tokenizer.decode([i])) for i in range(corpus.tokenizer.vocab_size)])
    by_word = dict(zip(words, part_of.tolist(), strict=True))
    total, nats = np.zeros(last + 1, np.int64), np.zeros(last + 1)
    for index, document in enumerate(losses):
        tokens = np.asarray(corpus.document(index))
        if corpus.tokenizer.unit == "word":
            pieces, word_T = [corpus.tokenizer.decode([token]).strip(b" ") for token in tokens], None
        else:
            pieces, word_T = _words(corpus.tokenizer.decode(tokens), lengths[tokens])
        if not pieces:  # nothing but spaces
            continue
        parts = np.array([by_word.get(word, last) for word in pieces], np.int64)
        np.add.at(total, parts, 1)
        np.add.at(nats, parts if word_T is None else parts[word_T], document.astype(np.float64))
    names = [f"more than {FREQUENCIES[0]:,}"]
    names += [f"{low:,} to {high:,}" for high, low in pairwise(FREQUENCIES)]
    names.append(f"at most {FREQUENCIES[-1]:,}")
    found = zip(names, total.tolist(), nats.tolist(), strict=True)
    return [Part(name=name, count=count, nats=value) for name, count, value in found]


def _words(text: bytes, lengths_T: NDArray[np.int64]) -> tuple[list[bytes], NDArray[np.int64]]:
    """The words of a text, and of each token the word that its last byte belongs to or stands before."""
    spans = [match.span() for match in re.finditer(rb"\S+", text)]
    ends = np.array([stop for _, stop in spans], np.int64)
    word_T = np.searchsorted(ends, lengths_T.cumsum() - 1, side="right")
    return [text[start:stop] for start, stop in spans], word_T.clip(max=max(len(spans) - 1, 0))


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
        state = model.features(inputs[:, :skipped]).memory if skipped else model.init_memory(len(inputs))
        output = model.features(inputs[:, skipped:], state, with_attention=True)
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
