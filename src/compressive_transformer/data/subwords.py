"""An open vocabulary of subwords: byte-pair encoding by the library ``tokenizers``, for any bytes."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from compressive_transformer.data.tokenizers import TokenArray, dtype_of, table_index
from compressive_transformer.errors import UsageError

ALPHABET = "latin-1"
"""Each byte is a letter of this alphabet, so that any bytes can be encoded, and come back as they were."""
SPACES = r" \t\r\f\v"
LETTERS = r"A-Za-z\x{80}-\x{ff}"
PATTERN = "|".join(
    [
        r"\n",  # alone, so that text may be cut behind any line
        rf" ?[{LETTERS}]+",
        r" ?[0-9]+",
        rf" ?[^\n{SPACES}{LETTERS}0-9]+",
        rf"[{SPACES}]+(?![^\n{SPACES}])",  # the last space goes with the word behind it
        rf"[{SPACES}]",
    ]
)
"""What is never merged with what stands beside it: words with the space before them, numbers, signs."""


class SubwordTokenizer:
    """Byte-pair encoding.

    Args:
        model: as the library ``tokenizers`` writes it.
        name: of the file that it comes from, see ``trained``.

    Raises:
        UsageError: ``tokenizers`` is not installed, or does not know such a model.
    """

    unit = "subword"

    def __init__(self, model: str, name: str):
        self.name, self._model = name, model
        try:
            self._tokenizer = library().Tokenizer.from_str(model)
        except Exception as error:  # the library has no exception of its own
            raise UsageError(f"the subwords {name} are damaged ({error}); make them again") from None
        size = self._tokenizer.get_vocab_size()
        texts = [self._tokenizer.id_to_token(i) for i in range(size)]
        if None in texts:
            raise UsageError(f"the subwords {name} are damaged (a number is missing); make them again")
        self._texts = [text.encode(ALPHABET) for text in texts if text is not None] + [b""]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._model, self.name)

    @property
    def vocab_size(self) -> int:
        return len(self._texts)

    @property
    def document_token(self) -> int:
        return len(self._texts) - 1

    def encode(self, data: bytes) -> TokenArray:
        """The tokens of any bytes, [num_tokens]. Cut behind lines, they have the same tokens."""
        found = self._tokenizer.encode_batch_fast([data.decode(ALPHABET)], add_special_tokens=False)
        return np.array(found[0].ids, dtype_of(self.vocab_size))

    def decode(self, ids: ArrayLike) -> bytes:
        """The bytes again, document tokens left out."""
        texts = self._texts
        return b"".join([texts[i] for i in table_index(ids, self.vocab_size)])


def learn_subwords(parts: Iterable[bytes], size: int, *, progress: bool = False) -> str:
    """A model of at most ``size`` subwords for a text, given in parts that end with lines.

    Raises:
        UsageError: ``tokenizers`` is not installed.
    """
    t = library()
    tokenizer = t.Tokenizer(t.models.BPE())
    tokenizer.pre_tokenizer = t.pre_tokenizers.Split(t.Regex(PATTERN), behavior="isolated")
    letters = [chr(byte) for byte in range(256)]
    trainer = t.trainers.BpeTrainer(vocab_size=size, initial_alphabet=letters, show_progress=progress)

    def texts() -> Iterator[str]:
        for part in parts:
            yield part.decode(ALPHABET)

    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer.to_str()


def library() -> Any:
    """The library ``tokenizers``.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import tokenizers
    except ImportError:
        raise UsageError(
            "subwords need the library tokenizers; pip install 'compressive-transformer[subwords]'"
        ) from None
    return tokenizers
