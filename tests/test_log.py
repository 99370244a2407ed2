"""What a run writes down while it trains, and tells others."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compressive_transformer.errors import UsageError
from compressive_transformer.train.log import METRICS, Metrics, read_metrics
from compressive_transformer.train.sinks import WANDB_ID, SinkName, numbers, open_sinks


def steps(run: Path) -> list[int]:
    return [r["step"] for r in read_metrics(run)]


def written(run: Path, *at: int, offset: int | None = None, sinks: Any = ()) -> Metrics:
    metrics = Metrics(run, offset=offset, sinks=sinks)
    for step in at:
        metrics.write("train", step=step, loss=1 / step)
    return metrics


# metrics.jsonl


def test_the_offset_counts_what_is_written(tmp_path: Path):
    metrics = Metrics(tmp_path)
    assert metrics.offset == 0
    metrics.write("train", step=1)
    assert metrics.offset == (tmp_path / METRICS).stat().st_size > 0


def test_what_was_written_after_the_checkpoint_is_cut_off(tmp_path: Path):
    offset = written(tmp_path, 10, 20).offset
    written(tmp_path, 30, 40)
    written(tmp_path, 31, offset=offset)
    assert steps(tmp_path) == [10, 20, 31]


def test_a_run_that_is_resumed_from_before_its_first_record_begins_anew(tmp_path: Path):
    written(tmp_path, 10)
    written(tmp_path, 1, offset=0)
    assert steps(tmp_path) == [1]


def test_a_file_that_somebody_cut_is_kept_with_a_warning(tmp_path: Path):
    offset = written(tmp_path, 10, 20, 30).offset
    path = tmp_path / METRICS
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.warns(UserWarning, match=rf"{METRICS} has {offset - 5} bytes, and had {offset}"):
        written(tmp_path, 40, offset=offset)
    assert steps(tmp_path) == [10, 20, 40]  # of half a line nothing can be kept, and the next begins anew


def test_a_file_that_is_gone_is_begun_anew_with_a_warning(tmp_path: Path):
    with pytest.warns(UserWarning, match="has 0 bytes, and had 7"):
        written(tmp_path, 40, offset=7)
    assert steps(tmp_path) == [40]


def test_what_is_no_number_is_null(tmp_path: Path):
    nan, inf = math.nan, math.inf
    Metrics(tmp_path).write("train", a=nan, b=(1.0, inf), c={"d": -inf, "e": "NaN"}, f=True)
    line = (tmp_path / METRICS).read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "event": "train",
        "a": None,
        "b": [1.0, None],
        "c": {"d": None, "e": "NaN"},
        "f": True,
    }


def test_what_early_runs_wrote_is_read_alike(tmp_path: Path):
    (tmp_path / METRICS).write_text('{"event": "train", "a": NaN, "b": -Infinity}\n')
    assert read_metrics(tmp_path) == [{"event": "train", "a": None, "b": None}]


@pytest.mark.parametrize("rest", ["{", '{"event": "tra', '{"event": "train", "step": 30', "\xff", "3", "{}"])
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path, rest: str):
    written(tmp_path, 10, 20)
    with (tmp_path / METRICS).open("a", encoding="latin-1") as file:
        file.write(rest)
    assert steps(tmp_path) == [10, 20]
    with (tmp_path / METRICS).open("a") as file:
        file.write("\n" + json.dumps({"event": "train"}))
    with pytest.raises(UsageError, match=r"metrics.jsonl is broken in line 3 .*; remove that line") as caught:
        read_metrics(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "nothing", METRICS, "\0", "x" * 300])
def test_a_folder_without_metrics_is_a_mistake(tmp_path: Path, name: str):
    (tmp_path / METRICS).mkdir()
    with pytest.raises(UsageError, match=r"has no metrics.jsonl; give a run folder"):
        read_metrics(tmp_path / name)


# Sinks


class Ear:
    """Listens, and fails when it is told to."""

    def __init__(self, name: str = "ear", fails: tuple[str, ...] = ()):
        self.name, self.fails = name, fails
        self.heard: list[Any] = []

    def write(self, event: str, step: int | None, values: Mapping[str, Any]) -> None:
        self._hear(event, step, dict(values))

    def close(self) -> None:
        self._hear("close")

    def _hear(self, event: str, *rest: Any) -> None:
        if event in self.fails:
            raise ConnectionError("the line is dead")
        self.heard.append((event, *rest))


def test_sinks_are_told_every_record(tmp_path: Path):
    ear = Ear()
    metrics = written(tmp_path, 10, sinks=[ear])
    metrics.write("validation", bits_per_byte=2.0)
    metrics.close()
    metrics.close()
    assert ear.heard == [
        ("train", 10, {"step": 10, "loss": 0.1}),
        ("validation", None, {"bits_per_byte": 2.0}),
        ("close",),
    ]


def test_a_sink_that_fails_is_dropped_and_the_rest_goes_on(tmp_path: Path):
    bad, good = Ear("bad", fails=("train", "close")), Ear("good")
    with pytest.warns(UserWarning, match=r"bad failed \(ConnectionError: the line is dead\)") as warned:
        metrics = written(tmp_path, 10, 20, sinks=[bad, good])
    metrics.close()
    assert len(warned) == 1
    assert [heard[0] for heard in good.heard] == ["train", "train", "close"]
    assert steps(tmp_path) == [10, 20]


def test_a_sink_that_cannot_be_closed_is_only_warned_of(tmp_path: Path):
    with pytest.warns(UserWarning, match="ear failed"):
        written(tmp_path, 10, sinks=[Ear(fails=("close",))]).close()


def test_numbers_have_readable_names():
    assert numbers(
        "train",
        {
            "step": 10,
            "bits_per_token": 2.5,
            "compression_losses": (0.1, 0.2),
            "memory_norms": {"recent": 1},
            "compressors": {"gzip -9": 3.0},
            "buckets": {"recent": [0.5, math.inf]},
            "gradient_norm": math.nan,
            "best": True,
            "documents": ["a", "b"],
            "reason": None,
        },
    ) == {
        "train/bits_per_token": 2.5,
        "train/compression_loss/layer_0": 0.1,
        "train/compression_loss/layer_1": 0.2,
        "train/memory_norms/recent": 1,
        "train/compressors/gzip_-9": 3.0,
        "train/buckets/recent/0": 0.5,
    }


def test_tensorboard_files_can_be_read_back_and_a_resumed_run_is_one_curve(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def train(at: range, resumed: int, offset: int | None = None) -> int:
        sinks = open_sinks(["tensorboard"], tmp_path, {"lr": 0.1, "memory": (8, 4)}, step=resumed)
        metrics = written(tmp_path, *at, offset=offset, sinks=sinks)
        kept = metrics.offset
        metrics.write("excerpt", step=at[-1] + 1, bits_per_byte=9.0 - resumed, compression_losses=(1, 2))
        metrics.write("validation", bits_per_byte=2.0)
        metrics.close()
        return kept

    offset = train(range(1, 6), resumed=0)
    train(range(6, 9), resumed=5, offset=offset)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    curves = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert curves["train/loss"] == [(step, pytest.approx(1 / step)) for step in range(1, 9)]
    assert curves["excerpt/bits_per_byte"] == [(9, 4.0)]  # of step 6 nothing is left
    assert curves["excerpt/compression_loss/layer_1"] == [(9, 2.0)]
    assert curves["validation/bits_per_byte"] == [(9, 2.0)]  # at the step of the record before
    assert "config/text_summary" in found.Tags()["tensors"]


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_trackers_get_a_run_that_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: SinkName
):
    calls: list[Any] = []

    def init(**given: Any) -> None:
        print("* welcome")
        calls.append(given)

    module = SimpleNamespace(
        init=init,
        log=lambda values, step: calls.append((step, values)),
        finish=lambda: calls.append("finish"),
    )
    monkeypatch.setitem(sys.modules, name, module)
    run = tmp_path / "mine"
    run.mkdir()
    metrics = written(run, 10, sinks=open_sinks([name, name], run, {"lr": 0.1}))
    metrics.write("validation", bits_per_byte=2.0)
    metrics.write("saved", step=11)
    metrics.close()
    open_sinks([name], run, {}, step=10)
    open_sinks([name], run, {})
    first, *rest, resumed, new = calls
    usual = {"project": "compressive-transformer", "name": "mine"}
    assert first | usual | {"config": {"lr": 0.1}, "resume": "never"} == first
    assert rest == [(10, {"train/loss": 0.1}), (10, {"validation/bits_per_byte": 2.0}), "finish"]
    assert (resumed["resume"], new["resume"]) == ("allow", "never")
    if name == "wandb":
        assert first["id"] == resumed["id"] != new["id"] == (run / WANDB_ID).read_text().strip()
        assert first["dir"] == str(run)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: SinkName
):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(UsageError, match=rf"{name} is missing: pip install .*\[{name}\]"):
        open_sinks([name], tmp_path, {})


def test_a_service_that_refuses_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def init(**given: Any) -> None:
        raise PermissionError("not logged in")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with pytest.raises(UsageError, match=r"wandb can't be opened \(not logged in\); mend that, or train"):
        open_sinks(["wandb"], tmp_path, {})


def test_an_unknown_sink_is_a_mistake(tmp_path: Path):
    unknown: Any = "tensorbord"
    with pytest.raises(UsageError, match="'tensorbord'; choose from tensorboard, trackio, wandb"):
        open_sinks([unknown], tmp_path, {})
