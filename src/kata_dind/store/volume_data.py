"""The content of a volume's directory: its kind, its disk, its facts; and the operations on the disk.

volume.json   kind, creation; sandbox, Docker and storage of the last passing verdict
data.img      the block kind's disk           data-root/   the share of the loop and virtiofs kinds
growth.undo   there while the disk grows
unclean       there while a guest uses the volume: a start that finds it must check the data root
unproven      there until the first passing verdict: a volume whose first start failed is swept
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_dind.dataroot.kinds import DATA_DISK, DATA_ROOT_SHARE, LOOP_FILE
from kata_dind.errors import ForeignData, HostError, SpecError
from kata_dind.host.filesystems import (
    Outcome,
    check_filesystem,
    find_filesystem,
    find_size,
    grow_filesystem,
    mend_filesystem,
)
from kata_dind.host.json_files import read_json, write_json
from kata_dind.vocabulary import DataRootKind

FACTS = "volume.json"
UNPROVEN = "unproven"


def write_new(directory: Path, *, name: str, kind: DataRootKind) -> None:
    """Make an empty directory a volume."""
    (directory / UNPROVEN).touch()
    write_json(directory / FACTS, {"name": name, "kind": str(kind), "created_at": time.time()})


@dataclass(frozen=True)
class VolumeData:
    """The directory of a named volume."""

    name: str
    directory: Path

    @property
    def facts(self) -> dict[str, Any]:
        """The content of `volume.json`."""
        return read_json(self.directory / FACTS)

    @property
    def kind(self) -> DataRootKind:
        """The kind, which never changes. Raises HostError when neither the volume's own file nor its data tells it."""
        kind = self.find_kind()
        if kind is None:
            raise HostError(
                f"the volume '{self.name}' cannot be used: {self.directory} has no volume.json that says its kind",
                id="volume.kind-unknown",
                hint=f"touch {self.directory}/volume.json, if the directory is a volume with a data root in it",
            )
        return kind

    def find_kind(self) -> DataRootKind | None:
        """Return the kind; None when neither the volume's own file nor its data tells it."""
        with contextlib.suppress(KeyError, ValueError):
            return DataRootKind(self.facts["kind"])
        share = self.directory / DATA_ROOT_SHARE
        signs = {
            DataRootKind.BLOCK: self.directory / DATA_DISK,
            DataRootKind.LOOP: share / LOOP_FILE,
            DataRootKind.VIRTIOFS: share,
        }
        if not (self.directory / FACTS).exists():
            return None  # the directory may be another program's
        return next((kind for kind, sign in signs.items() if os.path.lexists(sign)), None)

    @property
    def disk(self) -> Path | None:
        """The file with the volume's file system; None for the virtiofs kind, which has no disk of its own."""
        if self.kind is DataRootKind.VIRTIOFS:
            return None
        return self.directory / (DATA_DISK if self.kind is DataRootKind.BLOCK else Path(DATA_ROOT_SHARE, LOOP_FILE))

    @property
    def size_bytes(self) -> int | None:
        """The size of the disk; None when the volume has no disk, or no disk yet."""
        return find_size(self.disk) if self.disk else None

    @property
    def filesystem(self) -> str:
        """The file system of the disk, ext4 or xfs; empty when the volume has no disk, or no disk yet."""
        found = None
        with contextlib.suppress(
            ForeignData
        ):  # a list must show the other volumes all the same; a use of this one raises it
            found = find_filesystem(self.disk) if self.disk else None
        return found.kind if found else ""

    @property
    def undo(self) -> Path:
        """The file with which a killed growth is taken back; not beside a loop disk, where the guest could put one."""
        return self.directory / "growth.undo"

    @property
    def unclean(self) -> Path:
        """A mark that is there while a guest uses the volume."""
        return self.directory / "unclean"

    @property
    def unproven(self) -> Path:
        """A mark that is there until the first passing verdict."""
        return self.directory / UNPROVEN

    # --- for the one user of the volume

    def note_verdict(self, *, sandbox: str, docker_version: str, storage: str) -> None:
        """Note the facts of a passing verdict; after the first one, the volume stays. Raises OSError on a full host."""
        self.unproven.unlink(missing_ok=True)  # first, since it needs no space
        # Name and kind as well: the file may have been unreadable.
        said = {"sandbox": sandbox, "docker_version": docker_version, "storage": storage}
        write_json(self.directory / FACTS, {**self.facts, "name": self.name, "kind": str(self.kind), **said})

    def mend(self) -> None:
        """Take back a growth of the disk that was killed."""
        if self.disk is not None:
            mend_filesystem(self.disk, undo=self.undo)

    def grow(self, size_bytes: int) -> None:
        """Grow the disk to a size in whole MiB; a disk that is larger stays as it is.

        Raises DataRootError, NoSpace.
        """
        if self.disk is not None and os.path.lexists(self.disk):
            grow_filesystem(self.disk, size_bytes, undo=self.undo)

    def grow_to(self, size_bytes: int) -> None:
        """Grow the disk to a size. Raises SpecError when the disk is larger, and errors as `grow` does."""
        present = self.require_disk().lstat().st_size
        if size_bytes < present:
            raise SpecError(
                f"SIZE: {size_bytes >> 20}M is less than the volume '{self.name}' has ({present >> 20}M); "
                "a volume only grows",
                id="volume.shrinking",
            )
        self.grow(size_bytes)

    def check(self) -> Outcome:
        """Check the disk's file system. Raises SpecError for an xfs that must be mounted first, DataRootError."""
        disk = self.require_disk()
        found = find_filesystem(disk)
        if found is not None and found.kind == "xfs" and self.unclean.exists():
            raise SpecError(
                f"the volume '{self.name}' was not unmounted, and only a mount replays the log of its xfs",
                id="volume.not-unmounted",
                hint=f"start and stop a sandbox with --volume {self.name}, then fsck",
            )
        outcome = check_filesystem(disk)
        self.unclean.unlink(missing_ok=True)
        return outcome

    def require_place_of_disk(self) -> Path:
        """Return where the disk lies. Raises SpecError for a kind without a disk."""
        if self.disk is None:
            raise SpecError(
                f"the volume '{self.name}' is of the kind {self.kind}, which has no disk of its own",
                id="volume.without-disk",
            )
        return self.disk

    def require_disk(self) -> Path:
        """Return the disk. Raises SpecError for a kind without a disk, HostError when the disk is gone."""
        disk = self.require_place_of_disk()
        if not os.path.lexists(disk):
            raise HostError(
                f"the disk of the volume '{self.name}' is gone: there is no {disk}",
                id="volume.disk-gone",
                hint=f"put it back, or kata-dind volume rm {self.name}",
            )
        return disk
