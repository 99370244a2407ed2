"""Several processes learn what one would from all their windows, and are resumed exactly."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compressive_transformer.errors import UsageError
from compressive_transformer.rl.actor import Actor, Window
from compressive_transformer.rl.agent import Agent
from compressive_transformer.rl.config import AgentConfig, LearnConfig
from compressive_transformer.rl.envs import make_envs
from compressive_transformer.rl.learner import Learner, Losses, _rows
from compressive_transformer.rl.run import environments
from compressive_transformer.train.log import read_metrics
from compressive_transformer.train.parallel import World
from processes import in_processes, result, torchrun
from tiny import TINY, tiny_config

ENVS = 4
LEARN = {
    "ppo": LearnConfig(epochs=2, minibatches=1),
    "vtrace": LearnConfig(algorithm="vtrace", epochs=2, minibatches=1),
}


def learner_and_windows(learn: LearnConfig, world: World) -> tuple[Learner, list[Window]]:
    torch.manual_seed(0)
    envs = make_envs("NonMatch-v0", ["objects=3", "length=30"], num_envs=ENVS)
    agent = Agent(envs.spaces, "compressive", tiny_config(compressed_memory=8))
    torch.nn.init.normal_(agent.policy.weight)
    actor = Actor(agent, envs, torch.Generator().manual_seed(0))
    windows = [actor.window(12)[0] for _ in range(3)]
    return Learner(agent, learn, world), windows


def learnt(world: World, learn: LearnConfig) -> dict[str, torch.Tensor]:
    """Weights, and what was told, after three windows of which each process has its rows."""
    learner, windows = learner_and_windows(learn, world)
    share = world.share(ENVS, "environments")
    told = [
        learner.update(_rows(window, torch.tensor(share)), 0.5, torch.Generator().manual_seed(1))
        for window in windows
    ]
    return dict(learner.agent.state_dict()) | {"told": torch.tensor(told, dtype=torch.float64)}


def learn_and_save(world: World, folder: Path) -> None:
    for name, learn in LEARN.items():
        found = learnt(world, learn)
        if world.first:
            save_file(found, folder / f"{name}.safetensors")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learners")
    in_processes(2, learn_and_save, folder)
    return folder


@pytest.mark.parametrize("algorithm", LEARN)
def test_processes_together_learn_what_one_does(together: Path, algorithm: str):
    alone = learnt(World(device=torch.device("cpu")), LEARN[algorithm])
    both = load_file(together / f"{algorithm}.safetensors")
    assert both.keys() == alone.keys()
    told, expected = both.pop("told"), alone.pop("told")
    torch.testing.assert_close(told, expected, rtol=1e-5, atol=5e-6)
    assert told[:, Losses._fields.index("compression")].max() > 0
    for name in alone:  # where a gradient is nearly 0, Adam makes much of rounding: of 1e-3 an update, 1e-4
        torch.testing.assert_close(both[name], alone[name], rtol=0, atol=2e-4, msg=name)


SHAPE = [f"--model.{name.replace('_', '-')}={value}" for name, value in TINY.items()]
USUAL = ["--envs=4", "--window=10", "--learn.minibatches=1", "--learn.final-lr=1", *SHAPE]
USUAL += ["--env-options", "objects=4", "length=25", "delay=2"]
WINDOW = 4 * 10


def run_of_two(*arguments: str) -> tuple[int, str]:
    return result(torchrun(2, "train", *arguments))


def test_a_run_of_two_processes_is_resumed_exactly(tmp_path: Path):
    whole, again = tmp_path / "whole", tmp_path / "again"
    code, errors = run_of_two("rl", f"--out={whole}", f"--steps={12 * WINDOW}", *USUAL)
    assert code == 0, errors
    records = [r for r in read_metrics(whole) if r["event"] == "train"]
    assert [r["step"] for r in records] == [10 * WINDOW, 12 * WINDOW]
    assert records[0]["episodes"] == 16
    assert records[0]["losses"]["ratio_error"] < 1e-5
    code, errors = run_of_two("rl", f"--out={again}", f"--steps={5 * WINDOW}", *USUAL)
    assert code == 0, errors
    code, errors = run_of_two(f"--resume={again}", f"--steps={12 * WINDOW}")
    assert code == 0, errors
    expected, found = (load_file(run / "model.safetensors") for run in (whole, again))
    for name, x in expected.items():
        assert torch.equal(x, found[name]), name
    assert [r["event"] for r in read_metrics(again)][-1] == "score"
    code, errors = result(torchrun(1, "train", f"--resume={again}", f"--steps={20 * WINDOW}"))
    assert code != 0
    assert "was trained by 2 processes, and these are 1; start as many" in errors


@pytest.mark.parametrize(
    ("envs", "size", "message"),
    [
        (4, 3, "4 environments can't be shared out to 3 processes; use a multiple of 3"),
        (18, 6, "3 environments of a process can't be divided into 2 minibatches; use a multiple"),
    ],
)
def test_environments_that_can_not_be_shared_out(envs: int, size: int, message: str):
    with pytest.raises(UsageError, match=message):
        environments(AgentConfig(envs=envs, steps=1), World(device=torch.device("cpu"), size=size))
