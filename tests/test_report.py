"""Reports: drawn and told from whatever runs have left of their metrics."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compressive_transformer.cli import main
from compressive_transformer.data import ByteTokenizer
from compressive_transformer.report import draw_report, picture_of, read_runs
from compressive_transformer.report.figures import draw
from compressive_transformer.report.runs import Run
from compressive_transformer.report.summary import Summary, describe, summarize
from compressive_transformer.train.log import METRICS, read_metrics

PNG = b"\x89PNG\r\n"
BUCKETS = {"compressed": [0.05] * 6, "recent": [0.05] * 6, "window": [0.4 / 6] * 6}
Capture = pytest.CaptureFixture[str]


def train(step: int, **values: Any) -> dict[str, Any]:
    usual = {"tokens": 100 * step, "bits_per_token": 4 - step / 50, "compression_losses": [0.1, 0.2]}
    return {"event": "train", "step": step} | usual | values


def excerpt(step: int, bits: float = 3.5) -> dict[str, Any]:
    return {"event": "excerpt", "step": step, "bits_per_byte": bits, "seconds": 1.0}


NEW: dict[str, Any] = {
    "seconds": 600.0,
    "gradient_norm": 0.5,
    "compression_gradient_norm": 0.1,
    "tokens_per_second": 5000.0,
    "memory_norms": {"recent": 1.0, "compressed": 0.5},
}


def validation(bits: float = 3.2) -> dict[str, Any]:
    compressors = {"gzip -9": 3.1, "bzip2 -9": 2.6, "xz -9e": 2.8}
    return {"event": "validation", "bits_per_byte": bits, "num_bytes": 9, "compressors": compressors}


WHOLE = [train(10), excerpt(15), train(20), validation(), {"event": "attention", "buckets": BUCKETS}]
EVERY = [
    *(train(step, **NEW) for step in range(10, 50, 10)),
    {"event": "saved", "step": 40, "seconds": 0.1},
    excerpt(40),
    {"event": "resume", "step": 40},
    {"event": "spike", "step": 44, "bits_per_token": 9.0, "expected": 2.0, "documents": ["a.txt"]},
    {"event": "skipped", "step": 45, "reason": "not finite", "documents": []},
    *(train(step, **NEW) for step in range(50, 80, 10)),
    excerpt(60, 3.3),
    validation(),
    {"event": "attention", "buckets": BUCKETS},
]
RUNS: dict[str, list[dict[str, Any]]] = {
    "whole": WHOLE,
    "nothing yet": [],
    "training only": [train(10), train(20)],
    "one record": [train(10)],
    "without training": [excerpt(2), validation()],
    "interrupted": [train(10), excerpt(15)],
    "interrupted at once": [validation(8.1), {"event": "attention", "buckets": BUCKETS}],
    "no compression": [
        train(10, compression_losses=[0.0, 0.0]),
        validation(),
        {"event": "attention", "buckets": {"recent": [0.1] * 6, "window": [0.4 / 6] * 6}},
    ],
    "one layer": [train(step, compression_losses=[0.1]) for step in range(10, 300, 10)],
    "no tier large enough": [train(10), {"event": "attention", "buckets": {}}],
    "compressors far below the loss": [train(10, bits_per_token=8.3), validation(8.2)],
    "loss that is no number": [train(10), train(20, bits_per_token=float("nan")), validation(float("nan"))],
    "loss of nothing else": [train(10, bits_per_token=float("nan"), compression_losses=[float("nan")] * 2)],
    "every event": EVERY,
    "nulls": [
        train(10, **dict.fromkeys(("seconds", "bits_per_token", "compression_losses", "memory_norms")))
    ],
    "huge loss": [train(10, bits_per_token=1e30), train(20)],
}


def written(folder: Path, records: list[dict[str, Any]], rest: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps(record) + "\n" for record in records]
    (folder / METRICS).write_text("".join(lines) + rest)
    return folder


def run_of(records: list[dict[str, Any]], *, name: str = "mine", unit: str = "byte") -> Run:
    return Run(path=Path(name), name=name, unit=unit, records=records)


def panels(*runs: Run) -> dict[str, Axes]:
    """By title; of several with one title the last."""
    return {axes.get_title(): axes for axes in draw(runs).axes}


def legend(of: Axes | Figure) -> list[str]:
    found = of.get_legend() if isinstance(of, Axes) else of.legends[0]
    return [text.get_text() for text in found.get_texts()] if found else []


# Pictures


@pytest.mark.parametrize("records", RUNS.values(), ids=RUNS.keys())
def test_a_picture_of_any_run(tmp_path: Path, records: list[dict[str, Any]]):
    path = draw_report(read_runs([written(tmp_path, records)]))
    assert path == tmp_path / "figures" / "report.png"
    assert path.read_bytes().startswith(PNG)


@pytest.mark.parametrize("unit", ["byte", "subword"])
def test_a_picture_of_all_these_runs(unit: str):
    runs = [run_of(records, name=name, unit=unit) for name, records in RUNS.items()]
    figure = draw([*runs, run_of(EVERY, name="bytes")])
    assert legend(figure)[:2] == ["whole: 3.200 bits per byte", "nothing yet"]
    figure.draw_without_rendering()


def test_a_run_with_every_event_has_all_panels():
    found = panels(run_of(EVERY))
    assert list(found) == [
        "Loss over tokens",
        "Loss over time",
        "Attention",
        "Compression loss",
        "Throughput",
        "Gradient norm before clipping",
        "Memory norm",
    ]
    assert legend(found["Loss over tokens"]) == [
        "training",
        "validation excerpt",
        "validation",
        "spike (1)",
        "skipped update (1)",
        "resumed (1)",
    ]
    assert [text.get_text() for text in found["Attention"].texts[::2]] == ["compressed", "recent", "window"]
    assert [text.get_text() for text in found["Attention"].texts[1::2]] == ["30.0%", "30.0%", "40.0%"]


def test_panels_of_which_there_are_no_records_are_left_out():
    assert list(panels(run_of([]))) == []
    assert list(panels(run_of(RUNS["training only"]))) == ["Loss over tokens", "Compression loss"]


def test_layers_that_do_not_compress_are_not_drawn():
    records = [train(step, compression_losses=[0.0, 0.1]) for step in (10, 20)]
    assert legend(panels(run_of(records))["Compression loss"]) == ["layer 1"]


def test_tokens_of_different_kinds_are_kept_apart():
    figure = draw([run_of(EVERY, name="a"), run_of(EVERY, name="b", unit="subword")])
    labels = [axes.get_ylabel() for axes in figure.axes[:5]]
    assert labels == ["bits per byte", "bits per subword"] * 2 + ["bits per byte"]
    assert figure.axes[4].get_title() == "Validation over tokens"
    assert [axes.get_xlabel() for axes in figure.axes[:2]] == ["training bytes", "training subwords"]


def test_marks_lie_where_their_steps_do():
    lines = panels(run_of(EVERY))["Loss over tokens"].lines
    found = [
        np.ravel(np.asarray(line.get_xdata())).tolist() for line in lines if line.get_marker() in ("^", "x")
    ]
    assert found == [[4400], [4500]]


def test_a_picture_is_drawn_anew(tmp_path: Path):
    before = draw_report(read_runs([written(tmp_path, RUNS["training only"])])).read_bytes()
    assert draw_report(read_runs([written(tmp_path, WHOLE)])).read_bytes() != before


def test_training_draws_it(run: Path):
    assert (run / "figures" / "report.png").read_bytes().startswith(PNG)
    assert picture_of(run) == str(run / "figures" / "report.png")


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "compressive_transformer.report.figures")
    monkeypatch.delitem(sys.modules, "compressive_transformer.report.panels")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "compressive-transformer[plot]" in picture_of(written(tmp_path, WHOLE))
    assert not (tmp_path / "figures").exists()


# Curves and numbers


def test_records_are_found_on_the_axes_by_their_steps():
    run = run_of([train(10, seconds=5.0), excerpt(15), train(20, seconds=9.0), excerpt(4), excerpt(99)])
    assert run.at("excerpt", "tokens").tolist() == [1500, 400, 2000]
    assert run.at("excerpt", "seconds").tolist() == [7, 2, 9]
    assert np.isnan(run_of([excerpt(4)]).at("excerpt", "tokens")).all()


def test_time_goes_on_where_a_process_began_to_count_anew():
    seconds = [5.0, 9.0, 2.0, 4.0]
    run = run_of([train(10 * i, seconds=s) for i, s in enumerate(seconds, 1)])
    assert run.at("train", "seconds").tolist() == [5, 9, 11, 13]


def test_a_missing_number_is_a_gap():
    run = run_of([train(10), train(20, compression_losses=[0.3]), train(30, compression_losses=None)])
    assert run.series("train", "compression_losses", 1)[0] == 0.2
    assert np.isnan(run.series("train", "compression_losses", 1)[1:]).all()
    assert np.isnan(run.series("train", "memory_norms", "recent")).all()


def test_the_summary_of_a_run():
    s = summarize(run_of(EVERY))
    assert isinstance(s, Summary)
    assert (s.run, s.unit, s.steps, s.tokens) == ("mine", "byte", 70, 7000)
    assert s.hours == pytest.approx(1 / 6)
    assert s.tokens_per_second == 5000
    assert s.training_bits_per_token == pytest.approx(4 - 70 / 50)
    assert (s.best_excerpt, s.validation, s.validation_whole) == (3.3, 3.2, True)
    assert s.attention == pytest.approx({"compressed": 0.3, "recent": 0.3, "window": 0.4})
    assert (s.spikes, s.skipped, s.resumes) == (1, 1, 1)


def test_runs_of_one_folder_name_are_named_by_their_paths(tmp_path: Path):
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
    paths = [written(tmp_path / place, []) for place in ("x/mine", "y/mine", "other")]
    assert [run.name for run in read_runs(paths)] == [str(paths[0]), str(paths[1]), "other"]


def test_the_unit_is_that_of_the_tokenizer(tmp_path: Path):
    written(tmp_path, EVERY)
    assert read_runs([tmp_path])[0].unit == "token"
    config = {"format": 2, "tokenizer": ByteTokenizer.name, "model": {}, "vocab_size": 257, "training": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_runs([tmp_path])[0].unit == "byte"


def test_the_table():
    half = summarize(run_of([train(10), validation(8) | {"whole": False}], name="half", unit="subword"))
    table = describe([summarize(run_of(EVERY)), half, summarize(run_of([], name="nothing"))])
    assert [re.split("  +", line) for line in table.splitlines()] == [
        ["run", "steps", "tokens", "hours", "tokens/s", "training", "best excerpt", "validation"],
        ["mine", "70", "7,000", "0.17", "5,000", *(f"{x} bits/byte" for x in ("2.600", "3.300", "3.200"))],
        ["half", "10", "1,000", "–", "–", "3.800 bits/subword", "–", "8.000 bits/byte (excerpt)"],
        ["nothing", *"–––––––"],
    ]
    assert len({len(line) for line in table.splitlines()}) == 1


# The verb


def test_report_tells_and_draws(run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    other = written(tmp_path / "other", WHOLE)
    capsys.readouterr()
    main(["report", str(run)])
    assert capsys.readouterr().out.splitlines()[-1] == f"Picture: {run / 'figures' / 'report.png'}"
    main(["report", str(run), str(other)])
    _, *rows, picture = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["mine", "other"]
    assert picture == "Picture: report.png"
    assert (tmp_path / "report.png").read_bytes().startswith(PNG)


def test_report_answers_programs(run: Path, tmp_path: Path, capsys: Capture):
    other = written(tmp_path / "other", RUNS["loss of nothing else"])
    capsys.readouterr()
    main(["report", str(run), str(other), "--json", "--out", str(tmp_path / "both.svg")])
    mine, nothing = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    last = [r for r in read_metrics(run) if r["event"] == "train"][-1]
    assert (mine["steps"], mine["tokens"], mine["unit"]) == (12, last["tokens"], "byte")
    assert mine["hours"] == pytest.approx(last["seconds"] / 3600)
    assert mine["training_bits_per_token"] == last["bits_per_token"]
    assert math.fsum(mine["attention"].values()) == pytest.approx(1)
    assert nothing["training_bits_per_token"] is nothing["validation"] is None
    assert b"<svg" in (tmp_path / "both.svg").read_bytes()


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", PNG), ("PNG", PNG), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_the_suffix_decides_the_format(run: Path, tmp_path: Path, suffix: str, start: bytes):
    main(["report", str(run), "--out", str(tmp_path / f"mine.{suffix}")])
    assert (tmp_path / f"mine.{suffix}").read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no run is given; name one or more run folders"),
        (["nowhere"], "nowhere has no metrics.jsonl; give a run folder that 'compressive train' made"),
        (["broken"], "broken/metrics.jsonl is broken in line 1"),
        (["mine", "--out", "a.gif"], "a.gif can't be drawn; use a name that ends in .png, .svg, .pdf"),
        (["mine", "--out", "mine"], "mine can't be drawn; use a name that ends in .png, .svg, .pdf"),
        (["mine", "--out", "no/a.png"], "no/a.png can't be written (No such file or directory); choose"),
    ],
    ids=str,
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
):
    monkeypatch.chdir(tmp_path)
    written(Path("mine"), WHOLE)
    written(Path("broken"), [], "{\n{}\n")
    with pytest.raises(SystemExit, match="2"):
        main(["report", *arguments])
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
