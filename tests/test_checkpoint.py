"""Run folders: what is saved is what is read, and what is broken is told in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compressive_transformer import UsageError
from compressive_transformer.checkpoint import CONFIG, WEIGHTS, load_run, save_config, save_weights
from compressive_transformer.data import ByteTokenizer
from tiny import SHAPES, tiny_model, tokens_of

TRAINING = {"data": ["a", "b"], "lr": 0.1, "seed": 3, "out": None}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(tmp_path / "mine")


def save(path: Path, **settings: Any) -> Path:
    path.mkdir()
    model = tiny_model(**settings)
    save_config(path, model, ByteTokenizer(), TRAINING)
    save_weights(path, model.state_dict())
    return path


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_what_is_saved_is_read(tmp_path: Path, shape: dict[str, Any]):
    model, run = tiny_model(**shape), load_run(save(tmp_path / "mine", **shape))
    assert run.model.config == model.config
    assert not run.model.training
    assert (run.tokenizer.name, run.training) == ("bytes", TRAINING)
    tokens = tokens_of(b"some text, longer than a segment")
    with torch.no_grad():
        assert run.model(tokens).logits.equal(model(tokens).logits)


def test_saving_again_replaces(saved: Path):
    model = tiny_model(seed=1)
    save_weights(saved, model.state_dict())
    assert load_run(saved).model.head.state_dict()["weight"].equal(model.head.state_dict()["weight"])
    assert sorted(path.name for path in saved.iterdir()) == [CONFIG, WEIGHTS]


def test_who_may_read_the_config_may_read_the_weights(saved: Path):
    assert (saved / WEIGHTS).stat().st_mode == (saved / CONFIG).stat().st_mode


def edit(saved: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((saved / CONFIG).read_text())
    change(config)
    (saved / CONFIG).write_text(json.dumps(config))


def test_no_folder(tmp_path: Path):
    with pytest.raises(UsageError, match="not a folder"):
        load_run(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not a folder"):
        load_run(tmp_path / "file")
    with pytest.raises(UsageError, match="not a folder"):
        load_run("x" * 5000)


def test_no_run_folder(tmp_path: Path):
    with pytest.raises(UsageError, match="not a run folder"):
        load_run(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 1', b"\xff\xfe", b"text"])
def test_a_config_that_is_no_json(saved: Path, content: bytes):
    (saved / CONFIG).write_bytes(content)
    with pytest.raises(UsageError, match=r"config\.json is broken"):
        load_run(saved)


def test_a_config_that_cannot_be_read(saved: Path):
    (saved / CONFIG).unlink()
    (saved / CONFIG).mkdir()
    with pytest.raises(UsageError, match=r"config\.json is broken"):
        load_run(saved)


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"', "{}"])
def test_a_config_of_something_else(saved: Path, content: str):
    (saved / CONFIG).write_text(content)
    with pytest.raises(UsageError, match="lacks format, model, tokenizer, training, vocab_size"):
        load_run(saved)


@pytest.mark.parametrize("key", ["format", "model", "vocab_size", "tokenizer", "training"])
@pytest.mark.parametrize("how", ["missing", "a list"])
def test_a_config_without_a_part(saved: Path, key: str, how: str):
    edit(saved, lambda config: config.pop(key) if how == "missing" else config.update({key: []}))
    with pytest.raises(UsageError, match=f"lacks {key};"):
        load_run(saved)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda config: config.update(format=3), "has format 3"),
        (lambda config: config["model"].update(colour="red"), "colour"),
        (lambda config: config["model"].update(dim="16"), "dim '16' is not an instance of int"),
        (lambda config: config["model"].update(dim=15), "divisible"),
        (lambda config: config["model"].update(compressor="zip"), "compressor 'zip' is not any of"),
        (lambda config: config.update(tokenizer="runes"), "lacks tokenizer.json, its tokenizer 'runes'"),
        (lambda config: config.update(vocab_size=300), "weight is"),
        (lambda config: config["model"].update(num_layers=3), "is missing, not"),
        (lambda config: config["model"].update(num_layers=1), "not expected"),
    ],
)
def test_a_config_of_another_model(saved: Path, change: Callable[[dict[str, Any]], object], told: str):
    edit(saved, change)
    with pytest.raises(UsageError, match=told):
        load_run(saved)


def test_settings_that_came_later_have_their_default(saved: Path):
    edit(saved, lambda config: config["model"].pop("dropout"))
    assert load_run(saved).model.config == tiny_model().config


def test_weights_missing(saved: Path):
    (saved / WEIGHTS).unlink()
    with pytest.raises(UsageError, match="missing"):
        load_run(saved)


@pytest.mark.parametrize("part", [0, 5, 100, -1])
def test_weights_truncated(saved: Path, part: int):
    (saved / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes()[:part])
    with pytest.raises(UsageError, match=r"safetensors is broken"):
        load_run(saved)


def test_weights_that_cannot_be_read(saved: Path):
    (saved / WEIGHTS).unlink()
    (saved / WEIGHTS).mkdir()
    with pytest.raises(UsageError, match=r"safetensors is broken"):
        load_run(saved)


def test_weights_of_another_shape(saved: Path):
    weights = load_file(saved / WEIGHTS)
    save_file(weights | {"head.weight": weights["head.weight"][:, :8].contiguous()}, saved / WEIGHTS)
    with pytest.raises(UsageError, match=r"head.weight is \(257, 8\), not \(257, 16\)"):
        load_run(saved)
    save_file(weights | {"tail.weight": torch.zeros(3)}, saved / WEIGHTS)
    with pytest.raises(UsageError, match=r"tail.weight is \(3,\), not expected"):
        load_run(saved)
