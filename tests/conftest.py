"""One thread, for the models are tiny; a cache of its own; and one trained run for all who need it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tiny import SENTENCE, SENTENCES, train_tiny

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton: its kernels run without a GPU


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESSIVE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a few thousand bytes."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes(SENTENCE * SENTENCES)
    return path


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, cache: None, text: Path) -> Path:
    """A run folder of a few steps."""
    path = tmp_path_factory.mktemp("runs") / "mine"
    train_tiny(text, path, "--steps", "12")
    return path
