"""Many processes do what one does: the same losses and weights, faults survived, resumed to the bit.

Processes talk by gloo on this machine. In float64 what differs is rounding, 1e-12 and less; a gradient that
is averaged wrongly, or a memory that is anybody else's, is off by far more.
"""

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compressive_transformer import LanguageModel, UsageError
from compressive_transformer.checkpoint import WEIGHTS, Store, load_run, save_tensors
from compressive_transformer.checkpoint.store import verify
from compressive_transformer.data import Lanes
from compressive_transformer.nn.vocabulary import Head
from compressive_transformer.train import OptimizerConfig, TrainConfig, Trainer
from compressive_transformer.train.config import SaveConfig
from compressive_transformer.train.log import read_metrics
from compressive_transformer.train.parallel import World, whole_weights
from compressive_transformer.train.saver import Saver
from compressive_transformer.train.state import facts_of, restore, tensors_of
from processes import USUAL, checkpoints, in_processes, result, start, torchrun, until
from tiny import SENTENCE, corpus_of, tiny_config

DATA = (SENTENCE * 3, b"short", SENTENCE[::-1] * 2, b"x" * 50)
ADAMW: dict[str, Any] = {"name": "adamw", "warmup_steps": 2}


def new_trainer(world: World, **settings: Any) -> Trainer:
    """In float64 unless it is about bfloat16."""
    usual = {
        "lanes": 4,
        "precision": "float32",
        "model": tiny_config(),
        "optimizer": OptimizerConfig(**ADAMW),
    }
    config = TrainConfig(**{**usual, **settings})
    torch.manual_seed(0)
    lanes = Lanes(
        corpus_of(*DATA),
        num_lanes=config.lanes,
        length=config.model.segment * config.unroll,
        seed=0,
        rows=world.share(config.lanes),
    )
    model = LanguageModel(config.model)
    return Trainer(model.double() if config.precision == "float32" else model, lanes, config, world=world)


def trained(world: World, settings: dict[str, Any], steps: int = 7) -> dict[str, Tensor]:
    """Weights, losses and memory after a few steps."""
    trainer = new_trainer(world, steps=steps, **settings)
    losses = []
    while trainer.step < steps:
        losses.append(world.gather([trainer.train_step(trainer.done)]).mean())
    if trainer.waiting:
        trainer._finish_period()
    found = {name: x.clone() for name, x in whole_weights(trainer.model).items()}
    found |= {"losses": torch.stack(losses), "norms": torch.tensor(trainer.norms, dtype=torch.float64)}
    return found | {"memory dtype": torch.zeros(0, dtype=trainer.memory.layers[0].recent.dtype)}


def several(world: World, cases: dict[str, dict[str, Any]], folder: Path) -> None:
    """Trains each case, in one start of the processes."""
    for name, settings in cases.items():
        found = trained(world, settings)
        if world.first:
            save_file(found, folder / f"{name}.safetensors")


CASES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "ddp, update period": {"optimizer": OptimizerConfig(**ADAMW, update_period=3)},
    "ddp, dilated, auto-encoding": {
        "model": tiny_config(compressor="dilated", compression_loss="auto-encoding", positions="separate")
    },
    "ddp, rate does not divide": {"model": tiny_config(compression_rate=3, memory=(8, 4))},
    "ddp, rate larger than a segment": {"model": tiny_config(compression_rate=12, memory=16)},
    "ddp, gradients through time": {"unroll": 3, "model": tiny_config(compression_loss="none")},
    "ddp, most-used": {"model": tiny_config(compressor="most-used")},
    "ddp, Transformer-XL": {"model": tiny_config(compressed_memory=0)},
    "ddp, adaptive": {"model": tiny_config(adaptive_cutoffs=(40, 110))},
    "fsdp": {"parallel": "fsdp"},
    "fsdp, adaptive": {"parallel": "fsdp", "model": tiny_config(adaptive_cutoffs=(40, 110))},
    "fsdp, update period": {"parallel": "fsdp", "optimizer": OptimizerConfig(**ADAMW, update_period=3)},
    "fsdp, recomputed": {"parallel": "fsdp", "recompute": True, "unroll": 2},
    "fsdp, separate": {"parallel": "fsdp", "model": tiny_config(positions="separate", dim=18, num_heads=3)},
    "fsdp, Muon": {"parallel": "fsdp", "optimizer": OptimizerConfig(warmup_steps=2)},
    "ddp, bfloat16": {"precision": "bfloat16"},
    "fsdp, bfloat16, recomputed": {"precision": "bfloat16", "parallel": "fsdp", "recompute": True},
    "ddp, Muon": {"optimizer": OptimizerConfig(warmup_steps=2)},
}


