"""How much memory a process that lives long keeps of what it has freed. Only glibc is told; others are left alone."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
"""Source: mallopt(3)."""


def map_large_blocks(from_bytes: int) -> None:
    """Have blocks of this size and more mapped one by one: memory in them that nobody has touched costs nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, from_bytes)


def give_free_memory_back() -> None:
    """Give the kernel what is free between blocks in use, which takes milliseconds. Source: malloc_trim(3)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
