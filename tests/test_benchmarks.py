"""The benchmarks beside other libraries, without the other libraries."""

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import agents
import quality
import tables
from compressive_transformer.data import ByteTokenizer
from compressive_transformer.evaluate import evaluate
from peers import ARMS, IMPORTS, SIZES, build_arm, present
from peers.base import Batch, train_step
from peers.ours import Ours
from tiny import corpus_of

SIZE = SIZES["tiny"]
OWN = [name for name in ARMS if name not in IMPORTS and name != "ours-compiled"]


def test_documents_have_the_tables_of_what_is_recorded():
    for document in tables.DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert tables.filled(text) == text, f"{document.name}: run python benchmarks/tables.py --write"
        assert set(tables.MARK.findall(text))


def test_tables_tell_what_was_measured(tmp_path: Path):
    versions = {"torch": "2.13.0", "compressive-transformer-pytorch": "0.4.0"}
    about = {"machine": "a machine", "date": "2026-11-22", "command": "python x.py", "versions": versions}
    run = {"bits_per_byte": 2.25, "steps": 100, "lr": 0.001, "batch": 8}
    arms = {"ours": {"seed 0": run, "seed 1": run | {"bits_per_byte": 2.75}}, "lucidrains": {"seed 0": run}}
    found = {
        "standard/4 minutes": {"about": about, "arms": arms},
        "standard/sweep": {},
        "large/4 minutes": {},
    }
    (tmp_path / "quality.json").write_text(json.dumps(found))
    text = tables.filled("<!-- benchmark quality standard -->\nold\n<!-- end -->\n", tmp_path)
    assert "| **this library** | 2.500 (2.250–2.750) | 100 | 0.001 | 8 |" in text
    assert "| compressive-transformer-pytorch 0.4.0 | 2.250 | 100 | 0.001 | 8 |" in text
    assert "old" not in text
    assert tables.filled(text, tmp_path) == text
    assert tables.NOTHING in tables.filled(text, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("training", ["--rounds", "0"], "--rounds 0 is not allowed; use a number above 0"),
        ("waiting", ["--seconds", "nan"], "--seconds nan is not allowed; use a number above 0"),
        ("generation", ["--rows", "1", "-8"], "--rows -8 is not allowed; use a number above 0"),
        ("reading", ["--text", "nowhere.txt"], "there is no file nowhere.txt"),
        ("quality", ["--train", "nowhere", "--valid", "nowhere"], "no such file or folder: nowhere"),
        ("quality", ["--train", "nowhere"], "give text to learn from and text to score"),
    ],
)
def test_wrong_arguments_are_told_in_a_line(
    script: str,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr("sys.argv", [f"{script}.py", *words])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(script).main()
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", OWN)
def test_arms_learn_and_generate(name: str):
    torch.manual_seed(0)
    arm = build_arm(name, SIZE)
    tokens = torch.randint(256, (arm.lanes, arm.length + 1))
    learner = arm.learner(arm.rates[-1])
    losses = [float(train_step(arm, learner, Batch(tokens[:, :-1], tokens[:, 1:], None))) for _ in range(12)]
    assert losses[-1] < 0.97 * losses[0]
    arm.generate(tokens[:2], 3)


@pytest.fixture
def books(tmp_path: Path) -> bytes:
    """Two files, together 32 pieces of 10 bytes."""
    text = bytes((np.arange(320) % 90 + 32).tolist())
    (tmp_path / "a.txt").write_bytes(text[:123])
    (tmp_path / "b.txt").write_bytes(text[123:])
    return text


def test_score_is_that_of_evaluate(tmp_path: Path, books: bytes):
    torch.manual_seed(0)
    arm = Ours(SIZE)
    nats = arm.score(quality.held_out([str(tmp_path)], 32 * 7, part=1))
    pieces = [books[i : i + 7] for i in range(0, 320, 10)]
    expected = evaluate(arm.language_model, corpus_of(*pieces), precision="float32").total
    assert expected.num_tokens == 32 * 7
    assert math.isclose(nats, expected.nats, rel_tol=1e-5)
    arm.cached = False
    assert math.isclose(arm.score(quality.held_out([str(tmp_path)], 32 * 7, part=1)), nats, rel_tol=1e-5)


def test_sweep_scores_other_bytes(tmp_path: Path, books: bytes):
    test, sweep = (quality.held_out([str(tmp_path)], 32 * 8, part=part) for part in (1, 4))
    assert (test[:, 0] == ByteTokenizer().document_token).all()
    assert test[3, 1:].tolist() == list(books[30:38])
    assert sweep[3, 1:].tolist() == list(books[38:40])
    with pytest.raises(SystemExit, match="use --valid-bytes 256 or less"):
        quality.held_out([str(tmp_path)], 32 * 9, part=4)


def test_missing_library_is_skipped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(IMPORTS, "lucidrains", "a_module_that_nobody_has")
    assert present(["ours", "lucidrains"]) == ["ours"]
    told = capsys.readouterr().out
    assert "lucidrains" in told
    assert "environment.txt" in told


@pytest.mark.parametrize("core", ["compressive", "lstm"])
def test_agents_are_measured_part_by_part(core: str):
    pytest.importorskip("gymnasium")
    found = agents.child({"arm": core, "envs": 2, "windows": 1})
    assert 0 < found["environment"] + found["acting"] + found["learning"] <= found["seconds"]
    row = agents.summary([found])
    assert math.isclose(row["steps_per_second"] * found["seconds"], found["steps"])
    assert 0 < sum(row[part] for part in agents.PARTS) <= 1
    assert len(agents.cells(row)) == 6
