"""A run that is interrupted and resumed ends as the run that never was: to the last bit, on CPU."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compressive_transformer import LanguageModel, UsageError
from compressive_transformer.checkpoint import Store, load_run, load_tensors, save_tensors, tensor_shapes
from compressive_transformer.cli import main
from compressive_transformer.data import Lanes
from compressive_transformer.errors import Stopped
from compressive_transformer.tasks.folder import locked
from compressive_transformer.train import OptimizerConfig, TrainConfig, Trainer
from compressive_transformer.train.faults import Signals
from compressive_transformer.train.log import read_metrics
from compressive_transformer.train.state import facts_of, restore, tensors_of
from tiny import SENTENCE, corpus_of, tiny_config, train_tiny

STEPS = 12
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "update period": {"optimizer": OptimizerConfig(update_period=4, update_period_from=3, warmup_steps=2)},
    "dropout": {"model": tiny_config(dropout=0.3)},
    "AdamW, documents carried on": {"optimizer": OptimizerConfig(name="adamw"), "reset_documents": False},
    "several segments": {"unroll": 2, "model": tiny_config(compression_loss="none")},
    "most-used": {"model": tiny_config(compressor="most-used")},
    "rate does not divide": {"model": tiny_config(compression_rate=3, compression_loss="auto-encoding")},
    "recomputed": {"recompute": True, "model": tiny_config(dropout=0.3)},
    "everything": {
        "optimizer": OptimizerConfig(update_period=5),
        "model": tiny_config(dropout=0.2, compressor="dilated", positions="separate"),
        "unroll": 2,
        "precision": "bfloat16",
    },
    "WaveNet": {
        "model": tiny_config(core="wavenet", memory=(1, 11), compressed_memory=0, sample_bits=8),
    },
}


class StopAt(Signals):
    """A signal that comes in the midst of a step."""

    def __init__(self, trainer: Trainer, step: int | None):
        self.trainer, self.step = trainer, step

    @property
    def received(self) -> int:
        return 15 if self.trainer.step == self.step else 0


class Recorded(Lanes):
    """Lanes that remember what they gave, and what came of it."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.given: list[Tensor] = []
        self.told: dict[int, tuple[Any, ...]] = {}

    def __next__(self):
        batch = super().__next__()
        self.given.append(batch.inputs)
        return batch


def new_trainer(stop_at: int | None = None, *, seed: int = 0, **settings: Any) -> Trainer:
    """As a fresh process makes it; documents end in the midst of batches."""
    settings = {"lanes": 3, "precision": "float32", "steps": STEPS, "model": tiny_config(), **settings}
    config = TrainConfig(**settings)
    torch.manual_seed(seed)
    model = LanguageModel(config.model)
    corpus = corpus_of(SENTENCE * 3, b"short", SENTENCE[::-1] * 2, b"x" * 50)
    lanes = Recorded(
        corpus,
        num_lanes=config.lanes,
        length=config.model.segment * config.unroll,
        seed=config.seed,
        reset_documents=config.reset_documents,
    )
    trainer = Trainer(model, lanes, config)
    trainer.signals = StopAt(trainer, stop_at)
    trainer.on_record = lambda p: lanes.told.update(
        {p.step: (p.bits_per_token, p.compression_losses, p.learning_rate, p.gradient_norm)}
    )
    return trainer


def whole_state(trainer: Trainer) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in tensors_of(trainer).items()}


def given(trainer: Trainer) -> list[Tensor]:
    assert isinstance(trainer.lanes, Recorded)
    return trainer.lanes.given


def told(trainer: Trainer) -> dict[int, tuple[Any, ...]]:
    assert isinstance(trainer.lanes, Recorded)
    return trainer.lanes.told


def resumed_at(
    cuts: list[int],
    folder: Path,
    change: Callable[[dict[str, Tensor], dict[str, Any]], object],
    **settings: Any,
) -> tuple[Trainer, list[Tensor]]:
    """A trainer at its end that went through a file at each cut, and the batches of all sessions."""
    batches: list[Tensor] = []
    trainer = new_trainer(cuts[0], **settings)
    for this, after in zip(cuts, [*cuts[1:], None], strict=True):
        with pytest.raises(Stopped):
            trainer.run()
        batches += given(trainer)
        tensors, facts = tensors_of(trainer), json.loads(json.dumps(facts_of(trainer)))
        change(tensors, facts)
        save_tensors(folder / str(this), tensors)
        trainer = new_trainer(
            after, seed=this + 1000, **settings
        )  # what it draws at its start must not matter
        restore(trainer, folder / str(this), facts)
    trainer.run()
    return trainer, batches + given(trainer)


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not a[name].equal(b[name])]


