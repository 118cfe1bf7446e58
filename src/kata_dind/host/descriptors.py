"""How many descriptors a process has open, and how many it may have. Source: proc_pid_fd(5)."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path


def descriptor_limit(pid: int) -> int:
    """Return how many descriptors a process may have at the moment. Raises OSError."""
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]


def raise_descriptor_limit() -> int:
    """Let this process have as many descriptors as it may allow itself, and return how many these are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else sys.maxsize


def told_descriptors(pid: int) -> int:
    """Return how many there are by the size of their directory, which Linux gives since 6.2; else 0. Raises OSError."""
    return Path(f"/proc/{pid}/fd").stat().st_size


def list_descriptors(pid: int) -> int:
    """Return how many there are by reading the directory: a millisecond per thousand. Raises OSError."""
    with os.scandir(f"/proc/{pid}/fd") as entries:
        return sum(1 for _ in entries)
