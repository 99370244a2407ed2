"""Breaks small real files in every way that comes to mind, and looks at what the loaders say.

Whatever the bytes, a loader gives a value or a ``UsageError``, and the command line ends with 0, or with 2
and one line. All else (another exception, a hang, a gigabyte, a file where none belongs, code out of a
pickle) is a finding.

    python tests/fuzz.py --minutes 5 --seed 1
    python tests/fuzz.py --case restore:812345

A case is a loader's name and a number, which decides everything.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import itertools
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from compressive_transformer import LanguageModel, Memory, UsageError
from compressive_transformer.checkpoint import Store, load_run, load_tensors, save_tensors
from compressive_transformer.checkpoint.store import FACTS, MANIFEST, verify
from compressive_transformer.cli import main
from compressive_transformer.data import ByteTokenizer, Lanes, open_stream, prepare_dataset, verify_dataset
from compressive_transformer.data.dataset import open_dataset
from compressive_transformer.data.hub import PREFIX
from compressive_transformer.errors import Stopped
from compressive_transformer.settings import from_plain
from compressive_transformer.storage import checksum
from compressive_transformer.tasks.resume import saved_config
from compressive_transformer.train import OptimizerConfig, TrainConfig, Trainer
from compressive_transformer.train.log import read_metrics
from compressive_transformer.train.state import facts_of, restore, tensors_of
from tiny import SENTENCE, corpus_of, tiny_config, tiny_model, train_tiny

SECONDS = 20.0
"""For a case; a hang is longer."""
BYTES = 1 << 30
"""More than the process had before."""
PWNED = "pwned"


class Pickle:
    """What runs when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


class Slow(BaseException):
    """A case takes too long."""


# Mutations

