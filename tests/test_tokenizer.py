"""``compressive tokenizer``, and runs whose tokens are not bytes."""

import json
import shutil
from pathlib import Path

import pytest

from compressive_transformer.checkpoint import TOKENIZER
from compressive_transformer.cli import main
from tiny import SENTENCE, refused, train_tiny


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(SENTENCE * 60)
    return path


@pytest.mark.parametrize(("kind", "unit", "cutoffs"), [("words", "word", "5 9"), ("subwords", "subword", "")])
def test_a_run_has_its_tokenizer_with_it(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str], kind: str, unit: str, cutoffs: str
):
    file, run = tmp_path / "t.json", tmp_path / "run"
    main(["tokenizer", "train", str(text), "--out", str(file), "--kind", kind, "--vocab-size", "290"])
    assert f"{unit}s, the document token among them" in capsys.readouterr().out
    adaptive = ["--model.adaptive-cutoffs", *cutoffs.split()] if cutoffs else []
    train_tiny(text, run, "--tokenizer", str(file), "--steps=4", *adaptive)
    content = file.read_bytes()
    file.unlink()
    assert (run / TOKENIZER).read_bytes() == content
    main(["train", "--resume", str(run), "--steps=6"])
    assert json.loads((run / "config.json").read_text())["tokenizer"].startswith(f"{kind}-")
    capsys.readouterr()
    main(["evaluate", str(run), str(text), "--json"])
    assert f"perplexity_per_{unit}" in json.loads(capsys.readouterr().out)["total"]
    main(["generate", str(run), "--prompt", "It is", "--length=5"])
    assert len(capsys.readouterr().out) > len("It is")
    main(["info", str(run)])
    assert f"8 {unit}s" in capsys.readouterr().out
    other = tmp_path / "other.json"
    main(["tokenizer", "train", str(run / "sample.txt"), "--out", str(other), "--kind", kind])
    assert f"tokenizer {kind}-" in refused(
        capsys, "train", "--resume", str(run), "--steps=8", "--tokenizer", str(other)
    )
    shutil.copy(other, run / TOKENIZER)
    assert "restore the file of this run" in refused(capsys, "evaluate", str(run), str(text))


def test_a_dataset_is_of_one_tokenizer(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]):
    file, dataset = str(tmp_path / "t.json"), str(tmp_path / "dataset")
    main(["tokenizer", "train", str(text), "--out", file, "--vocab-size", "280"])
    main(["prepare", str(text), "--out", dataset, "--tokenizer", file])
    assert "subwords in 1 document" in capsys.readouterr().out
    assert "not of 'bytes'" in refused(capsys, "train", "--data", dataset, "--steps=1")


MISTAKES = {
    "no verb": ([], "no verb given"),
    "other verb": (["make"], "unknown verb 'make'"),
    "no text": (["train", "--out=t.json"], "no text given"),
    "no file": (["train", "TEXT"], "use --out FILE.json"),
    "no json": (["train", "TEXT", "--out=t.txt"], "ends in .json"),
    "is there": (["train", "TEXT", "--out=TEXT.json"], "is there already"),
    "a folder's name": (["train", "TEXT", "--out=TEXT/t.json"], "cannot write to the tokenizer"),
    "no such text": (["train", "none.txt", "--out=t.json"], "no such file or folder: none.txt"),
    "no such kind": (["train", "TEXT", "--out=t.json", "--kind=letters"], "letters"),
    "too few": (["train", "TEXT", "--out=t.json", "--vocab-size=9"], "use at least 257"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_in_a_line(
    text: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    Path(f"{text}.json").touch()
    assert message in refused(capsys, "tokenizer", *(word.replace("TEXT", str(text)) for word in arguments))


def test_training_with_no_such_tokenizer_is_refused(text: Path, capsys: pytest.CaptureFixture[str]):
    assert "unknown tokenizer 'gpt2'" in refused(capsys, "train", "--data", str(text), "--tokenizer", "gpt2")
    missing = refused(capsys, "train", "--data", str(text), "--tokenizer", "none.json")
    assert "cannot read the tokenizer none.json" in missing
