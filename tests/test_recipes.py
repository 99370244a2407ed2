"""Recipes: the paper's sizes on paper (the meta device), and ours end to end on real text."""

import lzma
from pathlib import Path

import pytest
import torch

from compressive_transformer import LanguageModel
from compressive_transformer.cli import main
from compressive_transformer.formulas import costs, vocabulary_parameters
from compressive_transformer.recipes import RECIPES, VOCABULARIES, get_recipe

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_built(name: str):
    config = get_recipe(name)
    vocab_size = VOCABULARIES.get(name, 257)
    with torch.device("meta"):
        model = LanguageModel(config.model, vocab_size=vocab_size)
    count = sum(p.numel() for p in model.parameters())
    assert count == costs(config.model).parameters + vocabulary_parameters(config.model, vocab_size)
    print(f"{name}: {count:,} parameters")


@pytest.mark.parametrize(
    ("name", "layer", "compressors", "reach"),
    [
        # Attention with relative keys is 5 d^2, the feed-forward 6 or 8 d^2, a convolution c d^2.
        ("enwik8", 11, 3, 101_376),
        ("wikitext103", 13, 4, 46_080),
        ("pg19", 13, 2, 55_296),
    ],
)
def test_the_papers_models_have_their_size_and_reach(name: str, layer: int, compressors: int, reach: int):
    config = get_recipe(name).model
    found, squares = costs(config), config.num_layers * 1024**2
    assert found.compressor_parameters == compressors * squares
    main_weights = found.parameters - found.compressor_parameters
    assert main_weights == pytest.approx(layer * squares, rel=0.003)  # biases and norms besides
    assert found.temporal_range == reach
    if name == "enwik8":
        assert round(layer * squares / 1e6) == 277  # as published of the Transformer-XL


@pytest.mark.parametrize(("name", "layers"), [("speech", 20), ("wavenet", 30)])
def test_the_papers_models_of_sound(name: str, layers: int):
    """Section 5.6: 40 million parameters, windows of 3,840 samples in segments of 768."""
    config = get_recipe(name, "paper")
    assert config.model.num_layers == layers
    assert (config.model.segment, config.unroll, config.unroll * config.model.segment) == (768, 5, 3840)
    with torch.device("meta"):
        model = LanguageModel(config.model)
    count = sum(p.numel() for p in model.parameters())
    assert 39e6 < count < 41e6
    print(f"{name}, paper: {count:,} parameters")


def test_a_size_must_be_known(capsys: Capture):
    for arguments, message in (
        (["tiny", "--size=small"], "has one size; leave out --size small"),
        (["enwik8", "--size", "huge"], "use one of paper, small"),
        (["enwik8"], "reads data/enwik8/train, which is not there; make it by 'compressive benchmark'"),
        (["--resume", "runs/none", "--size", "small"], "the run has its size"),
    ):
        with pytest.raises(SystemExit):
            main(["train", *arguments])
        assert message in capsys.readouterr().err


SHARED = Path(__file__).parents[2] / "shared" / "data"
SMALL = ["--minutes=0.02", "--lanes=2", "--model.dim=32", "--model.num-layers=1", "--model.segment=16"]


def beginning(path: str, size: int) -> bytes:
    """Some lines of a real text."""
    with lzma.open(SHARED / path) as file:
        return file.read(size).rpartition(b"\n")[0] + b"\n"


def some_of(name: str, folder: Path) -> list[str]:
    """Makes a source of little text, and gives what to call ``compressive benchmark`` with."""
    if name == "enwik8":
        (folder / "enwik8").write_bytes(beginning("enwik8/enwik8_first_4154064_bytes.xz", 100_000))
        return ["enwik8", str(folder / "enwik8")]
    if name == "wikitext103":
        for part, file, start, stop in (
            ("train", "valid", 0, 100_000),
            ("valid", "test", 0, 9_000),
            ("test", "test", 9_000, 18_000),
        ):
            text = beginning(f"wikitext/wikitext-103.wiki.{file}.tokens.xz", stop)[start:]
            (folder / f"wiki.{part}.tokens").write_bytes(text)
        return ["wikitext-103", str(folder), "--vocab-size=20000"]
    text = beginning("pg19/validation.tar.xz", 400_000).split(b"\0")[-1]
    for book, part in enumerate(("train", "validation", "test")):
        (folder / part).mkdir()
        (folder / part / f"{book}.txt").write_bytes(text[book * 100_000 :][: 90_000 if book == 0 else 9_000])
    return ["pg19", str(folder), "--tokenizer", "bytes", "--out", "data/pg19-bytes"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data")
@pytest.mark.parametrize("name", ["enwik8", "wikitext103", "pg19"])
def test_small_recipes_run_on_real_text(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source").mkdir()
    main(["benchmark", *some_of(name, tmp_path / "source"), "--part"])
    capsys.readouterr()
    cutoffs = ["--model.adaptive-cutoffs", "1000", "2000"] if name == "wikitext103" else []
    main(["train", name, "--size", "small", "--out", "run", *SMALL, *cutoffs])
    what = "Perplexity per word" if name == "wikitext103" else "Bits per byte"
    assert f"{what} of the validation text" in capsys.readouterr().out
    folder = {"enwik8": "enwik8", "wikitext103": "wikitext-103", "pg19": "pg19-bytes"}[name]
    main(["evaluate", "run", f"data/{folder}/test"])
    assert f"only some of the test part of {folder.removesuffix('-bytes')}" in capsys.readouterr().out
