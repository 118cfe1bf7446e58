"""How much room the host has for a guest's sparse disks, in stages."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from pathlib import Path

from kata_dind.errors import NoSpace
from kata_dind.host.disks import free_bytes

MIB = 1 << 20


class Room(enum.IntEnum):
    """How much room the host has; each stage includes what the ones above it do."""

    FULL = 0
    """The guest is paused."""
    SHORT = 1
    """Its file systems take no new data, which programs see as ENOSPC."""
    LOW = 2
    """It keeps little unwritten data."""
    AMPLE = 3


LIMITS_BYTES = {Room.FULL: 8 * MIB, Room.SHORT: 64 * MIB, Room.LOW: 1024 * MIB}
"""A stage begins when less than this is left, and ends when twice this is.

SHORT leaves room for what they still write where the host's file has holes: bounded dirty data, and a journal.
"""


def next_room(left_bytes: int, *, before: Room) -> Room:
    """Return the room that there is now."""
    for room, limit_bytes in LIMITS_BYTES.items():
        if left_bytes < limit_bytes or (before <= room and left_bytes < 2 * limit_bytes):
            return room
    return Room.AMPLE


def require_room(directories: Iterable[Path], *, least_bytes: int = LIMITS_BYTES[Room.SHORT], what: str) -> None:
    """Raise NoSpace where there is less; a guest would be held there as soon as it writes."""
    for directory in directories:
        left_bytes = free_bytes(directory)
        if left_bytes < least_bytes:
            raise NoSpace(
                f"the file system of {directory} has {left_bytes // MIB} MiB left, "
                f"and {what} needs {least_bytes // MIB} MiB",
                id="host.no-space",
                hint="free space there, or set KATA_DIND_STATE_DIR to a directory with more",
            )
