"""The result of a proof that passed. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """A proof that passed."""

    docker_version: str
    storage: str
    """Driver or snapshotter, with the backing file system where Docker names it: `overlay2 on extfs`."""
    native_diff: bool | None
    seconds: float
    """How long it took; 0 for that of an earlier start, which stands when there is no space to make the proof again."""
    file_capabilities: bool = True
    """Whether layers keep file capabilities; False only on a driver that was accepted as a fallback."""
