"""mambapy: Mamba in plain torch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mambapy.lm import LM  # pyright: ignore[reportMissingImports]
from mambapy.mamba import MambaConfig  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn

from peers.base import Arm, Read, Size


class Mamba(Arm):
    """Two blocks for each layer of a Transformer: about as many parameters.

    Its state is carried in generation, token by token, but not from one parallel call to the next; so rows
    have four segments.
    """

    package = "mambapy"
    segments = 4
    carries = False

    def build(self, size: Size) -> nn.Module:
        return LM(MambaConfig(d_model=size.dim, n_layers=2 * size.layers), vocab_size=size.vocab)

    def read(self, tokens_BT: Tensor, state: Any, resets: Tensor | None = None) -> Read:
        return Read(self.model(tokens_BT), None)

    def generate(self, prompt_BT: Tensor, length: int) -> None:
        self.model.generate(_Prompt(prompt_BT), "", num_tokens=length, batch_size=len(prompt_BT))  # pyright: ignore[reportCallIssue]


class _Prompt:
    """The tokenizer that its generation asks for: gives the prompt whatever the text."""

    def __init__(self, prompt_BT: Tensor):
        self.tokens = prompt_BT

    def __call__(self, text: str, return_tensors: str) -> SimpleNamespace:
        return SimpleNamespace(input_ids=self.tokens)

    def decode(self, tokens: list[int]) -> str:
        return ""


