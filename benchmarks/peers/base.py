"""What every arm of a comparison can do, whichever library it is made of.

Shape legend: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from compressive_transformer.data import Batch
from compressive_transformer.losses import next_token_loss
from compressive_transformer.train import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class Size:
    """What all arms are built to."""

    dim: int
    layers: int
    heads: int
    segment: int
    memory: int
    compressed: int
    batch: int
    """Segments of a training step."""
    rate: int = 4
    vocab: int = 257
    """Bytes and the document token."""

    @property
    def slots(self) -> int:
        """Memory of an arm that has one tier only: attention costs as much as over both."""
        return self.memory + self.compressed


SIZES = {
    "tiny": Size(dim=32, layers=2, heads=2, segment=16, memory=16, compressed=4, batch=4),
    "standard": Size(dim=256, layers=4, heads=4, segment=128, memory=128, compressed=32, batch=8),
    "large": Size(dim=512, layers=8, heads=8, segment=256, memory=256, compressed=64, batch=4),
}
"""tiny is for trying a benchmark out."""


class Read(NamedTuple):
    """What comes of reading some tokens."""

    logits: Tensor
    """[B, T, V]."""
    state: Any
    """What to hand back with the next tokens; None if the arm carries nothing."""
    auxiliary: Tensor | float = 0.0
    """Loss besides that of the next token."""


class Learner(Protocol):
    """An optimiser under one factor of its learning rates."""

    def set_factor(self, factor: float) -> None: ...
    def clip(self) -> object: ...
    def step(self) -> None: ...
    def clear(self) -> None: ...


class Arm:
    """A model of some library, behind one interface. Subclasses build it, and say how it reads."""

    segments: ClassVar[int] = 1
    """Segments of a training row. More than one where the library learns from, or remembers, nothing but
    what one row holds; a step then has fewer rows, and as many tokens."""
    carries: ClassVar[bool] = True
    """Whether what was read is remembered from one call to the next."""
    rates: ClassVar[tuple[float, ...]] = (1e-3, 2e-3, 4e-3)
    """Learning rates worth a try."""
    batches: ClassVar[tuple[int, ...]] = ()
    """Segments of a training step, if they don't depend on what is asked for."""

    def __init__(self, size: Size):
        self.size = size
        self.model = self.build(size)
        self.state: Any = None

    @property
    def lanes(self) -> int:
        """Rows of a training step."""
        return max(self.size.batch // self.segments, 1)

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.size.segment * self.segments

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def build(self, size: Size) -> nn.Module:
        """The model, its weights drawn by its library."""
        raise NotImplementedError

    def read(self, tokens_BT: Tensor, state: Any, resets: Tensor | None = None) -> Read:
        """Reads at most ``length`` tokens after those that gave the state; None begins anew.

        The state that comes back keeps no gradients. ``resets`` tells an arm that can where documents begin.
        """
        raise NotImplementedError

    def generate(self, prompt_BT: Tensor, length: int) -> None:
        """Makes so many tokens after the prompt, in the library's own way."""
        raise NotImplementedError

    def learner(self, rate: float) -> Learner:
        """The optimiser, at a peak learning rate."""
        return AdamW(self.model.parameters(), rate)

    def loss(self, batch: Batch) -> Tensor:
        """The loss of a batch, memory carried from the one before."""
        self.model.train()
        logits, self.state, auxiliary = self.read(batch.inputs, self.state, batch.resets)
        return next_token_loss(logits, batch.targets) + auxiliary

    @torch.no_grad()
    def score(self, tokens_BT: Tensor, progress: Callable[[int], None] = lambda tokens: None) -> float:
        """Summed nats of all tokens but the first of each row, read in order with the memory carried."""
        self.model.eval()
        state, nats = self.start(len(tokens_BT)), 0.0
        for at in range(0, tokens_BT.shape[1] - 1, self.length):
            inputs = tokens_BT[:, at : at + self.length + 1]
            logits, state, _ = self.read(inputs[:, :-1], state)
            nats += float(next_token_loss(logits, inputs[:, 1:]).double()) * inputs[:, 1:].numel()
            progress(inputs[:, 1:].numel())
        return nats

    def start(self, rows: int) -> Any:
        """The state before anything was read, for scoring."""
        return None


class AdamW:
    """AdamW as this project uses it: matrices decay, the norm of the gradient is at most 1."""

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float):
        c = OptimizerConfig()
        self.rate, self.limit = rate, c.clip
        self.weights = [p for p in parameters if p.requires_grad]
        groups = [
            {"params": [p for p in self.weights if p.ndim > 1], "weight_decay": c.weight_decay},
            {"params": [p for p in self.weights if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)

    def set_factor(self, factor: float) -> None:
        for group in self.adamw.param_groups:
            group["lr"] = self.rate * factor

    def clip(self) -> object:
        return nn.utils.clip_grad_norm_(self.weights, self.limit)

    def step(self) -> None:
        self.adamw.step()

    def clear(self) -> None:
        self.adamw.zero_grad(set_to_none=True)


def train_step(
    arm: Arm,
    learner: Learner,
    batch: Batch,
    *,
    factor: float = 1.0,
    precision: AbstractContextManager | None = None,
) -> Tensor:
    """Forward, backward, clipping and the update: the same lines for every arm."""
    with precision or nullcontext():
        loss = arm.loss(batch)
    loss.backward()
    learner.set_factor(factor)
    learner.clip()
    learner.step()
    learner.clear()
    return loss.detach()


def sample(logits_BV: Tensor) -> Tensor:
    """int64 [B] drawn from the distribution, for arms whose library leaves sampling to its user."""
    return torch.multinomial(logits_BV.softmax(dim=-1), 1)[:, 0]
