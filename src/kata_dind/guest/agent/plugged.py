"""Devices that a clone is given while it runs: they can be used a moment after the host has plugged them in."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .loop import Loop
    from .spawn import Child

ARRIVAL_SECONDS = 20.0
"""How long the kernel may take to find a device: 0.1 s, or seconds in an emulated guest on a busy host."""

_PAUSE_SECONDS = 0.02


class Step:
    """`arrive` raises OSError until the device is there; `act` starts the child that makes use of it, if one must."""

    def __init__(self, name: str, arrive: Callable[[], None], act: Callable[[], Child] | None = None) -> None:
        self.name = name
        self.arrive = arrive
        self.act = act


def run_step(loop: Loop, step: Step, *, on_end: Callable[[str], None]) -> None:
    """Take a step without holding up the loop; `on_end` is told what went wrong, or an empty string."""
    deadline = time.monotonic() + ARRIVAL_SECONDS

    def try_to_arrive() -> None:
        try:
            step.arrive()
        except OSError as error:
            if time.monotonic() < deadline:
                return loop.after(_PAUSE_SECONDS, try_to_arrive)
            return on_end(str(error.strerror))
        if step.act is None:
            return on_end("")
        child = step.act()
        return loop.when_child_ends(child.pid, lambda code: on_end(_end_of(child, code)))

    try_to_arrive()


def _end_of(child: Child, code: int) -> str:
    """Return what a child that has failed said, empty for one that has not, and close its descriptors."""
    said = os.read(child.stderr, 4096).decode(errors="replace").strip() if code else ""
    for fd in (child.stdin, child.stdout, child.stderr):
        os.close(fd)
    return said or (f"exit {code}" if code else "")
