"""Keeping a guest from using up the descriptors that virtiofsd may have open.

virtiofsd has a descriptor open for each file that the guest's kernel knows, and the kernel forgets files only when it
needs their memory. So at its limit virtiofsd would answer `too many open files` for every further file, although hardly
any of those files is in use. Before it comes to that the guest is told to forget files that it does not use.
"""

from __future__ import annotations

import asyncio
import logging
import time

from kata_dind.host.descriptors import descriptor_limit, list_descriptors, told_descriptors
from kata_dind.machine.machine import Machine
from kata_dind.wire.channel import ChannelClosed

logger = logging.getLogger(__name__)

FILES_PER_SECOND = 20_000
"""No guest is expected to open files on a share faster than this."""

_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 5.0

_MEMORY_SECONDS = 60.0
"""How long the files that a guest had in use are taken to be still in use."""

# 2 drops dentries and inodes; 4 keeps the kernel from logging that. Source: fs/drop_caches.c.
_FORGET = {
    "kind": "exec",
    "where": "guest",
    "argv": ["sh", "-c", "echo 4 >/proc/sys/vm/drop_caches; echo 2 >/proc/sys/vm/drop_caches"],
}


def pause_seconds(count: int, limit: int) -> float:
    """Return when to look again: before a guest can have used up half of the descriptors that are left."""
    return min(max((limit - count) / 2 / FILES_PER_SECOND, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)


class Mark:
    """The number of descriptors beyond which the guest is to forget files. All times are of one clock, in seconds.

    That is half of the limit. After a guest has shown that it uses more, it is half of what is left then, for a minute,
    so that the guest is not asked again and again in vain.
    """

    def __init__(self) -> None:
        self._in_use = 0
        self._asked_at = -_MEMORY_SECONDS

    def is_passed(self, count: int, limit: int, now: float) -> bool:
        """Tell whether to ask the guest, with so many descriptors at this look."""
        in_use = self._in_use if now - self._asked_at < _MEMORY_SECONDS else 0
        return count > max(limit // 2, (in_use + limit) // 2)

    def asked(self, left: int, now: float) -> None:
        """Take note of how many are left after the guest has forgotten what it could."""
        self._in_use, self._asked_at = left, now


async def watch_descriptors(machine: Machine, virtiofsd_pid: int) -> None:
    """Keep the virtiofsd of a machine below its limit of descriptors, for as long as both run."""
    mark = Mark()
    try:
        while True:
            limit = descriptor_limit(virtiofsd_pid)  # which virtiofsd raises itself at its start
            count = await count_descriptors(virtiofsd_pid)
            if mark.is_passed(count, limit, time.monotonic()) and not machine.paused.is_set():
                before = count
                answer = await machine.channel.open(_FORGET).wait_closed()
                count = await count_descriptors(virtiofsd_pid)
                mark.asked(count, time.monotonic())
                logger.info("virtiofsd had %d of %d descriptors, and %d when the guest had forgotten files: %s",
                            before, limit, count, answer)  # fmt: skip
            await asyncio.sleep(pause_seconds(count, limit))
    except (OSError, ChannelClosed) as error:  # one of them has ended, or may not be looked at
        logger.info("virtiofsd's descriptors are not watched any more: %s", error)


async def count_descriptors(pid: int) -> int:
    """Return how many descriptors a process has. Raises OSError."""
    return told_descriptors(pid) or await asyncio.to_thread(list_descriptors, pid)
