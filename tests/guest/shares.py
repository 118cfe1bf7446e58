"""Directories that are mounted once more with a FUSE server, as a Kata pod's containers see what they share."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def served(directory: Path, mount: Path) -> Iterator[None]:
    """Mount a directory with bindfs for the length of the block; the mount has a device number of its own."""
    mount.mkdir()
    server = subprocess.Popen(["bindfs", "-f", str(directory), str(mount)])
    try:
        wait_until(mount.is_mount, what=f"{mount} is mounted")
        yield
        # The mounts and the loop devices of a namespace that has ended, which use this one, end a moment later, which
        # is long on a busy machine.
        wait_until(functools.partial(succeeds, "umount", mount), what=f"{mount} is unmounted", timeout_seconds=60)
    finally:
        succeeds("umount", "--lazy", mount)  # a mount that stays would keep pytest from removing its directories
        try:
            assert server.wait(10) == 0
        except subprocess.TimeoutExpired:
            # Whoever has made a mount namespace meanwhile has a copy of the mount, and this machine has other users.
            server.kill()
            server.wait(10)


def succeeds(*argv: str | Path) -> bool:
    """Return whether a command succeeds."""
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def wait_until(condition: Callable[[], bool], *, what: str, timeout_seconds: float = 10) -> None:
    """Wait for something that happens soon."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
