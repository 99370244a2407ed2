"""What scaling.py computes, against what processes hold, send, keep for the gradient, and write.

Messages are counted below torch.distributed, where DDP's C++ and DTensor pass too; memory by the
allocator and by the storages that tensors have.
"""

import gc
import json
import runpy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from compressive_transformer import LanguageModel, UsageError
from compressive_transformer.checkpoint import save_tensors
from compressive_transformer.data import Lanes
from compressive_transformer.losses import next_token_loss
from compressive_transformer.precision import autocast
from compressive_transformer.storage import read_header
from compressive_transformer.train import OptimizerConfig, TrainConfig, Trainer
from compressive_transformer.train.loop import LOG_EVERY
from compressive_transformer.train.parallel import World, parallelize
from compressive_transformer.train.scaling import Scaling, scaling
from compressive_transformer.train.sharded import local
from compressive_transformer.train.state import tensors_of
from test_parallel import DATA, in_processes
from tiny import corpus_of, tiny_config

VOCABULARY = 257
ADAMW, MUON = OptimizerConfig(name="adamw"), OptimizerConfig()
UNEVEN: dict[str, Any] = {"dim": 18, "num_heads": 3, "mlp_dim": 25}  # no size is a multiple of 4
DEEP: dict[str, Any] = {"dim": 64, "num_layers": 5, "segment": 4, "memory": 4, "compressed_memory": 2}
CASES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "ddp, AdamW, update period": {"optimizer": OptimizerConfig(name="adamw", update_period=2)},
    "ddp, several segments": {"unroll": 2, "model": tiny_config(compressor="most-used")},
    "fsdp, AdamW, uneven, dilated": {
        "parallel": "fsdp",
        "optimizer": ADAMW,
        "model": tiny_config(**UNEVEN, num_layers=3, compressor="dilated"),
    },
    "fsdp, uneven, separate, update period": {
        "parallel": "fsdp",
        "optimizer": OptimizerConfig(update_period=2),
        "model": tiny_config(**UNEVEN, positions="separate"),
    },
    "fsdp, several segments": {"parallel": "fsdp", "unroll": 2, "model": tiny_config(num_layers=3)},
    "fsdp, layers differ": {
        "parallel": "fsdp",
        "model": tiny_config(memory=(8, 4), compressed_memory=(0, 8), compression_loss="auto-encoding"),
    },
    "fsdp, deep": {"parallel": "fsdp", "model": tiny_config(**DEEP), "optimizer": ADAMW},
    "fsdp, deep, several segments": {
        "parallel": "fsdp",
        "model": tiny_config(**DEEP),
        "optimizer": ADAMW,
        "unroll": 3,
        "recompute": True,
    },
    "fsdp, deep, bfloat16": {
        "parallel": "fsdp",
        "model": tiny_config(**DEEP),
        "optimizer": ADAMW,
        "precision": "bfloat16",
        "recompute": True,
    },
}
FOUR = ("ddp", "fsdp, AdamW, uneven, dilated", "fsdp, uneven, separate, update period")
STEPS = 2
"""That are counted, a whole update period."""


def config_of(settings: dict[str, Any]) -> TrainConfig:
    usual = {
        "lanes": 4,
        "precision": "float32",
        "model": tiny_config(),
        "optimizer": MUON,
        "steps": 99,
    }
    return TrainConfig(**{**usual, **settings})


# In processes


