"""A closed vocabulary of words, as WikiText is read: each line is its words and an end of line."""

import codecs
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from compressive_transformer.data.tokenizers import TokenArray, dtype_of, table_index
from compressive_transformer.errors import UsageError

END_OF_LINE = b"\n"
UNKNOWN = b"<unk>"


class WordTokenizer:
    r"""Words between spaces are tokens, and so is each end of a line; all other words are ``<unk>``.

    Decoding gives each word behind a space and ``" \n"`` for an end of line, which are WikiText's own bytes;
    other spaces, and what words were unknown, are lost.

    Args:
        words: by falling frequency, as an adaptive softmax needs them; among them ``<unk>`` and ``"\n"``.
        counts: how often each stood in the text that the vocabulary was made from.
        name: of the file that they come from, see ``trained``.
    """

    unit = "word"

    def __init__(self, words: Sequence[bytes], counts: Sequence[int], name: str):
        self.words, self.counts, self.name = tuple(words), tuple(counts), name
        self._ids = {word: i for i, word in enumerate(self.words)}
        self.unknown = self._ids.get(UNKNOWN, -1)
        """The token of words that are not among these."""
        if len(self._ids) < len(self.words) or len(self.words) != len(self.counts):
            raise UsageError(f"the vocabulary {name} has words twice, or not as many counts; make it again")
        if not {UNKNOWN, END_OF_LINE} <= self._ids.keys():
            raise UsageError(f"the vocabulary {name} lacks <unk> or the end of line; make it again")
        self._texts = [b" " + (b"\n" if word == END_OF_LINE else word) for word in self.words] + [b""]

    @property
    def vocab_size(self) -> int:
        return len(self.words) + 1

    @property
    def document_token(self) -> int:
        return len(self.words)

    def encode(self, data: bytes) -> TokenArray:
        """The tokens of some lines, [num_tokens]; a last line without end has no end of line."""
        ids, unknown, end = self._ids, self.unknown, self._ids[END_OF_LINE]
        found: list[int] = []
        *lines, rest = data.split(END_OF_LINE)
        for line in lines:
            found.extend([ids.get(word, unknown) for word in line.split()])
            found.append(end)
        found.extend([ids.get(word, unknown) for word in rest.split()])
        return np.array(found, dtype_of(self.vocab_size))

    def decode(self, ids: ArrayLike) -> bytes:
        """The words behind spaces, lines ended, document tokens left out."""
        texts = self._texts
        return b"".join([texts[i] for i in table_index(ids, self.vocab_size)])


class WordCounter:
    """Counts the words between spaces of a text that comes in pieces, cut anywhere.

    Args:
        strict: raise a UnicodeDecodeError where the text is not UTF-8.
    """

    def __init__(self, *, strict: bool = False):
        # Spaces are those of Unicode.
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict" if strict else "replace")
        self._inside = False
        self.count = 0

    def add(self, data: bytes, *, final: bool = False) -> None:
        """Some more of the text."""
        if text := self._decoder.decode(data, final):
            # A word that goes on over the cut counts once.
            self.count += len(text.split()) - (self._inside and not text[0].isspace())
            self._inside = not text[-1].isspace()


def count_words(parts: Iterable[bytes], size: int | None = None) -> tuple[list[bytes], list[int]]:
    """The words of a text and how often each occurs, by falling frequency.

    Args:
        parts: of the text, each ending with a line.
        size: so many words are kept, the most frequent ones; the others count as ``<unk>``. None keeps all.
    """
    counts: Counter[bytes] = Counter()
    for part in parts:
        counts.update(part.split())
        counts[END_OF_LINE] += part.count(END_OF_LINE)
    always = {word: counts.pop(word, 0) for word in (END_OF_LINE, UNKNOWN)}
    # Equal counts by the words themselves, so that one text has one vocabulary.
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if size is not None:
        keep = max(size - len(always), 0)
        always[UNKNOWN] += sum(count for _, count in ranked[keep:])
        del ranked[keep:]
    ranked = sorted([*ranked, *always.items()], key=lambda item: (-item[1], item[0]))
    return [word for word, _ in ranked], [count for _, count in ranked]
