"""What a run is (``config.json``) and its newest weights (``model.safetensors``)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from compressive_transformer.checkpoint.store import MANIFEST, STATE, verify
from compressive_transformer.checkpoint.tensors import load_tensors
from compressive_transformer.data import Tokenizer, get_tokenizer
from compressive_transformer.errors import UsageError
from compressive_transformer.model import LanguageModel, ModelConfig
from compressive_transformer.storage import read_header, write_json, write_whole

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained language model and what belongs to it."""

    path: Path
    model: LanguageModel
    tokenizer: Tokenizer
    training: dict[str, Any]
    """The settings that it was trained with."""


def save_config(path: Path, model: LanguageModel, tokenizer: Tokenizer, training: dict[str, Any]) -> None:
    """Writes ``config.json`` of a run."""
    config = {
        "format": FORMAT,
        "model": asdict(model.config),
        "vocab_size": model.vocab_size,
        "tokenizer": tokenizer.name,
        "training": training,
    }
    write_json(path / CONFIG, config)


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes ``model.safetensors`` of a run, from the state dict of a model."""
    whole = {name: x.contiguous() for name, x in weights.items()}
    write_whole(path / WEIGHTS, lambda beside: save_file(whole, beside))


def load_run(path: str | Path, device: torch.device | str = "cpu") -> Run:
    """Reads a run folder, or one of the checkpoints in its ``state/``; the model is in evaluation mode.

    Raises:
        UsageError: it is not a run folder, or a file of it is missing, broken or of another model.
    """
    path = given = Path(path)
    if os.path.isfile(path / MANIFEST) and path.parent.name == STATE:
        path = path.parent.parent
    config = read_config(path)
    model = LanguageModel(model_config(path, config), vocab_size=config["vocab_size"])
    if given != path:
        verify(given)
        load_tensors(given, {f"model.{name}": x for name, x in model.state_dict().items()})
        tokenizer = get_tokenizer(config["tokenizer"])
        return Run(
            path=given, model=model.to(device).eval(), tokenizer=tokenizer, training=config["training"]
        )
    weights = _load_weights(path / WEIGHTS, device)
    expected = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    found = {name: tuple(x.shape) for name, x in weights.items()}
    if expected != found:
        name = next(n for n in [*expected, *found] if expected.get(n) != found.get(n))
        raise UsageError(
            f"{path / WEIGHTS} is not of the model in {CONFIG}: {name} is {found.get(name, 'missing')}, not "
            f"{expected.get(name, 'expected')}; restore the two files of one run"
        )
    model.to(device).load_state_dict(weights)
    tokenizer = get_tokenizer(config["tokenizer"])
    return Run(path=path, model=model.eval(), tokenizer=tokenizer, training=config["training"])


def read_config(path: Path) -> dict[str, Any]:
    """The content of ``config.json`` of a run folder."""
    if not os.path.isdir(path):  # unlike Path.is_dir, also where the name itself is impossible
        raise UsageError(f"{path} is not a folder; give the run folder that 'compressive train' printed")
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{path} is not a run folder (no {CONFIG}); give one that 'compressive train' made"
        ) from None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path / CONFIG} is broken ({error}); restore it or train again") from None
    kinds = {"format": int, "model": dict, "vocab_size": int, "tokenizer": str, "training": dict}
    given = config if isinstance(config, dict) else {}
    if lacks := sorted(name for name, kind in kinds.items() if not isinstance(given.get(name), kind)):
        raise UsageError(f"{path / CONFIG} lacks {', '.join(lacks)}; it is not of a run of this library")
    if config["format"] != FORMAT:
        raise UsageError(
            f"{path} has format {config['format']}, this version reads {FORMAT}; use the version that made it"
        )
    return config


def model_config(path: Path, config: dict[str, Any]) -> ModelConfig:
    """The model's shape in the content of a ``config.json``."""
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config["model"].items()}
    try:
        return ModelConfig(**settings)
    except TypeError as error:
        raise UsageError(
            f"{path / CONFIG} does not fit this version ({error}); use the version that made it"
        ) from None


def _load_weights(path: Path, device: torch.device | str) -> dict[str, Tensor]:
    if not path.exists():
        raise UsageError(f"{path} is missing; the run was stopped before its first save, train again")
    read_header(path)
    try:
        return load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path} is broken ({error}); restore it or train again") from None
