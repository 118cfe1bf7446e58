"""Keeping a guest from using up what virtiofsd may have open.

virtiofsd holds a descriptor for each file that the guest's kernel knows, and the kernel forgets files only when it
needs their memory. So beyond the limit every further file would be `too many open files`, although hardly any of
those files is in use. Before it comes to that the guest is told to forget what it does not use.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from pathlib import Path

from kata_dind.host.channel import ChannelClosed
from kata_dind.machine.machine import Machine

logger = logging.getLogger(__name__)

_FILES_PER_SECOND = 20_000
"""No guest is expected to open files on a share faster than this."""

_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 5.0

# Dentries and inodes, 2; 4 is for no line in the kernel's log from here on. Source: fs/drop_caches.c.
_FORGET = {
    "kind": "exec",
    "where": "guest",
    "argv": ["sh", "-c", "echo 4 >/proc/sys/vm/drop_caches; echo 2 >/proc/sys/vm/drop_caches"],
}


def pause_seconds(count: int, limit: int) -> float:
    """Return when to look again: before a guest can have used up half of what is left of a process's descriptors."""
    return min(max((limit - count) / 2 / _FILES_PER_SECOND, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)


def next_mark(count: int, limit: int) -> int:
    """Return at how many descriptors the guest is to forget again, when it has so many files in use.

    That is half of the limit; for a guest that uses more, half of what is left, so that it is not asked in vain.
    """
    return max(limit // 2, (count + limit) // 2)


async def watch_descriptors(machine: Machine, virtiofsd_pid: int) -> None:
    """Keep the virtiofsd of a machine below its limit of descriptors, for as long as both run."""
    mark = 0
    try:
        while True:
            limit, _ = resource.prlimit(virtiofsd_pid, resource.RLIMIT_NOFILE)  # which it raises itself at its start
            mark, count = max(mark, limit // 2), count_descriptors(virtiofsd_pid)
            if count >= mark and not machine.paused.is_set():
                answer = await machine.channel.open(_FORGET).wait_closed()
                left = count_descriptors(virtiofsd_pid)
                logger.info("virtiofsd had %d of %d descriptors, now %d; the guest's answer: %s",
                            count, limit, left, answer)  # fmt: skip
                mark = next_mark(left, limit)
            await asyncio.sleep(pause_seconds(count, limit))
    except (OSError, ChannelClosed) as error:  # one of them has ended, or may not be looked at
        logger.info("virtiofsd's descriptors are not watched any more: %s", error)


def count_descriptors(pid: int) -> int:
    """Return how many descriptors a process has. Raises OSError."""
    directory = Path(f"/proc/{pid}/fd")
    # The size tells since Linux 6.2; reading takes a millisecond per thousand, without a path each.
    return directory.stat().st_size or len(os.listdir(directory))  # noqa: PTH208
