"""Where else the numbers of a run go while it trains: TensorBoard, trackio and wandb, each an extra."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import re
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from compressive_transformer.errors import UsageError

SinkName = Literal["tensorboard", "trackio", "wandb"]
PROJECT = "compressive-transformer"
WANDB_ID = "wandb-id"
"""File of a run folder by which a resumed run finds itself again."""


class Sink(Protocol):
    """Takes the records that ``metrics.jsonl`` takes."""

    name: str

    def write(self, event: str, step: int | None, values: Mapping[str, Any]) -> None:
        """Takes one record; one without a step belongs to the step of the record before."""
        ...

    def close(self) -> None:
        """Delivers what is still under way."""
        ...


def check_sinks(names: Sequence[SinkName]) -> None:
    """Whether their packages are there, before anything is made for a run.

    Raises:
        UsageError: a package is missing.
    """
    for name in names:
        if name in get_args(SinkName) and importlib.util.find_spec(name) is None:
            raise _missing(name)


def _missing(name: SinkName) -> UsageError:
    return UsageError(f"{name} is missing: pip install 'compressive-transformer[{name}]'")


def open_sinks(names: Sequence[SinkName], run: Path, config: dict[str, Any], *, step: int = 0) -> list[Sink]:
    """Opens sinks for a run.

    Args:
        names: of the sinks.
        run: the run folder, after which the run is named.
        config: the settings of the run, to be shown beside its curves.
        step: of the checkpoint that is resumed; 0 begins a new run.

    Raises:
        UsageError: a package is missing, or refuses.
    """
    return [_open(name, run, config, step) for name in dict.fromkeys(names)]


def _open(name: SinkName, run: Path, config: dict[str, Any], step: int) -> Sink:
    if name not in get_args(SinkName):
        raise UsageError(f"unknown sink {name!r}; choose from {', '.join(get_args(SinkName))}")
    try:
        if name == "tensorboard":
            return TensorBoard(run, config, step=step)
        return Tracker(name, run, config, step=step)
    except ModuleNotFoundError:
        raise _missing(name) from None
    except Exception as error:  # of a service that we don't know: not logged in, no network, no disk
        raise UsageError(f"{name} can't be opened ({error}); mend that, or train without it") from error


class TensorBoard:
    """Event files in the run folder, for ``tensorboard --logdir``."""

    name = "tensorboard"

    def __init__(self, run: Path, config: dict[str, Any], *, step: int = 0):
        from torch.utils.tensorboard import SummaryWriter

        # What was written after the checkpoint is hidden: training goes through those steps again.
        purge = step + 1 if step else None
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=purge, flush_secs=10)
        self._writer.add_text("config", f"```json\n{json.dumps(config, indent=2)}\n```", step)
        self._step = step

    def write(self, event: str, step: int | None, values: Mapping[str, Any]) -> None:
        self._step = self._step if step is None else step
        for tag, value in numbers(event, values).items():
            self._writer.add_scalar(tag, value, self._step)

    def close(self) -> None:
        self._writer.close()


class Tracker:
    """trackio or wandb, which share ``init``, ``log`` and ``finish``.

    Steps that a resumed run goes through again give the same numbers; wandb leaves them out, trackio has them
    twice.
    """

    def __init__(
        self, name: Literal["trackio", "wandb"], run: Path, config: dict[str, Any], *, step: int = 0
    ):
        self.name: str = name
        self._package = importlib.import_module(name)
        # trackio knows a run by its name, wandb by an id.
        own = {"id": _wandb_id(run, new=not step), "dir": str(run)} if name == "wandb" else {}
        with _standard_output_to_error():
            self._package.init(
                project=PROJECT,
                name=run.resolve().name,
                config=config,
                resume="allow" if step else "never",
                **own,
            )
        self._step = step

    def write(self, event: str, step: int | None, values: Mapping[str, Any]) -> None:
        self._step = self._step if step is None else step
        if found := numbers(event, values):
            self._package.log(found, step=self._step)

    def close(self) -> None:
        with _standard_output_to_error():
            self._package.finish()


def _wandb_id(run: Path, *, new: bool) -> str:
    path = run / WANDB_ID
    if new or not path.exists():
        path.write_text(uuid.uuid4().hex + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _standard_output_to_error() -> contextlib.AbstractContextManager[Any]:
    """Standard output is for results; trackio greets there."""
    return contextlib.redirect_stdout(sys.stderr)


def numbers(event: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a record under readable names, such as ``train/compression_loss/layer_0``."""
    return dict(_numbers(event, {key: value for key, value in values.items() if key != "step"}))


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    match value:
        case bool():
            return
        case int() | float():
            if math.isfinite(value):
                yield name, value
        case Mapping():
            for key, part in value.items():
                yield from _numbers(f"{name}/{re.sub(r'[^A-Za-z0-9_.-]+', '_', key)}", part)
        case list() | tuple():
            # Losses that come in a row are those of the layers.
            stem = f"{name.removesuffix('es')}/layer_" if name.endswith("losses") else f"{name}/"
            for i, part in enumerate(value):
                yield from _numbers(f"{stem}{i}", part)
