"""What a guest reports to its owner, in the words that all backends share. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Phase(NamedTuple):
    """A step of the start is over."""

    name: str
    message: str
    ended_seconds_ago: float = 0.0


class Kernel(NamedTuple):
    """Which kernel the guest runs."""

    version: str


class Problem(NamedTuple):
    """A problem that the sandbox runs on with, such as a full disk of the host, or the end of that problem."""

    message: str
    """Empty when the problem is over."""
    paused: bool = False
    """Whether the guest is paused."""
    solved: str = ""
    """The message for its end."""


class Usable(NamedTuple):
    """A guest that was restored or resumed has been renewed, so that clients may be let in."""

    changed: Mapping[str, Any]
    """The facts of the data root that have changed since dockerd was proven: `size_bytes`."""
    check_seconds: float | None = None
    """How long the guest took to check that its data root still works; None where it did not check."""


GuestEvent = Phase | Kernel | Problem | Usable
OnEvent = Callable[[GuestEvent], None]
