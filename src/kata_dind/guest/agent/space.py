"""The guest's part when its host runs out of space: it keeps little unwritten data, and at last takes no new data.

The guest's disks are sparse files of the host. When the host has no space for a write, the guest's kernel sees an I/O
error, which breaks a file system if it happens in the journal. A file system that refuses new data says "no space left
on device" instead. ext4 and xfs can be made to: their free space becomes a reserve, from which the kernel still writes
data that is dirty already, and the file system's own bookkeeping.
"""

from __future__ import annotations

import os

from . import xfs

_EXT4 = "/sys/fs/ext4"
_MOST_CLUSTERS = 1 << 48
"""The limit of an ext4 with 64-bit block numbers. Source: the kernel's Documentation/filesystems/ext4/blocks.rst"""

_DIRTY = {"dirty_background_bytes": 4 << 20, "dirty_bytes": 16 << 20}
_DIRTY_BEFORE = ("dirty_background_bytes", "dirty_background_ratio", "dirty_bytes", "dirty_ratio")


class Space:
    """The measures that are in force, and the values to set when they end."""

    def __init__(self, ext4: str = _EXT4, vm: str = "/proc/sys/vm") -> None:
        self._ext4 = ext4
        self._vm = vm
        self._dirty_before: dict[str, int] = {}
        self._reserved_before: dict[str, int] = {}
        """Clusters of each ext4."""
        self._xfs_reserved_before: dict[str, int] = {}
        """Blocks of each xfs."""

    def bound_dirty(self) -> None:
        """Let little wait to be written, so that little can arrive at the host after it has run full."""
        if not self._dirty_before:
            self._dirty_before = {name: _read(f"{self._vm}/{name}") for name in _DIRTY_BEFORE}
            for name, count in _DIRTY.items():
                _write(f"{self._vm}/{name}", count)

    def unbound_dirty(self) -> None:
        """Undo `bound_dirty`."""
        for name, count in self._dirty_before.items():
            if count:  # one of bytes and ratio is zero: writing either sets the other to zero
                _write(f"{self._vm}/{name}", count)
        self._dirty_before.clear()

    def refuse_data(self, process: str) -> list[str]:
        """Let each ext4, and each xfs that a process sees, refuse new data, with ENOSPC and for root as well.

        The process is given by its directory in /proc. Returns the devices that refuse data now.
        """
        for device in self._ext4_devices():
            path = f"{self._ext4}/{device}/reserved_clusters"
            if device not in self._reserved_before and os.path.exists(path):
                self._reserved_before[device] = _read(path)
                _write_largest(path, below=_MOST_CLUSTERS)
        for device, root in xfs.opened(process):
            if device not in self._xfs_reserved_before:
                before = xfs.reserved_blocks(root)
                if xfs.reserve_blocks(root, xfs.ALL_BLOCKS):
                    self._xfs_reserved_before[device] = before
        return [*self._reserved_before, *self._xfs_reserved_before]

    def take_data(self, process: str) -> None:
        """Undo `refuse_data`; a file system that is not mounted any more has forgotten it."""
        for device, count in self._reserved_before.items():
            try:
                _write(f"{self._ext4}/{device}/reserved_clusters", count)
            except FileNotFoundError:
                continue
        for device, root in xfs.opened(process) if self._xfs_reserved_before else ():
            if device in self._xfs_reserved_before:
                xfs.reserve_blocks(root, self._xfs_reserved_before[device])
        self._reserved_before.clear()
        self._xfs_reserved_before.clear()

    def _ext4_devices(self) -> list[str]:
        try:
            return sorted(os.listdir(self._ext4))
        except FileNotFoundError:  # none has been mounted yet
            return []


def _write_largest(path: str, *, below: int) -> None:
    """Write the largest number that an attribute takes: here, one cluster less than the file system has."""
    taken = 0
    while below - taken > 1:
        middle = (taken + below) // 2
        try:
            _write(path, middle)
            taken = middle
        except OSError:
            below = middle


def _read(path: str) -> int:
    with open(path) as file:
        return int(file.read())


def _write(path: str, number: int) -> None:
    with open(path, "w") as file:
        file.write(str(number))
