"""What the README shows works as it stands."""

import hashlib
import re
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from compressive_transformer.cli import main
from compressive_transformer.data.benchmarks import enwik8

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_python_runs():
    (code,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    text = names["text"]
    assert isinstance(text, list)
    assert len(text) == 20


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Every command, in order, on text as named there; only what takes long is cut short."""
    lines = "\n".join(blocks("sh")).splitlines()
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("compressive ")]
    shown = ["train", "evaluate", "generate", "info", "report", "train", "prepare", "train"]
    shown += ["tokenizer", "train", "benchmark", "train", "evaluate"]
    shown += ["train", "evaluate", "generate", "train"]
    shown += ["train", "evaluate"]
    assert [command[0] for command in commands] == shown
    monkeypatch.chdir(tmp_path)
    (tmp_path / "books").mkdir()
    for name in ("books/a.txt", "books/b.txt", "novel.txt"):
        (tmp_path / name).write_text("It was the best of times, it was the worst of times. " * 100)
    (tmp_path / "recordings").mkdir()
    for name in ("3_ann.wav", "4_ann_b.wav"):
        soundfile.write(tmp_path / "recordings" / name, np.sin(np.arange(4000) / 10) / 2, 8000)
    text = b"<page>It was the best of times</page>\n" * 500
    with zipfile.ZipFile("enwik8.zip", "w") as archive:
        archive.writestr("enwik8", text)
    monkeypatch.setattr(enwik8, "MD5", hashlib.md5(text).hexdigest())
    monkeypatch.setattr(enwik8, "BYTES", len(text))
    monkeypatch.setattr("compressive_transformer.tasks.sound.SAMPLE", {8: 300, 16: 300})
    shorter = {"2000": "20", "3": "0.1"}
    shape = ["--model.dim", "16", "--model.segment", "16", "--model.num-heads", "2"]
    for command in commands:
        if command[0] == "train":
            steps = "6" if "--resume" in command else "4"
            at = next((i for i, word in enumerate(command) if word in ("--minutes", "--steps")), None)
            small = [*shape, *(["--envs", "2"] if "rl" in command else ["--lanes", "2"])]
            command = [*command[:at], "--steps", steps, *([] if "--resume" in command else small)]
        main([shorter.get(word, word) for word in command])
    assert "runs/books" in capsys.readouterr().out
    assert (tmp_path / "runs/books/state/step-0000000006").exists()
    assert (tmp_path / "runs/more/model.safetensors").exists()


def test_documented_tests_exist():
    """The tables of faults name their tests, and the pages scripts that are there."""
    root = Path(__file__).parents[1]
    tests = "\n".join(path.read_text(encoding="utf-8") for path in root.glob("tests/**/*.py"))
    document = "".join(
        (root / "docs" / name).read_text(encoding="utf-8") for name in ("reliability.md", "rl.md", "sound.md")
    )
    for name in set(re.findall(r"\btest_\w+(?!\.py)\b(?!\.)", document)):
        assert f"def {name}(" in tests, name
    for name in set(re.findall(r"`((?:\w+/)?\w+\.py)\b", document)):
        assert (root / "tests" / name).exists() or (root / name).exists(), name


def test_links_lead_somewhere():
    root = Path(__file__).parents[1]
    seen = 0
    for document in (root / "README.md", *root.glob("docs/*.md")):
        for link in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
            if link.startswith("http"):
                continue
            name, _, anchor = link.partition("#")
            path = document.parent / name if name else document
            assert path.exists(), (document.name, link)
            assert not anchor or anchor in anchors(path), (document.name, link)
            seen += 1
    assert seen > 20


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
