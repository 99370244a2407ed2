"""What a run is (``config.json``) and its newest weights (``model.safetensors``)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from compressive_transformer.checkpoint.store import MANIFEST, STATE, Store, verify
from compressive_transformer.checkpoint.tensors import load_tensors, tensor_shapes
from compressive_transformer.data import ByteTokenizer, Tokenizer, get_tokenizer
from compressive_transformer.data.audio import sample_tokenizer
from compressive_transformer.errors import UsageError
from compressive_transformer.model import LanguageModel, ModelConfig
from compressive_transformer.settings import from_plain
from compressive_transformer.storage import read_header, read_json, write_json, write_whole

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
FORMAT = 2
MAX_LAYERS = 1 << 16
MAX_SIZE = 1 << 31
"""Limits of what a config may say, far above any model: beyond them numbers would not fit or work not end."""
REFERENCE = "reference"
"""Name of the trained model that comes with the package."""
REFERENCE_FOLDER = Path(__file__).parents[1] / REFERENCE
"""Where it lies."""
AGENT = "agent"
"""What ``config.json`` of an agent's run says that it is."""
MODEL = "model."
"""Before the names of weights in a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained language model and what belongs to it."""

    path: Path
    model: LanguageModel
    tokenizer: Tokenizer
    training: dict[str, Any]
    """The settings that it was trained with."""


