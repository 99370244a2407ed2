"""All that a run is between two steps, as tensors and facts, and back.

Weights and optimiser belong to all processes together, under ``model.`` and ``optimizer.``; what only one of
them knows (memory, lanes, random numbers, gradients that wait for the end of an update period) is under
``process.RANK.``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compressive_transformer.checkpoint import load_tensors, tensor_shapes
from compressive_transformer.errors import UsageError
from compressive_transformer.memory import Memory
from compressive_transformer.train.optimizer import local

if TYPE_CHECKING:
    from compressive_transformer.train.loop import Trainer


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
    tensors[f"{own}lanes"] = _as_tensor(trainer.lanes.state_dict())
    return tensors


def facts_of(trainer: Trainer) -> dict[str, Any]:
    """The numbers of a trainer that are the same in every process."""
    return {
        "step": trainer.step,
        "tokens": trainer.tokens,
        "seconds": trainer.seconds,
        "updates": trainer.updates,
        "waiting": trainer.waiting,
        "skipped": trainer.skipped,
        "validate_at": trainer.validate_at,
        "position": trainer.memory.position,
        "sums": {"steps": trainer.sums.steps, "loss": trainer.sums.loss},
        "spikes": asdict(trainer.spikes),
        "norms": list(trainer.norms),
        "processes": trainer.world.size,
        "lanes": trainer.lanes.num_lanes,
    }


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
    shapes = tensor_shapes(folder)
    try:
        into = {f"model.{name}": x for name, x in trainer.model.state_dict().items()}
        if facts["updates"]:
            into |= {f"optimizer.{name}": x for name, x in trainer.optimizer.allocate().items()}
        own = {} if reset_memory else _room(trainer, shapes)
        load_tensors(folder, into | own)
        trainer.step, trainer.tokens = int(facts["step"]), int(facts["tokens"])
        trainer.seconds_before, trainer.updates = float(facts["seconds"]), int(facts["updates"])
        trainer.spikes = type(trainer.spikes)(**facts["spikes"])
        trainer.validate_at = list(map(float, facts["validate_at"]))
        trainer.norms = (float(facts["norms"][0]), float(facts["norms"][1]))
        if reset_memory:
            torch.manual_seed(trainer.config.seed + trainer.step + trainer.world.rank)
        else:
            _restore_own(trainer, own, facts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{folder} lacks {error}; it is of another version") from None


def _restore_own(trainer: Trainer, own: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """What this process alone knew."""
    found = {name.removeprefix(_own(trainer)): x for name, x in own.items()}
    device = trainer.world.device
    memory = Memory.from_tensors(_below("memory.", found), int(facts["position"])).to(device)
    if [m.sizes for m in memory.layers] != [m.sizes for m in trainer.memory.layers]:
        raise UsageError("the memory sizes are not those of the checkpoint; add --reset-memory")
    if memory.batch_size != trainer.memory.batch_size:
        raise UsageError("the lanes are not those of the checkpoint; add --reset-memory")
    trainer.memory = memory
    trainer.waiting, trainer.skipped = int(facts["waiting"]), int(facts["skipped"])
    trainer.sums.steps, trainer.sums.loss = int(facts["sums"]["steps"]), float(facts["sums"]["loss"])
    trainer.sums.compression = found["compression"]
    parameters = dict(trainer.model.named_parameters())
    for name, x in _below("gradient.", found).items():
        _set_gradient(parameters[name], x.to(device))
    trainer.lanes.load_state_dict(json.loads(bytes(found["lanes"].tolist())))
    torch.set_rng_state(found["random.cpu"])
    if "random.cuda" in found and device.type == "cuda":
        torch.cuda.set_rng_state(found["random.cuda"], device)


def _room(trainer: Trainer, shapes: dict[str, tuple[torch.Size, torch.dtype]]) -> dict[str, Tensor]:
    """Empty tensors for all that the checkpoint has of this process."""
    own = _own(trainer)
    room = {n: torch.empty(size, dtype=dtype) for n, (size, dtype) in shapes.items() if n.startswith(own)}
    if not room:
        raise UsageError(f"the checkpoint has nothing of process {trainer.world.rank}; add --reset-memory")
    return room


def _own(trainer: Trainer) -> str:
    return f"process.{trainer.world.rank}."


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def _as_tensor(value: Any) -> Tensor:
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


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
