"""A containerd that does not answer: when users are told, how often it is asked, and when its pods are let go of. Pure.

Its pods run on without it, and nobody reaches them until it is back.
"""

from __future__ import annotations

from kata_dind.backend.events import GivenUp, Problem

UNSURE_SECONDS = 10.0
"""containerd is started again in less; what happens to a pod in a longer time is not known."""
GIVE_UP_SECONDS = 24 * 3600.0
"""A containerd that is repaired or updated is back by then; a later one is served again by `start`."""
LONGEST_PAUSE_SECONDS = 30.0


class Silence:
    """How long containerd has been silent."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._is_unsure = False

    def is_over(self) -> Problem | None:
        """Take note of an answer; return what is to be said about it."""
        was_silent, self._since, self._is_unsure = self._since is not None, None, False
        return Problem("", solved="containerd answers again") if was_silent else None

    def goes_on(self, now: float, why: str) -> Problem | GivenUp | None:
        """Take note that there was no answer; return what is to be said about it."""
        is_first, self._since = self._since is None, now if self._since is None else self._since
        silent = now - self._since
        if silent >= GIVE_UP_SECONDS:
            return GivenUp("containerd has not answered for a day, so that nobody waits for it any more")
        is_unsure = silent >= UNSURE_SECONDS
        if not is_first and is_unsure == self._is_unsure:
            return None
        self._is_unsure = is_unsure
        return Problem(f"containerd does not answer, while the pod may run on: {why}", unsure=is_unsure)

    def pause_seconds(self, now: float, otherwise: float) -> float:
        """Return how long to wait before containerd is asked again: longer and longer while it is silent."""
        silent = now - self._since if self._since is not None else 0.0
        return min(max(otherwise, silent / 4), LONGEST_PAUSE_SECONDS)