class Sent(TorchDispatchMode):
    """Bytes that this process sends by ring algorithms, by what they are for."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.bytes = dict.fromkeys(("weights", "gradients", "updates", "control"), 0.0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.distributed.tensor import DTensor

        if any(issubclass(t, DTensor) for t in types):
            return NotImplemented  # comes again as what it does to shards
        if func.namespace in ("c10d", "_c10d_functional"):
            self._count(func._opname, [x for x in tree_leaves(args) if isinstance(x, Tensor)])
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, tensors: list[Tensor]) -> None:
        if name in ("wait_tensor", "_wrap_tensor_autograd"):
            return
        n, each = self.size, [x.numel() * x.element_size() for x in tensors]
        what, sent = {
            "_allgather_base_": ("weights", (n - 1) / n * each[0]),
            "_reduce_scatter_base_": ("gradients", (n - 1) / n * each[-1]),
            "allreduce_": ("gradients", 2 * (n - 1) / n * sum(each)),
            "all_gather_into_tensor": ("updates", (n - 1) * each[0]),
            "all_reduce": ("control", 2 * (n - 1) / n * each[0]),
            "allgather_": ("control", (n - 1) * each[-1]),
        }[name]
        self.bytes[what] += sent


def allocated(profiled: profile) -> tuple[int, int]:
    """Bytes at the peak and at the end, more than at the beginning."""
    assert profiled.profiler is not None
    results = profiled.profiler.kineto_results
    assert results is not None
    found: list[Any] = results.events()
    events = sorted((e for e in found if e.name() == "[memory]"), key=lambda e: e.start_ns())
    now = peak = 0
    for event in events:
        now += event.nbytes()
        peak = max(peak, now)
    return peak, now


@contextmanager
def watched() -> Iterator[profile]:
    """Without the garbage collector, which would return what was there before."""
    gc.collect()
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            yield profiled
    finally:
        gc.enable()


def storage(tensors: Iterable[Tensor]) -> int:
    """Bytes of all that the tensors keep allocated."""
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in map(local, tensors)}
    return sum(storages.values())


def measure(world: World, cases: dict[str, dict[str, Any]], folder: Path) -> None:
    """Everything about each case, in one start of the processes."""
    found = {name: measured(world, config_of(settings), folder / name) for name, settings in cases.items()}
    (folder / f"{world.rank}.json").write_text(json.dumps(found))


def measured(world: World, config: TrainConfig, folder: Path) -> dict[str, Any]:
    warm = 2 * config.optimizer.update_period  # steps until DDP has settled its messages
    config = replace(config, steps=warm + STEPS)
    torch.manual_seed(0)
    length = config.model.segment * config.unroll
    rows = world.share(config.lanes)
    lanes = Lanes(corpus_of(*DATA), num_lanes=config.lanes, length=length, seed=0, rows=rows)
    model = LanguageModel(config.model, vocab_size=VOCABULARY)
    trainer = Trainer(model, lanes, config, world=world)
    for _ in range(warm):
        trainer.train_step(0.1)
    gradients = []
    clip = trainer.optimizer.clip

    def clipping() -> tuple[Tensor, Tensor]:
        gradients.append(storage(p.grad for p in model.parameters() if p.grad is not None))
        return clip()

    trainer.optimizer.clip = clipping
    with Sent(world.size) as sent:
        trainer.run()
    with Sent(world.size) as record:
        trainer._record(1.0)
    begin, end = (world.size - 1) * 5 * 8, record.bytes["control"]  # what happens once a run
    sent.bytes["control"] += end * STEPS / LOG_EVERY - begin - end
    held = {
        "weights": storage(model.parameters()),
        "gradients": gradients[-1],
        "optimizer": storage(trainer.optimizer.state().values()),
        "state": storage(x for m in trainer.memory.layers for x in m if x is not None)
        + 8 * len(rows),  # documents of rows are sometimes part of those of all tokens
    }
    folder.mkdir(exist_ok=True)
    save_tensors(folder, tensors_of(trainer), world.saving)
    with watched() as step:
        trainer.train_step(0.1)
    return {
        "sent": {what: x / STEPS for what, x in sent.bytes.items()},
        "held": held,
        "messages": messages_of_ddp(trainer),
        "peak": allocated(step)[0],
    }


def messages_of_ddp(trainer: Trainer) -> int:
    """Bytes of the buckets that DDP made beside the gradients, as it tells itself."""
    if not isinstance(trainer.call, torch.nn.parallel.DistributedDataParallel):
        return 0
    told = trainer.call._get_ddp_logging_data()
    assert not told["gradient_as_bucket_view"]  # else they are the gradients
    return sum(map(int, told["rebuilt_bucket_sizes"].split(",")))


class Found:
    """What the processes of one start found out."""

    def __init__(self, size: int, folder: Path):
        self.size, self.folder = size, folder
        self.ranks: list[dict[str, Any]] = [
            json.loads((folder / f"{r}.json").read_text()) for r in range(size)
        ]

    def computed(self, case: str) -> Scaling:
        return scaling(config_of(CASES[case]), vocab_size=VOCABULARY, processes=self.size)


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Found]:
    found = {}
    for size, cases in ((2, CASES), (4, {case: CASES[case] for case in FOUR})):
        folder = tmp_path_factory.mktemp(f"processes{size}")
        in_processes(size, measure, cases, folder)
        found[size] = Found(size, folder)
    return found


@pytest.fixture
def found(starts: dict[int, Found], size: int) -> Found:
    return starts[size]


def each(*cases: str) -> pytest.MarkDecorator:
    """Cases in two and, some of them, in four processes."""
    return pytest.mark.parametrize(
        ("size", "case"), [(2, case) for case in cases] + [(4, case) for case in cases if case in FOUR]
    )


@each(*CASES)
def test_bytes_sent(found: Found, case: str):
    computed = found.computed(case).sent
    for rank in found.ranks:
        assert rank[case]["sent"] == pytest.approx(vars(computed), abs=1)


@each(*CASES)
def test_bytes_held(found: Found, case: str):
    computed = found.computed(case).memory
    held = [rank[case]["held"] for rank in found.ranks]
    for what in ("weights", "gradients", "optimizer"):
        assert max(h[what] for h in held) == getattr(computed, what), what
    assert {h["state"] for h in held} == {computed.state // 2}


@each(*(case for case in CASES if case.startswith("ddp")))
def test_messages_of_ddp_are_held_for_good(found: Found, case: str):
    assert [rank[case]["messages"] for rank in found.ranks] == [
        found.computed(case).memory.buffers
    ] * found.size


@each(*(case for case in CASES if "deep" in case))
def test_whole_layers_of_fsdp_at_the_peak(found: Found, case: str):
    """Where little else is held. The allocator misses what was there before, hence the 5 %."""
    m = found.computed(case).memory
    most = m.total - m.weights - m.optimizer - m.state // 2
    for rank in found.ranks:
        assert 0.5 * most < rank[case]["peak"] < 1.05 * most


@each(*CASES)
def test_bytes_of_a_checkpoint(found: Found, case: str):
    computed = found.computed(case).checkpoint
    files = sorted((found.folder / case).glob("*.safetensors"))
    assert len(files) == found.size
    headers = [{k: v for k, v in read_header(file).items() if k != "__metadata__"} for file in files]
    tensors = [(name, v["data_offsets"]) for header in headers for name, v in header.items()]
    written = sum(stop - start for name, (start, stop) in tensors if not name.endswith(".facts"))
    assert written == computed.whole == computed.shared + found.size * computed.each
    on_disk = sum(file.stat().st_size for file in files)
    assert computed.whole < on_disk < computed.whole + 400 * len(tensors)


# Alone

SHAPE: dict[str, Any] = {
    "dim": 64,
    "num_heads": 4,
    "num_layers": 3,
    "segment": 32,
    "memory": 32,
    "compressed_memory": 16,
    "compression_rate": 4,
    "position_features": 32,
}
ALONE: dict[str, dict[str, Any]] = {
    "plain": {},
    "several segments": {"unroll": 3},
    "features of full width": {"position_features": 64},
    "many features": {"position_features": 256},
    "many features, separate": {"position_features": 256, "positions": "separate", "unroll": 2},
    "many features, time": {"position_features": 256, "positions": "time"},
    "many features, bfloat16": {"position_features": 256, "precision": "bfloat16"},
    "many features, recomputed": {"position_features": 256, "recompute": True, "unroll": 2},
    "dilated": {"compressor": "dilated", "dilations": (1, 3)},
    "auto-encoding": {"compression_loss": "auto-encoding"},
    "gradients through time": {"compression_loss": "none", "unroll": 2},
    "separate": {"positions": "separate"},
    "mean": {"compressor": "mean"},
    "most-used": {"compressor": "most-used", "unroll": 2},
    "Transformer-XL": {"compressed_memory": 0},
    "post-norm, small memory": {"norm": "post", "memory": 8},
    "gated": {"gating": "gru"},
    "layers differ": {"memory": (32, 8, 0), "compressed_memory": (0, 16, 0), "compression_rate": 2},
    "bfloat16": {"precision": "bfloat16", "unroll": 2},
    "bfloat16, dilated": {"precision": "bfloat16", "compressor": "dilated"},
    "recomputed": {"recompute": True, "unroll": 2},
    "recomputed, gated": {"recompute": True, "gating": "gru"},
    "recomputed, dilated": {"recompute": True, "compressor": "dilated"},
    "recomputed, auto-encoding": {"recompute": True, "compression_loss": "auto-encoding"},
}


def alone(settings: dict[str, Any]) -> TrainConfig:
    outside = {k: v for k, v in settings.items() if k in ("unroll", "recompute", "precision")}
    model = {k: v for k, v in settings.items() if k not in outside}
    return config_of({"lanes": 2, "model": tiny_config(**{**SHAPE, "mlp_dim": 256, **model}), **outside})


class OneStep:
    """Forward and backward of a memory that is full."""

    def __init__(self, config: TrainConfig):
        self.config, self.world = config, World(device=torch.device("cpu"))
        self.model = LanguageModel(config.model, vocab_size=VOCABULARY)
        self.call = parallelize(self.model, self.world, "ddp", recompute=config.recompute)
        self.tokens = torch.randint(VOCABULARY, (config.lanes, config.model.segment * config.unroll))
        self.memory = self.model.init_memory(config.lanes)
        for _ in range(3):
            self.memory = self.forward()[0].memory.detach()

    def forward(self):
        with autocast(self.world.device, "bfloat16" if self.config.precision == "bfloat16" else "float32"):
            output = self.call(self.tokens, self.memory)
            return output, next_token_loss(output.logits, self.tokens)

    def backward(self) -> None:
        output, loss = self.forward()
        (loss + output.compression_loss).backward()

    def saved(self) -> int:
        """Bytes of distinct storages that autograd keeps, weights not counted."""
        known = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        kept: dict[int, Any] = {}

        def pack(x: Tensor) -> Tensor:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            done = self.forward()
        total = sum(s.nbytes() for at, s in kept.items() if at not in known)
        del done
        return total


def softmax_of_cuda(c: TrainConfig) -> int:
    """What is counted but not there on a CPU: autocast computes softmax in bfloat16."""
    m = c.model
    keys = sum(m.segment + recent + compressed for recent, compressed in m.layer_sizes())
    return 4 * c.lanes * c.unroll * m.num_heads * m.segment * keys if c.precision == "bfloat16" else 0


@pytest.mark.parametrize("case", [case for case in ALONE if "recomputed" not in case])
def test_what_autograd_keeps(case: str):
    config = alone(ALONE[case])
    step, m = OneStep(config), scaling(config, vocab_size=VOCABULARY, processes=1).memory
    computed = m.activations - softmax_of_cuda(config) + m.logits // 3
    if m.casts:  # kernels of compressors are cast too; they read constants, and so are not needed backward
        kernels = [p for n, p in step.model.named_parameters() if "compressor.kernel" in n]
        kernels = kernels if config.model.compressor == "conv" else []
        kernels += [p for n, p in step.model.named_parameters() if "compressor.taps.0" in n]
        computed += m.casts - 2 * sum(p.numel() for p in kernels)
    assert step.saved() == pytest.approx(computed, rel=0.01)


@pytest.mark.parametrize("case", [case for case in ALONE if "recomputed" in case])
def test_what_is_kept_when_recomputing(case: str):
    """After the forward pass by the allocator, for saved tensors of a checkpoint are not all of it."""
    config = alone(ALONE[case])
    step, m = OneStep(config), scaling(config, vocab_size=VOCABULARY, processes=1).memory
    with watched() as forward:
        done = step.forward()
    without = alone({**ALONE[case], "recompute": False, "unroll": 1})
    whole = scaling(without, vocab_size=VOCABULARY, processes=1).memory.activations
    last = 2 * 4 * config.lanes * config.model.segment * config.model.dim
    one_layer = (whole - last) / config.model.num_layers
    computed = m.activations - one_layer + m.state // 2 + m.logits * 2 // 3
    states_of_dice = config.model.num_layers * config.unroll * torch.get_rng_state().numel()
    assert allocated(forward)[1] == pytest.approx(computed + states_of_dice, rel=0.02)
    del done


@pytest.mark.parametrize("case", ALONE)
def test_total_is_an_upper_bound_and_not_far_off(case: str):
    config = alone(ALONE[case])
    step, m = OneStep(config), scaling(config, vocab_size=VOCABULARY, processes=1).memory
    with watched() as whole:
        step.backward()
    most = m.total - m.weights - m.optimizer - m.state // 2
    assert (0.5 if m.casts else 0.65) * most < allocated(whole)[0] <= most


@pytest.mark.parametrize("case", ALONE)
def test_flops(case: str):
    config = alone(ALONE[case])
    step, computed = OneStep(config), scaling(config, vocab_size=VOCABULARY, processes=1)
    with FlopCounterMode(display=False) as counter:
        step.backward()
    # Through time, gradients also flow to compressed slots of earlier segments.
    assert counter.get_total_flops() == pytest.approx(computed.flops, rel=0.02 if config.unroll > 1 else 0)


def test_flops_of_an_update(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("compressive_transformer.train.muon.has_bfloat16", lambda device: True)
    config = alone({})
    step, computed = OneStep(config), scaling(config, vocab_size=VOCABULARY, processes=1)
    from compressive_transformer.train.optimizer import Optimizer

    optimizer = Optimizer(step.model, config.optimizer)
    step.backward()
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    assert counter.get_total_flops() == computed.update_flops > 0
    assert scaling(config_of({"optimizer": ADAMW}), vocab_size=9, processes=1).update_flops == 0


def test_lanes_must_be_shared_out():
    with pytest.raises(UsageError, match="4 lanes can't be shared out to 3 processes"):
        scaling(config_of({}), vocab_size=9, processes=3)
    with pytest.raises(UsageError, match="processes 0"):
        scaling(config_of({}), vocab_size=9, processes=0)


def test_one_process_sends_nothing():
    for strategy in ("ddp", "fsdp"):
        found = scaling(config_of({"parallel": strategy}), vocab_size=9, processes=1)
        assert found.sent.total == found.memory.buffers == 0


def test_document_shows_what_is_computed():
    path = Path(__file__).parents[1] / "experiments" / "scaling.py"
    script = runpy.run_path(str(path))
    text = (path.parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert script["filled"](text) == text
