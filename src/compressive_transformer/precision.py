"""Devices, and which arithmetic they are fast at."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from compressive_transformer.errors import UsageError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]


def pick_device(name: Device) -> torch.device:
    """The device of that name; ``auto`` is a GPU if there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: this machine has no GPU that torch can use; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def autocast(device: torch.device | str, precision: Precision = "auto") -> AbstractContextManager:
    """Runs matrix products in bfloat16 where ``precision`` says so; ``auto`` asks the processor.

    Weights, memory and losses stay float32.
    """
    kind = torch.device(device).type
    if precision == "float32" or (precision == "auto" and not has_bfloat16(kind)):
        return nullcontext()
    return torch.autocast(kind, torch.bfloat16)


def has_bfloat16(device_type: str) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 there."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch can't tell
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False
