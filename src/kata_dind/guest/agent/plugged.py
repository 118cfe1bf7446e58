"""The shares of a restored guest: their device is plugged into the running machine, and its container runs already."""

from __future__ import annotations

import os
import time

from . import container, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .loop import Loop

DEVICE_SECONDS = 20.0
"""How long the kernel may take to find the device: 0.1 s, or seconds in an emulated guest on a busy host."""

_PAUSE_SECONDS = 0.02


def attach_shares(loop: Loop, pid: int, shares: Sequence[str], *, on_end: Callable[[str], None]) -> None:
    """Attach shares to the container with a process id once their device is there, without holding up the loop.

    `on_end` is told what went wrong, or an empty string. It is never called before this returns.
    """
    deadline = time.monotonic() + DEVICE_SECONDS

    def mount() -> None:
        try:
            container.mount_shared()
        except OSError as error:
            if time.monotonic() < deadline:
                return loop.after(_PAUSE_SECONDS, mount)
            return on_end(f"the shares could not be mounted: {error.strerror}")
        child = container.attach_shares(pid, shares)
        return loop.when_child_ends(child.pid, lambda code: on_end(_end_of(child, code)))

    loop.after(0, mount)


def _end_of(child: spawn.Child, code: int) -> str:
    """Return why a child that has ended failed, empty when it did not; let go of its descriptors."""
    said = os.read(child.stderr, 4096) if code else b""
    for fd in (child.stdin, child.stdout, child.stderr):
        os.close(fd)
    return f"a share could not be attached: {said.decode(errors='replace').strip()}" if code else ""
