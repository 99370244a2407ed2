"""What a training step costs each of many processes, computed from the settings alone; see docs/scaling.md.

Weights, gradients, optimiser, state, messages and checkpoints are counted exactly, from the shapes of a model
on the meta device; activations and what FSDP2 holds for a moment are estimates. All of it is tested against
what processes really hold and send. What a layer keeps and computes is in ``layer_costs``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

import torch
from torch import nn

from compressive_transformer.errors import UsageError
from compressive_transformer.formulas import costs
from compressive_transformer.model import LanguageModel, ModelConfig
from compressive_transformer.train import muon
from compressive_transformer.train.config import TrainConfig
from compressive_transformer.train.layer_costs import LayerCosts, in_bfloat16, layer_costs
from compressive_transformer.train.loop import LOG_EVERY
from compressive_transformer.train.optimizer import layer_matrices, split_objectives
from compressive_transformer.train.parallel import World

FLOAT, HALF, LONG, DOUBLE = 4, 2, 8, 8
"""Bytes of float32, bfloat16, int64 and float64."""
LAYERS_IN_FLIGHT = 5
"""Whole layers that FSDP2 holds at the worst moment of the backward pass: weights of this layer and of the
next, the message they came in, gradients, the message they leave in."""


@dataclass(frozen=True, kw_only=True)
class MemoryBytes:
    """Bytes that the fullest process holds."""

    weights: int
    gradients: int
    optimizer: int
    """Moments of AdamW, momentum of Muon."""
    state: int
    """The Memory of its lanes, before the step and after it; never sharded."""
    buffers: int
    """ddp: messages of gradients, kept for good; fsdp: what is whole for a moment (estimate)."""
    casts: int
    """Copies of matrices in bfloat16, which autocast keeps until the backward pass; never sharded."""
    logits: int
    """Logits (of an adaptive head: of its first cluster), their log-softmax and its gradient."""
    activations: int
    """Kept for the gradient (estimate)."""

    @property
    def total(self) -> int:
        """The sum; a step peaks lower, for not all of these peak at once."""
        return sum(vars(self).values())


@dataclass(frozen=True, kw_only=True)
class SentBytes:
    """Bytes that each process sends in a step, the mean over an update period.

    By ring algorithms: of a message of S bytes, (n - 1) / n S for an all-gather or a reduce-scatter, and
    twice that for an all-reduce. Each process receives as many.
    """

    weights: int
    """fsdp: gathered for each call of a layer, forward and again backward."""
    gradients: int
    updates: int
    """fsdp with Muon: gathered to be orthogonalised."""
    control: int
    """Norms, losses and decisions, the last two between hosts."""

    @property
    def total(self) -> int:
        """The sum."""
        return sum(vars(self).values())


@dataclass(frozen=True, kw_only=True)
class CheckpointBytes:
    """Bytes of tensors on disk; headers, lanes and JSON come to some 200 bytes a tensor besides."""

    shared: int
    """Weights and optimiser, of all processes together."""
    each: int
    """State and random numbers, of each process."""
    whole: int
    """All files of one checkpoint."""
    weights: int
    """``model.safetensors`` of the run, written by the first process."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What a step costs each process."""

    parameters: int
    tokens: int
    """Tokens that a process reads in a step."""
    memory: MemoryBytes
    sent: SentBytes
    checkpoint: CheckpointBytes
    flops: int
    """Of matrix products, forward and backward."""
    update_flops: int
    """Of Muon in an update, which every process makes whole, in bfloat16."""


