"""Pictures: drawn from whatever a run has left of its metrics."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from compressive_transformer.report import picture_of
from compressive_transformer.report.figures import draw_run
from compressive_transformer.train.log import METRICS, read_metrics

PNG = b"\x89PNG\r\n"
BUCKETS = {"compressed": [0.05] * 6, "recent": [0.05] * 6, "window": [0.4 / 6] * 6}


def train(step: int, **values: Any) -> dict[str, Any]:
    usual = {"tokens": 100 * step, "bits_per_token": 4 - step / 50, "compression_losses": [0.1, 0.2]}
    return {"event": "train", "step": step} | usual | values


def excerpt(step: int, bits: float = 3.5) -> dict[str, Any]:
    return {"event": "excerpt", "step": step, "bits_per_byte": bits, "seconds": 1.0}


def validation(bits: float = 3.2) -> dict[str, Any]:
    compressors = {"gzip -9": 3.1, "bzip2 -9": 2.6, "xz -9e": 2.8}
    return {"event": "validation", "bits_per_byte": bits, "num_bytes": 9, "compressors": compressors}


WHOLE = [train(10), excerpt(15), train(20), validation(), {"event": "attention", "buckets": BUCKETS}]
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
    "huge loss": [train(10, bits_per_token=1e30), train(20)],
}


def written(folder: Path, records: list[dict[str, Any]], rest: str = "") -> Path:
    lines = [json.dumps(record) + "\n" for record in records]
    (folder / METRICS).write_text("".join(lines) + rest)
    return folder


@pytest.mark.parametrize("records", RUNS.values(), ids=RUNS.keys())
def test_a_picture_of_any_run(tmp_path: Path, records: list[dict[str, Any]]):
    path = draw_run(written(tmp_path, records))
    assert path == tmp_path / "figures" / "run.png"
    assert path.read_bytes().startswith(PNG)


@pytest.mark.parametrize("rest", ["{", '{"event": "tra', '{"event": "train", "step": 30'])
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path, rest: str):
    assert read_metrics(written(tmp_path, WHOLE, rest)) == WHOLE
    assert draw_run(tmp_path).exists()


def test_a_broken_line_in_between_is_not_passed_over(tmp_path: Path):
    with pytest.raises(json.JSONDecodeError):
        read_metrics(written(tmp_path, WHOLE, "{\n" + json.dumps(train(30))))


def test_a_picture_is_drawn_anew(tmp_path: Path):
    before = draw_run(written(tmp_path, RUNS["training only"])).read_bytes()
    assert draw_run(written(tmp_path, WHOLE)).read_bytes() != before


def test_training_draws_it(run: Path):
    assert (run / "figures" / "run.png").read_bytes().startswith(PNG)
    assert picture_of(run) == str(run / "figures" / "run.png")


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "compressive_transformer.report.figures")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "compressive-transformer[plot]" in picture_of(written(tmp_path, WHOLE))
    assert not (tmp_path / "figures").exists()