def save_config(path: Path, model: LanguageModel, tokenizer: Tokenizer, training: dict[str, Any]) -> None:
    """Writes ``config.json`` of a run, and beside it the file of its tokenizer if it has one."""
    if tokenizer.name != ByteTokenizer.name and sample_tokenizer(tokenizer.name) is None:
        data = Path(training["tokenizer"]).read_bytes()
        write_whole(path / TOKENIZER, lambda beside: _write(beside, data))
    config = {
        "format": FORMAT,
        "model": asdict(model.config),
        "vocab_size": model.vocab_size,
        "tokenizer": tokenizer.name,
        "training": training,
    }
    write_json(path / CONFIG, config)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def run_tokenizer(path: Path, config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a run folder with this ``config.json``.

    Raises:
        UsageError: its file is missing, damaged, or that of another vocabulary.
    """
    if config["tokenizer"] == ByteTokenizer.name:
        return ByteTokenizer()
    if samples := sample_tokenizer(config["tokenizer"]):
        return samples
    if not (path / TOKENIZER).exists():
        raise UsageError(f"{path} lacks {TOKENIZER}, its tokenizer {config['tokenizer']!r}; restore the file")
    tokenizer = get_tokenizer(str(path / TOKENIZER))
    if (tokenizer.name, tokenizer.vocab_size) != (config["tokenizer"], config["vocab_size"]):
        raise UsageError(
            f"{path / TOKENIZER} is {tokenizer.name} of {tokenizer.vocab_size:,} tokens, and the model was "
            f"trained with {config['tokenizer']} of {config['vocab_size']:,}; restore the file of this run"
        )
    return tokenizer


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes ``model.safetensors`` of a run, from the state dict of a model.

    Raises:
        OSError: the disk is full, or something else hinders writing; the old file stays.
    """
    whole = {name: x.contiguous() for name, x in weights.items()}

    def write(beside: Path) -> None:
        try:
            save_file(whole, beside)
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from None

    write_whole(path / WEIGHTS, write)


def run_folder(name: str | Path) -> Path:
    """Where a run lies; ``reference``, unless there is a folder so named, is the model in the package."""
    if str(name) != REFERENCE or os.path.exists(name):
        return Path(name)
    if not REFERENCE_FOLDER.exists():
        raise UsageError("this installation has no reference model; train one by 'compressive train'")
    return REFERENCE_FOLDER


def load_run(path: str | Path = REFERENCE, device: torch.device | str = "cpu") -> Run:
    """Reads a run folder, or one of the checkpoints in its ``state/``; the model is in evaluation mode.

    Args:
        path: the folder, or ``reference``: the small byte model that comes with the package.
        device: where the model is to be.

    Raises:
        UsageError: it is not a run folder, or a file of it is missing, broken or of another model.
    """
    path = given = run_folder(path)
    state = Path(os.path.abspath(path)).parent  # the path may be "."
    if os.path.isfile(path / MANIFEST) and state.name == STATE:
        path = state.parent
    config = read_config(path)
    shape, vocab_size = model_config(path, config), config["vocab_size"]
    tokenizer = run_tokenizer(path, config)
    if given != path:
        verify(given)
        check_shapes(shape, vocab_size, weight_shapes(given), given)
        model = LanguageModel(shape, vocab_size=vocab_size)
        load_tensors(given, {MODEL + name: x for name, x in model.state_dict().items()})
        model.to(device)
    else:
        try:
            found = _header_shapes(path / WEIGHTS)
        except UsageError as error:
            if steps := Store(path).steps():
                raise UsageError(f"{error}; or use its checkpoint {Store(path).path(steps[0])}") from None
            raise
        check_shapes(shape, vocab_size, found, path / WEIGHTS)
        model = LanguageModel(shape, vocab_size=vocab_size).to(device)
        model.load_state_dict(_load_weights(path / WEIGHTS, device))
    return Run(path=given, model=model.eval(), tokenizer=tokenizer, training=config["training"])


def check_shapes(
    config: ModelConfig, vocab_size: int, found: Mapping[str, tuple[int, ...]], where: Path
) -> None:
    """Compares a model with the weights that are there, before any room is made for it.

    Args:
        config, vocab_size: the model.
        found: shape of each weight.
        where: the weights are.

    Raises:
        UsageError: the weights are of another model.
    """
    table, rows = "embedding.weight", vocab_size
    if config.sample_bits:
        table, rows = "embedding.upper.weight", 257
    elif cutoffs := config.adaptive_cutoffs:
        table, rows = "head.first.weight", cutoffs[0] + len(cutoffs)
    expected: dict[str, tuple[int, ...]] = {table: (rows, config.dim)}
    if same := found.get(table) == expected[table]:
        if max(config.num_layers, len(config.dilations)) > len(found):
            raise UsageError(f"{where} is not of the model in {CONFIG}: it has fewer layers; restore the two")
        with torch.device("meta"):
            model = LanguageModel(config, vocab_size=vocab_size)
        expected = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    for name in [*expected, *found] if same else expected:
        if expected.get(name) != found.get(name):
            raise UsageError(
                f"{where} is not of the model in {CONFIG}: {name} is {found.get(name, 'missing')}, not "
                f"{expected.get(name, 'expected')}; restore the two files of one run"
            )


def weight_shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each weight in a checkpoint.

    Raises:
        UsageError: a file there is not a safetensors file.
    """
    shapes = tensor_shapes(checkpoint).items()
    return {name.removeprefix(MODEL): tuple(size) for name, (size, _) in shapes if name.startswith(MODEL)}


def _header_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if not path.exists():
        raise UsageError(f"{path} is missing; the run was stopped before its first save, train again")
    header = read_header(path)
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def read_config(path: Path) -> dict[str, Any]:
    """The content of ``config.json`` of a run folder."""
    if not os.path.isdir(path):  # unlike Path.is_dir, also where the name itself is impossible
        raise UsageError(f"{path} is not a folder; give the run folder that 'compressive train' printed")
    try:
        config = read_json(path / CONFIG)
    except FileNotFoundError:
        raise UsageError(
            f"{path} is not a run folder (no {CONFIG}); give one that 'compressive train' made"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path / CONFIG} is broken ({reason}); restore it or train again") from None
    if isinstance(config, dict) and config.get("kind") == AGENT:
        raise UsageError(f"{path} is the run of an agent; use it with 'compressive evaluate' or --resume")
    kinds = {"format": int, "model": dict, "vocab_size": int, "tokenizer": str, "training": dict}
    given = config if isinstance(config, dict) else {}
    if lacks := sorted(name for name, kind in kinds.items() if type(given.get(name)) is not kind):
        raise UsageError(f"{path / CONFIG} lacks {', '.join(lacks)}; it is not of a run of this library")
    if config["format"] != FORMAT:
        raise UsageError(
            f"{path} has format {config['format']}, this version reads {FORMAT}; use the version that made it"
        )
    if not 1 <= config["vocab_size"] < MAX_SIZE:
        raise UsageError(f"{path / CONFIG}: vocab_size {config['vocab_size']} is not allowed; restore it")
    return config


def is_agent_run(path: str | Path) -> bool:
    """Whether this is the run folder of an agent."""
    try:
        content = read_json(Path(path) / CONFIG)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == AGENT


def model_config(path: Path, config: dict[str, Any]) -> ModelConfig:
    """The model's shape in the content of a ``config.json``."""
    settings, limits = config["model"], {"num_layers": MAX_LAYERS}
    for name, value in settings.items():
        limit = limits.get(name, MAX_SIZE)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and number >= limit:
                raise UsageError(f"{path / CONFIG}: {name} {number} is not allowed; use less than {limit:,}")
    return from_plain(ModelConfig, settings, str(path / CONFIG))


def _load_weights(path: Path, device: torch.device | str) -> dict[str, Tensor]:
    try:
        return load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path} is broken ({error}); restore it or train again") from None
