"""The command line: five verbs that work, and one line for every mistake."""

import gzip
import io
import json
import math
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from compressive_transformer.checkpoint import CONFIG, WEIGHTS, load_run
from compressive_transformer.cli import main
from compressive_transformer.data import ByteTokenizer, prepare
from compressive_transformer.evaluate import evaluate
from compressive_transformer.recipes import RECIPES
from compressive_transformer.tasks import corpora
from compressive_transformer.train import Trainer
from compressive_transformer.train.log import METRICS, read_metrics
from tiny import SENTENCE, SENTENCES, train_tiny

Capture = pytest.CaptureFixture[str]


def answer(capsys: Capture, *arguments: str) -> str:
    """What the command prints when all is well."""
    capsys.readouterr()
    main(arguments)
    return capsys.readouterr().out


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


# What works


def test_train_leaves_a_run_folder(run: Path, text: Path):
    assert sorted(path.name for path in run.iterdir()) == [
        "config.json",
        "figures",
        "metrics.jsonl",
        "model.safetensors",
        "sample.txt",
        "state",
    ]
    loaded = load_run(run)
    assert loaded.model.config.dim == 16
    assert loaded.training["data"] == [str(text)]
    assert (loaded.training["steps"], loaded.training["minutes"]) == (12, None)
    records = read_metrics(run)
    assert [r["step"] for r in records if r["event"] == "train"] == [10, 12]
    assert [r["step"] for r in records if r["event"] == "excerpt"] == [3, 5, 8, 10]
    (validation,) = [r for r in records if r["event"] == "validation"]
    assert validation["num_bytes"] == math.ceil(0.05 * text.stat().st_size)
    assert len(validation["compressors"]) == 3
    (attention,) = [r for r in records if r["event"] == "attention"]
    assert sum(map(sum, attention["buckets"].values())) == pytest.approx(1)


def test_train_prints_how_well_it_went(capsys: Capture, text: Path, tmp_path: Path):
    train_tiny(text, tmp_path / "mine", "--tokens", "100")
    printed = capsys.readouterr().out
    for part in (
        "this model",
        "gzip -9",
        "bzip2 -9",
        "xz -9e",
        "A sample",
        str(tmp_path / "mine"),
        "report.png",
    ):
        assert part in printed


