"""The scripts of experiments/: what they train can be built, and their tables are made of their records."""

import importlib
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from compressive_transformer import LanguageModel
from compressive_transformer.checkpoint import load_run
from compressive_transformer.data import ByteTokenizer
from compressive_transformer.formulas import costs
from compressive_transformer.train.log import read_metrics
from tiny import SENTENCE, corpus_of

FOLDER = Path(__file__).parents[1] / "experiments"
TEXT = ["recipe", "compressors", "memory", "speech"]
"""Scripts that train by the package's own loop."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.mark.parametrize("name", TEXT)
def test_every_arm_can_be_built(script: Any, name: str):
    for arm, config in script(name).ARMS.items():
        with torch.device("meta"):
            LanguageModel(config.model)
        assert config.minutes is config.steps is config.tokens is None, arm


def test_arms_that_are_said_to_be_equal_are(script: Any):
    memory, recall = script("memory"), script("recall")
    for arms, ours, theirs in (
        (
            {name: config.model for name, config in memory.ARMS.items()},
            memory.RATE_4,
            "Transformer-XL, 192 slots, as many weights",
        ),
        ({name: arm.model for name, arm in recall.ARMS.items()}, "compressive", "Transformer-XL"),
    ):
        a, b = costs(arms[ours]), costs(arms[theirs])
        assert a.parameters == pytest.approx(b.parameters, rel=0.003)
        assert (a.attention_per_token, a.state_bytes) == (b.attention_per_token, b.state_bytes)
    assert costs(memory.ARMS["Transformer-XL, 192 slots"].model).state_bytes == a_state(memory)


def test_models_of_sound_are_of_equal_size(script: Any):
    speech, sizes = script("speech"), {}
    for name in ("Compressive, rate 4", "Transformer-XL", "WaveNet"):
        with torch.device("meta"):
            sizes[name] = sum(p.numel() for p in LanguageModel(speech.ARMS[name].model).parameters())
    assert max(sizes.values()) < 1.02 * min(sizes.values())


def a_state(memory: ModuleType) -> int:
    return costs(memory.ARMS[memory.RATE_4].model).state_bytes


def test_tables_tell_means_over_seeds(script: Any):
    recall, updates, compressors = script("recall"), script("updates"), script("compressors")
    hits = [
        {str(d): [n, 4] for d in recall.BUCKETS} for n in (1, 3)
    ]  # a quarter and three quarters are right
    runs = [{"arm": "compressive", "recalled": found, "longest": 64, "parameters": 5000} for found in hits]
    assert "| compressive | 50% | 50% |" in recall.table(runs)
    losses = {updates.BEFORE: [3.0, 2.0], "as before": [1.5, 1.0]}
    assert f"| as before | 1.250 | -1.250 | {0.914 - 0.935:+.3f} |" in updates.table(
        [{"arm": arm, "seed": 0, "bits": bits} for arm, bits in losses.items()]
    )
    runs = [{"arm": "max pooling", "bits_per_byte": bits, "parameters": 3_000_000} for bits in (2.0, 2.5)]
    assert "| max pooling | 2.250 | 2.000–2.500 | 2 | 3.00 M | 0.986 |" in compressors.table(runs)


def test_an_experiment_records_each_run_once(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    lab, memory = script("lab"), script("memory")
    text = tmp_path / "text.txt"
    text.write_bytes(SENTENCE * 50)
    small = {"dim": 16, "num_heads": 2, "num_layers": 1, "segment": 16, "memory": 16}
    arms = {
        memory.RATE_4: lab.arm(model={**small, "compressed_memory": 8}, lanes=2),
        "no memory": lab.arm(model={**small, "memory": 0, "compressed_memory": 0}, lanes=2),
    }
    arms = {name: lab.replace(config, compile="off") for name, config in arms.items()}
    arguments = ["memory.py", "--train", str(text), "--valid", str(text), "--tokens=64", "--threads=1"]
    out = tmp_path / "memory.json"
    monkeypatch.setattr("sys.argv", [*arguments, "--seeds", "0", "1", "--out", str(out)])
    for _ in range(2):
        lab.main(
            str(FOLDER / "memory.py"),
            "",
            arms,
            memory.table,
            measure=memory.measure,
            tokens=64,
            seeds=(0,),
        )
    found = json.loads(out.read_text())
    assert [(run["arm"], run["seed"]) for run in found["runs"]] == [
        (arm, seed) for seed in (0, 1) for arm in arms
    ]
    assert all(0 < run["bits_per_byte"] < 12 for run in found["runs"])
    assert found["command"].startswith("python experiments/")
    shown = capsys.readouterr().out
    assert "bits per byte at" in shown


def test_other_sizes_of_memory_are_tried_once(
    script: Any,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    sizes, text, out = script("sizes"), tmp_path / "text.txt", tmp_path / "sizes.json"
    text.write_bytes(SENTENCE * 50)
    monkeypatch.setattr(sizes, "SIZES", {"none": (0, 0), sizes.LEARNT: (8, 8)})
    monkeypatch.setattr(sizes, "load_run", lambda: load_run(run))
    arguments = ["sizes.py", "--train", str(text), "--valid", str(text), "--threads=1", "--out", str(out)]
    monkeypatch.setattr("sys.argv", arguments)
    for _ in range(2):
        sizes.main()
    none, learnt = json.loads(out.read_text())["runs"]
    assert none["bits_per_byte"] != learnt["bits_per_byte"]
    assert len(learnt["compression"]) == load_run(run).model.config.num_layers
    assert all(learnt["compression"])
    assert sum(map(sum, learnt["attention"].values())) == pytest.approx(1, rel=1e-3)
    assert f"| {sizes.LEARNT} | {learnt['bits_per_byte']:.3f} | +0.000 |" in capsys.readouterr().out


def test_a_run_is_packed(script: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reference, folder = script("reference"), tmp_path / "reference"
    monkeypatch.setattr(reference, "REFERENCE_FOLDER", folder)
    scored = {"parameters": 3e6, "tokens": 1000, "seconds": 600.0, "step": 12, "bits_per_byte": 1.5}
    scored |= {"word_perplexity": 300.0, "bytes": 9, "books": {"10146.txt": 1.5}}
    reference.pack(run, scored, "one thread of a machine")
    packed, whole = load_run(folder), load_run(run)
    assert not Path(packed.training["data"][0]).is_absolute()
    for name, x in packed.model.state_dict().items():
        assert torch.equal(x, whole.model.state_dict()[name].bfloat16().float())
    assert (folder / "model.safetensors").stat().st_size < 0.6 * (run / "model.safetensors").stat().st_size
    assert "**1.500 bits per byte**" in (folder / "README.md").read_text()
    assert all(
        record["event"] != "train" for record in read_metrics(folder)
    )  # of two records none is a tenth


def test_facts_are_asked_for_once_and_can_be_known(script: Any):
    recall = script("recall")
    stream = recall.Stream(seed=3, longest=200.0)
    tokens, distances = stream.read(20_000)
    said: dict[int, tuple[int, int]] = {}
    seen = []
    for at, token in enumerate(tokens):
        if token == recall.STORE:
            key, value = tokens[at + 1 : at + 3]
            assert key not in said
            said[key] = (value, at + 2)
        elif token == recall.ASK:
            key, answer = tokens[at + 1 : at + 3]
            value, place = said.pop(key)
            assert (answer, distances[at + 2]) == (value, at + 2 - place)
            seen.append(distances[at + 2])
    assert len(seen) == (distances > 0).sum() > 300
    assert min(seen) >= 8
    middle = 0.5 * (math.log(8) + math.log(200))  # they are even by their logarithm
    assert sum(map(math.log, seen)) / len(seen) == pytest.approx(middle, rel=0.05)


def test_answers_are_predicted_where_they_stand(script: Any):
    recall = script("recall")
    lanes = recall.Lanes(3, seed=0, longest=50.0)
    pieces = [lanes.read(40) for _ in range(5)]
    inputs, targets, distances = (torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True))
    assert (inputs[:, 1:][targets[:, :-1] >= 0] == targets[:, :-1][targets[:, :-1] >= 0]).all()
    assert ((targets >= 0) == (distances > 0)).all()
    assert (inputs[targets >= 0] >= recall.FILLER).all()  # behind ASK stands the key
    assert (inputs[targets >= 0] < recall.FILLER + recall.KEYS).all()


def test_agents_are_compared_at_equal_slots_and_reach_by_their_rate(script: Any):
    arms = script("rl").ARMS
    reach = {name: costs(config.core_config()).temporal_range for name, config in arms.items()}
    delay = script("rl").DELAY
    names = [f"Compressive, rate {rate}" for rate in (1, 2, 4, 8)]
    assert [reach[name] for name in names] == [32, 48, 80, 144]
    assert reach["Transformer-XL"] == 32
    assert reach[names[1]] < delay < reach[names[2]]
    ours, theirs = (costs(arms[name].core_config()) for name in (names[2], "Transformer-XL"))
    assert (ours.attention_per_token, ours.state_bytes) == (theirs.attention_per_token, theirs.state_bytes)


def test_the_table_of_agents_tells_means_over_seeds(script: Any):
    facts = {"arm": "LSTM", "minutes": 2.0, "parameters": 500_000, "success": 0.5}
    runs = [
        facts | {"mean_return": x, "curve": [[1000, 1.0, x, 0.5, delay, 0.0]]}
        for x, delay in ((3, 6), (5, 12))
    ]
    assert "| LSTM | 4.0 | 3.0–5.0 | 50% | 9 | 2.0 | 0.50 M | 2 |" in script("rl").table(runs)


def test_the_vocabulary_of_the_training_text_is_made_once(script: Any):
    memory = script("memory")
    corpus = corpus_of(b"a b a\n")
    assert isinstance(corpus.tokenizer, ByteTokenizer)
    assert memory._vocabulary(corpus) is memory._vocabulary(corpus)
    assert memory._vocabulary(corpus).words[:2] == (b"a", b"\n")
