"""Memory cores for agents: state in, state out, one step at a time or a whole window at once.

All cores have one interface. ``step`` acts: no gradient, constant cost however long an episode runs.
``unroll`` learns: a window of T steps in one parallel pass, with gradient. Both give the same numbers, also
where episodes of some rows end inside the window.

Shape legend: T steps of a window, B rows (environments), F features of an observation, D width of the core,
L layers.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compressive_transformer.errors import UsageError
from compressive_transformer.memory import Memory
from compressive_transformer.model import CompressiveTransformer, FeatureDecoder, ModelConfig
from compressive_transformer.model.config import configure


class Unrolled(NamedTuple):
    """What a core gives for a window."""

    features: Tensor
    """[T, B, D]."""
    state: Any
    """After the window, without gradient history."""
    compression_loss: Tensor
    """Scalar that teaches the compressors and nothing else; 0 where there are none. Add it to the loss."""


class Recurrent(NamedTuple):
    """The state of an LSTM; of no layers, that of a core without memory."""

    hidden: Tensor
    """[L, B, D]."""
    cell: Tensor
    """[L, B, D]."""

    @property
    def batch_size(self) -> int:
        """B."""
        return self.hidden.shape[1]

    def reorder(self, rows: Tensor) -> Recurrent:
        """Picks rows, as ``Memory.reorder``."""
        return Recurrent(self.hidden[:, rows], self.cell[:, rows])

    def tensors(self) -> dict[str, Tensor]:
        """By name; ``Core.restored`` undoes it."""
        return {"hidden": self.hidden.contiguous(), "cell": self.cell.contiguous()}


class Acting:
    """A ``Memory`` in the midst of acting: good for one step, since the next one writes into the same room.

    ``memory`` is a copy that stays.
    """

    def __init__(self, decoder: FeatureDecoder, versions: tuple[int, ...]):
        self.decoder: FeatureDecoder | None = decoder
        self.versions = versions
        """What told of the weights when the decoder was made."""

    @property
    def batch_size(self) -> int:
        """B."""
        return self.used().batch_size

    @property
    def memory(self) -> Memory:
        """The state as a value."""
        return self.used()._replace(cache=None)._map(torch.clone)

    def used(self) -> Memory:
        """The state as the next step will overwrite it, with keys and values."""
        if self.decoder is None:
            raise UsageError(
                "this state has been stepped on; go on with the one that step returned, or keep "
                "core.snapshot(state) where you want to come back"
            )
        return self.decoder.memory

    def taken(self) -> FeatureDecoder:
        """The decoder, which this state then has no more."""
        self.used()
        decoder, self.decoder = self.decoder, None
        assert decoder is not None
        return decoder


class Core(nn.Module, ABC):
    """What all cores share. Subclasses say what ``step`` and ``unroll`` do.

    Args:
        input_dim: F.
        dim: D.
    """

    def __init__(self, input_dim: int, dim: int):
        super().__init__()
        self.input_dim, self.dim = input_dim, dim

    @abstractmethod
    def initial_state(self, batch_size: int) -> Any:
        """The state of B rows that have seen nothing."""

    @abstractmethod
    def step(self, features_BF: Tensor, state: Any, resets_B: Tensor | None = None) -> tuple[Tensor, Any]:
        """Reads one step of each row, without gradient.

        Args:
            features_BF: of the observations.
            state: from ``initial_state`` or the step before. It can't be used again; see ``snapshot``.
            resets_B: bool, True for the rows whose episode begins with this observation.

        Returns:
            Features [B, D], and the state for the next step.
        """

    @abstractmethod
    def unroll(self, features_TBF: Tensor, state: Any, resets_TB: Tensor | None = None) -> Unrolled:
        """Reads a window in one pass, with gradient.

        Args:
            features_TBF: of the observations.
            state: before the window; what ``snapshot`` kept.
            resets_TB: bool, True where an episode begins.
        """

    def snapshot(self, state: Any) -> Any:
        """The state as a value that stays: what a learner keeps once per window."""
        return state

    def restored(self, tensors: Mapping[str, Tensor], position: int = 0) -> Any:
        """The state of ``snapshot(state).tensors()``; ``position`` is that of a ``Memory``."""
        return Recurrent(tensors["hidden"], tensors["cell"])

    def _check(self, features: Tensor, resets: Tensor | None, axes: str, rows: int) -> None:
        if features.ndim != len(axes) or features.shape[-1] != self.input_dim:
            raise UsageError(
                f"features have shape {tuple(features.shape)}; give [{', '.join(axes[:-1])}, "
                f"{self.input_dim}]"
            )
        if features.shape[-2] != rows:
            raise UsageError(
                f"the state has {rows} rows, the features {features.shape[-2]}; begin with "
                "core.initial_state(batch_size)"
            )
        if resets is not None and (resets.dtype != torch.bool or resets.shape != features.shape[:-1]):
            raise UsageError(
                f"resets are {resets.dtype} of shape {tuple(resets.shape)}; give bool "
                f"{tuple(features.shape[:-1])}"
            )


class CompressiveCore(Core):
    """The Compressive Transformer as the memory of an agent; with ``compressed_memory=0`` Transformer-XL.

    Its state is a ``Memory``, on one clock for all rows: memory shifts every ``segment`` steps, wherever
    episodes begin. Windows need not be as long as segments, nor begin where these do.

    Args:
        input_dim: F.
        config: the shape.
        settings: fields of ``ModelConfig`` to change.
    """

    def __init__(self, input_dim: int, config: ModelConfig | None = None, **settings: Any):
        config = configure(config, settings)
        if config.dropout:
            raise UsageError(
                f"dropout {config.dropout}: acting and learning would not give the same; use dropout 0"
            )
        if config.core != "compressive" or config.faithful:
            raise UsageError(
                "an agent's core resets rows inside a window, which a WaveNet or a faithful model can't; use "
                "core='compressive' and faithful=False"
            )
        super().__init__(input_dim, config.dim)
        self.model = CompressiveTransformer(config, input_dim=input_dim)
        self._learnt = 0
        """Windows that were read with gradient, after each of which weights may be others."""

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def initial_state(self, batch_size: int) -> Memory:
        """See ``Core``."""
        return self.model.init_memory(batch_size)

    @torch.no_grad()
    def step(
        self, features_BF: Tensor, state: Memory | Acting, resets_B: Tensor | None = None
    ) -> tuple[Tensor, Acting]:
        """See ``Core``.

        Keys and values are made anew by themselves after ``unroll`` and when weights are written to; where an
        optimiser is fused, torch does not tell of that, so step on from a ``snapshot`` if it comes later.
        """
        self._check(features_BF, resets_B, "BF", state.batch_size)
        versions = (self._learnt, *(p._version for p in self.model.parameters()))
        if isinstance(state, Acting) and state.versions == versions:
            decoder = state.taken()
        else:
            decoder = FeatureDecoder(self.model, self.snapshot(state))
        return decoder.read(features_BF, resets_B), Acting(decoder, versions)

    def unroll(
        self, features_TBF: Tensor, state: Memory | Acting, resets_TB: Tensor | None = None
    ) -> Unrolled:
        """See ``Core``."""
        self._check(features_TBF, resets_TB, "TBF", state.batch_size)
        self._learnt += torch.is_grad_enabled()
        resets_BT = None if resets_TB is None else resets_TB.T
        output = self.model(features_TBF.transpose(0, 1), self.snapshot(state), resets_BT)
        return Unrolled(output.features.transpose(0, 1), output.memory.detach(), output.compression_loss)

    def snapshot(self, state: Memory | Acting) -> Memory:
        """See ``Core``."""
        return state.memory if isinstance(state, Acting) else state._replace(cache=None)

    def restored(self, tensors: Mapping[str, Tensor], position: int = 0) -> Memory:
        """See ``Core``."""
        return Memory.from_tensors(tensors, position)


class LSTMCore(Core):
    """An LSTM, the core of IMPALA.

    Args:
        input_dim: F.
        dim: D.
        num_layers: L.
    """

    def __init__(self, input_dim: int, dim: int = 256, num_layers: int = 1):
        super().__init__(input_dim, dim)
        self.lstm = nn.LSTM(input_dim, dim, num_layers)

    def initial_state(self, batch_size: int) -> Recurrent:
        """See ``Core``."""
        zeros = next(self.parameters()).new_zeros(self.lstm.num_layers, batch_size, self.dim)
        return Recurrent(zeros, zeros)

    @torch.no_grad()
    def step(
        self, features_BF: Tensor, state: Recurrent, resets_B: Tensor | None = None
    ) -> tuple[Tensor, Recurrent]:
        """See ``Core``."""
        self._check(features_BF, resets_B, "BF", state.batch_size)
        output_TBD, state = self._read(features_BF[None], state, resets_B)
        return output_TBD[0], state

    def unroll(self, features_TBF: Tensor, state: Recurrent, resets_TB: Tensor | None = None) -> Unrolled:
        """See ``Core``. Between two steps at which any episode begins torch reads all at once."""
        self._check(features_TBF, resets_TB, "TBF", state.batch_size)
        outputs = []
        for start, stop in _between_resets(len(features_TBF), resets_TB):
            first = None if resets_TB is None else resets_TB[start]
            output_TBD, state = self._read(features_TBF[start:stop], state, first)
            outputs.append(output_TBD)
        state = Recurrent(state.hidden.detach(), state.cell.detach())
        return Unrolled(torch.cat(outputs), state, features_TBF.new_zeros(()))

    def _read(
        self, features_TBF: Tensor, state: Recurrent, resets_B: Tensor | None
    ) -> tuple[Tensor, Recurrent]:
        """Some steps, of which no episode begins but with the first."""
        if resets_B is not None:
            state = Recurrent._make(x.where(~resets_B[:, None], 0) for x in state)
        output_TBD, (hidden, cell) = self.lstm(features_TBF, tuple(state))
        return output_TBD, Recurrent(hidden, cell)


class NoMemoryCore(Core):
    """Two layers that see the present step alone: what a task gives without memory.

    Args:
        input_dim: F.
        dim: D.
    """

    def __init__(self, input_dim: int, dim: int = 256):
        super().__init__(input_dim, dim)
        self.layers = nn.Sequential(nn.Linear(input_dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())

    def initial_state(self, batch_size: int) -> Recurrent:
        """See ``Core``."""
        nothing = next(self.parameters()).new_zeros(0, batch_size, self.dim)
        return Recurrent(nothing, nothing)

    @torch.no_grad()
    def step(
        self, features_BF: Tensor, state: Recurrent, resets_B: Tensor | None = None
    ) -> tuple[Tensor, Recurrent]:
        """See ``Core``."""
        self._check(features_BF, resets_B, "BF", state.batch_size)
        return self.layers(features_BF), state

    def unroll(self, features_TBF: Tensor, state: Recurrent, resets_TB: Tensor | None = None) -> Unrolled:
        """See ``Core``."""
        self._check(features_TBF, resets_TB, "TBF", state.batch_size)
        return Unrolled(self.layers(features_TBF), state, features_TBF.new_zeros(()))


def _between_resets(length: int, resets_TB: Tensor | None) -> Iterator[tuple[int, int]]:
    """Start and stop of the longest pieces of a window inside which no episode begins."""
    begins = [] if resets_TB is None else resets_TB.any(dim=1).nonzero()[:, 0].tolist()
    edges = sorted({0, *begins, length})
    yield from itertools.pairwise(edges)
