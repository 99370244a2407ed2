"""Going on with a run: where it was left, and what may be otherwise now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from compressive_transformer.checkpoint import (
    TOKENIZER,
    Store,
    check_shapes,
    model_config,
    read_config,
    run_tokenizer,
    weight_shapes,
)
from compressive_transformer.data import get_tokenizer
from compressive_transformer.errors import UsageError
from compressive_transformer.settings import from_plain
from compressive_transformer.storage import is_count
from compressive_transformer.tasks.folder import in_use
from compressive_transformer.train import TrainConfig, Trainer
from compressive_transformer.train.log import METRICS, read_metrics
from compressive_transformer.train.parallel import World
from compressive_transformer.train.state import Facts, restore

BATCH = ("lanes", "processes")
"""Memory belongs to lanes, and lanes to processes."""
IDENTITY = ("model.", "optimizer.name", "tokenizer", "text", "seed")
"""What makes the run what it is; the seed decides the order of the documents."""


def saved_config(run: Path) -> TrainConfig:
    """The settings that a run was made with.

    Raises:
        UsageError: it is not a run folder, or its config is broken, or not that of its checkpoints.
    """
    content = read_config(run)
    model_config(run, content)
    config = from_plain(TrainConfig, content["training"], f"{run}/config.json")
    run_tokenizer(run, content)
    if Path(config.tokenizer).suffix == ".json":
        config = replace(config, tokenizer=str(run / TOKENIZER))  # the run has a copy of its own
    _check_model(run, config)
    return config


def _check_model(run: Path, config: TrainConfig) -> None:
    """Compares the model with the newest checkpoint that can be read, before room is made for the model."""
    store, vocab_size = Store(run), get_tokenizer(config.tokenizer).vocab_size
    if not store.steps():
        if in_use(run):
            raise UsageError(f"{run} is being trained by another process, and was not saved yet; wait for it")
        raise UsageError(f"{run} has no checkpoint to resume from; train anew")
    for step in store.steps():
        try:
            shapes = weight_shapes(store.path(step))
        except UsageError:
            continue  # it will be set aside, or end it all, when it is its turn
        if shapes:
            return check_shapes(config.model, vocab_size, shapes, store.path(step))
    return None


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """A checkpoint to go on from, and how the settings differ from its own."""

    checkpoint: Path
    facts: dict[str, Any]
    changed: dict[str, str]
    """By name, ``old -> new``."""
    reset_memory: bool = False

    @staticmethod
    def find(run: Path, config: TrainConfig, text: str, world: World) -> Resumed:
        """The newest whole checkpoint. The first process looks for it, and the others follow.

        Raises:
            UsageError: there is none, or config or text are broken.
        """
        saved = flat(saved_config(run))
        checkpoint, found = newest(run, world)
        known = Facts.of(found, checkpoint)
        if not is_count(found.get("metrics")) or not isinstance(found.get("text"), str):
            raise UsageError(f"{checkpoint}/facts.json lacks metrics or text; it is of another version")
        for settings in (saved, now := flat(config)):
            settings["tokenizer"] = get_tokenizer(settings["tokenizer"]).name
        before = saved | {"processes": known.processes, "lanes": known.lanes, "text": found["text"]}
        now |= {"processes": world.size, "text": text}
        skip = ("out", "data")  # the text tells whether the data are others
        changed = {
            name: f"{before.get(name)} -> {now.get(name)}"
            for name in dict.fromkeys([*before, *now])
            if name not in skip and before.get(name) != now.get(name)
        }
        return Resumed(checkpoint=checkpoint, facts=found, changed=changed)

    def check(self, *, reset_memory: bool, accept_changes: bool) -> Resumed:
        """The same, knowing whether memory begins empty.

        Raises:
            UsageError: something changed that was not allowed to.
        """
        identity = [name for name in self.changed if name.startswith(IDENTITY)]
        batch = [name for name in self.changed if name in BATCH]
        if identity and not accept_changes:
            raise UsageError(
                f"the run is another: {self._list(identity)}; resume with what it was trained with, or add "
                "--accept-changes (memory then begins empty)"
            )
        if batch and not (reset_memory or accept_changes):
            raise UsageError(
                f"memory belongs to the lanes of each process: {self._list(batch)}; resume with the same, or "
                "add --reset-memory to begin with an empty one"
            )
        return replace(self, reset_memory=reset_memory or bool(identity or batch))

    def restore(self, trainer: Trainer) -> None:
        """Puts the trainer where the run was left.

        Raises:
            UsageError: the checkpoint does not fit, or the budget is spent already.
        """
        restore(trainer, self.checkpoint, self.facts, reset_memory=self.reset_memory)
        if self.reset_memory and "text" not in self.changed:
            # Lanes of another number stand where they would stand after as many tokens.
            trainer.lanes.advance_to(trainer.tokens)
        if trainer.done >= 1 and is_scored(self.checkpoint.parent.parent, "validation"):
            raise UsageError(
                f"the run is at its end (step {trainer.step}, {trainer.tokens:,} tokens, "
                f"{trainer.seconds / 60:.1f} minutes); give a larger --steps, --tokens or --minutes to go on"
            )

    def _list(self, names: list[str]) -> str:
        return ", ".join(f"{name} {self.changed[name]}" for name in names)


def newest(run: Path, world: World) -> tuple[Path, dict[str, Any]]:
    """The newest whole checkpoint and its facts. The first process looks for it, and the others follow.

    Raises:
        UsageError: there is none.
    """
    store = Store(run)
    if world.first:
        found = store.newest()
        world.wait()
        return found
    world.wait()
    return store.trusted()


def is_scored(run: Path, event: str) -> bool:
    """Whether a run at its end has come to its score, the event, which a signal may have kept it from."""
    events = [record["event"] for record in read_metrics(run)] if (run / METRICS).exists() else []
    return event in events[max((i for i, e in enumerate(events) if e == "saved"), default=0) :]


def flat(config: TrainConfig) -> dict[str, Any]:
    """All settings by dotted name."""
    return dict(_flatten(asdict(config), ""))


def _flatten(values: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found = []
    for name, value in values.items():
        deeper = isinstance(value, Mapping)
        found += _flatten(value, f"{prefix}{name}.") if deeper else [(f"{prefix}{name}", value)]
    return found
