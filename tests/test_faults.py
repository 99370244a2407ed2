"""What happens to real runs; docs/reliability.md has the table of it."""

import math
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from compressive_transformer import UsageError
from compressive_transformer.checkpoint import WEIGHTS, Store, load_run, save_tensors
from compressive_transformer.checkpoint import run as run_files
from compressive_transformer.cli import main
from compressive_transformer.errors import Stopped
from compressive_transformer.nn.vocabulary import Head
from compressive_transformer.tasks.session import Session
from compressive_transformer.train import Trainer, faults, loop
from compressive_transformer.train.faults import Diverged, Signals, Spikes
from compressive_transformer.train.log import read_metrics
from compressive_transformer.train.state import facts_of, restore, tensors_of
from processes import USUAL, checkpoints, result, signal_at_checkpoint, start, until
from test_resume import given, new_trainer
from tiny import SENTENCE

STEPS = "60"
EVERY = "--save.steps=5"


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("books") / "book.txt"
    path.write_bytes(SENTENCE * 80)
    return path


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, cache: None, book: Path) -> Path:
    """A run that nothing happens to; its checkpoints of every fifth step stay."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    process = start("train", "--data", str(book), "--out", str(run), "--steps", STEPS, *USUAL, *KEEP)
    assert result(process)[0] == 0
    return run


KEEP = ("--save.keep-every=5",)


@pytest.fixture
def copy(straight: Path, tmp_path: Path) -> Path:
    """A run as if it had died after step 30."""
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    for checkpoint in checkpoints(run)[6:]:
        shutil.rmtree(checkpoint)
    return run


def resume(run: Path, *arguments: str) -> None:
    main(["train", "--resume", str(run), *arguments])


def same_end(run: Path, straight: Path) -> bool:
    a, b = load_file(run / WEIGHTS), load_file(straight / WEIGHTS)
    return all(a[name].equal(b[name]) for name in a)


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on_exactly(
    book: Path, straight: Path, tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    process = start("train", "--data", str(book), "--out", str(run), "--steps", STEPS, *USUAL, EVERY)
    signal_at_checkpoint(process, run, number)
    code, errors = result(process)
    assert code == 75
    assert f"go on with: compressive train --resume {run}" in errors.splitlines()[-1]
    stopped = Store(run).steps()[0]
    assert f"stopped at step {stopped} and saved" in errors
    assert 5 <= stopped < int(STEPS)
    resume(run)
    assert f"goes on from step {stopped}" in capsys.readouterr().err
    assert same_end(run, straight)


def test_a_second_signal_ends_at_once(book: Path, tmp_path: Path):
    """Steps of this run take far longer than the test."""
    run, slow = tmp_path / "run", "import time\nfrom compressive_transformer.train import Trainer\n"
    slow += f"Trainer.train_step = lambda *a: (open({str(run / 'step')!r}, 'w').close(), time.sleep(60))\n"
    process = start("train", "--data", str(book), "--out", str(run), "--steps", STEPS, *USUAL, prelude=slow)
    until(lambda: (run / "step").exists(), process)
    process.send_signal(signal.SIGTERM)
    time.sleep(loop.ECHO + 0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert result(process, timeout=30)[0] == 130
    assert checkpoints(run) == []


def test_a_launcher_that_hands_a_signal_on_is_not_a_second_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(faults.os, "_exit", lambda code: pytest.fail(f"exit {code}"))
    signals = Signals(grace=60.0)
    with signals.heeded():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert signals.received == signal.SIGINT


def test_a_signal_while_the_last_checkpoint_is_written(copy: Path, monkeypatch: pytest.MonkeyPatch):
    finish = Store.finish

    def signalled(store: Store, partial: Path, found: dict[str, Any]) -> Path:
        if found["step"] == 40:
            os.kill(os.getpid(), signal.SIGTERM)
        return finish(store, partial, found)

    monkeypatch.setattr(Store, "finish", signalled)
    with pytest.raises(SystemExit) as stop:
        resume(copy, "--steps=40")
    assert stop.value.code == 75
    assert Store(copy).steps()[0] == 40


def test_killed_while_saving(book: Path, straight: Path, tmp_path: Path):
    """The checkpoint that was being written is ignored with a warning, and the one before is taken."""
    run, kill = tmp_path / "run", "import os, signal\nfrom compressive_transformer.checkpoint import Store\n"
    kill += "finish = Store.finish\ndef killed(self, partial, facts):\n"
    kill += "    os.kill(os.getpid(), signal.SIGKILL) if facts['step'] == 20 else None\n"
    kill += "    return finish(self, partial, facts)\nStore.finish = killed\n"
    process = start(
        *("train", "--data", str(book), "--out", str(run), "--steps", STEPS, *USUAL, EVERY), prelude=kill
    )
    assert result(process)[0] == -signal.SIGKILL
    assert [path.name[-2:] for path in checkpoints(run)] == ["12", "15"]  # 12: the best score
    assert (run / "state" / ".step-0000000020.partial").exists()
    code, errors = result(start("train", "--resume", str(run)))
    assert code == 0
    assert "step-0000000020 was not written to its end and is ignored" in errors
    assert "goes on from step 15" in errors
    assert same_end(run, straight)
    assert not list((run / "state").glob(".*"))


def test_two_processes_on_one_run(copy: Path):
    slow = "import time\nfrom compressive_transformer.train import Trainer\n"
    slow += "Trainer.train_step = lambda *a: time.sleep(60)\n"
    process = start("train", "--resume", str(copy), prelude=slow)
    try:
        until(lambda: "resume" in (copy / "metrics.jsonl").read_text(), process)
        before = sorted(path.name for path in (copy / "state").iterdir())
        assert process.poll() is None
        with pytest.raises(SystemExit) as stop:
            resume(copy)
        assert stop.value.code == 2
        assert sorted(path.name for path in (copy / "state").iterdir()) == before
    finally:
        process.kill()
        process.communicate()


# Files


def shard(checkpoint: Path) -> Path:
    (found,) = checkpoint.glob("*.safetensors")
    return found


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "one bit": (flip, "is damaged: its checksum"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "bytes, written were"),
    "gone": (lambda path: path.unlink(), "is missing from the checkpoint"),
}


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("name", ["shard", "facts.json", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    copy: Path, straight: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Any
):
    newest = checkpoints(copy)[-1]
    path = shard(newest) if name == "shard" else newest / name
    damage[0](path)
    resume(copy)
    errors = capsys.readouterr().err
    if name != "manifest.json":  # which is damaged itself, and may seem to be of other files
        assert path.name in errors
        assert damage[1] in errors
    assert "it was set aside, and step-0000000025 is taken" in errors
    assert "goes on from step 25" in errors
    assert same_end(copy, straight)
    assert newest.with_suffix(".damaged").exists()


def test_two_damaged_checkpoints_end_it(copy: Path, capsys: pytest.CaptureFixture[str]):
    for checkpoint in checkpoints(copy)[-2:]:
        flip(shard(checkpoint))
    before = sorted(copy.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        resume(copy)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "step-0000000025" in line
    assert "is damaged" in line
    assert sorted(copy.rglob("*")) == before


def test_disk_full_while_saving(book: Path, straight: Path, tmp_path: Path):
    """A limit on the size of files stands for the full disk; it is lifted when the first save has failed."""
    run = tmp_path / "run"
    lift = "import resource\nfrom compressive_transformer.train.saver import Saver\nwait = Saver.wait\n"
    lift += "def lifting(self):\n    whole = wait(self)\n"
    lift += "    whole or resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n    return whole\n"
    lift += "Saver.wait = lifting\n"
    process = start(
        *("train", "--data", str(book), "--out", str(run), "--steps", STEPS, *USUAL, *KEEP),
        prelude=lift,
        limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY)),
    )
    code, errors = result(process)
    assert code == 0, errors
    assert "the checkpoint of step 5 could not be written (File too large); there is no earlier one" in errors
    assert same_end(run, straight)
    assert checkpoints(run)[0].name[-2:] == "10"
    assert [r["reason"] for r in read_metrics(run) if r["event"] == "save failed"]


def test_weights_that_could_not_be_written(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The checkpoint is whole; and safetensors has an error of its own for a full disk."""
    write, calls = run_files.save_file, []

    def full(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise SafetensorError("No space left on device")
        write(*arguments)

    monkeypatch.setattr(run_files, "save_file", full)
    resume(copy, "--save.steps=35")
    told = "model.safetensors of step 35 could not be written (No space left on device); its checkpoint was"
    assert told in capsys.readouterr().err
    assert len(calls) > 1
    assert load_run(copy)


def test_a_score_that_fails_costs_nothing(
    copy: Path, straight: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def failing(*_: Any, **__: Any) -> Any:
        raise UsageError("the validation text is gone")

    monkeypatch.setattr(Session, "score", property(lambda _: failing, lambda *_: None), raising=False)
    resume(copy)
    assert "could not be scored (the validation text is gone)" in capsys.readouterr().err
    assert same_end(copy, straight)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 4 MB, where the system lets us have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], capture_output=True)
    if done.returncode:
        pytest.skip("no right to mount")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(straight: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]):
    run = small_disk / "run"
    shutil.copytree(straight, run, ignore=shutil.ignore_patterns("step-*[1-9]", "step-*[1245]0", "figures"))
    before = checkpoints(run)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(bytes(free - 60_000))
    with pytest.raises(SystemExit) as stop:
        resume(run, "--steps=70")
    errors = capsys.readouterr().err
    assert stop.value.code == 2
    assert "could not be written (No space left on device); the one of step 60 stays" in errors
    assert "could not be saved at its end, step 70" in errors.splitlines()[-1]
    assert checkpoints(run) == before
    (small_disk / "ballast").unlink()
    resume(run, "--steps=70")
    assert Store(run).steps()[0] == 70
    assert load_run(run)