EVIL: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 7, 64, 65536, 2**31, 2**63 - 1, 2**63, 10**9, 10**12, 10**30, 10**39),
    *(-(2**63), -(10**39), 0.0, 0.5, -0.5, 1e-300, 1e300, float("nan"), float("inf"), -float("inf")),
    *("", "x", "16", "bytes", "../x", "/etc/passwd", "a\0b", "\ud800", "\x1b[2J\n", "x" * 9999, "-1", "nan"),
    *([], {}, [[]], [0], [1, "x"], [True], [None] * 3, {"x": 1}, {"": {}}, [1e300] * 5, [2**62] * 3, [-1]),
]
RAW = [
    "9" * 5000,
    "[" * 5000,
    '{"a":' * 2000,
    "[" * 60 + "]" * 60,
    "1e999",
    "NaN",
    '"\\ud800"',
    "-" + "8" * 41,
]
"""Pieces of JSON that no value gives."""
HOLE = "@hole@"


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every part of a JSON value."""
    yield here
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*here, key))


def break_value(value: Any, r: random.Random) -> Any:
    """A copy with some parts changed."""
    value = copy.deepcopy(value)
    for _ in range(r.choice((1, 1, 1, 2, 4))):
        *way, key = r.choice([p for p in places(value) if p] or [(None,)])
        inside = value
        for step in way:
            inside = inside[step]
        if key is None or r.random() < 0.02:
            return r.choice(EVIL)
        old = inside[key]
        match r.randrange(8):
            case 0:
                del inside[key]
            case 1 if isinstance(inside, dict):
                inside[r.choice(("x", "../x", "", "event", "step", "__metadata__", "dtype"))] = r.choice(EVIL)
            case 2:
                inside[key] = [old] if r.random() < 0.5 else {"x": old}
            case 3 if isinstance(old, int | float):
                inside[key] = r.choice((old + 1, old - 1, -old, old * 2, float(old), str(old), bool(old)))
            case 4:
                inside[key] = copy.deepcopy(
                    r.choice(list(inside.values() if isinstance(inside, dict) else inside))
                )
            case _:
                inside[key] = copy.deepcopy(r.choice(EVIL))
        if not isinstance(value, dict | list) or not value:
            break
    return value


def break_json(data: bytes, r: random.Random) -> bytes:
    """The text of a JSON value, broken."""
    value = break_value(json.loads(data), r)
    if r.random() < 0.15 and (ways := [p for p in places(value) if p]):
        *way, key = r.choice(ways)
        inside = value
        for step in way:
            inside = inside[step]
        inside[key] = HOLE
        return json.dumps(value).replace(f'"{HOLE}"', r.choice(RAW)).encode()
    text = json.dumps(value)
    if r.random() < 0.1:
        text = text.replace("}", ', "x": 1, "x": 2}', 1)
    return text.encode()


def break_bytes(data: bytes, r: random.Random, folder: Path) -> bytes:
    """The bytes, broken."""
    made = bytearray(data)
    for _ in range(r.choice((1, 1, 2, 8))):
        at = r.randrange(len(made) + 1) if r.random() < 0.5 else min(r.randrange(64), len(made))
        some = r.choice((1, 2, 8, 100, 5000))
        match r.randrange(7):
            case 0 if at < len(made):
                made[at] ^= 1 << r.randrange(8)
            case 1:
                made[at:at] = r.randbytes(some)
            case 2:
                del made[at : at + some]
            case 3:
                del made[at:]
            case 4:
                made[at:at] = made[at : at + some] * r.choice((1, 3, 50))
            case 5:
                other = r.randrange(len(made) + 1)
                made[at : at + some] = made[other : other + some]
            case _:
                if r.random() < 0.2:
                    return a_pickle(r, folder)
                made[at : at + 8] = r.choice((0, 1, 2**24, 2**40, 2**63, 2**64 - 1)).to_bytes(8, "little")
    return bytes(made)


def a_pickle(r: random.Random, folder: Path) -> bytes:
    """A pickle, alone or as torch.save packs it, that leaves a mark."""
    mark = Pickle(folder / PWNED)
    if r.random() < 0.5:
        return pickle.dumps(mark, protocol=r.randrange(6))
    file = io.BytesIO()
    torch.save({"x": mark}, file)
    return file.getvalue()


def break_safetensors(data: bytes, r: random.Random) -> bytes:
    """A file with a broken header before the old numbers."""
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    value = json.loads(header)
    notes = value.get("__metadata__", {})
    inner = [name for name, note in notes.items() if note.startswith("{")]
    if inner and r.random() < 0.5:
        name = r.choice(inner)
        notes[name] = break_json(notes[name].encode(), r).decode()
        header = json.dumps(value).encode()
    else:
        header = break_json(header, r)
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + rest


def break_file(path: Path, r: random.Random) -> None:
    """Breaks a file after its kind, or turns it into something else."""
    chance = r.random()
    if chance < 0.04:
        path.unlink()
        match r.randrange(5):
            case 0:
                path.mkdir()
            case 1:
                os.mkfifo(path)
            case 2:
                path.symlink_to("/dev/zero")
            case 3:
                path.symlink_to(path.name)
        return
    data = path.read_bytes()
    if chance < 0.35:
        data = break_bytes(data, r, path.parent)
    elif path.suffix == ".safetensors":
        data = break_safetensors(data, r)
    elif path.suffix == ".json":
        data = break_json(data, r)
    elif path.suffix == ".jsonl":
        lines = data.splitlines()
        at = r.randrange(len(lines))
        lines[at] = break_json(lines[at], r)
        data = b"\n".join(lines) + b"\n" * r.randrange(2)
    else:
        data = break_bytes(data, r, path.parent)
    path.write_bytes(data)


def sign(checkpoint: Path) -> None:
    """Makes a manifest that is true of what lies there, so that what is behind it is tried too."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        for name, entry in manifest["files"].items():
            file = checkpoint / name
            if file.is_file() and not file.is_symlink():
                entry |= {"bytes": file.stat().st_size, "sha256": checksum(file)}
        (checkpoint / MANIFEST).write_text(json.dumps(manifest))


# Real files


@dataclass(frozen=True)
class Real:
    """What is broken, in copies."""

    folder: Path
    lanes: dict[str, Any]
    streamed: dict[str, Any]
    make_streamed: Callable[[], Any]