def test_two_trainings_with_one_seed_are_one(
    monkeypatch: pytest.MonkeyPatch, run: Path, text: Path, tmp_path: Path
):
    monkeypatch.setattr("compressive_transformer.cli.train.picture_of", str)
    for seed, equal in {"0": True, "1": False}.items():
        train_tiny(text, tmp_path / seed, "--steps", "12", "--seed", seed)
        assert ((tmp_path / seed / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()) == equal
        assert ((tmp_path / seed / "sample.txt").read_bytes() == (run / "sample.txt").read_bytes()) == equal


@pytest.mark.parametrize(
    "flags",
    [
        ["--model.compressed-memory=0"],
        ["--model.memory=0", "--model.compression-loss=auto-encoding"],
        ["--model.memory", "8", "4", "--model.compressed-memory", "0", "8"],
        ["--lanes=1", "--unroll=3", "--model.compression-loss=none"],
        ["--model.compressor=most-used"],
        ["--model.compression-rate=3", "--model.dropout=0.3"],
        ["--separator=t", "--optimizer.update-period=3", "--precision=bfloat16"],
        ["--model.faithful", "--no-reset-documents", "--optimizer.name=adamw"],
    ],
    ids=str,
)
def test_train_in_other_ways(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, text: Path, tmp_path: Path, flags: list[str]
):
    monkeypatch.setattr("compressive_transformer.cli.train.picture_of", str)  # see test_report.py
    train_tiny(text, tmp_path / "mine", "--steps", "3", *flags)
    run = str(tmp_path / "mine")
    assert json.loads(answer(capsys, "info", run, "--json"))["training"]["steps"] == 3
    assert 4 < json.loads(answer(capsys, "evaluate", run, str(text), "--json"))["total"]["bits_per_byte"] < 12


def test_interrupted_training_leaves_a_run_to_go_on_with(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, text: Path, tmp_path: Path
):
    step = Trainer.train_step

    def interrupted(trainer: Trainer, done: float) -> float:
        if trainer.step == 3:
            signal.raise_signal(signal.SIGINT)
        return step(trainer, done)

    run = tmp_path / "mine"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        with pytest.raises(SystemExit) as stop:
            train_tiny(text, run, "--steps", "30")
    assert stop.value.code == 75
    assert capsys.readouterr().err.endswith(
        f"compressive: stopped at step 4 and saved; go on with: compressive train --resume {run}\n"
    )
    assert answer(capsys, "generate", str(run), "--length", "5")
    assert "this model" in answer(capsys, "train", "--resume", str(run))
    assert [r["step"] for r in read_metrics(run) if r["event"] == "train"] == [10, 20, 30]


def test_train_from_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    feed(monkeypatch, SENTENCE * 20)
    train_tiny(Path("-"), tmp_path / "mine", "--steps", "2")
    assert load_run(tmp_path / "mine").training["data"] == ["-"]


def test_evaluate(capsys: Capture, run: Path, text: Path):
    found = json.loads(answer(capsys, "evaluate", str(run), str(text), "--json"))
    assert found["documents"] == [found["total"] | {"name": str(text)}]
    assert found["total"]["num_bytes"] == text.stat().st_size
    bits = found["total"]["bits_per_byte"]
    assert found["total"]["perplexity_per_byte"] == pytest.approx(2**bits)
    assert f"{bits:.4f}" in answer(capsys, "evaluate", str(run), str(text))


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ([], {}),
        (["--carry"], {"reset_documents": False}),
        (["--memory=16"], {"memory": 16}),
        (["--compressed-memory=32"], {"compressed_memory": 32}),
        (["--rows=1"], {"num_rows": 1}),
        (["--dynamic=0.01"], {"learning_rate": 0.01}),
    ],
    ids=str,
)
def test_flags_of_evaluate(capsys: Capture, run: Path, text: Path, flags: list[str], options: dict[str, Any]):
    flags = [*flags, "--separator=\\n", "--precision=float32", "--json"]
    found = json.loads(answer(capsys, "evaluate", str(run), str(text), *flags))
    corpus, model = prepare(text, ByteTokenizer(), separator="\n"), load_run(run).model
    expected = evaluate(model, corpus, precision="float32", **options)
    assert [document["nats"] for document in found["documents"]] == [d.nats for d in expected.documents]
    assert found["total"]["num_bytes"] == text.stat().st_size - SENTENCES  # without the separators
    usual = evaluate(model, corpus, precision="float32")
    assert (expected.total.nats == usual.total.nats) == (flags[0] in ("--separator=\\n", "--rows=1"))


def test_several_memories_are_tried_in_turn(capsys: Capture, monkeypatch: pytest.MonkeyPatch, run: Path):
    feed(monkeypatch, SENTENCE * 9)
    sizes = [(slots, compressed) for slots in (8, 16) for compressed in (0, 8, 32)]
    flags = ["--precision=float32", "--memory", "8", "16", "--compressed-memory", "0", "8", "32"]
    found = json.loads(answer(capsys, "evaluate", str(run), "-", "--json", *flags))
    assert [(one["memory"], one["compressed_memory"]) for one in found] == sizes
    bits = [one["total"]["bits_per_byte"] for one in found]
    assert len(set(bits)) == 6
    feed(monkeypatch, SENTENCE * 9)
    table = answer(capsys, "evaluate", str(run), "-", *flags).splitlines()
    assert [line.split()[:4] for line in table[1:]] == [
        [str(slots), str(compressed), str(len(SENTENCE) * 9), f"{b:.4f}"]
        for (slots, compressed), b in zip(sizes, bits, strict=True)
    ]


def test_a_sweep_says_what_may_not_be_overlooked(capsys: Capture, run: Path, text: Path):
    several = ["evaluate", str(run), str(text), "--dynamic=1e-4", "--compressed-memory", "0", "8"]
    table = answer(capsys, *several)
    assert "perplexity/word" in table
    assert table.count("as trained") == 2
    assert "not to be compared with scores" in table
    with pytest.raises(SystemExit):
        main([*several, "--by-position"])
    assert "leave out --by-position" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # before anything is read
        main(["evaluate", str(run), str(text), "--compressed-memory", "8", "-1"])
    assert "compressed_memory -1 is not allowed" in capsys.readouterr().err


