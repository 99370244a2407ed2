"""What the C library does with memory that tensors gave back."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of ``mallopt`` in glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Has this process keep what it frees for what it asks for next; for Linux with glibc, elsewhere nothing.

    By itself glibc returns each block of more than 32 MB to the system as soon as it is free, and the next
    tensor of that size comes as zeros, page by page, which a training step that makes many is slowed by
    (``benchmarks/allocation.py`` measures it). The price: memory once used stays with the process until it
    ends. The commands ``train`` and ``evaluate`` do this; a program with its own loop may.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_MMAP_MAX, 0)
