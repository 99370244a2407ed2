"""``compressive prepare``: what it makes, says and refuses, and who can read it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from compressive_transformer.cli import main
from compressive_transformer.data import ByteTokenizer, Preparing, open_dataset, units
from compressive_transformer.tasks import prepare as task
from tiny import SENTENCE, train_tiny


@pytest.fixture
def dataset(text: Path, tmp_path: Path) -> Path:
    main(["prepare", str(text), "--out", str(tmp_path / "dataset"), "--separator", "\\n"])
    return tmp_path / "dataset"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["prepare", *arguments])
    assert stop.value.code == 2
    *_, last = capsys.readouterr().err.splitlines()
    return last


def test_prepare_says_what_it_made(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["prepare", str(text), "--out", str(tmp_path / "dataset"), "--separator", "\\n"])
    size = text.stat().st_size
    lines = text.read_bytes().count(b"\n")
    assert f"dataset: {size - lines:,} bytes in {lines} document(s)\n" in capsys.readouterr().out
    assert open_dataset(tmp_path / "dataset", ByteTokenizer()).names[0] == f"{text}#1"


def test_prepare_twice_makes_nothing_twice(dataset: Path, text: Path, capsys: pytest.CaptureFixture[str]):
    before = {path.name: path.stat().st_mtime_ns for path in dataset.iterdir()}
    main(["prepare", str(text), "--out", str(dataset), "--separator", "\\n"])
    assert {path.name: path.stat().st_mtime_ns for path in dataset.iterdir() if path.name != ".lock"} == {
        name: time for name, time in before.items() if name != ".lock"
    }


def test_a_check(dataset: Path, capsys: pytest.CaptureFixture[str]):
    main(["prepare", str(dataset), "--check"])
    assert capsys.readouterr().out.endswith("dataset: 1 shard(s) as they were made\n")
    shard = bytearray((dataset / "shard-00000.bin").read_bytes())
    shard[100] ^= 1
    (dataset / "shard-00000.bin").write_bytes(shard)
    said = refused(capsys, str(dataset), "--check")
    assert "shard-00000.bin is missing or damaged: remove" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{text}"], "no folder given to put the dataset in; use --out DATASET"),
        (["--out", "x"], "no text given; name files or folders"),
        (["{text}", "--out", "x", "--check"], "--check makes nothing; leave out --out x"),
        (["{text}", "--check"], "cannot read the dataset"),
        (["{text}", "--out", "x", "--workers", "0"], "workers 0 is not allowed; use 1 or more"),
        (["{text}", "--out", "x", "--separator", ""], "the separator is empty"),
        (["{text}", "--out", "x", "--tokenizer", "words"], "tokenizer"),
        (["gone.txt", "--out", "x"], "no such file or folder: gone.txt"),
        (["{text}", "--out", "{folder}"], "is not empty; nothing was written: choose another folder"),
        (["{text}", "--out", "{text}"], "cannot write to the dataset"),
    ],
)
def test_what_can_not_be_prepared(
    arguments: list[str],
    message: str,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    places = {"text": text, "folder": text.parent}
    assert message in refused(capsys, *(argument.format(**places) for argument in arguments))
    assert not (tmp_path / "x" / "dataset.json").exists()


def test_standard_input(tmp_path: Path):
    out = tmp_path / "dataset"
    command = [sys.executable, "-m", "compressive_transformer", "prepare", "-", "--out", str(out)]
    done = subprocess.run(command, input=SENTENCE, capture_output=True)
    assert done.stdout.decode() == f"{out}: {len(SENTENCE)} bytes in 1 document(s)\n"
    again = subprocess.run(command, input=SENTENCE, capture_output=True)
    assert again.returncode == 2
    assert b"holds a dataset of another text" in again.stderr


def test_a_dataset_is_trained_on_and_evaluated(
    dataset: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (other := tmp_path / "other.txt").write_bytes(SENTENCE)
    train_tiny(dataset, tmp_path / "run", "--steps", "2", "--validation", str(other))
    assert (tmp_path / "run" / "model.safetensors").exists()
    capsys.readouterr()
    main(["evaluate", str(run), str(dataset), "--json"])
    scores = json.loads(capsys.readouterr().out)
    assert len(scores["documents"]) == open_dataset(dataset, ByteTokenizer()).num_documents


def shown(use: Callable[[task.PrepareDisplay], None], patience: float = 0.0) -> task.PrepareDisplay:
    with task.PrepareDisplay(patience=patience) as display:
        use(display)
    return display


def test_a_display_says_how_far_it_is(capsys: pytest.CaptureFixture[str]):
    now = Preparing(bytes_read=2_500_000, bytes_total=10**7, shards=1, shards_total=4)
    shown(lambda display: display(now))
    assert capsys.readouterr().err == "preparing: 2.5 of 10.0 MB, 1 of 4 shards\n"
    shown(lambda display: display(Preparing(bytes_read=2_500_000, shards_total=1)))
    assert capsys.readouterr().err == "preparing: 2.5 MB, 0 of 1 shards\n"
    shown(lambda display: display(now), patience=60)
    assert capsys.readouterr().err == ""
    shown(lambda display: display(Preparing(waiting=True)))
    assert capsys.readouterr().err == "waiting for another process that prepares the same\n"


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    shown(lambda display: display(Preparing(bytes_read=2_500_000, bytes_total=10**7, shards_total=4)))
    assert "2.5/10.0 MB" in capsys.readouterr().err


def test_no_torch_in_processes_that_make_tokens():
    code = "import sys, compressive_transformer.data.work; print('torch' in sys.modules)"
    source = Path(__file__).parents[1] / "src"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_several_workers_from_the_command_line(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with patch.object(units, "UNIT", 1500):
        main(["prepare", str(text), "--out", str(tmp_path / "two"), "--workers", "2"])
    assert len(list((tmp_path / "two").glob("*.bin"))) > 1
    size = text.stat().st_size
    assert f"{size:,} bytes in 1 document(s)" in capsys.readouterr().out
    assert not [name for name in os.listdir(tmp_path / "two") if name.endswith(".part")]
