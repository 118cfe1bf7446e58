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
    """How long the proof took; 0 when there was no space for it, and the verdict is that of an earlier start."""
    file_capabilities: bool = True
    """Whether layers keep file capabilities; False only on a driver that was accepted as a fallback."""