def scaling(config: TrainConfig, *, vocab_size: int, processes: int) -> Scaling:
    """The figures of one process among many.

    Args:
        config: shape, lanes of all processes together, strategy, optimiser and the rest.
        vocab_size: V.
        processes: n.

    Raises:
        UsageError: the lanes can't be shared out evenly.
    """
    if processes < 1:
        raise UsageError(f"processes {processes} is not allowed; use 1 or more")
    if config.model.core != "compressive":
        raise UsageError(f"a plan is made of Compressive Transformers only, not of a {config.model.core}")
    plan = _Plan(config, vocab_size, processes)
    layers = [layer_costs(config, i, plan.lanes) for i in range(config.model.num_layers)]
    repeated = plan.lanes * config.unroll
    forward = repeated * sum(layer.flops for layer in layers)
    unneeded = plan.lanes * sum(layer.unneeded for layer in layers)
    fixed = config.unroll * sum(layer.fixed_flops for layer in layers)
    head = 3 * 2 * plan.tokens * config.model.dim * plan.predicted
    again = repeated * sum(layer.again for layer in layers) + fixed if config.recompute else 0
    auxiliary = repeated * sum(layer.auxiliary_flops for layer in layers)
    return Scaling(
        parameters=plan.parameters,
        tokens=plan.tokens,
        memory=_memory(plan, layers),
        sent=_sent(plan),
        checkpoint=_checkpoint(plan),
        flops=3 * forward - unneeded + 2 * fixed + head + again + auxiliary,
        update_flops=sum(_orthogonalisation(p.shape) for p in plan.muon),
    )