def test_much_validation_text_is_read_in_pieces(
    tmp_path: Path, text: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(corpora, "VALIDATION_TOKENS", 320)
    (tmp_path / "much.txt").write_bytes(SENTENCE * 20)
    train_tiny(text, tmp_path / "mine", "--steps=1", "--validation", str(tmp_path / "much.txt"))
    assert "of the validation text (320 bytes never trained on)" in capsys.readouterr().out


def test_the_loss_by_place_and_by_word(capsys: Capture, run: Path, text: Path, tmp_path: Path):
    words = str(tmp_path / "words.json")
    main(["tokenizer", "train", str(text), "--out", words, "--kind", "words"])
    capsys.readouterr()
    flags = ["--by-position", "--frequencies", words, "--precision=float32"]
    found = json.loads(answer(capsys, "evaluate", str(run), str(text), *flags, "--json"))
    total = found["total"]
    for parts, count in (("by_position", total["num_bytes"]), ("by_frequency", total["num_words"])):
        assert sum(part["count"] for part in found[parts]) == count
        assert sum(part["nats"] for part in found[parts]) == pytest.approx(total["nats"], rel=1e-5)
    assert total["num_words"] == len(text.read_bytes().split())
    table = answer(capsys, "evaluate", str(run), str(text), *flags)
    assert "1,024 to 2,047" in table
    assert "at most 100" in table
    last = found["by_frequency"][-1]
    perplexity = math.exp(last["nats"] / last["count"]) if last["nats"] < 700 * last["count"] else math.inf
    assert f"{perplexity:,.4f}  {last['name']}" in table
    assert "Dynamic" not in table
    assert "carried" not in table
    assert "Memory was carried on" in answer(capsys, "evaluate", str(run), str(text), "--carry")
    with pytest.raises(SystemExit):
        main(["evaluate", str(run), str(text), "--frequencies", "bytes"])
    assert "has no words with counts" in capsys.readouterr().err


def test_what_is_no_number_is_null_for_programs(capsys: Capture, run: Path, tmp_path: Path):
    (tmp_path / "one-word.txt").write_bytes(1500 * b"word")
    said = answer(capsys, "evaluate", str(run), str(tmp_path / "one-word.txt"), "--json", "--carry")
    found = json.loads(said, parse_constant=pytest.fail)
    assert found["total"]["perplexity_per_word"] is None
    assert found["carry"]


def test_dynamic_evaluation_is_reported_apart(capsys: Capture, run: Path, text: Path):
    table = answer(capsys, "evaluate", str(run), str(text), "--dynamic=1e-4")
    assert "by Adam at 0.0001; not to be compared" in table
    found = json.loads(answer(capsys, "evaluate", str(run), str(text), "--dynamic=1e-4", "--json"))
    assert found["dynamic_evaluation"] == {"learning_rate": 1e-4}


def test_evaluate_standard_input_and_several_files(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, run: Path, text: Path, tmp_path: Path
):
    feed(monkeypatch, b"some text")
    (tmp_path / "é \udcff.txt").write_bytes(b"x")  # a name that is no Unicode
    table = answer(capsys, "evaluate", str(run), str(text), "-", str(tmp_path)).splitlines()
    assert len(table) == 5
    assert table[-2].endswith("é \\udcff.txt")
    assert table[-1].endswith("total")


def test_generate(capsys: Capture, run: Path):
    arguments = ("generate", str(run), "--prompt", "It is a", "--length", "30")
    written = answer(capsys, *arguments)
    assert written.startswith("It is a")
    assert written.endswith("\n")
    found = json.loads(answer(capsys, *arguments, "--json"))
    assert found["prompt"] + found["text"] + "\n" == written
    assert found["tokens"] == 30
    assert answer(capsys, *arguments, "--seed", "1") != written


@pytest.mark.parametrize("prompt", ["", "é漢🎉", "- he said", "\udcff\udcfe", "x" * 500])
def test_prompts(capsys: Capture, run: Path, prompt: str):
    written = answer(capsys, "generate", str(run), "--prompt", prompt, "--length", "3")
    assert written.startswith(prompt.encode(errors="surrogateescape").decode(errors="replace"))


def test_a_prompt_from_standard_input(capsys: Capture, monkeypatch: pytest.MonkeyPatch, run: Path):
    feed(monkeypatch, SENTENCE)
    written = answer(capsys, "generate", str(run), "--prompt", "-", "--length", "3")
    assert written.startswith(SENTENCE.decode())


def test_characters_are_printed_whole(capsys: Capture, monkeypatch: pytest.MonkeyPatch, run: Path):
    """Three tokens make one letter, and what makes none is told from a letter."""
    data = "漢é".encode() + b"\xff!"
    monkeypatch.setattr("compressive_transformer.tasks.write.continued", lambda *_: iter(data))
    assert answer(capsys, "generate", str(run)) == "漢é�!\n"


@pytest.mark.parametrize("what", ["a run", *RECIPES])
def test_info(capsys: Capture, run: Path, what: str):
    name = str(run) if what == "a run" else what
    found = json.loads(answer(capsys, "info", name, "--json"))
    assert found["name"] == name
    printed = answer(capsys, "info", name)
    assert f"{found['parameters']:,}" in printed
    assert f"{found['temporal_range']:,}" in printed
    if what == "a run":
        weights = load_run(run).model.parameters()
        assert found["parameters"] == sum(p.numel() for p in weights)
        assert found["temporal_range"] == 2 * (8 + 2 * 8)


def test_info_of_a_recipe_in_another_size(capsys: Capture):
    sizes = [
        json.loads(answer(capsys, "info", "enwik8", "--json", *size))["parameters"]
        for size in ([], ["--size", "paper"], ["--size", "small"])
    ]
    assert sizes == [353_118_208, 353_118_208, 4_404_224]


def test_info_of_a_recipe_beside_data_of_its_name(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "enwik8").mkdir()
    monkeypatch.chdir(tmp_path)
    assert json.loads(answer(capsys, "info", "enwik8", "--json"))["parameters"] == 353_118_208


@pytest.mark.parametrize("what", ["a run", "a recipe"])
def test_info_of_many_processes(capsys: Capture, run: Path, what: str):
    name = str(run) if what == "a run" else "tiny"
    plan = ["--processes", "8", "--parallel", "fsdp", "--lanes", "32"]
    found = json.loads(answer(capsys, "info", name, "--json", *plan))
    assert found["plan"]["parameters"] == found["parameters"]
    assert found["plan"]["memory"]["state"] >= 2 * 4 * found["state_bytes_per_row"]
    assert found["plan"]["sent"]["weights"] > found["plan"]["sent"]["gradients"] > 0
    printed = answer(capsys, "info", name, *plan)
    assert "8 by fsdp, 4 lanes each" in printed
    assert "plan" not in json.loads(answer(capsys, "info", name, "--json"))


def test_help(capsys: Capture):
    assert answer(capsys) == answer(capsys, "--help") == answer(capsys, "help")
    assert answer(capsys, "--version").startswith("compressive-transformer ")
    for verb, flag in {
        "train": "--minutes",
        "evaluate": "--carry",
        "generate": "--top-p",
        "report": "--out",
        "info": "RUN",
    }.items():
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        assert stop.value.code == 0
        assert flag.lower() in capsys.readouterr().out.lower()


def test_help_comes_without_torch():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "compressive_transformer", "--help"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("usage: compressive")
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "compressive_transformer.cli" in imported
    assert not imported & {"torch", "numpy", "tyro"}


# What does not


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run: Path, text: Path) -> Path:
    """A folder of things to trip over."""
    place = tmp_path_factory.mktemp("place")
    (place / "text.txt").write_bytes(text.read_bytes())
    (place / "one.txt").write_bytes(b"x")
    (place / "short.txt").write_bytes(b"seven")
    (place / "empty.txt").touch()
    (place / "textless").mkdir()
    (place / "textless" / "binary").write_bytes(b"a\0b")
    (place / "nothing").mkdir()
    (place / "cut.gz").write_bytes(gzip.compress(text.read_bytes())[:-20])
    (place / "wrong.gz").write_bytes(b"text")
    with zipfile.ZipFile(place / "archive.zip", "w") as archive:
        archive.writestr("text.txt", "text")
    truncated, xl = place / "truncated", place / "xl"
    truncated.mkdir()
    (truncated / CONFIG).write_bytes((run / CONFIG).read_bytes())
    (truncated / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes()[:1000])
    train_tiny(text, xl, "--steps", "1", "--model.compressed-memory", "0")
    return place


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


