"""Many processes that train one model, started by ``torchrun``: DDP or FSDP2, applied from outside the model.

Memory stays with the process that reads its lanes; nothing of it is ever sent.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.utils.checkpoint import checkpoint

from compressive_transformer.errors import UsageError
from compressive_transformer.model import LanguageModel, Output
from compressive_transformer.precision import Device, pick_device
from compressive_transformer.train.compiled import compile_layers
from compressive_transformer.train.sharded import is_sharded, whole

Strategy = Literal["ddp", "fsdp"]
PATIENCE = timedelta(hours=6)
"""How long processes wait for one that validates, saves or reads."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a run, as one of them sees it; alone by default."""

    device: torch.device
    rank: int = 0
    size: int = 1
    host: ProcessGroup | None = None
    """For decisions, which are made on the host."""
    saving: ProcessGroup | None = None
    """For checkpoints that are written in the background."""

    @property
    def first(self) -> bool:
        """Whether this process speaks, logs and validates for all."""
        return self.rank == 0

    def share(self, count: int, what: str = "lanes") -> range:
        """Those of the lanes, or environments, that are this process's.

        Raises:
            UsageError: they can't be shared out evenly.
        """
        if count % self.size:
            raise UsageError(
                f"{count} {what} can't be shared out to {self.size} processes; use a multiple of {self.size}"
            )
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def gather(self, values: Sequence[float], group: ProcessGroup | None = None) -> Tensor:
        """float64 [size, len(values)]: what each process gave; by ``host`` if no other group is given."""
        own = torch.tensor(values, dtype=torch.float64)
        found = [torch.empty_like(own) for _ in range(self.size)]
        if self.host is None:
            return own[None]
        dist.all_gather(found, own, group=group or self.host)
        return torch.stack(found)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Makes these tensors the mean over all processes, in place; in one message."""
        if self.size == 1 or not tensors:
            return
        together = torch.cat([x.flatten() for x in tensors])
        dist.all_reduce(together)
        together /= self.size
        for x, mean in zip(tensors, together.split([x.numel() for x in tensors]), strict=True):
            x.copy_(mean.view_as(x))

    def any(self, here: bool, group: ProcessGroup | None = None) -> bool:
        """Whether it is so in any process."""
        return bool(self.gather([here], group).any())

    def texts(self, text: str) -> list[str]:
        """What each process has to say, up to a kilobyte of it."""
        data = text.encode()[:1024]
        rows = self.gather([len(data), *data, *[0] * (1024 - len(data))]).to(torch.int64).tolist()
        return [bytes(row[1 : 1 + row[0]]).decode(errors="ignore") for row in rows]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.host is not None:
            dist.barrier(group=self.host)


@contextmanager
def join(device: Device) -> Iterator[World]:
    """Takes this process's place among those that torchrun started; without torchrun it is alone.

    Raises:
        UsageError: the others can't be reached.
    """
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = pick_device(device)
    if size == 1:
        yield World(device=chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    try:
        store, rank, size = next(rendezvous("env://"))
        # After a restart the store may still have the addresses of processes that are dead.
        store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        backend = "gloo" if chosen.type == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"the other processes can't be reached ({error}); start all by torchrun") from None
    try:
        host, saving = (cast("ProcessGroup", dist.new_group(backend="gloo", timeout=PATIENCE)) for _ in "12")
        yield World(device=chosen, rank=rank, size=size, host=host, saving=saving)
    except RuntimeError as error:
        if not isinstance(error, dist.DistBackendError) and "gloo" not in str(error):
            raise
        raise UsageError(
            "another process of the run is gone, see what it said; 'torchrun --max-restarts N' starts all "
            "again from the last checkpoint"
        ) from None
    finally:
        dist.destroy_process_group()


def parallelize(
    model: LanguageModel,
    world: World,
    strategy: Strategy,
    *,
    recompute: bool = False,
    compile_them: bool = False,
) -> Callable[..., Output]:
    """Prepares a model for training, and gives what to call instead of it.

    Args:
        model: on its device, with the same weights in every process; FSDP2 changes it in place.
        world: the processes.
        strategy: ``ddp`` keeps all weights in every process; ``fsdp`` shards weights, gradients and
            optimiser, layer by layer.
        recompute: keep no activations within layers, and compute them again for the gradient.
        compile_them: compile the layers.
    """
    layers: list[Any] = list(model.core.layers)
    if compile_them:
        compile_layers(layers)
    if recompute:
        for layer in layers:
            layer.forward = functools.partial(_recomputed, layer.forward)
    if world.size == 1:
        return model
    if strategy == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # Nothing is written in place to what the model returns.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    mesh = init_device_mesh(world.device.type, (world.size,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _recomputed(forward: Callable[..., object], *inputs: object) -> object:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False)


@contextmanager
def gradients_stay(call: Callable[..., Output], stay: bool) -> Iterator[None]:
    """While an update is not due, DDP need not add up gradients over processes.

    FSDP2 always does: its gradients would otherwise be whole in every process, where it has no room for them.
    """
    if stay and isinstance(call, nn.parallel.DistributedDataParallel):
        with call.no_sync():
            yield
    else:
        yield


def whole_weights(model: LanguageModel) -> dict[str, Tensor]:
    """The state dict with no shards, on the host where it was sharded; all processes must call this."""
    state = model.state_dict()
    return {name: whole(x).cpu() if is_sharded(x) else x for name, x in state.items()}
