"""A control group with little memory, in which the kernel kills what wants more: a host that has run out of memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def memory_limit(mib: int) -> Iterator[Path]:
    """Make a group that may have so much memory; yield the file that takes the pids of those that belong to it."""
    base, limit = (_V1, "memory.limit_in_bytes") if _V1.is_dir() else (_V2, "memory.max")
    group = base / f"kata-dind-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / limit).write_text(str(mib << 20))
        if (swap := group / "memory.swap.max").exists():
            swap.write_text("0")
        yield group / "cgroup.procs"
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (base / "cgroup.procs").write_text(pid)
        group.rmdir()


def explain_no_limit() -> str | None:
    """Return why no such group can be made here."""
    try:
        with memory_limit(64):
            return None
    except OSError as error:
        return f"no control group for memory: {error}"
