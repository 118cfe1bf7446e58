"""Watching the space that the host has left for a guest's sparse disks, so that a full host breaks no file system.

As the space shrinks the guest is told to keep little unwritten data, then to refuse new data, and at last it is paused.
Everything is undone when there is space again. A disk of QEMU's own needs no watch for the last step, since QEMU pauses
the guest by itself (`werror=enospc`); but for a loop disk each write that virtiofsd can't do would be an I/O error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection
from pathlib import Path

from kata_dind.backend.events import OnEvent, Problem
from kata_dind.backend.vm.space import LIMITS_BYTES, MIB, SpaceStage, next_stage
from kata_dind.host.disks import free_bytes
from kata_dind.machine.machine import Machine
from kata_dind.wire.channel import ChannelClosed

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 5.0
"""A pause so soon after another one is the same write, refused again; a look may take a second on a slow host."""

_SHORTEST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 2.0, 30.0

_FILL_BYTES_PER_SECOND = 2 << 30
"""No guest is expected to write faster than this."""


def pause_seconds(left_bytes: int) -> float:
    """Return when to look again: before a guest can have used up what is left, and rarely where there is plenty."""
    spare_bytes = left_bytes - LIMITS_BYTES[SpaceStage.SHORT]
    return 0.2 if spare_bytes < 0 else min(max(spare_bytes / _FILL_BYTES_PER_SECOND, 0.05), 1.0)


class Retries:
    """When to unpause a guest that QEMU has paused: at once, then later and later while the write is refused.

    A host may refuse a write although statvfs shows free space, as with a quota, or on a btrfs without space for
    metadata. All times are of one clock, in seconds.
    """

    def __init__(self) -> None:
        self.wait_seconds = 0.0
        """How long the guest stays paused before the next attempt; 0 while its writes are not refused again."""
        self._paused_at: float | None = None
        self._unpaused_at = -AGAIN_SECONDS

    def is_due(self, now: float) -> bool:
        """Tell whether to unpause the guest, which is paused at this look."""
        if self._paused_at is None:
            self._paused_at = now
            again = now - self._unpaused_at < AGAIN_SECONDS
            self.wait_seconds = self._longer_seconds() if again else 0.0
        return now >= self._paused_at + self.wait_seconds

    def unpaused(self, now: float) -> None:
        """Take note that the guest was unpaused."""
        self._paused_at, self._unpaused_at = None, now

    def runs(self, now: float) -> None:
        """Take note that the guest is not paused at this look; after some seconds of that its writes succeed."""
        if now - self._unpaused_at >= AGAIN_SECONDS:
            self.wait_seconds = 0.0

    def _longer_seconds(self) -> float:
        return min(max(2 * self.wait_seconds, _SHORTEST_RETRY_SECONDS), _LONGEST_RETRY_SECONDS)


def describe_problem(stage: SpaceStage, directory: Path, left_bytes: int, *, refused: bool) -> str:
    """Return the message for a stage, empty for none; `refused` means that the host refuses the guest's writes."""
    left_mib = left_bytes // MIB
    if stage is SpaceStage.FULL:
        return f"the file system of {directory} is full; the guest is paused until there is space"
    if refused:
        return (
            f"the host has no space for the guest's writes, although the file system of {directory} shows {left_mib} "
            "MiB free, as with a quota; the guest is paused and tries again at least every "
            f"{_LONGEST_RETRY_SECONDS:g} s"
        )
    if stage is SpaceStage.SHORT:
        return (
            f"the file system of {directory} has {left_mib} MiB left; until there is more, "
            "the guest's writes fail with 'no space left on device'"
        )
    return ""


async def watch_space(machine: Machine, directories: Collection[Path], on_event: OnEvent) -> None:
    """Keep a machine within the host's space in the directories of its disks, and report each `Problem` and its end.

    The collection of directories may change meanwhile.
    """
    watch = _Watch(machine, directories, on_event)
    try:
        async with asyncio.TaskGroup() as tasks:
            while True:
                left_bytes = await watch.look(tasks)
                await asyncio.sleep(pause_seconds(left_bytes))
    except* OSError:  # a directory was removed: from here on only QEMU's own pause is left
        logger.exception("the host's space is not watched any more")


class _Watch:
    def __init__(self, machine: Machine, directories: Collection[Path], on_event: OnEvent) -> None:
        self._retries = Retries()
        self._machine = machine
        self._directories = directories
        self._on_event = on_event
        self.stage = SpaceStage.AMPLE

    @property
    def _refused(self) -> bool:
        return self._retries.wait_seconds > 0

    async def look(self, tasks: asyncio.TaskGroup) -> int:
        """Act on the space that is left, and return how much that is."""
        left_bytes, directory = min((free_bytes(directory), directory) for directory in self._directories)
        # QEMU pauses the guest by itself when a write meets a full disk between two looks.
        paused, before, now = self._machine.paused.is_set(), self.stage, time.monotonic()
        self.stage = next_stage(left_bytes, before=SpaceStage.FULL if paused else before)
        refused, unpauses = self._refused, False
        if self.stage is SpaceStage.FULL:
            self._retries = Retries()  # a full disk explains a refused write
        elif paused:
            unpauses = self._retries.is_due(now)
        else:
            self._retries.runs(now)
        if self.stage is not before or unpauses:
            logger.info("%s has %d MiB left: %s", directory, left_bytes // MIB, self.stage.name.lower())
            # Also before a pause: the guest finds the request when it runs again.
            tasks.create_task(self._tell_guest(time.time() if unpauses else None))
        if (min(self.stage, before) <= SpaceStage.SHORT and self.stage is not before) or self._refused is not refused:
            self._report(directory, left_bytes)
        if unpauses:
            self._retries.unpaused(now)
            await self._machine.unpause()
        elif self.stage is SpaceStage.FULL and not paused:
            await self._machine.pause()
        return left_bytes

    async def _tell_guest(self, clock: float | None) -> None:
        request = {
            "kind": "space",
            "bound": self.stage <= SpaceStage.LOW,
            "refuse": self.stage <= SpaceStage.SHORT,
            "time": clock,
        }
        with contextlib.suppress(ChannelClosed):  # the guest is gone, which is reported elsewhere
            answer = await self._machine.channel.open(request).wait_closed()
            logger.info("the guest's answer: %s", answer)

    def _report(self, directory: Path, left_bytes: int) -> None:
        problem = describe_problem(self.stage, directory, left_bytes, refused=self._refused)
        solved = f"the file system of {directory} has space again"
        self._on_event(Problem(problem, paused=self._refused or self.stage is SpaceStage.FULL, solved=solved))