SETTINGS = {"lanes": 3, "precision": "float32", "steps": 9, "model": tiny_config()}


def new_trainer() -> Trainer:
    config = TrainConfig(**SETTINGS, optimizer=OptimizerConfig(update_period=4))
    torch.manual_seed(0)
    corpus = corpus_of(SENTENCE * 3, b"short", SENTENCE[::-1] * 2)
    lanes = Lanes(corpus, num_lanes=3, length=config.model.segment, seed=0, reset_documents=True)
    return Trainer(LanguageModel(config.model), lanes, config)


def make(folder: Path) -> Real:
    """One of everything."""
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.txt"
    text.write_bytes(SENTENCE * 40)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        train_tiny(text, folder / "run", "--steps=4", "--save.steps=2")
    prepare_dataset(text, folder / "dataset", ByteTokenizer(), separator="\\n", workers=1)
    model = tiny_model()
    memory = model(torch.randint(257, (2, 29)), model.init_memory(2)).memory
    memory.save(folder / "memory.safetensors")
    trainer = new_trainer()
    for _ in range(6):
        trainer.train_step(0.1)
    store = Store(folder / "trained")
    partial = store.begin(6)
    save_tensors(partial, tensors_of(trainer))
    store.finish(partial, facts_of(trainer))
    rows = folder / "rows"
    rows.mkdir()
    (rows / "a.jsonl").write_text("".join(json.dumps({"text": f"row {i} of some"}) + "\n" for i in range(40)))
    _, factory = open_stream(f"{PREFIX}{rows}", ByteTokenizer(), validation_tokens=0)
    streamed = factory(num_lanes=2, length=8)
    for _ in range(5):
        next(streamed)
    state = json.loads(json.dumps(streamed.state_dict()))
    return Real(
        folder,
        json.loads(json.dumps(trainer.lanes.state_dict())),
        state,
        lambda: factory(num_lanes=2, length=8),
    )


# Loaders: each breaks its own copy in the folder of the case, and loads it


def fuzz_load_run(real: Real, here: Path, r: random.Random) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(real.folder / "run" / name, here)
    break_file(here / r.choice(("config.json", "model.safetensors")), r)
    load_run(here)


def copied_run(real: Real, here: Path) -> Path:
    shutil.copytree(real.folder / "run", here / "run", ignore=shutil.ignore_patterns("figures", "*.png"))
    return here / "run"


def break_checkpoint(path: Path, r: random.Random) -> None:
    files = sorted(path.iterdir())
    file = r.choice(files)
    if r.random() < 0.05:
        shutil.copy(file, file.with_name(r.choice(("extra.safetensors", ".hidden", "x.pkl", ".metadata"))))
    else:
        break_file(file, r)
    if r.random() < 0.7 and file.name != MANIFEST:
        sign(path)


def fuzz_load_checkpoint(real: Real, here: Path, r: random.Random) -> None:
    run = copied_run(real, here)
    path = Store(run).path(Store(run).steps()[0])
    break_checkpoint(path, r)
    load_run(path)


def fuzz_store(real: Real, here: Path, r: random.Random) -> None:
    run = copied_run(real, here)
    store = Store(run)
    for step in store.steps()[: r.choice((1, 1, 2))]:
        break_checkpoint(store.path(step), r)
    match r.randrange(3):
        case 0:
            store.newest()
        case 1:
            verify(store.path(store.steps()[0]))
        case _:
            store.best()
            store.begin(99)
            store.prune(latest=1, every=None)
    if not store.steps():
        raise AssertionError("a checkpoint was lost")


def fuzz_load_tensors(real: Real, here: Path, r: random.Random) -> None:
    (source,) = (real.folder / "trained" / "state").glob("step-*/*.safetensors")
    shutil.copy(source, here)
    break_file(here / source.name, r)
    trainer = new_trainer()
    load_tensors(here, {f"model.{name}": x for name, x in trainer.model.state_dict().items()})