def test_the_text_changes_while_the_run_goes_on(book: Path, straight: Path, tmp_path: Path):
    """A run reads the tokens that were made of the text at its start; resuming sees that it is another."""
    text, run = tmp_path / "book.txt", tmp_path / "run"
    text.write_bytes(book.read_bytes())
    process = start("train", "--data", str(text), "--out", str(run), "--steps", STEPS, *USUAL, EVERY)
    until(lambda: checkpoints(run), process)
    text.write_bytes(SENTENCE[::-1] * 80)
    process.send_signal(signal.SIGTERM)
    assert result(process)[0] == 75
    code, errors = result(start("train", "--resume", str(run)))
    assert code == 2
    assert "the run is another: text" in errors
    assert "--accept-changes" in errors
    text.unlink()
    code, errors = result(start("train", "--resume", str(run)))
    assert code == 2
    assert "no such file" in errors
    code, errors = result(start("train", "--resume", str(run), "--data", str(book)))
    assert code == 0, errors
    assert same_end(run, straight)


# Numbers


def poisoned(monkeypatch: pytest.MonkeyPatch, steps: dict[int, float], trainer: Trainer) -> None:
    """The loss of some steps is no number."""
    losses = Head.losses
    monkeypatch.setattr(Head, "losses", lambda *a: losses(*a) * steps.get(trainer.step + 1, 1.0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_update_without_numbers_is_skipped(monkeypatch: pytest.MonkeyPatch, value: float):
    told: list[dict[str, Any]] = []
    trainer, clean = new_trainer(), new_trainer()
    trainer.on_event = lambda event, **facts: told.append({"event": event, **facts})
    poisoned(monkeypatch, {3: value}, trainer)
    trainer.train_step(0.0)
    trainer.train_step(0.1)
    before, memory = {name: x.clone() for name, x in trainer.model.state_dict().items()}, trainer.memory
    trainer.train_step(0.2)
    assert all(x.equal(before[name]) for name, x in trainer.model.state_dict().items())
    for layer, kept in zip(trainer.memory.layers, memory.layers, strict=True):
        assert layer.window.equal(kept.window)  # the batch is not remembered
    assert told == [
        {
            "event": "skipped",
            "step": 3,
            "reason": "the loss is no number",
            "documents": trainer.lanes.documents(),
        }
    ]
    trainer.run()
    assert (trainer.step, trainer.updates, trainer.skipped) == (12, 11, 0)
    assert all(bool(x.isfinite().all()) for x in trainer.model.state_dict().values())
    clean.run()
    assert all(a.equal(b) for a, b in zip(given(trainer), given(clean), strict=True))


def test_the_row_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch):
    told: list[list[str]] = []
    trainer = new_trainer()
    trainer.on_event = lambda event, **facts: told.append(facts["documents"])
    whole = trainer.call

    def spoiling(tokens: torch.Tensor, *rest: Any, **more: Any) -> Any:
        output = whole(tokens, *rest, **more)
        rows = torch.tensor([1.0, math.nan, 1.0])[:, None]
        return output._replace(features=output.features * rows) if trainer.step == 4 else output

    monkeypatch.setattr(trainer, "call", spoiling)
    for _ in range(5):
        trainer.train_step(trainer.done)
    assert told == [trainer.lanes.documents([1])]


def test_documents_that_begin_in_a_skipped_batch_begin_empty(monkeypatch: pytest.MonkeyPatch):
    clean = new_trainer()
    resets = [next(clean.lanes).resets for _ in range(40)]
    step, rows = next((i, r.any(dim=1)) for i, r in enumerate(resets) if i and r is not None)
    assert not rows.all()
    trainer = new_trainer(steps=100)
    poisoned(monkeypatch, {step + 1: math.nan}, trainer)
    for _ in range(step):
        trainer.train_step(0.1)
    before = trainer.memory
    trainer.train_step(0.1)
    for layer, kept in zip(trainer.memory.layers, before.layers, strict=True):
        assert not layer.recent[rows].any()
        assert layer.recent[~rows].equal(kept.recent[~rows])
    assert trainer.memory.document.equal(before.document + rows)


def test_a_gradient_without_numbers_is_skipped():
    told: list[str] = []
    trainer = new_trainer()
    trainer.on_event = lambda event, **facts: told.append(facts["reason"])
    spoil = trainer.model.get_parameter("head.weight").register_hook(lambda gradient: gradient * math.inf)
    trainer.train_step(0.0)
    spoil.remove()
    trainer.run()
    assert told == ["the gradient is no number"]
    assert trainer.updates == 11


def test_too_many_in_a_row_stop_the_run(monkeypatch: pytest.MonkeyPatch):
    trainer = new_trainer(max_skipped=3)
    poisoned(monkeypatch, dict.fromkeys((2, 3, 5, 6, 7), math.nan), trainer)
    with pytest.raises(UsageError, match="no number at step 7, and 3 updates in a row were skipped"):
        trainer.run()


def test_a_stop_among_skipped_updates_does_not_clear_the_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    trainer = new_trainer(stop_at=6)
    poisoned(monkeypatch, dict.fromkeys(range(5, 99), math.nan), trainer)
    with pytest.raises(Stopped):
        trainer.run()
    save_tensors(tmp_path, tensors_of(trainer))
    again = new_trainer()
    restore(again, tmp_path, facts_of(trainer))
    poisoned(monkeypatch, dict.fromkeys(range(5, 99), math.nan), again)
    with pytest.raises(Diverged, match="at step 9, and 5 updates") as found:
        again.run()
    assert found.value.suspect_from == 4


def test_weights_that_give_no_numbers_are_set_aside(copy: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        resume(copy, "--optimizer.lr=1e30", "--save.steps=1")
    errors = capsys.readouterr().err
    assert stop.value.code == 2
    assert "updates in a row were skipped" in errors
    assert f"go on with: compressive train --resume {copy}, from step 30" in errors
    assert Store(copy).steps()[0] == 30
    assert (copy / "state" / "step-0000000031.diverged").exists()
    skipped = [r for r in read_metrics(copy) if r["event"] == "skipped"]
    assert len(skipped) == 5
    assert "book.txt" in skipped[0]["documents"][0]


def test_losses_that_leap_are_told():
    spikes, random = Spikes(), torch.Generator().manual_seed(0)
    losses = (5 - 0.01 * torch.arange(300) + 0.1 * torch.randn(300, generator=random)).tolist()
    assert not any(spikes.add(loss) for loss in losses)
    assert spikes.mean == pytest.approx(losses[-1], abs=0.8)
    assert spikes.add(losses[-1] + 2)
    assert spikes.add(losses[-1] + 2)  # one leap does not hide the next
    assert not spikes.add(losses[-1])
    assert not spikes.add(math.nan)


def test_a_leap_is_logged_with_its_documents(monkeypatch: pytest.MonkeyPatch):
    told: list[dict[str, Any]] = []
    trainer = new_trainer(steps=60)
    trainer.on_event = lambda event, **facts: told.append({"event": event, **facts})
    poisoned(monkeypatch, {57: 4.0}, trainer)
    trainer.run()
    (spike,) = told
    assert (spike["event"], spike["step"]) == ("spike", 57)
    assert spike["bits_per_token"] > 2 * spike["expected"]
    assert set(spike["documents"]) <= {f"document {i}" for i in range(4)}
