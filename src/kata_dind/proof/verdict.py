"""What a proof that passed has found. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """A proof that passed."""

    docker_version: str
    storage: str
    """Driver or snapshotter, with the backing file system where Docker tells it: `overlay2 on extfs`."""
    native_diff: bool | None
    seconds: float
    """How long it took; 0 for one of an earlier start, since there was no room to make it again."""
    file_capabilities: bool = True
    """Whether layers keep them; False only on a driver that was accepted as a fallback."""
