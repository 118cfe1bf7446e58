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
    unsure: bool = False
    """Whether nobody can tell at the moment if the guest runs."""


class GivenUp(NamedTuple):
    """The backend has not answered for so long that the owner is to let go of a guest that outlives it."""

    message: str


class Usable(NamedTuple):
    """A guest that was restored or resumed has been renewed, so that clients may be let in."""

    changed: Mapping[str, Any]
    """The facts of the data root that have changed since dockerd was proven: `size_bytes`."""
    check_seconds: float | None = None
    """How long the guest took to check that its data root still works; None where it did not check."""
    publishes: bool = False
    """Whether its containers have published ports, which are to be reachable when the sandbox is ready."""


GuestEvent = Phase | Kernel | Problem | GivenUp | Usable
OnEvent = Callable[[GuestEvent], None]