MISTAKES: dict[str, tuple[str, str]] = {
    "unknown verb": ("trian", "did you mean 'train'?"),
    "unknown verb like none": ("x", "use one of train, evaluate, generate, report, info"),
    "unknown recipe": ("train huge", "unknown recipe 'huge'"),
    "unknown flag of train": ("train --colour red", "--colour"),
    "unknown flag of the model": ("train --model.colour red", "--model.colour"),
    "unknown flag of evaluate": ("evaluate {run} text.txt --colour", "--colour"),
    "unknown flag of generate": ("generate {run} --colour", "--colour"),
    "unknown flag of info": ("info {run} --colour", "--colour"),
    "no run": ("info", "Run folder"),
    "size of a run": ("info reference --size small", "is for recipes (enwik8"),
    "size of a recipe that has one": ("info tiny --size small", "leave out --size small"),
    "missing data": ("train --data no.txt --out new", "no.txt"),
    "empty data": ("train --data empty.txt --out new", "empty.txt is empty"),
    "data of one byte": ("train --data one.txt --out new", "too short"),
    "data shorter than a segment": ("train --data short.txt --out new", "need"),
    "data without text": ("train --data textless --out new", "no text in textless"),
    "no data in a folder": ("train --data nothing --out new", "no text in nothing"),
    "damaged data": ("train --data cut.gz --out new", "cut.gz is damaged"),
    "data not packed": ("train --data wrong.gz --out new", "wrong.gz is damaged"),
    "archive": ("train --data archive.zip --out new", "unpack it"),
    "pattern": ("train --data *.md --out new", "no file matches"),
    "same text twice": ("train --data text.txt --validation text.txt --out new", "leave it out of one"),
    "empty separator": ("train --data text.txt --separator= --out new", "separator is empty"),
    "out is a run": ("train --data text.txt --lanes 8 --out {run} --steps 1", "nothing was written"),
    "out is a folder": ("train --data text.txt --lanes 8 --out textless --steps 1", "nothing was written"),
    "out is a file": ("train --data text.txt --lanes 8 --out text.txt --steps 1", "nothing was written"),
    "out below a file": ("train --data text.txt --out text.txt/new --steps 1 --lanes 1", "can't be made"),
    "two budgets": ("train --steps 1 --minutes 1", "minutes and steps are both budgets"),
    "zero steps": ("train --steps 0", "steps 0"),
    "negative minutes": ("train --minutes -1", "minutes -1"),
    "zero tokens": ("train --tokens 0", "tokens 0"),
    "steps in letters": ("train --steps ten", "ten"),
    "steps without number": ("train --steps", "--steps"),
    "negative seed": ("train --seed -1", "seed -1"),
    "huge seed": ("train --seed 99999999999999999999", "seed 99999999999999999999"),
    "zero lanes": ("train --lanes 0", "lanes 0"),
    "negative dim": ("train --model.dim -4", "dim -4"),
    "dim not divisible by heads": (
        "train --model.dim 10 --model.num-heads 4",
        "not divisible by num_heads 4",
    ),
    "negative memory": ("train --model.memory -1", "memory -1"),
    "negative compressed memory": ("train --model.compressed-memory -1", "compressed_memory -1"),
    "sizes for other layers": ("train --model.memory 8 8 8", "3 sizes for 4 layers"),
    "zero segment": ("train --model.segment 0", "segment 0"),
    "rate 0": ("train --model.compression-rate 0", "compression_rate 0"),
    "rate does not divide": (
        "train --model.segment 8 --model.compression-rate 16 --model.memory 8",
        "compression_rate 16 does not divide segment 8",
    ),
    "unknown compressor": ("train --model.compressor zip", "zip"),
    "dropout of all": ("train --model.dropout 1", "dropout 1"),
    "faithful model that resets": ("train --model.faithful", "--no-reset-documents"),
    "learning rate 0": ("train --optimizer.lr 0", "lr 0"),
    "training that diverges": (
        "train --data text.txt --out diverged --lanes 1 --steps 10 --optimizer.lr 1e30"
        " --optimizer.warmup-steps 0 --model.dim 16 --model.segment 8 --model.position-features 8",
        "use a lower --optimizer.lr",
    ),
    "recipe and resume": ("train tiny --resume {run}", "leave out the recipe"),
    "out and resume": ("train --resume {run} --out new", "leave out --out"),
    "resume what is no run": ("train --resume textless", "not a run folder"),
    "resume nothing": ("train --resume", "without a run folder"),
    "resume an empty name": ("train --resume= --steps 3", "without a run folder"),
    "resume what is at its end": ("train --resume {run}", "the run is at its end (step 12"),
    "reset without resume": ("train --reset-memory", "are for --resume RUN"),
    "sink that is not there": ("train --data text.txt --sinks paper", "paper"),
    "save never": ("train --save.minutes 0", "save.minutes 0"),
    "keep no checkpoint": ("train --save.keep-latest 0", "save.keep_latest 0"),
    "a stream beside files": ("train --data hf:x text.txt --out new", "stands alone"),
    "evaluate nothing": ("evaluate {run}", "no text given"),
    "evaluate missing text": ("evaluate {run} no.txt", "no.txt"),
    "evaluate empty text": ("evaluate {run} text.txt empty.txt", "empty.txt is empty"),
    "evaluate damaged text": ("evaluate {run} cut.gz", "cut.gz is damaged"),
    "evaluate archive": ("evaluate {run} archive.zip", "unpack it"),
    "evaluate no run": ("evaluate textless text.txt", "not a run folder"),
    "evaluate no folder": ("evaluate no text.txt", "not a folder"),
    "evaluate a file": ("evaluate text.txt text.txt", "not a folder"),
    "evaluate truncated": ("evaluate truncated text.txt", "model.safetensors is broken"),
    "evaluate zero rows": ("evaluate {run} text.txt --rows 0", "rows 0"),
    "evaluate negative memory": ("evaluate {run} text.txt --memory -1", "memory -1"),
    "evaluate negative compressed memory": (
        "evaluate {run} text.txt --compressed-memory -1",
        "compressed_memory -1",
    ),
    "evaluate too much memory": ("evaluate {run} text.txt --memory 99999999999999", "not enough memory"),
    "evaluate compressed memory of Transformer-XL": (
        "evaluate xl text.txt --compressed-memory 8",
        "Transformer-XL",
    ),
    "generate with no run": ("generate textless", "not a run folder"),
    "generate truncated": ("generate truncated", "model.safetensors is broken"),
    "generate temperature": ("generate {run} --temperature -1", "temperature -1"),
    "generate top-p": ("generate {run} --top-p 0", "top-p 0"),
    "generate top-k": ("generate {run} --top-k 0", "top-k 0"),
    "generate length": ("generate {run} --length -1", "length -1"),
    "generate seed": ("generate {run} --seed -1", "seed -1"),
    "generate without end as JSON": ("generate {run} --length 0 --json", "length 0"),
    "info of nothing": ("info no", "neither a run folder nor a recipe"),
    "info of lanes that can't be shared": ("info tiny --processes 5", "32 lanes can't be shared out to 5"),
    "info of no processes": ("info tiny --processes 0", "processes 0"),
    "info of a strategy alone": ("info tiny --parallel fsdp", "add --processes N"),
    "info of text": ("info text.txt", "not a folder"),
    "info of an impossible name": ("info " + "x" * 5000, "neither a run folder nor a recipe"),
}


