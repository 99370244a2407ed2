"""Steps on a GPU whose kernels are launched all at once, as a CUDA graph.

A token is so little work that launching its kernels one by one takes longer than they run. A graph is the
same kernels on the same tensors each time: what changes from step to step has to be in these, not in Python.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from compressive_transformer.errors import UsageError


def wanted(device: torch.device) -> bool:
    """Whether ``COMPRESSIVE_GRAPHS`` asks for graphs on this device.

    Raises:
        UsageError: it is neither 0 nor 1.
    """
    asked = os.environ.get("COMPRESSIVE_GRAPHS", "0")
    if asked not in ("0", "1"):
        raise UsageError(f"COMPRESSIVE_GRAPHS={asked} is not known; use 0 or 1")
    return asked == "1" and device.type == "cuda"


def captured(step: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """What does the same as ``step`` does now, and returns the same tensor each time.

    Args:
        step: without gradients; it must not wait for the GPU, and doing it twice must be the same as once.
        device: the GPU that all its tensors are on.
    """
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # weights cast in the graph are gone outside it
    try:
        with torch.cuda.device(device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                step()  # libraries set themselves up, which can't be captured
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = step()
    finally:
        torch.set_autocast_cache_enabled(cached)

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay
