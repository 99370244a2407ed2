"""Agents from the command line: runs, exact resume, scores, films, and mistakes in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from compressive_transformer.checkpoint import Store
from compressive_transformer.cli import main
from compressive_transformer.errors import Stopped, UsageError
from compressive_transformer.recipes import rl
from compressive_transformer.report import read_runs
from compressive_transformer.report.figures import draw
from compressive_transformer.rl import run as rl_run
from compressive_transformer.rl.agent import Agent
from compressive_transformer.rl.envs import NonMatchEnvs, make_envs
from compressive_transformer.rl.folder import load_agent
from compressive_transformer.rl.score import evaluate_agent
from compressive_transformer.train.log import read_metrics
from tiny import TINY, refused

Capture = pytest.CaptureFixture[str]
WINDOW = 4 * 10
"""Steps of an update: 4 environments, 10 steps."""
SHAPE = [f"--model.{name.replace('_', '-')}={value}" for name, value in TINY.items()]
USUAL = [
    "--envs=4",
    "--window=10",
    "--learn.final-lr=1",
    "--env-options",
    "objects=4",
    "length=25",
    "delay=2",
    *SHAPE,
]


def train(out: Path, windows: int, *arguments: str) -> None:
    main(["train", "rl", "--out", str(out), f"--steps={windows * WINDOW}", *USUAL, *arguments])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agents") / "mine"
    train(path, 12)
    return path


def test_a_run_from_end_to_end(agent: Path, capsys: Capture):
    records = read_metrics(agent)
    assert [r["event"] for r in records] == ["train", "train", "saved", "score"]
    assert records[1]["step"] == 12 * WINDOW
    assert records[0]["episodes"] == 16
    assert records[0]["losses"]["ratio_error"] < 1e-5
    assert set(records[0]["shares"]) == {"environment", "acting", "learning"}
    main(["evaluate", str(agent), "--episodes", "30", "--json"])
    score = json.loads(capsys.readouterr().out)
    assert score["episodes"] == 30
    assert score["mean_length"] == 25
    assert score["normalised"] is None  # episodes are shorter than the level's
    main(["evaluate", str(agent), "--episodes", "3", "--greedy"])
    assert "over 3 episodes of 25 steps" in capsys.readouterr().out


def test_scores_of_the_level_are_normalised(tmp_path: Path, capsys: Capture):
    train(tmp_path / "run", 1, "--env-options", "objects=4")
    assert "human-normalised" in capsys.readouterr().out
    score = evaluate_agent(load_agent(tmp_path / "run"), episodes=4)
    assert score.normalised == pytest.approx((score.mean_return - 0.312) / (65.9 - 0.312))


@pytest.mark.parametrize("core", ["compressive", "lstm"])
def test_a_resumed_run_ends_as_one_that_was_never_stopped(core: str, tmp_path: Path):
    """To the bit: weights, episodes and records. The curriculum is part of the state."""
    more = ("--core", core, "--env-options", "objects=3", "length=25", "delay=3", "curriculum=true")
    train(tmp_path / "whole", 15, *more)
    train(tmp_path / "parts", 7, *more)
    main(["train", "--resume", str(tmp_path / "parts"), f"--steps={15 * WINDOW}"])
    whole, parts = (weights(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(x, parts[name]) for name, x in whole.items())
    scores = [read_metrics(tmp_path / name)[-1]["mean_return"] for name in ("whole", "parts")]
    assert scores[0] == scores[1]
    for name in ("whole", "parts"):
        trained = [r for r in read_metrics(tmp_path / name) if r["event"] == "train"]
        assert sum(r["episodes"] for r in trained) == 4 * (15 * 10 // 25)


def test_a_run_goes_on_from_between_two_records(tmp_path: Path):
    """With episodes that wait for the next one, some of which have tried nothing."""
    train(tmp_path / "whole", 12)
    train(tmp_path / "parts", 7, f"--save.steps={5 * WINDOW}")
    shutil.rmtree(tmp_path / f"parts/state/step-{7 * WINDOW:010d}")
    main(["train", "--resume", str(tmp_path / "parts"), f"--steps={12 * WINDOW}"])
    whole, parts = (weights(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(x, parts[name]) for name, x in whole.items())
    told = [[r for r in read_metrics(tmp_path / n) if r["event"] == "train"] for n in ("whole", "parts")]
    for name in ("step", "episodes", "episode_return", "success", "losses"):
        assert [r[name] for r in told[0]] == [r[name] for r in told[1]], name


@pytest.mark.parametrize("loss", ["attention", "none"])
def test_compressors_that_had_no_gradient_yet_are_resumed(loss: str, tmp_path: Path):
    """A window ends before the first segment is compressed, or nothing teaches the compressors at all."""
    more = ("--model.segment=32", f"--model.compression-loss={loss}")
    train(tmp_path / "whole", 6, *more)
    train(tmp_path / "parts", 2, *more)
    main(["train", "--resume", str(tmp_path / "parts"), f"--steps={6 * WINDOW}"])
    whole, parts = (weights(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(x, parts[name]) for name, x in whole.items())


def test_a_run_that_was_stopped_while_it_was_scored_is_scored(agent: Path, tmp_path: Path, capsys: Capture):
    run = tmp_path / "run"
    shutil.copytree(agent, run)
    score = read_metrics(run)[-1]
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))
    main(["train", "--resume", str(run)])
    assert read_metrics(run)[-1] == score
    assert "is at its end" in refused(capsys, "train", "--resume", str(run))


def test_checkpoints_are_kept_every_so_many_steps(tmp_path: Path):
    """Steps come by windows, which need not meet the number."""
    train(tmp_path / "run", 9, f"--save.keep-every={3 * WINDOW - 10}", "--save.keep-latest=1")
    kept = sorted(
        int(path.name.removeprefix("step-")) // WINDOW for path in (tmp_path / "run/state").glob("step-*")
    )
    assert kept == [3, 6, 9]


def test_one_episode_has_no_interval(agent: Path, capsys: Capture):
    main(["evaluate", str(agent), "--episodes=1", "--json"])
    score = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert score["interval"] is None
    main(["evaluate", str(agent), "--episodes=1"])
    assert "±" not in capsys.readouterr().out


def test_episodes_without_end_are_not_waited_for(agent: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("compressive_transformer.rl.score.MOST", 20)
    with pytest.raises(UsageError, match="did not end in 20 steps"):
        evaluate_agent(load_agent(agent), episodes=2)


def test_a_signal_saves_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    record = rl_run._Session.record

    def stopping(session: Any, progress: Any) -> None:
        record(session, progress)
        session.trainer.signals.received = 15

    monkeypatch.setattr(rl_run._Session, "record", stopping)
    with pytest.raises(SystemExit) as stop:
        train(tmp_path / "run", 30)
    assert stop.value.code == Stopped.EXIT_CODE
    monkeypatch.undo()
    assert Store(tmp_path / "run").steps() == [11 * WINDOW]  # the window at hand was finished
    main(["train", "--resume", str(tmp_path / "run"), f"--steps={12 * WINDOW}"])
    assert [r["event"] for r in read_metrics(tmp_path / "run")][-2:] == ["saved", "score"]


@pytest.mark.parametrize("core", ["compressive", "none"])
def test_an_episode_is_drawn(core: str, tmp_path: Path):
    train(tmp_path / "run", 1, "--core", core)
    main(["evaluate", str(tmp_path / "run"), "--episodes=1", "--gif", str(tmp_path / "episode.gif")])
    with Image.open(tmp_path / "episode.gif") as film:
        assert getattr(film, "n_frames", 1) > 10
        assert (film.width > 300) == (core == "compressive")  # bars of attention stand beside it


def test_recipes_can_be_built():
    for config, objects in ((rl(), 6), (rl("paper"), 36)):
        spaces = make_envs(config.env, config.env_options).spaces
        with torch.device("meta"):
            agent = Agent(spaces, config.core, config.core_config())
        assert sum(p.numel() for p in agent.parameters()) > 100_000
        envs = make_envs(config.env, config.env_options)
        assert isinstance(envs, NonMatchEnvs)
        assert envs.envs.objects == objects


def test_gymnasium_environments_are_trained_in(tmp_path: Path, capsys: Capture):
    usual = ["--envs=4", "--window=10", *SHAPE, "--env", "CartPole-v1", "--core", "lstm"]
    run = tmp_path / "run"
    main(["train", "rl", "--out", str(run), f"--steps={3 * WINDOW}", *usual])
    capsys.readouterr()
    main(["train", "--resume", str(run), f"--steps={5 * WINDOW}"])
    assert "can't be saved, so its episodes begin anew" in capsys.readouterr().err


def test_mistakes_take_one_line(agent: Path, run: Path, tmp_path: Path, capsys: Capture):
    on, new = ["train", "--resume", str(agent)], ["train", "rl", "--out", str(tmp_path / "new")]
    for arguments, message in (
        ([*new, "--env", "NonMatch-v7"], "did you mean 'NonMatch-v0'"),
        ([*new, "--env-options", "object=4"], "has no option 'object'"),
        ([*new, "--env=CartPole-v1", "--env-options", "objects=6", "rewards=[1, 10, 0]"], "can't be made"),
        ([*on, "--learn.reward-scale=2"], "the run is another: learn.reward_scale 0.3 -> 2.0"),
        ([*new, "--core", "gru"], "core"),
        ([*new, "--minutes=1", "--steps=1"], "give one of them"),
        ([*new, "--envs=3"], "can't be divided into 2 minibatches"),
        ([*new, "--learn.discount=2"], "discount 2.0 is not allowed; use 0 to 1"),
        ([*new, "--model.dropout=0.1"], "acting and learning would not give the same"),
        ([*new, "--size", "huge"], "use one of paper, small"),
        ([*new, "--data", "x"], "Unrecognized options"),
        ([*on], "the run is at its end"),
        ([*on, "--core", "lstm"], "the run is another: core compressive -> lstm"),
        ([*on, "--env", "CartPole-v1"], "the run is another: env NonMatch-v0 -> CartPole-v1"),
        ([*on, "--env-options", "objects=5"], "the run is another: env_options"),
        ([*on, "--size", "small"], "the run has its size"),
        ([*on, "--out", "x"], "a run stays in its folder"),
        (["train", "rl", "--out", str(agent)], "holds a run"),
        (["evaluate", str(agent), "--episodes", "0"], "episodes 0 is not allowed"),
        (["evaluate", str(agent), "--episodes=1", "--gif", "x.png"], "use a name that ends in .gif"),
        (["generate", str(agent)], "is the run of an agent"),
        (["info", str(agent)], "is the run of an agent"),
        (["report", str(agent), str(run)], "is an agent's run and"),
        (["evaluate", str(run)], "no text given"),
    ):
        assert message in refused(capsys, *arguments), arguments
    assert not (tmp_path / "new").exists()


def test_a_report_tells_and_draws_what_was_recorded(agent: Path, tmp_path: Path, capsys: Capture):
    other = tmp_path / "other"
    shutil.copytree(agent, other)
    records = read_metrics(agent)
    capsys.readouterr()
    main(["report", str(agent), str(other), "--json", "--out", str(tmp_path / "both.svg")])
    told, _ = json.loads(capsys.readouterr().out)
    score = {name: records[-1][name] for name in ("env", "mean_return", "interval", "success")}
    assert told == score | {
        "run": "mine",
        "steps": 12 * WINDOW,
        "hours": records[1]["seconds"] / 3600,
        "steps_per_second": (records[0]["steps_per_second"] + records[1]["steps_per_second"]) / 2,
        "training_return": records[1]["episode_return"],
        "resumes": 0,
    }
    main(["report", str(agent)])
    assert f"{score['mean_return']:.2f} ± {score['interval']:.2f}" in capsys.readouterr().out
    panels = {axes.get_title(): axes for axes in draw(read_runs([agent])).axes}
    assert {"Return over steps", "Return over time", "Entropy of the policy", "Time"} <= panels.keys()
    assert not {"Delay", "Loss over tokens"} & panels.keys()
    curve, *_, star = panels["Return over steps"].lines
    assert [float(np.asarray(x)[0]) for x in curve.get_data()] == [10 * WINDOW, records[0]["episode_return"]]
    assert np.asarray(star.get_xdata()).tolist() == [12 * WINDOW]


def test_damaged_runs_take_one_line(agent: Path, tmp_path: Path, capsys: Capture):
    config = json.loads((agent / "config.json").read_text())
    for name, value, message in (
        ("spaces", config["spaces"] | {"observation_shape": [7]}, "is not of the agent in config.json"),
        ("training", config["training"] | {"envs": "many"}, "envs 'many'"),
        ("training", None, "lacks training or spaces"),
        ("format", 9, "has format 9, this version reads 1"),
    ):
        copy = tmp_path / "copy"
        copy.mkdir(exist_ok=True)
        (copy / "config.json").write_text(json.dumps(config | {name: value}))
        (copy / "model.safetensors").write_bytes((agent / "model.safetensors").read_bytes())
        assert message in refused(capsys, "evaluate", str(copy)), name
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "model.safetensors").write_bytes(b"nothing")
    assert "is broken" in refused(capsys, "evaluate", str(copy))
    (copy / "model.safetensors").unlink()
    assert "is missing" in refused(capsys, "evaluate", str(copy))


def test_a_checkpoint_of_another_environment_is_refused(agent: Path, monkeypatch: pytest.MonkeyPatch):
    """One of the same name that has changed since."""
    from compressive_transformer.errors import UsageError
    from compressive_transformer.rl.nonmatch import NonMatch

    loaded = load_agent(agent)
    monkeypatch.setattr(NonMatch, "num_actions", 5)
    with pytest.raises(UsageError, match="of another environment: num_actions 4 -> 5"):
        evaluate_agent(loaded, episodes=1)
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(agent), "--steps=9999"])