@pytest.mark.parametrize(("line", "told"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, place: Path, run: Path, line: str, told: str
):
    monkeypatch.chdir(place)
    before = contents(place), contents(run)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([word.format(run=run) for word in line.split()])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    *progress, error = printed.err.splitlines()
    assert error.startswith("compressive: error: ")
    assert told in error
    assert printed.out == ""
    if "--optimizer.lr" not in told:
        assert progress == []
        assert (contents(place), contents(run)) == before


def test_a_name_over_two_lines_is_told_in_one(capsys: Capture):
    with pytest.raises(SystemExit):
        main(["info", "a\nb"])
    assert capsys.readouterr().err.count("\n") == 1


def test_an_interrupt_needs_no_words(capsys: Capture, monkeypatch: pytest.MonkeyPatch, run: Path):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("compressive_transformer.tasks.write.continued", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["generate", str(run)])
    assert stop.value.code == 130
    assert capsys.readouterr().err == ""


def test_nobody_reads_on(capsys: Capture, monkeypatch: pytest.MonkeyPatch, run: Path):
    """As in ``compressive generate RUN --length 0 | head``."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        main(["generate", str(run), "--length", "0"])
        main(["info", str(run)])
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


def test_a_closed_standard_input_is_empty(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(sys, "stdin", None)  # as after <&-
    with pytest.raises(SystemExit) as stop:
        main(["train", "--data", "-", "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert "- is empty" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_the_disk_is_full(capsys: Capture, monkeypatch: pytest.MonkeyPatch, run: Path):
    with open("/dev/full", "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(SystemExit):
            main(["info", str(run)])
        monkeypatch.undo()
    assert "No space left on device" in capsys.readouterr().err


def test_a_run_without_metrics_still_generates(capsys: Capture, run: Path, tmp_path: Path):
    for name in (CONFIG, WEIGHTS):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    assert not (tmp_path / METRICS).exists()
    assert answer(capsys, "generate", str(tmp_path), "--length", "3")
