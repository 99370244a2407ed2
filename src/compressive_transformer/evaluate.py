"""Scores of a language model on documents, every token counted once, state carried through each stream.

Shape legend: B rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from compressive_transformer.data import Corpus, Stream
from compressive_transformer.data.words import WordCounter
from compressive_transformer.errors import UsageError
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
    num_words: int
    """Words between spaces; of a closed vocabulary of words its tokens, ends of lines among them."""
    nats: float
    """Sum over these tokens of -log probability."""

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / max(self.num_bytes, 1)

    @property
    def perplexity(self) -> float:
        """Per token, whatever a token is."""
        return perplexity(self.nats, self.num_tokens)

    @property
    def word_perplexity(self) -> float:
        """Per word, to compare models of unlike tokens (paper section 4.2)."""
        return perplexity(self.nats, self.num_words)

    def by(self, measure: str) -> float:
        """The score in one of the measures that ``measure_of`` gives."""
        values = {
            "bits per byte": self.bits_per_byte,
            "bits per sample": self.nats / math.log(2) / max(self.num_tokens, 1),
            "perplexity per word": self.word_perplexity,
        }
        return values[measure]


def measure_of(unit: str) -> str:
    """What models of such tokens are compared by: lower is better.

    Bits per byte, whatever the tokens of a text are; of a closed vocabulary, which loses words, perplexity
    per word; of sound, bits per sample.
    """
    return {"sample": "bits per sample", "word": "perplexity per word"}.get(unit, "bits per byte")


def key_of(measure: str) -> str:
    """A measure as a key of records."""
    return measure.replace(" ", "_")


def perplexity(nats: float, count: int) -> float:
    """The exponential of their mean."""
    mean = nats / max(count, 1)
    return math.inf if mean >= 700 else math.exp(mean)


def total(name: str, scores: Sequence[Score]) -> Score:
    """Several scores as one."""
    return Score(
        name=name,
        num_bytes=sum(s.num_bytes for s in scores),
        num_tokens=sum(s.num_tokens for s in scores),
        num_words=sum(s.num_words for s in scores),
        nats=math.fsum(s.nats for s in scores),
    )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of all documents, and of their sum."""

    documents: tuple[Score, ...]
    unit: str
    """What a token stands for."""
    learning_rate: float | None = None
    """Of dynamic evaluation; None if the model stayed as it was."""
    losses: tuple[NDArray[np.float32], ...] | None = None
    """If asked for, -log probability of each token of each document, in nats."""

    @property
    def total(self) -> Score:
        """All documents together: each token weighs the same, wherever it stands."""
        return total("total", self.documents)


