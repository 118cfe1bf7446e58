"""Watching what the host has left for a guest's sparse disks, so that a full host costs nobody a file system.

As the host's space shrinks the guest is told to have little in flight, then to take no new data, and at last it is
paused. Everything is undone when there is room again. The last step needs no watching where the disk is QEMU's own
(`werror=enospc`), but a loop disk's file system would get an I/O error for each write that virtiofsd can't do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection
from pathlib import Path

from kata_dind.backend import OnEvent, Problem
from kata_dind.backend.vm.space import LIMITS_BYTES, MIB, Room, next_room
from kata_dind.host.disks import free_bytes
from kata_dind.machine.machine import Machine
from kata_dind.wire.channel import ChannelClosed

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 5.0
"""A pause so soon after the guest went on is the same write, refused again; on a slow host a look may take a second."""

_SHORTEST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 2.0, 30.0

_FILL_BYTES_PER_SECOND = 2 << 30
"""No guest is expected to write faster than this."""


def pause_seconds(left_bytes: int) -> float:
    """Return when to look again: before a guest can have used up what is left, and rarely where there is plenty."""
    spare_bytes = left_bytes - LIMITS_BYTES[Room.SHORT]
    return 0.2 if spare_bytes < 0 else min(max(spare_bytes / _FILL_BYTES_PER_SECOND, 0.05), 1.0)


class Retries:
    """When a guest that QEMU has paused goes on: at once, but later and later while its write is refused again.

    A host may refuse a write although statvfs shows room: a quota, or btrfs without space for metadata. All times are
    of one clock, in seconds.
    """

    def __init__(self) -> None:
        self.wait_seconds = 0.0
        """How long the guest stands still before the next attempt; 0 while its writes are not refused again."""
        self._paused_at: float | None = None
        self._resumed_at = -AGAIN_SECONDS

    def is_due(self, now: float) -> bool:
        """Tell whether to let the guest go on, which is paused at this look."""
        if self._paused_at is None:
            self._paused_at = now
            again = now - self._resumed_at < AGAIN_SECONDS
            self.wait_seconds = self._longer_seconds() if again else 0.0
        return now >= self._paused_at + self.wait_seconds

    def resumed(self, now: float) -> None:
        """Take note that the guest goes on."""
        self._paused_at, self._resumed_at = None, now

    def goes_on(self, now: float) -> None:
        """Take note that the guest is not paused at this look; some seconds of that mean that its writes succeed."""
        if now - self._resumed_at >= AGAIN_SECONDS:
            self.wait_seconds = 0.0

    def _longer_seconds(self) -> float:
        return min(max(2 * self.wait_seconds, _SHORTEST_RETRY_SECONDS), _LONGEST_RETRY_SECONDS)


def describe_problem(room: Room, directory: Path, left_bytes: int, *, refused: bool) -> str:
    """Say what a guest lives with, empty for nothing; `refused` are writes that the host has no space for."""
    left_mib = left_bytes // MIB
    if room is Room.FULL:
        return f"the file system of {directory} is full; the guest is paused until there is room"
    if refused:
        return (
            f"the host has no space for the guest's writes, although the file system of {directory} shows {left_mib} "
            "MiB free, as with a quota; the guest is paused and tries again at least every "
            f"{_LONGEST_RETRY_SECONDS:g} s"
        )
    if room is Room.SHORT:
        return (
            f"the file system of {directory} has {left_mib} MiB left; until there is more, "
            "the guest's writes fail with 'no space left on device'"
        )
    return ""


async def watch_space(machine: Machine, directories: Collection[Path], on_event: OnEvent) -> None:
    """Keep a machine within what the host has for the disks in some directories; reports a `Problem` when that changes.

    The collection may change meanwhile.
    """
    watch = _Watch(machine, directories, on_event)
    try:
        async with asyncio.TaskGroup() as tasks:
            while True:
                left_bytes = await watch.look(tasks)
                await asyncio.sleep(pause_seconds(left_bytes))
    except* OSError:  # a directory was taken away: from here on QEMU's own pause is what there is
        logger.exception("the host's space is not watched any more")


class _Watch:
    def __init__(self, machine: Machine, directories: Collection[Path], on_event: OnEvent) -> None:
        self._retries = Retries()
        self._machine = machine
        self._directories = directories
        self._on_event = on_event
        self.room = Room.AMPLE

    @property
    def _refused(self) -> bool:
        return self._retries.wait_seconds > 0

    async def look(self, tasks: asyncio.TaskGroup) -> int:
        """Act on what is left, and return it."""
        left_bytes, directory = min((free_bytes(directory), directory) for directory in self._directories)
        # QEMU pauses the guest by itself when a write meets a full disk between two looks.
        paused, before, now = self._machine.paused.is_set(), self.room, time.monotonic()
        self.room = next_room(left_bytes, before=Room.FULL if paused else before)
        refused, resumes = self._refused, False
        if self.room is Room.FULL:
            self._retries = Retries()  # a refused write needs no other reason
        elif paused:
            resumes = self._retries.is_due(now)
        else:
            self._retries.goes_on(now)
        if self.room is not before or resumes:
            logger.info("%s has %d MiB left: %s", directory, left_bytes // MIB, self.room.name.lower())
            # Also before a pause: it is what the guest finds when it goes on.
            tasks.create_task(self._tell_guest(time.time() if resumes else None))
        if (min(self.room, before) <= Room.SHORT and self.room is not before) or self._refused is not refused:
            self._report(directory, left_bytes)
        if resumes:
            self._retries.resumed(now)
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
        problem = describe_problem(self.room, directory, left_bytes, refused=self._refused)
        solved = f"the file system of {directory} has room again"
        self._on_event(Problem(problem, paused=self._refused or self.room is Room.FULL, solved=solved))
