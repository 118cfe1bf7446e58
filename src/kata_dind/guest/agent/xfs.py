"""xfs and its reserve, free blocks that only its own bookkeeping gets. Source: xfs_io(8) and Linux's xfs_fs.h."""

from __future__ import annotations

import fcntl
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ALL_BLOCKS = 1 << 60
"""More blocks than there are: xfs reserves those that are free, and those that become free."""

_GET_RESBLKS, _SET_RESBLKS = 0x80105873, 0xC0105872
_RESBLKS = struct.Struct("QQ")  # how many are asked for, and how many of them are there


def opened(process: str) -> Iterator[tuple[str, int]]:
    """Open the root of each xfs that is mounted where a process sees it; yield its device's name and a descriptor.

    The process is its directory, `/proc/1` or so.
    """
    seen = set()
    try:
        with open(f"{process}/mountinfo", "rb") as table:
            rows = [line.split() for line in table]
    except OSError:  # the process has ended, and its mounts with it
        return
    for row in rows:
        kind, source = row[row.index(b"-") + 1 :][:2]
        name = os.path.basename(os.fsdecode(source))
        if kind != b"xfs" or name in seen:
            continue
        path = row[4].decode("unicode_escape").encode("latin-1")  # a space is \040 there
        try:
            # A mount point can be a file of any kind, also a FIFO, at which we would wait for a writer.
            root = os.open(os.fsencode(f"{process}/root") + path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # it lies below another mount, or was taken away
            continue
        try:
            major, minor = row[2].split(b":")
            if os.fstat(root).st_dev == os.makedev(
                int(major), int(minor)
            ):  # else another file system is mounted over it
                seen.add(name)
                yield name, root
        finally:
            os.close(root)


def reserved_blocks(root: int) -> int:
    """Return how many blocks a file system is to have in reserve."""
    wanted, _ = _RESBLKS.unpack(fcntl.ioctl(root, _GET_RESBLKS, bytes(_RESBLKS.size)))
    return int(wanted)


def reserve_blocks(root: int, count: int) -> bool:
    """Let a file system have so many blocks in reserve, as far as they are free; the reserve ends with the mount.

    Returns False for one that is read-only or broken, which takes no data anyway.
    """
    try:
        fcntl.ioctl(root, _SET_RESBLKS, _RESBLKS.pack(count, 0))
    except OSError:
        return False
    return True
