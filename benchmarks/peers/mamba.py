"""mambapy: Mamba in plain torch."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

from torch import Tensor, nn

from peers.base import Arm, Read, Size


class Mamba(Arm):
    """Two blocks for each layer of a Transformer: about as many parameters.

    Its state is carried in generation, token by token, but not from one parallel call to the next; so rows
    have four segments.
    """

    segments = 4
    carries = False

    def build(self, size: Size) -> nn.Module:
        stub_mamba_2()
        from mambapy.lm import LM  # pyright: ignore[reportMissingImports]
        from mambapy.mamba import MambaConfig  # pyright: ignore[reportMissingImports]

        return LM(MambaConfig(d_model=size.dim, n_layers=2 * size.layers), vocab_size=size.vocab)

    def read(self, tokens_BT: Tensor, state: Any, resets: Tensor | None = None) -> Read:
        return Read(self.model(tokens_BT), None)

    def generate(self, prompt_BT: Tensor, length: int) -> None:
        self.model.generate(_Prompt(prompt_BT[:1]), "", num_tokens=length, batch_size=len(prompt_BT))  # pyright: ignore[reportCallIssue]


def stub_mamba_2() -> None:
    """The language model imports kernels of Mamba-2, which no one here calls, and which need a GPU."""
    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", "mamba_ssm.ops.triton.ssd_combined"):
        module = sys.modules.setdefault(name, ModuleType(name))
        vars(module).update(mamba_chunk_scan_combined=None, mamba_split_conv1d_scan_combined=None)


class _Prompt:
    """The tokenizer that its generation asks for: gives one prompt, for all rows, whatever the text."""

    def __init__(self, prompt_BT: Tensor):
        self.tokens = prompt_BT

    def __call__(self, text: str, return_tensors: str) -> SimpleNamespace:
        return SimpleNamespace(input_ids=self.tokens)

    def decode(self, tokens: list[int]) -> str:
        return ""