@pytest.mark.parametrize("cuts", [[1], [4], [5], [7], [9], [11], [2, 3, 9]], ids=str)
@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS.keys())
def test_a_resumed_run_is_the_run(tmp_path: Path, settings: dict[str, Any], cuts: list[int]):
    straight = new_trainer(**settings)
    straight.run()
    trainer, batches = resumed_at(cuts, tmp_path, lambda tensors, facts: None, **settings)
    assert differing(whole_state(straight), whole_state(trainer)) == []
    assert all(a.equal(b) for a, b in zip(given(straight), batches, strict=True))
    assert all(told(straight)[step] == values for step, values in told(trainer).items())
    assert STEPS in told(trainer)
    same = {name: value for name, value in facts_of(straight).items() if name != "seconds"}
    assert same == {name: value for name, value in facts_of(trainer).items() if name != "seconds"}


def own_facts(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return json.loads(bytes(tensors["process.0.facts"].tolist()))


def as_tensor(facts: dict[str, Any]) -> Tensor:
    return torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)


def without(part: str) -> Callable[[dict[str, Tensor], dict[str, Any]], object]:
    """What a library that forgets a part of the state does."""

    def forget(tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        for name, x in tensors.items():
            if part in name and x.is_floating_point():
                tensors[name] = torch.zeros_like(x)
        if part == "lanes":
            fresh = new_trainer(
                optimizer=OptimizerConfig(update_period=4, update_period_from=3, warmup_steps=2)
            )
            own = own_facts(tensors) | {"lanes": fresh.lanes.state_dict()}
            tensors["process.0.facts"] = as_tensor(own)
        if part in ("position", "steps"):
            tensors["process.0.facts"] = as_tensor(own_facts(tensors) | {part: 0})
        if part == "random":
            tensors["process.0.random.cpu"] = torch.Generator().manual_seed(5).get_state()
        if part in ("step", "factor"):
            facts[part] = 0

    return forget


@pytest.mark.parametrize(
    "part",
    [
        "memory.layers.0.recent",
        "memory.layers.1.compressed",
        "position",
        "steps",
        "lanes",
        "random",
        "gradient",
        "optimizer",
        "exp_avg_sq",
        "momentum",
        "step",
        "factor",
    ],
)
def test_a_run_that_forgets_is_another(tmp_path: Path, part: str):
    """The proof above can fail: each part of the state is needed."""
    settings = {
        "optimizer": OptimizerConfig(update_period=4, update_period_from=3, warmup_steps=2),
        "model": tiny_config(dropout=0.3),
    }
    straight = new_trainer(**settings)
    straight.run()
    trainer, _ = resumed_at([8], tmp_path, without(part), **settings)
    a, b = whole_state(straight), whole_state(trainer)
    assert a.keys() != b.keys() or differing(a, b) or told(straight) != told(trainer)


# The command line


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, cache: None, text: Path) -> Path:
    """A run that has come to step 12 of 20."""
    run = tmp_path_factory.mktemp("runs") / "stopped"
    step = Trainer.train_step

    def interrupted(trainer: Trainer, done: float) -> float:
        if trainer.step == 11:
            signal.raise_signal(signal.SIGTERM)
        return step(trainer, done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        with pytest.raises(SystemExit) as stop:
            train_tiny(text, run, "--steps=20", "--save.steps=4", "--save.keep-every=4")
    assert stop.value.code == 75
    return run


@pytest.fixture
def run_at_12(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def resume(run: Path, *arguments: str) -> None:
    main(["train", "--resume", str(run), *arguments])


def refused(capsys: pytest.CaptureFixture[str], run: Path, *arguments: str) -> str:
    """The one line that refuses; nothing in the run changes."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        resume(run, *arguments)
    assert stop.value.code == 2
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_resume_needs_no_other_word(run_at_12: Path, capsys: pytest.CaptureFixture[str]):
    resume(run_at_12)
    told = capsys.readouterr()
    assert "goes on from step 12\n" in told.err
    assert "this model" in told.out
    records = read_metrics(run_at_12)
    assert [r["step"] for r in records if r["event"] == "train"] == [10, 20]
    assert [r["step"] for r in records if r["event"] == "resume"] == [12]


@pytest.mark.parametrize("step", [12, 8])
def test_the_memory_and_the_metrics_are_continuous(run_at_12: Path, text: Path, tmp_path: Path, step: int):
    """At 12 the run was stopped before it was scored, at 8 it was scored."""
    straight = tmp_path / "straight"
    if step == 8:
        shutil.rmtree(Store(run_at_12).path(12))
    train_tiny(text, straight, "--steps=20", "--save.steps=4", "--save.keep-every=4")
    resume(run_at_12)
    kinds = {"train", "excerpt", "validation"}
    timeless = [
        [
            {k: v for k, v in r.items() if k not in ("seconds", "tokens_per_second")}
            for r in read_metrics(run)
            if r["event"] in kinds
        ]
        for run in (straight, run_at_12)
    ]
    assert timeless[0] == timeless[1]
    assert (straight / "sample.txt").read_bytes() == (run_at_12 / "sample.txt").read_bytes()


def test_another_text_is_refused(run_at_12: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = tmp_path / "other.txt"
    other.write_bytes(SENTENCE[::-1] * 60)
    line = refused(capsys, run_at_12, "--data", str(other))
    assert "the run is another: text 3,648 bytes in 1 documents, checksum" in line
    assert " -> 3,648 bytes in 1 documents, checksum" in line
    resume(run_at_12, "--data", str(other), "--accept-changes")
    assert "goes on from step 12; text 3,648 bytes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--model.dim=32", "model.dim 16 -> 32"),
        ("--model.compressed-memory=12", "model.compressed_memory 8 -> 12"),
        ("--model.compressor=max", "model.compressor conv -> max"),
        ("--seed=1", "seed 0 -> 1"),
        ("--optimizer.name=adamw", "optimizer.name muon -> adamw"),
    ],
)
def test_another_model_is_refused(run_at_12: Path, capsys: pytest.CaptureFixture[str], flag: str, told: str):
    line = refused(capsys, run_at_12, flag)
    assert (
        f"the run is another: {told}; resume with what it was trained with, or add --accept-changes" in line
    )


def test_memory_sizes_may_change_if_that_is_accepted(run_at_12: Path, capsys: pytest.CaptureFixture[str]):
    resume(run_at_12, "--model.compressed-memory=12", "--accept-changes")
    assert "goes on from step 12; model.compressed_memory 8 -> 12" in capsys.readouterr().err
    assert load_run(run_at_12).model.config.compressed_memory == 12


def test_weights_of_another_shape_never_fit(run_at_12: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        resume(run_at_12, "--model.mlp-dim=32", "--accept-changes")
    assert "of shape (24, 16), not (32, 16)" in capsys.readouterr().err.splitlines()[-1]


def test_other_lanes_need_an_empty_memory(run_at_12: Path, capsys: pytest.CaptureFixture[str]):
    line = refused(capsys, run_at_12, "--lanes=4")
    assert "memory belongs to the lanes of each process: lanes 2 -> 4" in line
    assert "--reset-memory" in line
    resume(run_at_12, "--lanes=4", "--reset-memory")
    assert "goes on from step 12; lanes 2 -> 4" in capsys.readouterr().err
    end = Store(run_at_12).path(20)
    facts = json.loads((end / "facts.json").read_text())
    tensors = {"process.0.facts": torch.empty(tensor_shapes(end)["process.0.facts"][0], dtype=torch.uint8)}
    load_tensors(end, tensors)
    lanes = own_facts(tensors)["lanes"]
    assert lanes["tokens_read"] == facts["tokens"] == 12 * 2 * 8 + 8 * 4 * 8  # they go on in the text


def test_a_longer_budget_and_another_rate_are_told(run_at_12: Path, capsys: pytest.CaptureFixture[str]):
    resume(run_at_12, "--tokens=400", "--optimizer.lr=1e-4")
    errors = capsys.readouterr().err
    assert "steps 20 -> None" in errors
    assert "tokens None -> 400" in errors
    assert "optimizer.lr 0.003 -> 0.0001" in errors
    assert Store(run_at_12).steps()[0] == 25
    assert "the run is at its end (step 25, 400 tokens" in refused(capsys, run_at_12)
    resume(run_at_12, "--tokens=432")
    assert Store(run_at_12).steps()[0] == 27


def test_a_checkpoint_is_a_model(run_at_12: Path, capsys: pytest.CaptureFixture[str]):
    checkpoint = Store(run_at_12).path(8)
    model = load_run(checkpoint).model
    last = load_run(run_at_12).model.head.state_dict()["weight"]
    assert not model.head.state_dict()["weight"].equal(last)
    main(["generate", str(checkpoint), "--length=5"])
    assert capsys.readouterr().out


def test_a_stream_is_resumed_to_the_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("datasets")
    data = tmp_path / "data"
    data.mkdir()
    lines = [json.dumps({"text": f"{i}: " + SENTENCE.decode() * (i % 4 + 1)}) for i in range(60)]
    (data / "train.jsonl").write_text("\n".join(lines))
    stream, usual = Path(f"hf:{data}"), ("--save.steps=4", "--save.keep-every=4", "--model.dropout=0.2")
    train_tiny(stream, tmp_path / "straight", "--steps=20", *usual)
    train_tiny(stream, tmp_path / "stopped", "--steps=20", *usual)
    for newer in Store(tmp_path / "stopped").steps():
        if newer > 8:
            shutil.rmtree(Store(tmp_path / "stopped").path(newer))
    resume(tmp_path / "stopped")
    assert "goes on from step 8" in capsys.readouterr().err
    a, b = (load_run(tmp_path / name).model.state_dict() for name in ("straight", "stopped"))
    assert differing(a, b) == []
    (data / "train.jsonl").rename(data / "test.jsonl")
    assert str(data) in refused(capsys, tmp_path / "stopped", "--steps=30")


def test_text_that_is_lost_stops_a_run_that_is_saved(
    text: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
):
    run, read = tmp_path / "run", Lanes.__next__

    def losing(lanes: Lanes) -> Any:
        if lanes.tokens_read >= 7 * 16:
            raise UsageError("shard-00000.bin is gone; restore it")
        return read(lanes)

    with monkeypatch.context() as patch:
        patch.setattr(Lanes, "__next__", losing)
        with pytest.raises(SystemExit) as stop:
            train_tiny(text, run, "--steps=20")
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "shard-00000.bin is gone; restore it; saved at step 7, go on with: compressive train" in line
    train_tiny(text, tmp_path / "straight", "--steps=20")
    resume(run)
    a, b = (load_run(path).model.state_dict() for path in (run, tmp_path / "straight"))
    assert differing(a, b) == []


def test_a_restart_goes_on_with_its_own_run_alone(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """torchrun starts again what was refused, and what died before its first checkpoint."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    train_tiny(text, other, "--steps=2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "run", lambda self: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            train_tiny(text, mine, "--steps=2")
    (mine / "metrics.jsonl").write_text('{"event": "train", "step": 1}\n')
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(SystemExit):
        train_tiny(text, other, "--steps=2")
    assert "holds a run; nothing was written" in capsys.readouterr().err
    train_tiny(text, mine, "--steps=2")
    assert [r["step"] for r in read_metrics(mine) if r["event"] == "train"] == [2]
    with pytest.raises(SystemExit):
        train_tiny(text, mine, "--steps=2")  # resumed now, and at its end
    assert "the run is at its end" in capsys.readouterr().err


def test_a_run_that_was_stopped_before_its_score_is_scored(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run, finish = tmp_path / "run", Store.finish

    def signalled(store: Store, partial: Path, found: dict[str, Any]) -> Path:
        if found["step"] == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return finish(store, partial, found)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", signalled)
        with pytest.raises(SystemExit) as stop:
            train_tiny(text, run, "--steps=9")
    assert stop.value.code == 75
    assert not [r for r in read_metrics(run) if r["event"] == "validation"]
    capsys.readouterr()
    resume(run)
    assert "Bits per byte of the validation text" in capsys.readouterr().out
    assert "the run is at its end" in refused(capsys, run)


def test_a_resume_that_cannot_write_loses_nothing(
    run_at_12: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with (run_at_12 / "metrics.jsonl").open("a") as file:
        file.write('{"event": "mine"}\n')
    before = (run_at_12 / "metrics.jsonl").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("compressive_transformer.tasks.text.save_config", full)
    assert "can't be written to (No space left on device), and is as it was" in refused(capsys, run_at_12)
    assert (run_at_12 / "metrics.jsonl").read_bytes() == before


def test_a_live_run_is_told_from_a_dead_one(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    train_tiny(text, run, "--steps=1")
    shutil.rmtree(run / "state")
    with locked(run):
        with pytest.raises(SystemExit):
            train_tiny(text, run, "--steps=1")
        assert "is being trained by another process; nothing was written" in capsys.readouterr().err
        assert "being trained by another process, and was not saved yet" in refused(capsys, run)
    assert "has no checkpoint to resume from" in refused(capsys, run)


def test_a_sink_that_is_missing_leaves_no_folder(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("compressive_transformer.train.sinks.importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        train_tiny(text, tmp_path / "run", "--steps=1", "--sinks", "wandb")
    assert "wandb is missing: pip install 'compressive-transformer[wandb]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