def fuzz_restore(real: Real, here: Path, r: random.Random) -> None:
    source = next((real.folder / "trained" / "state").glob("step-*"))
    path = here / source.name
    shutil.copytree(source, path)
    if r.random() < 0.5:
        (path / FACTS).write_bytes(break_json((path / FACTS).read_bytes(), r))
    else:
        (file,) = path.glob("*.safetensors")
        break_own_facts(file, r) if r.random() < 0.3 else break_file(file, r)
    sign(path)
    facts = verify(path)
    trainer = new_trainer()
    restore(trainer, path, facts, reset_memory=r.random() < 0.2)
    trainer.train_step(0.5)
    trainer.train_step(0.5)


def break_own_facts(path: Path, r: random.Random) -> None:
    """Changes the facts of a process within their length."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    start, stop = json.loads(data[8 : 8 + length])["process.0.facts"]["data_offsets"]
    start, stop = 8 + length + start, 8 + length + stop
    text = break_json(data[start:stop], r)[: stop - start].ljust(stop - start)
    path.write_bytes(data[:start] + text + data[stop:])


def fuzz_memory(real: Real, here: Path, r: random.Random) -> None:
    path = Path(shutil.copy(real.folder / "memory.safetensors", here))
    break_file(path, r)
    memory = Memory.load(path)
    model = tiny_model()
    with torch.no_grad():
        model(torch.zeros(memory.batch_size, 9, dtype=torch.int64), memory)


def fuzz_from_plain(real: Real, here: Path, r: random.Random) -> None:
    plain = json.loads(json.dumps(asdict(TrainConfig(**SETTINGS))))
    changed = break_value(plain, r)
    if isinstance(changed, dict):
        config = from_plain(TrainConfig, changed, "here")
        if config.model.num_layers > 1000:
            raise UsageError("too large to be built here")


def fuzz_saved_config(real: Real, here: Path, r: random.Random) -> None:
    run = copied_run(real, here)
    break_file(run / "config.json", r)
    saved_config(run)


def fuzz_read_metrics(real: Real, here: Path, r: random.Random) -> None:
    shutil.copy(real.folder / "run" / "metrics.jsonl", here)
    break_file(here / "metrics.jsonl", r)
    read_metrics(here)


def copied_dataset(real: Real, here: Path, r: random.Random) -> Path:
    path = here / "dataset"
    shutil.copytree(real.folder / "dataset", path)
    files = [path / name for name in ("dataset.json", "dataset.json", "documents.npy", "shard-00000.bin")]
    break_file(r.choice(files), r)
    return path


def fuzz_open_dataset(real: Real, here: Path, r: random.Random) -> None:
    corpus = open_dataset(copied_dataset(real, here, r), ByteTokenizer())
    if corpus.num_documents:
        bytes(corpus.document(0).astype("uint32")[:10].tobytes())
        corpus.names[corpus.num_documents - 1]


def fuzz_verify_dataset(real: Real, here: Path, r: random.Random) -> None:
    verify_dataset(copied_dataset(real, here, r))


def fuzz_lanes(real: Real, here: Path, r: random.Random) -> None:
    lanes = new_trainer().lanes
    lanes.load_state_dict(break_value(real.lanes, r))
    next(lanes)
    lanes.documents()


def fuzz_streamed(real: Real, here: Path, r: random.Random) -> None:
    lanes = real.make_streamed()
    lanes.load_state_dict(break_value(real.streamed, r))
    next(lanes)


WORDS = [
    *(
        "",
        " ",
        "-",
        "--",
        "---",
        "-x",
        "--x",
        "--help",
        "-h",
        "--json",
        "x" * 3000,
        "nan",
        "inf",
        "-1",
        "0",
        "1e9",
    ),
    *(
        "99999999999999999999",
        "9" * 5000,
        "0x10",
        "1_0",
        "٣",
        "\0",
        "a\0b",
        "\udcff",
        "é\n",
        "\x1b[31m",
        "--=1",
    ),
    *(
        ".",
        "no/such",
        "~nobody/x",
        "*",
        "[",
        "**/*",
        "run/state",
        "dataset",
        "text.txt",
        "run",
        "hf:",
        "hf:x:y:z:w",
    ),
    *(
        "run/config.json",
        "--resume",
        "--resume=",
        "--out",
        "--data",
        "--steps=2",
        "None",
        "True",
        "tiny",
        "{}",
    ),
]


def command_lines(run: str, here: Path) -> list[list[str]]:
    """What users type."""
    return [
        ["info", run],
        ["info", run, "--json"],
        ["report", run, "--json", "--out", "picture.png"],
        ["evaluate", run, "text.txt", "--rows", "2", "--memory", "4", "--precision", "float32"],
        ["generate", run, "--length", "3", "--prompt", "It", "--top-k", "5", "--seed", "1"],
        ["train", "--resume", run, "--steps", "9"],
        ["train", "--resume", run, "--steps", "9", "--lanes", "4", "--reset-memory"],
        [
            "train",
            "--data",
            "text.txt",
            "--out",
            "new",
            "--steps",
            "3",
            "--lanes",
            "2",
            "--model.segment",
            "8",
        ],
        ["prepare", "--check", "dataset"],
        ["prepare", "text.txt", "--out", "new", "--workers", "1", "--separator", "x"],
    ]


def fuzz_cli(real: Real, here: Path, r: random.Random) -> None:
    copied_run(real, here)
    shutil.copy(real.folder / "text.txt", here)
    shutil.copytree(real.folder / "dataset", here / "dataset")
    words = list(r.choice(command_lines("run", here)))
    for _ in range(r.choice((0, 1, 1, 2, 4))):
        at = r.randrange(len(words) + 1)
        match r.randrange(5):
            case 0:
                del words[at : at + 1]
            case 1:
                words[at : at + 1] = [r.choice(WORDS)]
            case 2:
                words[at:at] = [r.choice(WORDS)]
            case 3:
                r.shuffle(words)
            case _:
                words[at:at] = words[at : at + 2]
    command(words, here)


def fuzz_cli_run(real: Real, here: Path, r: random.Random) -> None:
    run = copied_run(real, here)
    shutil.copy(real.folder / "text.txt", here)
    shutil.copytree(real.folder / "dataset", here / "dataset")
    name = r.choice(
        ("config.json", "config.json", "model.safetensors", "metrics.jsonl", "metrics.jsonl", "state")
    )
    if name == "state":
        for step in Store(run).steps()[: r.choice((1, 2))]:
            break_checkpoint(Store(run).path(step), r)
    else:
        break_file(run / name, r)
    command(r.choice(command_lines("run", here)[:7]), here)


def command(words: list[str], here: Path) -> None:
    """Runs the command line in the folder; it must end well, or with 2 and one line."""
    errors, before = io.StringIO(), os.getcwd()
    os.chdir(here)
    try:
        with (
            contextlib.redirect_stderr(errors),
            contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")),
        ):
            main(words)
    except SystemExit as stop:
        lines = [x for x in errors.getvalue().splitlines() if not x.startswith("compressive: warning:")]
        if stop.code not in (0, None) and (stop.code != 2 or not one_line(lines)):
            raise AssertionError(f"exit {stop.code} with {errors.getvalue()!r} after {words!r}") from None
    finally:
        os.chdir(before)


def one_line(lines: list[str]) -> bool:
    """Whether the complaint is one line, with nothing before but what a run says when it begins."""
    told = [line for line in lines if line.startswith("compressive: error:")]
    return len(told) == 1 and lines[-1] == told[0] and "Traceback" not in "".join(lines)


LOADERS: dict[str, Callable[[Real, Path, random.Random], None]] = {
    name.removeprefix("fuzz_"): function for name, function in globals().items() if name.startswith("fuzz_")
}


# Running


def tame() -> None:
    """No training and no endless text."""
    from compressive_transformer.tasks import session, write

    def begins(self: Any, trainer: Trainer) -> None:
        raise UsageError("training begins, and is left out")

    session.Session.train = begins
    endless = write.generate
    write.generate = lambda *a, **k: itertools.islice(endless(*a, **k), 3)
    sys.stdin = io.TextIOWrapper(io.BytesIO(b"some text"))


def try_case(real: Real, name: str, number: int) -> str | None:
    """Runs a case; what is wrong, if anything is."""
    room = Path(tempfile.mkdtemp(prefix="case-", dir=real.folder))
    here = room / "here"
    here.mkdir()

    def too_slow(*_: object) -> None:
        raise Slow

    before = signal.signal(signal.SIGALRM, too_slow)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            LOADERS[name](real, here, random.Random(f"{name}:{number}"))
    except UsageError as error:
        if not str(error) or len(str(error)) > 2000 + 2 * len(str(here)) or "\n" in str(error).strip():
            return f"not one clear line: {str(error)[:300]!r}"
    except Slow:
        return "hangs: " + "".join(traceback.format_exc()[-600:])
    except Stopped:
        pass
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]}\n{traceback.format_exc()[-1500:]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        marks = list(room.rglob(PWNED))
        outside = [path.name for path in room.iterdir() if path != here]
        shutil.rmtree(room, ignore_errors=True)
    return f"unpickled: {marks}" if marks else f"written outside: {outside}" if outside else None


def in_use() -> int:
    """Bytes of addresses that this process has, free ones of its heap among them."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def work(folder: str, cases: list[tuple[str, int]], now: Any, findings: Any, limit: bool) -> None:
    """Runs cases in a process of its own."""
    torch.set_num_threads(1)
    real = REALS[folder]
    tame()
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (in_use() + BYTES, -1))
    for index in range(now.value, len(cases)):
        now.value = index
        if problem := try_case(real, *cases[index]):
            findings.put((*cases[index], problem))
    now.value = len(cases)


