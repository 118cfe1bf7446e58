"""How large a disk is, and the directory that it lies in. Pure."""

from __future__ import annotations

MIB = 1024**2
GIB = 1024**3

LEAST_BYTES = 64 * MIB
"""The smallest data root that the guest entrypoint makes."""
MOST_BYTES = 16 * 1024**4
"""The largest: that of a file on ext4 with blocks of 4 KiB."""


def is_possible(count: int) -> bool:
    """Tell whether a data root may have this size."""
    return LEAST_BYTES <= count <= MOST_BYTES


def limit_for(count: int) -> int:
    """Return the sizeLimit of a directory that holds a disk of so many bytes.

    A disk that is full takes its whole size, and the file systems above and below it have metadata of their own.
    """
    limit = count + max(count // 20, 256 * MIB)
    return -(-limit // GIB) * GIB if count >= 4 * GIB else -(-limit // MIB) * MIB


def disk_within(limit: int) -> int:
    """Return the size of a disk for which a directory with this limit has room; 0 if none has."""
    return max(0, limit - max(-(-limit // 20), 256 * MIB)) // MIB * MIB
