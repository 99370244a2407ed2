"""Text from a model, token by token, at the same cost however long it runs.

Shape legend: B rows, V vocabulary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from compressive_transformer.errors import UsageError
from compressive_transformer.memory import Memory
from compressive_transformer.model import Decoder, LanguageModel
from compressive_transformer.model.wavenet import WaveNet, WaveNetDecoder
from compressive_transformer.precision import Precision, autocast

PROMPT_PIECE = 4096
"""Tokens of the prompt that are read in one call; a longer prompt does not need more memory."""


def generate(
    model: LanguageModel,
    prompt: Tensor,
    *,
    length: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    banned: Sequence[int] = (),
    memory: Memory | None = None,
    precision: Precision = "float32",
) -> Iterator[Tensor]:
    """Yields the tokens that follow the prompt, one int64 [B] at a time.

    The prompt is read piece by piece into the memory; keys and values of memory and window are kept, so
    each further token costs one token's work.

    Args:
        model: is put in evaluation mode.
        prompt: int64 [B, T], at least one token a row.
        length: tokens to make; None goes on for ever.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: choose among the k likeliest tokens only.
        top_p: choose among the fewest likeliest tokens that hold this probability (nucleus sampling).
        seed: equal seeds give equal text.
        banned: tokens never chosen.
        memory: a state to go on from; empty if None.
        precision: see ``autocast``; single tokens are small work, so float32 by default.

    Raises:
        UsageError: a setting is outside its range.
    """
    check_sampling(length=length, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    return _generate(model, prompt, length, temperature, top_k, top_p, seed, banned, memory, precision)


def check_sampling(
    *, length: int | None, temperature: float, top_k: int | None, top_p: float, seed: int
) -> None:
    """Refuses settings outside their range."""
    if length is not None and length < 0:
        raise UsageError(f"length {length} is not allowed; use 0 or more")
    if not 0 <= temperature < math.inf:
        raise UsageError(f"temperature {temperature} is not allowed; use 0 (likeliest token) or more")
    if top_k is not None and top_k < 1:
        raise UsageError(f"top-k {top_k} is not allowed; use 1 or more, or leave it out")
    if not 0 < top_p <= 1:
        raise UsageError(f"top-p {top_p} is not allowed; use more than 0, and at most 1")
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed {seed} is not allowed; use 0 or more, and less than 2^63")


@torch.no_grad()
def _generate(
    model, prompt, length, temperature, top_k, top_p, seed, banned, memory, precision
) -> Iterator[Tensor]:
    model.eval()
    if length == 0:
        return
    device = next(model.parameters()).device
    random = torch.Generator(device).manual_seed(seed)
    never = torch.tensor(list(banned), dtype=torch.int64, device=device)
    state = model.core.with_cache(model.init_memory(prompt.shape[0]) if memory is None else memory)
    *before, last = prompt.to(device).split(PROMPT_PIECE, dim=1)
    with autocast(device, precision):
        for piece in before:
            state = model.features(piece, state).memory
        features_BTD, state, *_ = model.features(last, state)
        logits_BV = model.head(features_BTD[:, -1])
    decoder = (WaveNetDecoder if isinstance(model.core, WaveNet) else Decoder)(model, state)
    for made in itertools.count(1):
        logits_BV = logits_BV.float()
        logits_BV.index_fill_(1, never, -torch.inf)
        tokens_B = choose(logits_BV, temperature=temperature, top_k=top_k, top_p=top_p, random=random)
        yield tokens_B
        if made == length:
            return
        with autocast(device, precision):
            logits_BV = decoder.read(tokens_B)


def choose(
    logits_BV: Tensor, *, temperature: float, top_k: int | None, top_p: float, random: torch.Generator
) -> Tensor:
    """int64 [B]: a token for each row, drawn from its distribution after temperature, top-k and top-p."""
    best = logits_BV.amax(dim=-1, keepdim=True)
    if not best.isfinite().all():
        raise UsageError("the model gives no numbers (nan or inf); train it again with a lower learning rate")
    if temperature == 0:
        return logits_BV.argmax(dim=-1)
    # Less the best, and no temperature that is 0 or infinite in float32: the quotients never become nan.
    scaled = (logits_BV - best) / min(max(temperature, 1e-30), 1e30)
    probability = scaled.softmax(dim=-1)
    if top_k is not None or top_p < 1:
        probability = _cut(probability, top_k, top_p)
    # Of exponential clocks that tick at these rates, which is first? torch.multinomial asks the same, slowly.
    clocks = torch.empty_like(probability).exponential_(generator=random)
    return (probability / clocks).argmax(dim=-1)


def _cut(probability_BV: Tensor, top_k: int | None, top_p: float) -> Tensor:
    """Probabilities, no more adding up to 1, of which those that top-k and top-p don't keep are 0."""
    probability, token = probability_BV.sort(dim=-1, descending=True, stable=True)
    if top_k is not None and top_k < probability.shape[-1]:
        probability[:, top_k:] = 0
    if top_p < 1:
        before = probability.cumsum(dim=-1) - probability
        # A token stays if those before it do not hold top_p yet; the likeliest always stays.
        kept = before < top_p * probability.sum(dim=-1, keepdim=True)
        kept[:, 0] = True
        probability = probability.where(kept, 0)
    return torch.zeros_like(probability).scatter(-1, token, probability)