def evaluate(
    model: LanguageModel,
    corpus: Corpus,
    *,
    memory: int | None = None,
    compressed_memory: int | None = None,
    reset_documents: bool = True,
    num_rows: int = 8,
    precision: Precision = "auto",
    learning_rate: float | None = None,
    with_losses: bool = False,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Evaluation:
    """Reads every document from beginning to end and scores each of its tokens.

    Args:
        model: is put in evaluation mode.
        corpus: the documents.
        memory, compressed_memory: slots per layer, if other than in training.
        reset_documents: begin each document with an empty state. Otherwise the state is carried on from each
            document to the next, in their order, as in the paper's PG-19.
        num_rows: documents read side by side; changes the speed only.
        precision: see ``autocast``.
        learning_rate: if given, dynamic evaluation (Krause et al. 2018): after each segment has been scored,
            the weights learn from it, by Adam; documents are then read one after the other. In the end the
            model is as it was.
        with_losses: also give the loss of each token.
        progress: is told the number of tokens read since it was told last.

    Raises:
        UsageError: a memory size or the learning rate is not allowed.
    """
    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise UsageError(f"learning_rate {learning_rate} is not allowed; use more than 0")
    model.eval()
    device = next(model.parameters()).device
    alone = not reset_documents or learning_rate is not None
    lengths = np.diff(corpus.starts)
    filled = int((lengths > 0).sum())
    if not filled:
        raise UsageError(f"there is no {corpus.unit} to score in the text; give another")
    rows = 1 if alone else min(num_rows, filled)
    state = model.init_memory(rows, memory=memory, compressed_memory=compressed_memory)
    found = _Found(corpus, with_losses, progress)
    with torch.no_grad(), autocast(device, precision):
        read: _Reader = _Learner(model, learning_rate) if learning_rate is not None else _Fixed(model)
        with read:
            score = _score_apart if reset_documents else _score_stream
            score(read, corpus, read.begin(state), found)
    scores = (
        Score(
            name=name,
            num_bytes=int(size),
            num_tokens=int(lengths[i]),
            num_words=count_words(corpus, i),
            nats=float(found.nats[i]),
        )
        for i, (name, size) in enumerate(zip(corpus.names, corpus.num_bytes, strict=True))
    )
    nothing = np.empty(0, np.float32)
    losses = tuple(np.concatenate([nothing, *pieces]) for pieces in found.losses) if with_losses else None
    return Evaluation(documents=tuple(scores), unit=corpus.unit, learning_rate=learning_rate, losses=losses)


def count_words(corpus: Corpus, index: int, chunk: int = 1 << 20) -> int:
    """Words of a document, between spaces; the tokens of a vocabulary of words; none of sound."""
    tokenizer, start, stop = corpus.tokenizer, *map(int, corpus.starts[index : index + 2])
    if tokenizer.unit in ("word", "sample"):
        return stop - start if tokenizer.unit == "word" else 0
    counter = WordCounter()
    for at in range(start, stop, chunk):
        counter.add(tokenizer.decode(np.asarray(corpus.tokens[at : min(at + chunk, stop)])))
    return counter.count


class _Found:
    """What is found out about the documents of a corpus."""

    def __init__(self, corpus: Corpus, with_losses: bool, progress: Callable[[int], None]):
        self.nats = torch.zeros(corpus.num_documents, dtype=torch.float64)
        self.losses: list[list[NDArray[np.float32]]] = [[] for _ in range(corpus.num_documents)]
        self.with_losses, self.progress = with_losses, progress

    def add(self, document: int, losses_T: Tensor, targets_T: Tensor) -> None:
        """Some tokens of a document, those without a target left out."""
        self.nats[document] += losses_T.sum()
        if self.with_losses:
            self.losses[document].append(losses_T[targets_T >= 0].float().numpy())


class _Reader(AbstractContextManager[None]):
    """Reads segments with a model."""

    def __init__(self, model: LanguageModel):
        self.model = model

    def begin(self, state: Memory) -> Memory:
        """The state to begin with."""
        return state

    def __call__(self, inputs: Tensor, targets: Tensor, state: Memory) -> tuple[Tensor, Memory]:
        """float64 [B, T] -log probability of each target, 0 where the target is -1, and the new state."""
        device = state.document.device
        output = self.model(inputs.to(device), state, targets=targets.to(device))
        return output.losses.double().cpu(), output.memory

    def __exit__(self, *_: object) -> None:
        pass


class _Fixed(_Reader):
    """Keeps keys and values, since the weights stay as they are."""

    def begin(self, state: Memory) -> Memory:
        return self.model.core.with_cache(state)


class _Learner(_Reader):
    """Learns from each segment after scoring it, and forgets it all in the end."""

    def __init__(self, model: LanguageModel, learning_rate: float):
        super().__init__(model)
        self.before = {name: x.clone() for name, x in model.state_dict().items()}
        self.adam = torch.optim.Adam(model.parameters(), lr=learning_rate)

    def __call__(self, inputs: Tensor, targets: Tensor, state: Memory) -> tuple[Tensor, Memory]:
        with torch.enable_grad():
            device = state.document.device
            output = self.model(inputs.to(device), state, targets=targets.to(device))
            (output.losses.sum() / max(int((targets >= 0).sum()), 1)).backward()
        self.adam.step()
        self.adam.zero_grad()
        torch.clear_autocast_cache()  # or the next segment is read with the weights of before
        return output.losses.detach().double().cpu(), output.memory.detach()

    def __exit__(self, *_: object) -> None:
        self.model.load_state_dict(self.before)


def _score_apart(read: _Reader, corpus: Corpus, state: Memory, found: _Found) -> None:
    """Documents side by side, one in each row; a row takes the next document at a segment boundary.

    So every document begins with a segment, and no score depends on what is read beside it. What pads the
    last segment of a document is neither scored nor remembered: the row is reset, or leaves. If the rate does
    not divide the segment, groups of rows straddle segments, and documents are padded to whole groups too.
    """
    T = state.segment
    compresses = any(layer.sizes[0] for layer in state.layers)
    whole = math.lcm(T, read.model.config.compression_rate) if compresses else T
    waiting = (_Document(corpus, i, whole) for i, size in enumerate(np.diff(corpus.starts)) if size)
    rows = [(next(waiting), 0) for _ in range(state.batch_size)]
    while rows:
        inputs, targets = map(
            torch.stack, zip(*(document.segment(at, T) for document, at in rows), strict=True)
        )
        losses_BT, state = read(inputs, targets, state)
        for (document, _), losses_T, targets_T in zip(rows, losses_BT, targets, strict=True):
            found.add(document.index, losses_T, targets_T)
        found.progress(int((targets >= 0).sum()))
        rows, state = _next_rows(rows, waiting, state)


class _Document:
    """A document that is read segment by segment, however long it is.

    Args:
        corpus, index: where it stands.
        multiple: to which it is padded.
    """

    def __init__(self, corpus: Corpus, index: int, multiple: int):
        self.corpus, self.index = corpus, index
        self.start, self.stop = map(int, corpus.starts[index : index + 2])
        self.length = math.ceil((self.stop - self.start) / multiple) * multiple
        """With the padding."""

    def segment(self, at: int, T: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, int64 [T], from a place on; targets are -1 where padded."""
        first = min(self.start + at, self.stop)
        read = np.asarray(self.corpus.tokens[max(first - 1, self.start) : min(first + T, self.stop)])
        tokens = torch.from_numpy(read.astype(np.int64))
        if not at:
            tokens = pad(tokens, (1, 0), value=self.corpus.tokenizer.document_token)
        count = len(tokens) - 1
        inputs = pad(tokens[:-1], (0, T - count), value=self.corpus.tokenizer.document_token)
        return inputs, pad(tokens[1:], (0, T - count), value=-1)


def _next_rows(
    rows: list[tuple[_Document, int]], waiting: Iterator[_Document], state: Memory
) -> tuple[list[tuple[_Document, int]], Memory]:
    """Moves each row one segment on; gives finished rows the next document, or takes them out."""
    moved, finished = [], []
    for document, at in rows:
        done = at + state.segment >= document.length
        following = next(waiting, None) if done else document
        moved.append((following, 0 if done else at + state.segment))
        finished.append(done)
    if any(finished):
        state = state.reset(torch.tensor(finished))
    kept = [i for i, (document, _) in enumerate(moved) if document is not None]
    if 0 < len(kept) < len(moved):
        state = state.reorder(kept)
    return [(document, at) for document, at in moved if document is not None], state


def _score_stream(read: _Reader, corpus: Corpus, state: Memory, found: _Found) -> None:
    """All documents as one stream, in order, each behind its document token."""
    stream, boundary = Stream(corpus), corpus.tokenizer.document_token
    document = -1
    for start in range(0, len(stream) - 1, state.segment):
        count = min(state.segment, len(stream) - 1 - start)
        tokens = torch.from_numpy(stream.read(start, count + 1))
        document_T = document + (tokens[:-1] == boundary).cumsum(0)
        targets = tokens[1:].masked_fill(tokens[1:] == boundary, -1)
        losses_BT, state = read(tokens[None, :-1], targets[None], state)
        for index in range(max(document, 0), int(document_T[-1]) + 1):
            here = document_T == index
            found.add(index, losses_BT[0, here], targets[here])
        document = int(document_T[-1])
        found.progress(count)