@dataclass(frozen=True)
class _Plan:
    """The model without its numbers, and who holds what of it."""

    config: TrainConfig
    vocab_size: int
    processes: int

    @cached_property
    def model(self) -> LanguageModel:
        return _without_numbers(self.config.model, self.vocab_size)

    @cached_property
    def muon(self) -> list[nn.Parameter]:
        return layer_matrices(self.model) if self.config.optimizer.name == "muon" else []

    @cached_property
    def lanes(self) -> int:
        world = World(device=torch.device("meta"), size=self.processes)
        return len(world.share(self.config.lanes))

    @property
    def tokens(self) -> int:
        return self.lanes * self.config.model.segment * self.config.unroll

    @property
    def predicted(self) -> int:
        """Logits of a token. Of an adaptive head those of its first cluster, where most tokens are; of a
        mixture its parameters.
        """
        if self.config.model.sample_bits == 16:
            return 3 * self.config.model.mixtures
        cutoffs = self.config.model.adaptive_cutoffs
        return cutoffs[0] + len(cutoffs) if cutoffs else self.vocab_size

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def sharded(self) -> bool:
        return self.config.parallel == "fsdp" and self.processes > 1

    def padded(self, parameters: list[nn.Parameter]) -> int:
        """Bytes of parameters, with rows added so that all processes have equally many if sharded."""
        n = self.processes if self.sharded else 1
        return FLOAT * sum(-(-p.shape[0] // n) * n * prod(p.shape[1:]) for p in parameters)

    def held(self, parameters: list[nn.Parameter]) -> int:
        """Bytes of them in the fullest process."""
        return self.padded(parameters) // (self.processes if self.sharded else 1)

    @cached_property
    def layer_bytes(self) -> list[int]:
        """Padded bytes of each layer, which FSDP2 gathers as one."""
        return [self.padded(list(layer.parameters())) for layer in self.model.core.layers]

    @cached_property
    def root_bytes(self) -> int:
        """Padded bytes of what is in no layer: embedding, head, last norm."""
        return self.padded(list(self.model.parameters())) - sum(self.layer_bytes)


@lru_cache(maxsize=4)
def _without_numbers(config: ModelConfig, vocab_size: int) -> LanguageModel:
    with torch.device("meta"):
        return LanguageModel(config, vocab_size=vocab_size)


def _memory(plan: _Plan, layers: list[LayerCosts]) -> MemoryBytes:
    c, everything = plan.config, list(plan.model.parameters())
    held = plan.held(everything)
    rest = len(everything) - len(plan.muon)
    half = in_bfloat16(c)
    exact, other = FLOAT, HALF if half else FLOAT
    kept = [exact * layer.exact + other * layer.other + layer.masks for layer in layers]
    fixed = [other * layer.fixed for layer in layers]
    width = plan.lanes * c.model.segment * c.model.dim
    state = plan.lanes * costs(c.model).state_bytes
    if c.recompute:  # inputs of each layer and segment, what is visible, and all that one layer keeps
        usage = c.model.compressor == "most-used"
        inputs = len(layers) * c.unroll * width * FLOAT + (c.unroll - 1) * state
        sizes = [sum(size) for size in (c.model.layer_sizes() if usage else set(c.model.layer_sizes()))]
        seen = c.unroll * plan.lanes * c.model.segment * sum(c.model.segment + slots for slots in sizes)
        activations = inputs + seen + plan.lanes * max(kept) + max(fixed)
    else:
        activations = c.unroll * (plan.lanes * sum(kept) + sum(fixed))
    last = c.unroll * width * (exact + other)
    buffers = 0
    if plan.sharded:
        buffers = 2 * plan.root_bytes + LAYERS_IN_FLIGHT * max(plan.layer_bytes)
        # Gradients of a layer are whole until the first of its segments is through.
        buffers += sum(plan.layer_bytes) if c.unroll > 1 else 0
    elif plan.processes > 1:
        buffers = held
    return MemoryBytes(
        weights=held,
        gradients=held,
        # AdamW also counts the steps of each parameter.
        optimizer=2 * held - plan.held(plan.muon) + FLOAT * rest,
        state=2 * state,
        buffers=buffers,
        casts=HALF * _cast_weights(plan.model) if half else 0,
        logits=3 * FLOAT * plan.tokens * plan.predicted,
        activations=activations + last,
    )


def _sent(plan: _Plan) -> SentBytes:
    c, n = plan.config, plan.processes
    if n == 1:
        return SentBytes(weights=0, gradients=0, updates=0, control=0)
    period, ring = c.optimizer.update_period, n - 1
    whole = plan.root_bytes + sum(plan.layer_bytes)
    main, compression = (FLOAT * len(part) for part in split_objectives(plan.model))
    # One number before an update, five after a step, and what is recorded every few steps.
    hosts = ring * (DOUBLE / period + 5 * DOUBLE + (2 + c.model.num_layers + 4) * DOUBLE / LOG_EVERY)
    if not plan.sharded:
        return SentBytes(weights=0, gradients=2 * ring * whole // n // period, updates=0, control=int(hosts))
    norms = 2 * ring * (main + compression) / n / period
    gathered = plan.root_bytes + 2 * c.unroll * sum(plan.layer_bytes)
    return SentBytes(
        weights=ring * gathered // n,
        gradients=ring * whole // n,
        updates=ring * plan.padded(plan.muon) // n // period,
        control=int(hosts + norms),
    )


def _checkpoint(plan: _Plan) -> CheckpointBytes:
    rest = len(list(plan.model.parameters())) - len(plan.muon)
    moments = 2 * plan.parameters - sum(p.numel() for p in plan.muon)
    shared = FLOAT * (plan.parameters + moments + rest)
    state = plan.lanes * costs(plan.config.model).state_bytes
    each = state + torch.get_rng_state().numel() + DOUBLE * plan.config.model.num_layers
    return CheckpointBytes(
        shared=shared,
        each=each,
        whole=shared + plan.processes * each,
        weights=FLOAT * plan.parameters,
    )


def _cast_weights(model: LanguageModel) -> int:
    """Weights of linear maps; position keys are used as views, which autocast does not keep."""
    maps = (
        m for name, m in model.named_modules() if isinstance(m, nn.Linear) and "position_keys" not in name
    )
    return sum(m.weight.numel() for m in maps)


def _orthogonalisation(shape: torch.Size) -> int:
    """Flops of X <- a X + (b A + c A A) X with A = X X^T, over the shorter side."""
    a, b = sorted(shape)
    return muon.STEPS * (2 * 2 * a * a * b + 2 * a**3)
