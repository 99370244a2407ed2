"""Checkpoints on disk: folders that are whole or ignored, checked before they are opened, kept by a policy.

state/step-0000001200/     0000-….safetensors, facts.json, and last of all manifest.json
state/.step-0000001500.partial/    being written, or left by a process that died over it
state/step-0000001200.damaged/     set aside on resume
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

from compressive_transformer.errors import UsageError
from compressive_transformer.storage import checksum, is_count, read_header, read_json, sync, write_json

STATE, MANIFEST, FACTS = "state", "manifest.json", "facts.json"
REPLACED = ".replaced"
FORMAT = 1
STEP = re.compile(r"step-([0-9]{10})")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.(safetensors|json)")


class Store:
    """The checkpoints of one run."""

    def __init__(self, run: Path):
        self.folder = run / STATE

    def steps(self) -> list[int]:
        """Steps of all checkpoints, newest first, as the names say."""
        if not self.folder.is_dir():
            return []
        found = (STEP.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step-{step:010d}"

    def begin(self, step: int) -> Path:
        """An empty folder to write a checkpoint to. What a dead process left half written is removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self._left():
            _remove(left)
        self.partial(step).mkdir(exist_ok=True)  # another process of the run may have been quicker
        return self.partial(step)

    def partial(self, step: int) -> Path:
        """Where the checkpoint of a step is written."""
        return self.folder / f".{self.path(step).name}.partial"

    def finish(self, partial: Path, facts: dict[str, Any]) -> Path:
        """Makes a checkpoint of the folder: facts, checksums, sync, and the name that makes it count."""
        write_json(partial / FACTS, facts)
        files = sorted(path for path in partial.iterdir())
        table = {path.name: {"bytes": path.stat().st_size, "sha256": checksum(path)} for path in files}
        write_json(partial / MANIFEST, {"format": FORMAT, "files": table})
        sync(partial)
        whole = self.folder / partial.name.removeprefix(".").removesuffix(".partial")
        before = whole.with_suffix(REPLACED)
        if whole.exists():  # a resumed run scores first what its end left unscored, and saves it again
            whole.rename(before)
        partial.rename(whole)
        sync(self.folder)
        _remove(before)
        return whole

    def abandon(self, partial: Path) -> None:
        """Removes a folder that could not be finished."""
        shutil.rmtree(partial, ignore_errors=True)

    def newest(self) -> tuple[Path, dict[str, Any]]:
        """The newest whole checkpoint and its facts.

        A damaged one is set aside with a warning, and the one before it is taken; if that is damaged too,
        something is wrong that guessing would make worse.

        Raises:
            UsageError: there is none, or the two newest are damaged.
        """
        self._take_back()
        for left in self._left():
            step = left.name.removeprefix(".").removesuffix(".partial")
            warnings.warn(f"{step} was not written to its end and is ignored", stacklevel=2)
        steps = self.steps()
        if not steps:
            raise UsageError(f"{self.folder.parent} has no checkpoint to resume from; train anew")
        _check_access(self.path(steps[0]))
        try:
            return self.path(steps[0]), verify(self.path(steps[0]))
        except UsageError as error:
            if len(steps) == 1:
                raise UsageError(f"{error}; there is no earlier checkpoint: train anew") from None
            before = self.path(steps[1])
            facts = verify(before)
            self.set_aside(steps[0], "damaged")
            warnings.warn(f"{error}; it was set aside, and {before.name} is taken", stacklevel=2)
            return before, facts

    def set_aside(self, step: int, why: str) -> int | None:
        """Renames the checkpoints from a step on, to be looked at and not taken.

        Returns:
            The step of the newest that is left.
        """
        for path in (self.path(s) for s in self.steps() if s >= step):
            aside = path.with_suffix(f".{why}")
            _remove(aside)
            path.rename(aside)
        return next(iter(self.steps()), None)

    def trusted(self) -> tuple[Path, dict[str, Any]]:
        """As ``newest``, after another process has called that."""
        path = self.path(self.steps()[0])
        return path, _read_json(path / FACTS)

    def prune(self, *, latest: int, every: int | None) -> None:
        """Removes all checkpoints but the latest, the best, and the first of every so many steps."""
        steps = self.steps()
        stay = {*steps[:latest], self.best()}
        if every:
            pairs = zip(steps, [*steps[1:], 0], strict=True)
            stay |= {step for step, before in pairs if step // every > before // every}
        for step in set(steps) - stay:
            gone = self.partial(step)
            self.path(step).rename(gone)  # at once, so that none is ever seen half removed
            _remove(gone)

    def best(self) -> int | None:
        """Step of the checkpoint with the lowest score."""
        scores = {step: self.score(step) for step in self.steps()}
        known = {step: score for step, score in scores.items() if score is not None}
        return min(known, key=lambda step: known[step]) if known else None

    def best_score(self) -> float | None:
        """The lowest score of all checkpoints."""
        return None if (step := self.best()) is None else self.score(step)

    def score(self, step: int) -> float | None:
        """Bits per byte on the excerpt of the validation text, if the checkpoint was scored."""
        try:
            score = read_json(self.path(step) / FACTS)["score"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return score if isinstance(score, float) and math.isfinite(score) else None

    def _take_back(self) -> None:
        """Gives those their name again that a process died over replacing."""
        for before in self.folder.glob(f"step-*{REPLACED}"):
            if before.with_suffix("").exists():
                _remove(before)
            else:
                before.rename(before.with_suffix(""))

    def _left(self) -> list[Path]:
        return sorted(self.folder.glob(".step-*.partial"))


def _remove(path: Path) -> None:
    """Removes whatever has the name, as far as it can be; of a link the link alone."""
    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _check_access(path: Path) -> None:
    """Refuses what this user may not read: it is no damage, and nothing to set aside.

    Raises:
        UsageError: the folder or a file in it is closed.
    """
    files = path.iterdir() if path.is_dir() and os.access(path, os.R_OK | os.X_OK) else ()
    for closed in (file for file in (path, *files) if file.exists() and not os.access(file, os.R_OK)):
        raise UsageError(f"{closed} may not be read by this user; change its permissions")


def verify(path: Path) -> dict[str, Any]:
    """The facts of a checkpoint, after every file in it was found to be what was written.

    Raises:
        UsageError: a file is missing, altered, not in the manifest, or not what its name says.
    """
    try:
        return _verify(path)
    except OSError as error:
        raise UsageError(f"{error.filename or path} can't be read ({error.strerror})") from None


def _verify(path: Path) -> dict[str, Any]:
    table = _manifest(path)
    present = {file.name for file in path.iterdir()} - {MANIFEST}
    if odd := sorted(present ^ set(table)):
        what = "is missing from" if odd[0] in table else "does not belong to"
        raise UsageError(f"{_shown(odd[0])} {what} the checkpoint {path}")
    for name, entry in table.items():
        file = path / name
        if file.is_symlink() or not file.is_file():
            raise UsageError(f"{file} is not a plain file")
        if file.stat().st_size != entry["bytes"]:
            raise UsageError(f"{file} has {file.stat().st_size:,} bytes, written were {entry['bytes']:,}")
        if name.endswith(".safetensors"):
            read_header(file)
        if checksum(file) != entry["sha256"]:
            raise UsageError(f"{file} is damaged: its checksum is not the one that was written")
    facts = _read_json(path / FACTS)
    if not isinstance(facts, dict):
        raise UsageError(f"{path / FACTS} is broken")
    return facts


def _manifest(path: Path) -> dict[str, dict[str, Any]]:
    """The table of files, with nothing in it that could lead out of the folder."""
    manifest = _read_json(path / MANIFEST)
    table = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(table, dict) or FACTS not in table:
        raise UsageError(f"{path / MANIFEST} is broken: it lists no files")
    if (found := manifest.get("format")) != FORMAT or type(found) is not int:
        raise UsageError(f"{path} has format {_shown(found)}, this version reads {FORMAT}")
    for name, entry in table.items():
        if not NAME.fullmatch(name) or name == MANIFEST:
            raise UsageError(f"{path / MANIFEST} names a file {_shown(name)}, not a name of ours; refused")
        known = isinstance(entry, dict) and is_count(entry.get("bytes"))
        if not known or not isinstance(entry.get("sha256"), str):
            raise UsageError(f"{path / MANIFEST} is broken: no size and checksum of {name}")
    return table


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except OSError as error:
        raise UsageError(f"{path} can't be read ({error.strerror})") from None
    except ValueError as error:
        raise UsageError(f"{path} is broken ({error})") from None


def _shown(given: object) -> str:
    """Fit for a line, whatever it is."""
    text = given if isinstance(given, str) and NAME.fullmatch(given) else repr(given)
    return text if len(text) <= 100 else f"{text[:100]} ..."