REALS: dict[str, Real] = {}
"""Made before the processes are forked."""


def run_cases(real: Real, cases: Iterable[tuple[str, int]]) -> list[tuple[str, int, str]]:
    """Runs cases in a process that is killed and started again after a case that does not come back."""
    cases, found = list(cases), []
    REALS[str(real.folder)] = real
    context = multiprocessing.get_context("fork")
    now, findings = context.Value("q", 0), context.Queue()
    while now.value < len(cases):
        process = context.Process(target=work, args=(str(real.folder), cases, now, findings, True))
        process.start()
        last, since = -1, time.monotonic()
        while process.is_alive():
            process.join(0.1)
            while not findings.empty():
                found.append(findings.get())
            if now.value != last:
                last, since = now.value, time.monotonic()
            elif time.monotonic() - since > 2 * SECONDS:
                process.kill()
                process.join()
        if now.value < len(cases):
            found.append((*cases[now.value], f"the process ended with {process.exitcode}"))
            now.value += 1
    time.sleep(0.1)
    while not findings.empty():
        found.append(findings.get())
    return found


def fresh(seed: int, names: Iterable[str] = tuple(LOADERS)) -> Iterator[tuple[str, int]]:
    """Cases without end, each loader in turn."""
    r = random.Random(seed)
    return ((name, r.randrange(10**9)) for name in itertools.cycle(names))


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(LOADERS), choices=list(LOADERS))
    parser.add_argument("--case", help="LOADER:NUMBER, to run that alone")
    a = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COMPRESSIVE_CACHE"] = f"{folder}/cache"
        real = make(Path(folder) / "real")
        if a.case:
            name, _, number = a.case.partition(":")
            tame()
            print(try_case(real, name, int(number)) or "nothing is wrong")
            return
        end, cases = time.monotonic() + 60 * a.minutes, fresh(a.seed, a.only)
        counts: Counter[str] = Counter()
        seen: Counter[str] = Counter()
        while time.monotonic() < end:
            some = list(itertools.islice(cases, 15 * len(a.only)))
            counts.update(name for name, _ in some)
            for name, number, problem in run_cases(real, some):
                kind = f"{name} {problem.partition(chr(10))[0][:60]}"
                seen[kind] += 1
                if seen[kind] <= 2:
                    print(f"{name}:{number}  {problem}\n", flush=True)
        print(f"{counts.total():,} cases: {dict(counts)}; {seen.total()} findings")
        sys.exit(bool(seen))


if __name__ == "__main__":
    _main()
