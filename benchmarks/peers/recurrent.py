"""An LSTM, of torch alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peers.base import Arm, Read, Size, sample


class LSTM(Arm):
    """Twice as wide as the Transformers and half as deep: about as many parameters."""

    def build(self, size: Size) -> nn.Module:
        width = 2 * size.dim
        self.embedding = nn.Embedding(size.vocab, size.dim)
        self.lstm = nn.LSTM(size.dim, width, max(size.layers // 2, 1), batch_first=True)
        self.head = nn.Linear(width, size.vocab)
        return nn.ModuleList([self.embedding, self.lstm, self.head])

    def read(self, tokens_BT: Tensor, state: Any, resets: Tensor | None = None) -> Read:
        hidden, state = self.lstm(self.embedding(tokens_BT), state)
        return Read(self.head(hidden), tuple(x.detach() for x in state))

    @torch.no_grad()
    def generate(self, prompt_BT: Tensor, length: int) -> None:
        self.model.eval()
        tokens, state = prompt_BT, None
        for _ in range(length):
            logits, state, _ = self.read(tokens, state)
            tokens = sample(logits[:, -1])[:, None]
