"""How much space the host has for a guest's sparse disks, in stages."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from pathlib import Path

from kata_dind.errors import NoSpace
from kata_dind.host.disks import free_bytes

MIB = 1 << 20


class SpaceStage(enum.IntEnum):
    """How much space the host has left; at each stage the measures of the roomier stages apply, too."""

    FULL = 0
    """The guest is paused."""
    SHORT = 1
    """Its file systems take no new data, which programs see as ENOSPC."""
    LOW = 2
    """It keeps little unwritten data."""
    AMPLE = 3


LIMITS_BYTES = {SpaceStage.FULL: 8 * MIB, SpaceStage.SHORT: 64 * MIB, SpaceStage.LOW: 1024 * MIB}
"""A stage begins when less than this is left, and ends when twice this is.

From SHORT on there is space for what the guest still writes into holes of its sparse files: bounded dirty data, and
a journal.
"""


def next_stage(left_bytes: int, *, before: SpaceStage) -> SpaceStage:
    """Return the stage that follows `before` when so many bytes are left."""
    for stage, limit_bytes in LIMITS_BYTES.items():
        if left_bytes < limit_bytes or (before <= stage and left_bytes < 2 * limit_bytes):
            return stage
    return SpaceStage.AMPLE


def require_space(directories: Iterable[Path], *, least_bytes: int = LIMITS_BYTES[SpaceStage.SHORT], what: str) -> None:
    """Raise NoSpace where less is left, since a guest would have its data refused as soon as it writes."""
    for directory in directories:
        left_bytes = free_bytes(directory)
        if left_bytes < least_bytes:
            raise NoSpace(
                f"the file system of {directory} has {left_bytes // MIB} MiB left, "
                f"and {what} needs {least_bytes // MIB} MiB",
                id="host.no-space",
                hint="free space there, or set KATA_DIND_STATE_DIR to a directory with more",
            )