@pytest.fixture(scope="module", params=[2, 4])
def parallel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all cases in two or in four processes."""
    folder = tmp_path_factory.mktemp(f"processes{request.param}")
    in_processes(request.param, several, CASES, folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_processes_together_do_what_one_does(parallel: Path, case: str):
    one = trained(World(device=torch.device("cpu")), {**CASES[case], "parallel": "ddp"})
    many = load_file(parallel / f"{case}.safetensors")
    assert one.keys() == many.keys()
    # Muon orthogonalises in bfloat16, which makes much of the last bit.
    exact = 1e-2 if "bfloat16" in case else 2e-3 if "Muon" in case else 1e-9
    assert many["memory dtype"].dtype == (torch.float32 if "bfloat16" in case else torch.float64)
    for name, x in one.items():
        torch.testing.assert_close(
            many[name], x, atol=exact, rtol=exact, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_lanes_that_cannot_be_shared_out_are_refused():
    with pytest.raises(UsageError, match="9 lanes can't be shared out to 2 processes; use a multiple of 2"):
        World(device=torch.device("cpu"), size=2).share(9)


def save_with_faults(world: World, folder: Path) -> None:
    """One checkpoint of three can't be begun, and the weights of another can't be written."""
    begin = Store.begin
    told: list[str] = []

    def failing(self: Store, step: int) -> Path:
        if step == 2:
            raise OSError(28, "No space left on device")
        return begin(self, step)

    Store.begin = failing
    saver, done = Saver(folder, world, SaveConfig(), failed=told.append), []
    for step in (1, 2, 3):
        x = torch.full((2,), float(world.rank))
        saver.save(step, {f"process.{world.rank}.x": x}, {"step": step}, {"x": x})
        done.append(saver.wait())
    saver.close()
    world.wait()
    assert done == [True, False, True], (world.rank, done, told)
    assert saver.store.steps() == [3, 1]
    assert "step 2 could not be written" in told[0]
    assert "the one of step 1 stays" in told[0]
    verify(saver.store.path(3))


def test_a_save_that_fails_in_one_process_fails_in_all_and_the_next_is_whole(tmp_path: Path):
    in_processes(2, save_with_faults, tmp_path)


def skip_on_one(world: World, folder: Path) -> None:
    """A loss that is no number in one process; stopped and resumed later, within a record."""
    straight, stopped, resumed = (
        new_trainer(world, model=tiny_config(compression_rate=3), steps=12) for _ in range(3)
    )
    losses = Head.losses
    records: dict[str, list[Any]] = {"straight": [], "resumed": []}
    straight.on_record = lambda p: records["straight"].append((p.step, p.bits_per_token))
    resumed.on_record = lambda p: records["resumed"].append((p.step, p.bits_per_token))

    def spoil(trainer: Trainer) -> None:
        bad = math.nan if world.rank == 1 else 1.0

        def spoiled(*a: Any) -> Any:
            return losses(*a) * (bad if trainer.step == 3 else 1.0)

        pytest.MonkeyPatch().setattr(Head, "losses", spoiled)

    spoil(straight)
    straight.run()
    spoil(stopped)
    for _ in range(6):
        stopped.train_step(stopped.done)
    save_tensors(folder, tensors_of(stopped), world.saving)
    restore(resumed, folder, facts_of(stopped))
    resumed.run()
    assert straight.updates == 11
    assert records["straight"] == records["resumed"]
    a, b = tensors_of(straight), tensors_of(resumed)
    assert [name for name in a if not a[name].equal(b[name])] == []


def test_what_one_process_skipped_is_resumed_exactly(tmp_path: Path):
    in_processes(2, skip_on_one, tmp_path)


# The command line


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("books") / "book.txt"
    path.write_bytes(SENTENCE * 80)
    return path


SETTINGS = [*USUAL, "--steps=24", "--optimizer.update-period=2", "--save.steps=4", "--save.keep-every=4"]


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, book: Path) -> Path:
    """A run of two processes to which nothing happens."""
    run = tmp_path_factory.mktemp("runs") / request.param
    process = torchrun(2, "train", f"--data={book}", f"--out={run}", *SETTINGS, f"--parallel={request.param}")
    code, errors = result(process)
    assert code == 0, errors
    return run


def same_end(a: Path, b: Path) -> bool:
    one, other = load_file(a / WEIGHTS), load_file(b / WEIGHTS)
    return all(one[name].equal(other[name]) for name in one)


def test_a_run_of_two_processes_is_a_run(run: Path, capsys: pytest.CaptureFixture[str]):
    assert [r["step"] for r in read_metrics(run) if r["event"] == "train"] == [10, 20, 24]
    assert not any(p.requires_grad and p.grad is not None for p in load_run(run).model.parameters())
    shards = sorted(path.name for path in checkpoints(run)[-1].glob("*.safetensors"))
    assert len(shards) == 2
    states = [load_file(path) for path in checkpoints(run)[-1].glob("*.safetensors")]
    own = {name: x for state in states for name, x in state.items() if name.startswith("process.")}
    assert not own["process.0.random.cpu"].equal(own["process.1.random.cpu"])  # each drops out its own units
    assert not own["process.0.memory.layers.0.recent"].equal(own["process.1.memory.layers.0.recent"])
    from_checkpoint = load_run(checkpoints(run)[-1]).model.state_dict()
    for name, x in load_run(run).model.state_dict().items():
        assert from_checkpoint[name].equal(x)


def test_a_killed_process_is_restarted_and_the_run_goes_on_exactly(run: Path, book: Path, tmp_path: Path):
    again, strategy = tmp_path / "again", run.name
    process = torchrun(
        *(2, "train", f"--data={book}", f"--out={again}", *SETTINGS, f"--parallel={strategy}"),
        options=["--max-restarts=1"],
    )
    until(lambda: checkpoints(again), process)
    os.kill(worker_of(process.pid, rank=1), signal.SIGKILL)
    code, errors = result(process)
    assert code == 0, errors
    assert "goes on from step" in errors
    assert same_end(again, run)


def test_a_stopped_run_of_two_processes_is_resumed_exactly(run: Path, book: Path, tmp_path: Path):
    again, strategy = tmp_path / "again", run.name
    process = torchrun(2, "train", f"--data={book}", f"--out={again}", *SETTINGS, f"--parallel={strategy}")
    until(lambda: checkpoints(again), process)
    if strategy == "ddp":  # as a terminal does on Ctrl-C; torchrun then tells its processes once more
        os.killpg(process.pid, signal.SIGINT)
    else:  # as a scheduler may do
        os.kill(worker_of(process.pid, rank=1), signal.SIGTERM)
    _, errors = result(process)
    assert "go on with: torchrun --nproc-per-node 2 -m compressive_transformer train --resume" in errors
    assert 4 <= Store(again).steps()[0] < 24
    code, errors = result(start("train", f"--resume={again}"))
    assert code == 2
    assert "memory belongs to the lanes of each process: processes 2 -> 1" in errors
    assert "--reset-memory" in errors
    code, errors = result(torchrun(2, "train", f"--resume={again}"))
    assert code == 0, errors
    assert same_end(again, run)
    code, errors = result(start("train", f"--resume={again}", "--reset-memory", "--steps=30"))
    assert code == 0, errors
    assert "goes on from step 24" in errors


def worker_of(agent: int, rank: int) -> int:
    """The process of that rank that a torchrun started."""
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == agent and f"RANK={rank}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                return int(entry.name)
        except (OSError, ValueError, IndexError):
            continue
    raise AssertionError("no such process")
