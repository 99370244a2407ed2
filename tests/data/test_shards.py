"""Tokens in files are like an array that is never in memory."""

import os
import pickle
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from folders import BYTES, same
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from compressive_transformer.data import (
    Shards,
    prepare_dataset,
    shards,
)
from compressive_transformer.data.shards import Shard
from compressive_transformer.errors import UsageError


def in_files(folder: Path, pieces: list[NDArray[np.uint16]]) -> Shards:
    made = []
    for number, piece in enumerate(pieces):
        (folder / f"{number}.bin").write_bytes(piece.tobytes())
        made.append(Shard(folder / f"{number}.bin", len(piece), ""))
    return Shards.over(made, np.uint16)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    cuts=st.lists(st.tuples(*[st.none() | st.integers(-40, 40)] * 2), max_size=3),
)
def test_shards_are_like_an_array(sizes: list[int], cuts: list[tuple[int | None, int | None]]):
    truth = np.arange(sum(sizes), dtype=np.uint16)
    with tempfile.TemporaryDirectory() as folder, patch.object(shards, "FILES", shards.OpenFiles(2)):
        tokens = in_files(Path(folder), np.split(truth, np.cumsum(sizes)[:-1]))
        for start, stop in cuts:
            tokens, truth = tokens[start:stop], truth[start:stop]
        assert len(tokens) == len(truth)
        assert (np.asarray(tokens).tolist(), np.asarray(tokens).dtype) == (truth.tolist(), truth.dtype)
        assert tokens.astype(np.int64).dtype == np.int64
        assert np.array_equal(pickle.loads(pickle.dumps(tokens)), truth)
        assert len(shards.FILES._files) <= 2
        shards.FILES.close()


def test_what_shards_can_not_do(tmp_path: Path):
    tokens = in_files(tmp_path, [np.arange(4, dtype=np.uint16)])
    with pytest.raises(ValueError, match="in steps of 1, got 2"):
        tokens[::2]
    with pytest.raises(ValueError, match="without a copy"):
        np.array(tokens, copy=False)


def test_a_corpus_in_files_is_small_when_pickled(text: Path, tmp_path: Path):
    corpus = prepare_dataset(text, tmp_path / "out", BYTES)
    assert len(pickle.dumps(corpus)) < 3000
    assert same(pickle.loads(pickle.dumps(corpus)), corpus)


def test_what_was_made_again_is_read_again(text: Path, tmp_path: Path):
    corpus = prepare_dataset(text, tmp_path / "out", BYTES)
    np.asarray(corpus.tokens)
    os.truncate(tmp_path / "out" / "shard-00000.bin", 8)
    assert same(prepare_dataset(text, tmp_path / "out", BYTES), corpus)


@pytest.mark.parametrize(
    ("opened", "message"),
    [
        (False, r"^cannot read the token file .*shard-00000.bin \(No such file or directory\): prepare"),
        (True, r"^the token file .*shard-00000.bin has been cut short: prepare the text again$"),
    ],
)
def test_a_token_file_that_goes_away(text: Path, tmp_path: Path, opened: bool, message: str):
    corpus = prepare_dataset(text, tmp_path / "out", BYTES)
    path = tmp_path / "out" / "shard-00000.bin"
    if opened:
        np.asarray(corpus.tokens[:10])
        os.truncate(path, 100)
    else:
        path.unlink()
    with pytest.raises(UsageError, match=message):
        np.asarray(corpus.tokens)
