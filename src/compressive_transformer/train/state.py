"""All that a run is between two steps, as tensors and facts, and back.

Weights and optimiser belong to all processes together, under ``model.`` and ``optimizer.``; what only one of
them knows (memory, lanes, random numbers, gradients that wait for the end of an update period) is under
``process.RANK.``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compressive_transformer.checkpoint import load_tensors, tensor_shapes
from compressive_transformer.errors import UsageError
from compressive_transformer.memory import Memory
from compressive_transformer.settings import from_plain
from compressive_transformer.storage import parse_json
from compressive_transformer.train.faults import Spikes
from compressive_transformer.train.sharded import local

if TYPE_CHECKING:
    from compressive_transformer.train.loop import Trainer


@dataclass(frozen=True, kw_only=True)
class OwnFacts:
    """What a process alone knows, besides tensors."""

    lanes: dict[str, Any]
    position: int
    """Of the memory; a batch that is skipped leaves a gap."""
    spoiled: bool
    steps: int
    """Whose losses have been added up since the last record."""
    loss: float

    def __post_init__(self):
        _refuse_negative(self.position, self.steps)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The numbers of a trainer that are the same in every process."""

    step: int
    tokens: int
    seconds: float
    updates: int
    waiting: int
    skipped: int
    proven: int
    validate_at: tuple[float, ...]
    spikes: Spikes
    factor: float
    norms: tuple[float, float]
    processes: int
    lanes: int

    def __post_init__(self):
        numbers = [value for value in vars(self).values() if isinstance(value, int | float)]
        _refuse_negative(*numbers, self.spikes.steps, self.spikes.variance)

    @staticmethod
    def of(values: Mapping[str, Any], where: Path) -> Facts:
        """Those in what a checkpoint says.

        Raises:
            UsageError: one is missing, or can't be.
        """
        names = {field.name for field in fields(Facts)}
        return from_plain(Facts, {n: x for n, x in values.items() if n in names}, f"{where}/facts.json")


def _refuse_negative(*numbers: float) -> None:
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise UsageError("the facts of the checkpoint are broken: a count is below 0; take an earlier one")


def tensors_of(trainer: Trainer) -> dict[str, Tensor]:
    """The tensors of a trainer: not copies, so save or copy them before the next step."""
    own = _own(trainer)
    tensors = {f"model.{name}": x for name, x in trainer.model.state_dict().items()}
    tensors |= {f"optimizer.{name}": x for name, x in trainer.optimizer.state().items()}
    tensors |= {f"{own}memory.{name}": x for name, x in trainer.memory.tensors().items()}
    tensors |= {f"{own}gradient.{name}": x for name, x in _waiting_gradients(trainer).items()}
    tensors[f"{own}random.cpu"] = torch.get_rng_state()
    if trainer.world.device.type == "cuda":
        tensors[f"{own}random.cuda"] = torch.cuda.get_rng_state(trainer.world.device)
    tensors[f"{own}compression"] = trainer.sums.compression
    facts = OwnFacts(
        lanes=trainer.lanes.state_dict(),
        position=trainer.memory.position,
        spoiled=trainer.spoiled,
        steps=trainer.sums.steps,
        loss=trainer.sums.loss,
    )
    return tensors | {f"{own}facts": as_tensor(asdict(facts))}


def facts_of(trainer: Trainer) -> dict[str, Any]:
    """The numbers of a trainer that are the same in every process."""
    facts = Facts(
        step=trainer.step,
        tokens=trainer.tokens,
        seconds=trainer.seconds,
        updates=trainer.updates,
        waiting=trainer.waiting,
        skipped=trainer.skipped,
        proven=trainer.proven,
        validate_at=tuple(trainer.validate_at),
        spikes=trainer.spikes,
        factor=trainer.optimizer.factor,
        norms=trainer.norms,
        processes=trainer.world.size,
        lanes=trainer.lanes.num_lanes,
    )
    return asdict(facts)


def restore(trainer: Trainer, folder: Path, facts: dict[str, Any], *, reset_memory: bool = False) -> None:
    """Puts a trainer where the checkpoint was taken.

    Args:
        trainer: new, of the same model and optimiser.
        folder: a checkpoint that was verified.
        facts: what was stored with it.
        reset_memory: leave memory empty and lanes where they are, and drop what waits: processes and lanes
            may be others.

    Raises:
        UsageError: the checkpoint does not fit the trainer.
    """
    known, shapes = Facts.of(facts, folder), tensor_shapes(folder)
    into = {f"model.{name}": x for name, x in trainer.model.state_dict().items()}
    if known.updates:
        into |= {f"optimizer.{name}": x for name, x in trainer.optimizer.allocate().items()}
    own = {} if reset_memory else _room(trainer, shapes)
    load_tensors(folder, into | own)
    trainer.step, trainer.tokens = known.step, known.tokens
    trainer.seconds_before, trainer.updates = float(known.seconds), known.updates
    trainer.spikes = known.spikes
    trainer.validate_at = list(map(float, known.validate_at))
    trainer.norms = known.norms
    trainer.optimizer.set_factor(float(known.factor))
    trainer.proven = trainer.step + 1  # else there would be nothing to go on from
    if reset_memory:
        torch.manual_seed(trainer.config.seed + trainer.step + trainer.world.rank)
        return
    try:
        _restore_own(trainer, own, known)
    except KeyError as error:
        raise UsageError(f"{folder} lacks {error}; it is of another version") from None


