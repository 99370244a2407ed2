"""Training batches from a data set that is read as a stream, and never as a whole.

Shape legend: B lanes, T tokens of a segment.
"""

import base64
import binascii
import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressive_transformer.data.corpus import Corpus
from compressive_transformer.data.hub import EndlessRows, HubText, Row
from compressive_transformer.data.lanes import Batch, check_rows, make_batch
from compressive_transformer.data.saved import check_count, check_identity, check_list, damaged_state
from compressive_transformer.data.sources import Document
from compressive_transformer.data.tokenizers import TokenArray, Tokenizer
from compressive_transformer.errors import UsageError

VALIDATION_TOKENS, VALIDATION_FRACTION = 2**18, 0.05
"""How much is held out, and how much of a stream that is shorter than that."""
SAVED = np.dtype("<u4")
"""Unread tokens in a state."""


@dataclass(frozen=True)
class LanesFactory:
    """Makes lanes of a stream."""

    text: HubText
    tokenizer: Tokenizer
    excluded: frozenset[bytes]
    """Digests of the texts that are held out."""

    def __call__(
        self,
        *,
        num_lanes: int,
        length: int,
        reset_documents: bool = True,
        rows: range | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> "StreamedLanes":
        """The lanes of one process; see `StreamedLanes`."""
        documents = EndlessRows(self.text, self.excluded, rank=rank, world=world)
        return StreamedLanes(
            documents,
            self.tokenizer,
            num_lanes=num_lanes,
            length=length,
            reset_documents=reset_documents,
            rows=rows,
            identity={
                "data": self.text.name,
                "tokenizer": self.tokenizer.name,
                "held_out": hashlib.sha256(b"".join(sorted(self.excluded))).hexdigest(),
                "rank": rank,
                "world": world,
            },
        )


def open_stream(
    name: str, tokenizer: Tokenizer, *, validation_tokens: int = VALIDATION_TOKENS
) -> tuple[Corpus | None, LanesFactory]:
    """A data set to train on as it streams in, and its first documents to validate on.

    The first documents are held out until they have ``validation_tokens``, the last of them cut there; of a
    stream that ends before, those that hold a twentieth of it. No text that is held out is ever trained on,
    wherever else in the stream it stands, and into however many parts the stream is divided.

        held_out, make_lanes = open_stream("hf:Salesforce/wikitext:wikitext-103-raw-v1", tokenizer)
        lanes = make_lanes(num_lanes=16, length=512)
        lanes = make_lanes(num_lanes=16, length=512, rows=range(8, 16), rank=1, world=2)  # the second of two

    Args:
        name: ``hf:PATH[:CONFIG[:SPLIT]]``. PATH is a data set of the hub, or a folder of parquet, jsonl or
            text files. The text is the column ``text``, or else the only one of strings.
        tokenizer: Makes the tokens.
        validation_tokens: With 0, where other text is there to validate on, nothing is held out and the
            corpus is None.

    Raises:
        UsageError: The data set can't be had (see `HubText.open`), or is too small to hold anything out.
    """
    text = HubText.open(name)
    if validation_tokens == 0:
        return None, LanesFactory(text, tokenizer, frozenset())
    held_out = _hold_out(text.rows(), tokenizer, validation_tokens, name)
    documents, left = [], validation_tokens
    for row in held_out:
        tokens = tokenizer.encode(row.data)
        documents.append(Document(f"{name}#{row.number}", tokenizer.decode(tokens[:left])))
        left -= len(tokens[:left])
    corpus = Corpus.from_documents(documents, tokenizer)
    return corpus, LanesFactory(text, tokenizer, frozenset(row.digest for row in held_out))


def _hold_out(rows: Iterator[Row], tokenizer: Tokenizer, wanted: int, name: str) -> list[Row]:
    """The first rows; something else comes after them."""
    held_out, sizes = [], []
    for row in rows:
        held_out.append(row)
        sizes.append(len(tokenizer.encode(row.data)))
        if sum(sizes) >= wanted:
            break
    digests = {row.digest for row in held_out}
    if any(row.digest not in digests for row in rows):
        return held_out
    enough = int(np.searchsorted(np.cumsum(sizes), VALIDATION_FRACTION * sum(sizes))) + 1
    few = held_out[:enough]
    if {row.digest for row in few} == digests:
        raise UsageError(
            f"{name} is too small to hold out a part for validation: use a larger one, or give --validation"
        )
    return few


@dataclass
class _Unread:
    """What a lane has still to read of a document."""

    number: int
    tokens: TokenArray


class StreamedLanes:
    """An endless stream of batches; row i of each goes on where row i of the one before stopped.

    A lane that has come to the end of its document takes the next of the stream. What comes depends on the
    stream alone, and a state goes on to the token where it was taken. Unlike that of `Lanes`, the state is
    that of one process: each has a part of the stream, its own, and saves its own state.

    Args:
        documents: The texts of this process.
        tokenizer: Makes the tokens.
        num_lanes: Rows of a batch of all processes together.
        length: Tokens that a batch reads from each lane, T.
        reset_documents: Say where documents begin, so that they do not see each other.
        rows: Which of the lanes this process reads; all of them if left out. Its batches have a row for each.
        identity: What must be equal for a state to go on.

    Raises:
        UsageError: The numbers are out of their range.
    """

    epoch: float | None = None
    """Unknown: streams don't say how long they are."""

    def __init__(
        self,
        documents: EndlessRows,
        tokenizer: Tokenizer,
        *,
        num_lanes: int,
        length: int,
        reset_documents: bool,
        rows: range | None,
        identity: dict[str, str | int],
    ) -> None:
        if num_lanes < 1 or length < 1:
            raise UsageError(f"num_lanes and length must be at least 1, got {num_lanes} and {length}")
        self.tokenizer, self.num_lanes, self.length = tokenizer, num_lanes, length
        self.reset_documents = reset_documents
        self.rows = check_rows(rows, num_lanes)
        self._identity = identity | {"num_lanes": num_lanes, "first_row": self.rows.start}
        self._documents = documents
        self._unread: list[deque[_Unread]] = [deque() for _ in self.rows]
        self._last: list[list[int]] = []
        self._tokens_read = 0

    @property
    def tokens_read(self) -> int:
        """Tokens given out so far, as inputs, by all lanes of all processes together."""
        return self._tokens_read

    def __iter__(self) -> "StreamedLanes":
        return self

    def __next__(self) -> Batch:
        for unread in self._unread:  # if the stream fails here, no lane has moved
            self._fill(unread)
        self._last = [[] for _ in self._unread]
        tokens = np.stack([self._read(*lane) for lane in zip(self._unread, self._last, strict=True)])
        self._tokens_read += self.num_lanes * self.length
        return make_batch(tokens, self.tokenizer.document_token if self.reset_documents else None)

    def documents(self, rows: Iterable[int] | None = None) -> list[str]:
        """Names of the documents that rows of the last batch come from (all rows if not given), each once."""
        read = self._last if rows is None else [self._last[row] for row in rows]
        rank, world = self._identity["rank"], self._identity["world"]
        part = "" if world == 1 else f" part {rank}/{world}"
        return [f"{self._documents.name}{part}#{number}" for number in dict.fromkeys(chain(*read))]

    def advance_to(self, tokens_read: int) -> None:
        """Reads on, and gives nothing out, until so many tokens have been read by all lanes together.

        Raises:
            UsageError: So many have been read already.
        """
        if check_count(tokens_read, "tokens_read") < self._tokens_read:
            raise UsageError(f"a stream can't go back from token {self._tokens_read} to {tokens_read}")
        while self._tokens_read < tokens_read:
            next(self)
        self._tokens_read, self._last = tokens_read, []

    def state_dict(self) -> dict[str, Any]:
        """Where the lanes and the stream stand, and what they belong to; fit for JSON."""
        unread = [
            [{"document": piece.number, "tokens": _to_text(piece.tokens)} for piece in lane]
            for lane in self._unread
        ]
        return {
            **self._identity,
            "tokens_read": self._tokens_read,
            "documents": self._documents.state_dict(),
            "unread": unread,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken, also with segments of another length.

        Raises:
            UsageError: The state belongs to another stream, process, or number of lanes, or is no such state.
        """
        check_identity(state, self._identity)
        tokens_read = check_count(state.get("tokens_read"), "tokens_read")
        lanes = check_list(state.get("unread"), len(self.rows), "unread")
        unread = [deque(map(self._parse, check_list(lane, None, "unread"))) for lane in lanes]
        self._documents.load_state_dict(state.get("documents"))
        self._unread, self._tokens_read, self._last = unread, tokens_read, []

    def _fill(self, unread: deque[_Unread]) -> None:
        """Takes documents until the lane has a batch and the token after it."""
        held = sum(len(piece.tokens) for piece in unread)
        while held <= self.length:
            row = next(self._documents)
            tokens = self.tokenizer.encode(row.data)
            tokens = np.insert(tokens, 0, self.tokenizer.document_token)
            unread.append(_Unread(row.number, tokens))
            held += len(tokens)

    def _read(self, unread: deque[_Unread], numbers: list[int]) -> NDArray[np.int64]:
        """The next tokens [T + 1] of a lane, of which the last is read again; notes whose they are."""
        found = np.empty(self.length + 1, np.int64)
        filled = 0
        while filled < self.length:
            piece = unread[0]
            some = piece.tokens[: self.length - filled]
            found[filled : filled + len(some)] = some
            filled += len(some)
            numbers.append(piece.number)
            piece.tokens = piece.tokens[len(some) :]
            if not len(piece.tokens):
                unread.popleft()
        found[-1] = unread[0].tokens[0]
        return found

    def _parse(self, entry: Any) -> _Unread:
        """A piece in a state."""
        entry = entry if isinstance(entry, dict) else {}
        number = check_count(entry.get("document"), "document")
        try:
            tokens = np.frombuffer(base64.b64decode(entry.get("tokens", ""), validate=True), SAVED)
        except (ValueError, TypeError, binascii.Error):
            raise damaged_state("unread", "tokens", entry.get("tokens")) from None
        if not len(tokens) or tokens.max() >= self.tokenizer.vocab_size:
            raise damaged_state("unread", f"tokens below {self.tokenizer.vocab_size}", tokens)
        return _Unread(number, tokens.astype(np.uint32))


def _to_text(tokens: TokenArray) -> str:
    return base64.b64encode(tokens.astype(SAVED).tobytes()).decode()
