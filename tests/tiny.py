"""Tiny language models, corpora and runs, for tests of what is built around the core."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compressive_transformer import LanguageModel, ModelConfig
from compressive_transformer.cli import main
from compressive_transformer.data import ByteTokenizer, Corpus, Document

SENTENCE = b"It is a truth universally acknowledged, that memory is limited.\n"
SENTENCES = 60
"""In the text that runs are trained on."""
BOUNDARY = ByteTokenizer.document_token
TINY: dict[str, Any] = {
    "dim": 16,
    "num_heads": 2,
    "num_layers": 2,
    "mlp_dim": 24,
    "position_features": 8,
    "segment": 8,
    "memory": 8,
    "compressed_memory": 6,
    "compression_rate": 2,
}
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "Transformer-XL": {"compressed_memory": 0},
    "nothing remembered": {"memory": 0, "compressed_memory": 0},
    "compressed only": {"memory": 0},
    "sizes by layer": {"memory": (8, 4), "compressed_memory": (0, 8)},
    "rate does not divide": {"compression_rate": 3},
    "rate 1": {"compression_rate": 1},
    "most-used": {"compressor": "most-used"},
    "dilated, true time": {"compressor": "dilated", "positions": "time"},
    "separate, post-norm": {"positions": "separate", "norm": "post", "final_norm": False},
    "gated": {"gating": "gru"},
    "faithful": {"faithful": True, "positions": "separate"},
}
"""Settings under which everything around the core must hold as well."""


def tiny_config(**settings: Any) -> ModelConfig:
    return ModelConfig(**TINY | settings)


def tiny_model(
    *, seed: int = 0, dtype: torch.dtype = torch.float32, vocab_size: int = 257, **settings: Any
) -> LanguageModel:
    """A model in evaluation mode, of which memory is worth something: all weights are random and large."""
    model = LanguageModel(tiny_config(**settings), vocab_size=vocab_size).to(dtype)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.5, generator=random)
            if name.endswith("norm.weight"):
                parameter += 1
    return model.eval()


def corpus_of(*datas: bytes) -> Corpus:
    documents = (Document(f"document {i}", data) for i, data in enumerate(datas))
    return Corpus.from_documents(documents, ByteTokenizer())


def some_bytes(length: int, seed: int = 0) -> bytes:
    return bytes(torch.randint(256, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def tokens_of(data: bytes) -> Tensor:
    """int64 [1, T], the document token first."""
    return torch.tensor([[BOUNDARY, *data]])


def train_tiny(data: Path, out: Path, *arguments: str) -> None:
    """Runs ``compressive train`` in this process."""
    shape = [
        f"--model.{name.replace('_', '-')}={value}"
        for name, value in TINY.items()
        if name != "compressed_memory"
    ]
    usual = ["--lanes=2", "--model.compressed-memory=8", "--precision=float32", *shape]
    main(["train", "--data", str(data), "--out", str(out), *usual, *arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said about a mistake at the command line, in one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("compressive: error") == 1
    assert error.endswith("\n")
    assert "\n" not in error.partition("compressive: error")[2].rstrip("\n")
    return error
