"""Files in memory, memfd_create(2), that another process uses as its memory."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from pathlib import Path

_KEEP_SIZE, _PUNCH_HOLE = 0x1, 0x2
"""Source: linux/falloc.h."""

_BLOCK_BYTES = 256 * 1024


def find_memory_file(pid: int, name: str) -> Path | None:
    """Return the file in memory that a process has open under a name. Raises OSError."""
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a process that looks at itself has closed one by then
            if str(fd.readlink()).startswith(f"/memfd:{name}"):
                return fd
    return None


def give_zeros_back(file: Path) -> int:
    """Make holes of the zeros in a file in memory, and return how many bytes that were. Raises OSError.

    No other process may write to the file meanwhile.
    """
    zeros, given_back, start = bytes(_BLOCK_BYTES), 0, 0
    with file.open("r+b", buffering=0) as memory:
        size = os.fstat(memory.fileno()).st_size
        with mmap.mmap(memory.fileno(), size, prot=mmap.PROT_READ) as view:
            for end in range(_BLOCK_BYTES, size + 1, _BLOCK_BYTES):
                if view[end - _BLOCK_BYTES : end] != zeros:
                    given_back += _punch(memory.fileno(), start, end - _BLOCK_BYTES)
                    start = end
            given_back += _punch(memory.fileno(), start, size // _BLOCK_BYTES * _BLOCK_BYTES)
    return given_back


def _punch(fd: int, start: int, end: int) -> int:
    if start < end:
        libc = ctypes.CDLL(None, use_errno=True)
        length = ctypes.c_int64(end - start)
        if libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_int64(start), length):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return max(0, end - start)
