"""Who has a file of this host open."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path


def is_open(path: Path) -> bool:
    """Tell whether a process or a loop device has a file open; raises OSError when it can't be opened.

    The kernel gives the lease of a file only to its sole user: F_SETLEASE in fcntl(2). Where the file system has no
    leases, as on a network, the answer is False.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # The kernel signals us that somebody opens the file meanwhile: by SIGIO, which would end us, or what we choose.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def users_of(path: Path) -> Iterator[str]:
    """Yield the processes that have a file open, or a loop device on it, by their programs' names and ids."""
    status, loops = path.stat(), [*_loops_on(path)]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.path.samestat(status, each) or each.st_rdev in loops for each in _opened(process)):
                yield f"{(process / 'comm').read_text().strip()} (process {process.name})"
        except OSError:  # it has ended, or is another user's
            continue


def _opened(process: Path) -> Iterator[os.stat_result]:
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            yield descriptor.stat()


def _loops_on(path: Path) -> Iterator[int]:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if backing.read_text().rstrip("\n") == str(path):
                major, minor = (backing.parents[1] / "dev").read_text().split(":")
                yield os.makedev(int(major), int(minor))
        except OSError:  # it was detached meanwhile
            continue
