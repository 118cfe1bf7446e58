"""Watching what the host has left for a guest's sparse disks, so that a full host costs nobody a file system.

As the host's space shrinks the guest is told to have little in flight, then to take no new data, and at last it is
paused. Everything is undone when there is room again. The last step needs no watching where the disk is QEMU's own
(`werror=enospc`), but a loop disk's file system would get an I/O error for each write that virtiofsd can't do.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from collections.abc import Iterable
from pathlib import Path

from kata_dind.backend import OnEvent
from kata_dind.errors import NoSpace
from kata_dind.host.channel import ChannelClosed
from kata_dind.host.disks import free_bytes
from kata_dind.machine.machine import Machine

logger = logging.getLogger(__name__)

MIB = 1 << 20


class Room(enum.IntEnum):
    """How much room the host has; each stage includes what the ones above it do."""

    FULL = 0
    """The guest is paused."""
    SHORT = 1
    """Its ext4 file systems take no new data, which programs see as ENOSPC."""
    LOW = 2
    """It keeps little unwritten data."""
    AMPLE = 3


LIMITS_BYTES = {Room.FULL: 8 * MIB, Room.SHORT: 64 * MIB, Room.LOW: 512 * MIB}
"""A stage begins when less than this is left, and ends when twice this is.

SHORT leaves room for what ext4 still writes where the host's file has holes: bounded dirty data, and its journal.
"""

_FILL_BYTES_PER_SECOND = 2 << 30
"""No guest is expected to write faster than this."""


def next_room(left_bytes: int, *, before: Room) -> Room:
    """Return the room that there is now."""
    for room, limit_bytes in LIMITS_BYTES.items():
        if left_bytes < limit_bytes or (before <= room and left_bytes < 2 * limit_bytes):
            return room
    return Room.AMPLE


def pause_seconds(left_bytes: int) -> float:
    """Return when to look again: before a guest can have used up what is left, and rarely where there is plenty."""
    spare_bytes = left_bytes - LIMITS_BYTES[Room.SHORT]
    return 0.2 if spare_bytes < 0 else min(max(spare_bytes / _FILL_BYTES_PER_SECOND, 0.05), 1.0)


def require_room(directories: Iterable[Path]) -> None:
    """Raise NoSpace where a guest would be held as soon as it writes."""
    for directory in directories:
        left_bytes = free_bytes(directory)
        if left_bytes < LIMITS_BYTES[Room.SHORT]:
            raise NoSpace(
                f"the file system of {directory} has {left_bytes // MIB} MiB left, "
                f"and a guest needs {LIMITS_BYTES[Room.SHORT] // MIB} MiB",
                hint="free space there, or set KATA_DIND_STATE_DIR to a directory with more",
            )


async def watch_space(machine: Machine, directories: Iterable[Path], on_event: OnEvent) -> None:
    """Keep a machine within what the host has for the disks in some directories; reports `problem` events.

    A problem's `message` is None when it is over, and `paused` tells whether the guest stands still.
    """
    watch = _Watch(machine, list(directories), on_event)
    try:
        async with asyncio.TaskGroup() as tasks:
            while True:
                left_bytes = await watch.look(tasks)
                await asyncio.sleep(pause_seconds(left_bytes))
    except* OSError:  # a directory was taken away: from here on QEMU's own pause is what there is
        logger.exception("the host's space is not watched any more")


class _Watch:
    def __init__(self, machine: Machine, directories: list[Path], on_event: OnEvent) -> None:
        self._machine = machine
        self._directories = directories
        self._on_event = on_event
        self.room = Room.AMPLE

    async def look(self, tasks: asyncio.TaskGroup) -> int:
        """Act on what is left, and return it."""
        left_bytes, directory = min((free_bytes(directory), directory) for directory in self._directories)
        # QEMU pauses the guest by itself when a write meets a full disk between two looks.
        paused, before = self._machine.paused.is_set(), self.room
        self.room = next_room(left_bytes, before=Room.FULL if paused else before)
        resumes = paused and self.room is not Room.FULL
        if self.room is not before or resumes:
            logger.info("%s has %d MiB left: %s", directory, left_bytes // MIB, self.room.name.lower())
            # Also before a pause: it is what the guest finds when it goes on.
            tasks.create_task(self._tell_guest(time.time() if resumes else None))
        if min(self.room, before) <= Room.SHORT and self.room is not before:
            self._report(directory, left_bytes)
        if resumes:
            await self._machine.resume()
        elif self.room is Room.FULL and not paused:
            await self._machine.pause()
        return left_bytes

    async def _tell_guest(self, clock: float | None) -> None:
        request = {"kind": "space", "bound": self.room <= Room.LOW, "hold": self.room <= Room.SHORT, "time": clock}
        with contextlib.suppress(ChannelClosed):  # the guest is gone, which is told elsewhere
            answer = await self._machine.channel.open(request).wait_closed()
            logger.info("the guest's answer: %s", answer)

    def _report(self, directory: Path, left_bytes: int) -> None:
        problem = {
            Room.FULL: f"the file system of {directory} is full; the guest is paused until there is room",
            Room.SHORT: f"the file system of {directory} has {left_bytes // MIB} MiB left; until there is more, "
            "the guest's writes fail with 'no space left on device'",
        }
        self._on_event(
            {
                "event": "problem",
                "message": problem.get(self.room),
                "paused": self.room is Room.FULL,
                "healed": f"the file system of {directory} has room again",
            }
        )