def _restore_own(trainer: Trainer, own: dict[str, Tensor], facts: Facts) -> None:
    """What this process alone knew."""
    found = {name.removeprefix(_own(trainer)): x for name, x in own.items()}
    device = trainer.world.device
    alone = from_plain(OwnFacts, from_tensor(found["facts"]), "the facts of a process")
    memory = Memory.from_tensors(below("memory.", found), alone.position).to(device)
    if [m.sizes for m in memory.layers] != [m.sizes for m in trainer.memory.layers]:
        raise UsageError("the memory sizes are not those of the checkpoint; add --reset-memory")
    if memory.batch_size != trainer.memory.batch_size:
        raise UsageError("the lanes are not those of the checkpoint; add --reset-memory")
    trainer.memory = memory
    trainer.waiting, trainer.skipped, trainer.spoiled = facts.waiting, facts.skipped, alone.spoiled
    if facts.skipped:
        trainer.proven = facts.proven
    trainer.sums.steps, trainer.sums.loss = alone.steps, float(alone.loss)
    _like(found["compression"], trainer.sums.compression, "compression")
    trainer.sums.compression = found["compression"].to(device)
    parameters = dict(trainer.model.named_parameters())
    for name, x in below("gradient.", found).items():
        _set_gradient(parameters[name], x.to(device))
    trainer.lanes.load_state_dict(alone.lanes)
    _set_random(found, device)


def _set_random(found: dict[str, Tensor], device: torch.device) -> None:
    """Random numbers go on where they were."""
    _like(found["random.cpu"], torch.get_rng_state(), "random.cpu")
    try:
        torch.set_rng_state(found["random.cpu"])
        if "random.cuda" in found and device.type == "cuda":
            _like(found["random.cuda"], torch.cuda.get_rng_state(device), "random.cuda")
            torch.cuda.set_rng_state(found["random.cuda"], device)
    except RuntimeError as error:  # it is looked at there
        raise UsageError(
            f"the random numbers of the checkpoint are broken ({error}); take an earlier one"
        ) from None


def _like(given: Tensor, known: Tensor, name: str) -> None:
    """Refuses a tensor of another kind."""
    if given.shape != known.shape or given.dtype != known.dtype:
        raise UsageError(
            f"the checkpoint has {name} as {given.dtype} {tuple(given.shape)}, not {known.dtype} "
            f"{tuple(known.shape)}; it is of another version"
        )


def _room(trainer: Trainer, shapes: dict[str, tuple[torch.Size, torch.dtype]]) -> dict[str, Tensor]:
    """Empty tensors for all that the checkpoint has of this process."""
    own = _own(trainer)
    room = {n: torch.empty(size, dtype=dtype) for n, (size, dtype) in shapes.items() if n.startswith(own)}
    if not room:
        raise UsageError(f"the checkpoint has nothing of process {trainer.world.rank}; add --reset-memory")
    return room


def _own(trainer: Trainer) -> str:
    return f"process.{trainer.world.rank}."


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def as_tensor(value: Any) -> Tensor:
    """What JSON can say, as a tensor among others."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def from_tensor(x: Tensor) -> dict[str, Any]:
    """The table that became a tensor.

    Raises:
        UsageError: it is none.
    """
    if x.dtype != torch.uint8 or x.ndim != 1:
        raise UsageError(f"the checkpoint has facts as {x.dtype} {tuple(x.shape)}; it is of another version")
    try:
        value = parse_json(x.numpy().tobytes())
    except ValueError as error:
        raise UsageError(f"facts in the checkpoint are broken ({error}); take an earlier one") from None
    if not isinstance(value, dict):
        raise UsageError("facts in the checkpoint are broken (no table); take an earlier one")
    return value


def _waiting_gradients(trainer: Trainer) -> dict[str, Tensor]:
    """Gradients of the update period that has begun, as far as this process has them."""
    if not trainer.waiting:
        return {}
    gradients = {name: p.grad for name, p in trainer.model.named_parameters()}
    return {name: local(x) for name, x in gradients.items() if x is not None}


def _set_gradient(parameter: torch.nn.Parameter, x: Tensor) -> None:
    parameter.grad = torch.zeros_like(parameter)
    if local(parameter.grad).shape != x.shape:
        raise UsageError("waiting gradients are sharded otherwise in the checkpoint; add --reset-memory")
    local(parameter.grad).copy_(x)
