"""A volume as users see it: its row of `volume ls`, and the facts of `volume inspect`."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kata_dind.store.volumes import Volume


@dataclass(frozen=True)
class VolumeSummary:
    """One row of `volume ls`."""

    name: str
    kind: str
    """Empty when neither the volume's own file nor its data tells the kind."""
    filesystem: str
    """ext4 or xfs; empty when the volume has no disk, or no disk yet."""
    size_bytes: int | None
    """How large the data root may become; None for a kind without a disk, or before its first start."""
    disk_bytes: int
    """How much of the host's disk the volume really takes."""
    used_by: list[str]
    """The names of the sandboxes, running or not, that have their data root on this volume."""
    in_use: bool
    """Whether a running sandbox, or a command, uses it now."""
    docker_version: str
    """The version of the Docker that wrote to the volume last."""
    storage: str


def summary_of(volume: Volume) -> VolumeSummary:
    """Return a volume's row of `volume ls`."""
    facts, kind = volume.facts, volume.find_kind()
    return VolumeSummary(
        name=volume.name,
        kind=kind or "",
        filesystem=volume.filesystem if kind else "",
        size_bytes=volume.size_bytes if kind else None,
        disk_bytes=_tree_bytes(volume.directory),
        used_by=volume.used_by(),
        in_use=volume.is_in_use,
        docker_version=str(facts.get("docker_version", "")),
        storage=str(facts.get("storage", "")),
    )


def inspect_volume(volume: Volume) -> dict[str, Any]:
    """Return all facts about a volume."""
    facts, summary = volume.facts, summary_of(volume)
    return {
        **asdict(summary),
        "last_used_by": facts.get("sandbox"),
        "created": facts.get("created_at"),
        "needs_check": volume.unclean.exists() and not summary.in_use,
        "directory": str(volume.directory),
    }


def _tree_bytes(directory: Path) -> int:
    """Return how much a directory and all below it really take on disk; a file with many names counts once."""
    total, seen, pending = 0, set(), [str(directory)]
    # Not os.walk, which recurses before Python 3.12: a guest may make its share as deep as it likes.
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # it may vanish meanwhile, or be closed to us
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(entry.path)
                    if (status.st_dev, status.st_ino) not in seen:
                        seen.add((status.st_dev, status.st_ino))
                        total += status.st_blocks * 512
    return total
