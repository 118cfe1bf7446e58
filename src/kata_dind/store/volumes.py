"""Named volumes: data roots that outlive their sandboxes, each used by one at a time. Host state only, no backend.

lock          held by the owner of the sandbox that uses the volume and by its processes that write it, or by a
              command that works on it
volume.json   kind, creation; sandbox, Docker and storage of the last passing verdict
data.img      the block kind's disk           data-root/   the share of the loop and virtiofs kinds
growth.undo   there while its disk grows
unclean       there while a guest uses it: found at a start, it demands a check of the data root
unproven      there until the first passing verdict: nobody would miss a volume whose first start failed
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kata_dind.dataroot.kinds import DATA_DISK, DATA_ROOT_SHARE, LOOP_FILE
from kata_dind.errors import DataRootBusy, ForeignData, HostError, LockBusy, ProcessError, SpecError
from kata_dind.host.directories import state_directory
from kata_dind.host.filesystems import (
    Outcome,
    check_filesystem,
    find_filesystem,
    find_size,
    grow_filesystem,
    mend_filesystem,
)
from kata_dind.host.json_files import read_json, write_json
from kata_dind.host.locks import is_locked_exclusively, locked
from kata_dind.host.rootlike import remove_tree
from kata_dind.store.sandboxes import Record, list_records
from kata_dind.vocabulary import DataRootKind

logger = logging.getLogger(__name__)

_REMOVED = ".removed-"

_LOCK_SECONDS = 1.0
"""A look at a lock, as by `volume ls`, holds it for a moment."""

_LETS_GO_SECONDS = 5.0
"""For the processes of an owner that was killed: they are told at once, and end within milliseconds on an idle host."""


@dataclass(frozen=True)
class VolumeSummary:
    """One row of `volume ls`."""

    name: str
    kind: str
    """Empty when neither its own file nor its data tells."""
    filesystem: str
    """ext4 or xfs; empty when there is none of its own, or none yet."""
    size_bytes: int | None
    """How large the data root may become; None for a kind without a disk, or before its first start."""
    disk_bytes: int
    """What it really takes on the host."""
    used_by: list[str]
    """The sandboxes, running or not, whose data root it is."""
    in_use: bool
    """Whether a running sandbox, or a command, holds it now."""
    docker_version: str
    """Of the Docker that wrote it last."""
    storage: str


@dataclass(frozen=True)
class Volume:
    """A named volume."""

    name: str
    directory: Path

    @property
    def kind(self) -> DataRootKind:
        """Its kind, for good. Raises HostError when neither the volume's own file nor its data tells."""
        kind = self._find_kind()
        if kind is None:
            raise HostError(
                f"the volume '{self.name}' cannot be used: {self.directory} holds no volume.json that says its kind",
                hint=f"touch {self.directory}/volume.json, if it is a volume with a data root in it",
            )
        return kind

    def _find_kind(self) -> DataRootKind | None:
        with contextlib.suppress(KeyError, ValueError):
            return DataRootKind(self.facts["kind"])
        share = self.directory / DATA_ROOT_SHARE
        signs = {
            DataRootKind.BLOCK: self.directory / DATA_DISK,
            DataRootKind.LOOP: share / LOOP_FILE,
            DataRootKind.VIRTIOFS: share,
        }
        if not (self.directory / "volume.json").exists():
            return None  # maybe somebody else's directory
        return next((kind for kind, sign in signs.items() if os.path.lexists(sign)), None)

    @property
    def facts(self) -> dict[str, Any]:
        """What `volume.json` says."""
        return read_json(self.directory / "volume.json")

    @property
    def disk(self) -> Path | None:
        """The file that holds its file system; None for the virtiofs kind, which has none of its own."""
        if self.kind is DataRootKind.VIRTIOFS:
            return None
        return self.directory / (DATA_DISK if self.kind is DataRootKind.BLOCK else Path(DATA_ROOT_SHARE, LOOP_FILE))

    @property
    def size_bytes(self) -> int | None:
        """How large its disk is; None when it has none, or none yet."""
        return find_size(self.disk) if self.disk else None

    @property
    def filesystem(self) -> str:
        """What its disk holds, ext4 or xfs; empty when it has none, or none yet."""
        found = None
        with contextlib.suppress(ForeignData):  # for who uses the volume to meet; the list tells of the others as well
            found = find_filesystem(self.disk) if self.disk else None
        return found.kind if found else ""

    @property
    def undo(self) -> Path:
        """What takes back a growth that was killed; not beside a loop disk, where the guest could put one."""
        return self.directory / "growth.undo"

    @property
    def unclean(self) -> Path:
        """A mark that is there while a guest uses the volume."""
        return self.directory / "unclean"

    @property
    def unproven(self) -> Path:
        """A mark that is there until the first passing verdict."""
        return self.directory / "unproven"

    def summary(self) -> VolumeSummary:
        """Return the volume's row of `volume ls`."""
        facts, kind = self.facts, self._find_kind()
        return VolumeSummary(
            name=self.name,
            kind=kind or "",
            filesystem=self.filesystem if kind else "",
            size_bytes=self.size_bytes if kind else None,
            disk_bytes=_tree_bytes(self.directory),
            used_by=self.used_by(),
            in_use=is_locked_exclusively(self.directory / "lock"),
            docker_version=str(facts.get("docker_version", "")),
            storage=str(facts.get("storage", "")),
        )

    def inspect(self) -> dict[str, Any]:
        """Return all that is known of the volume."""
        facts, summary = self.facts, self.summary()
        return {
            **asdict(summary),
            "last_used_by": facts.get("sandbox"),
            "created": facts.get("created_at"),
            "needs_check": self.unclean.exists() and not summary.in_use,
            "directory": str(self.directory),
        }

    def used_by(self) -> list[str]:
        """Return the names of the sandboxes, running or not, whose data root this is."""
        return [record.name for record in self._records()]

    def grow(self, size_bytes: int) -> None:
        """Let the disk of a volume that is held have at least a size, which is whole MiB; one that is larger keeps it.

        Raises DataRootError, NoSpace.
        """
        if self.disk is not None and os.path.lexists(self.disk):
            grow_filesystem(self.disk, size_bytes, undo=self.undo)

    def resize(self, size_bytes: int) -> None:
        """Grow a volume that no sandbox uses now; its file system follows, xfs at the next start.

        Raises SpecError for a smaller size or a kind without a disk, DataRootBusy, DataRootError, NoSpace.
        """
        with self._held_disk("resize") as disk:
            present = disk.lstat().st_size
            if size_bytes < present:
                raise SpecError(
                    f"SIZE: {size_bytes >> 20}M is less than the volume '{self.name}' has ({present >> 20}M); "
                    "a volume only grows"
                )
            grow_filesystem(disk, size_bytes, undo=self.undo)

    def fsck(self) -> Outcome:
        """Check the file system of a volume that no sandbox uses now, and repair what needs no choice.

        Raises SpecError for a kind without a file system of its own, DataRootBusy, DataRootError for a damaged one.
        """
        with self._held_disk("fsck") as disk:
            found = find_filesystem(disk)
            if found is not None and found.kind == "xfs" and self.unclean.exists():
                raise SpecError(
                    f"the volume '{self.name}' was not unmounted, and only a mount replays the log of its xfs",
                    hint=f"start and stop a sandbox with --volume {self.name}, then fsck",
                )
            outcome = check_filesystem(disk)
            self.unclean.unlink(missing_ok=True)
            return outcome

    def remove(self) -> None:
        """Delete the volume and all in it. Raises SpecError when a sandbox refers to it, DataRootBusy, HostError."""
        with _registry(), self._locked():
            self.require_unused()
            doomed = _set_aside(self.directory)
        if doomed.exists():  # the sweep could not, and has not said why
            remove_tree(doomed)

    def require_unused(self) -> None:
        """Raise SpecError when a sandbox, running or not, refers to the volume."""
        if users := self.used_by():
            raise SpecError(
                f"the volume '{self.name}' is used by the sandbox {', '.join(users)}",
                hint=f"kata-dind rm {' '.join(users)}",
            )

    def note_verdict(self, *, sandbox: str, docker_version: str, storage: str) -> None:
        """Remember what a passing verdict said; from the first on, the volume stays. Raises OSError on a full host."""
        self.unproven.unlink(missing_ok=True)  # first, for it needs no space
        # Name and kind as well: the file may have been unreadable.
        said = {"sandbox": sandbox, "docker_version": docker_version, "storage": storage}
        write_json(self.directory / "volume.json", {**self.facts, "name": self.name, "kind": str(self.kind), **said})

    @contextlib.contextmanager
    def held(self) -> Iterator[int]:
        """Use the volume for the length of the block; a growth that was killed is mended first.

        Yields the lock's descriptor: a process that inherits it holds the volume as well, and after us. Raises
        DataRootBusy, which names the sandbox that has it.
        """
        with contextlib.ExitStack() as stack:
            with _registry():
                descriptor = stack.enter_context(self._locked())
            self._mend()
            yield descriptor

    def _mend(self) -> None:
        if self.disk is not None:
            mend_filesystem(self.disk, undo=self.undo)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        patience = _LOCK_SECONDS if self._owned_by() else _LETS_GO_SECONDS
        with contextlib.ExitStack() as stack:
            try:
                descriptor = stack.enter_context(locked(self.directory / "lock", timeout_seconds=patience))
            except LockBusy as error:
                raise self._busy() from error
            yield descriptor

    def _owned_by(self) -> str:
        return next((record.name for record in self._records() if record.is_owned()), "")

    def _busy(self) -> DataRootBusy:
        if owner := self._owned_by():
            return DataRootBusy(
                f"the volume '{self.name}' is in use by the sandbox '{owner}'",
                hint=f"kata-dind stop {owner}, or use another volume",
            )
        return DataRootBusy(
            f"the volume '{self.name}' is in use by another command", hint="try again when that has ended"
        )

    @contextlib.contextmanager
    def _held_disk(self, verb: str) -> Iterator[Path]:
        if self.disk is None:
            raise SpecError(f"volume {verb}: '{self.name}' is of the kind {self.kind}, which has no disk of its own")
        with self.held():
            self._require_disk()
            yield self.disk

    def _require_disk(self) -> None:
        if self.disk is not None and not os.path.lexists(self.disk):
            raise HostError(
                f"the disk of the volume '{self.name}' is gone: there is no {self.disk}",
                hint=f"put it back, or kata-dind volume rm {self.name}",
            )

    def _records(self) -> list[Record]:
        return [record for record in list_records() if record.read("spec.json").get("volume") == self.name]


@contextlib.contextmanager
def hold_volume(name: str, *, asked: DataRootKind) -> Iterator[tuple[Volume, int]]:
    """Hold a volume for the length of the block; it is made, of the asked kind, when there is none.

    Yields the volume and its lock's descriptor, as `Volume.held` does. One that is made and has no passing verdict by
    the block's end goes with it. Raises SpecError when it is of another kind than asked, DataRootBusy, HostError when
    its disk is gone.
    """
    with contextlib.ExitStack() as stack:
        with _registry() as directory:
            volume = Volume(name, directory / name)
            if not volume.directory.exists():
                _make(volume, DataRootKind.BLOCK if asked is DataRootKind.AUTO else asked)
            elif asked not in (DataRootKind.AUTO, volume.kind):
                raise SpecError(
                    f"--data-root: '{asked}' is not the kind of the volume '{name}', which is {volume.kind}; "
                    "leave --data-root out"
                )
            descriptor = stack.enter_context(volume._locked())
        volume._mend()
        if not volume.unproven.exists():
            volume._require_disk()  # a new one in its place would look like a volume that has lost all its data
        try:
            yield volume, descriptor
        finally:
            if volume.unproven.exists():
                with _registry():
                    _set_aside(volume.directory)


def list_volumes() -> list[Volume]:
    """Return this user's volumes by name; what killed commands have left is swept."""
    directory = _volumes_directory()
    if _unmissed(directory) or _removed(directory):
        with _registry():
            pass
    return [Volume(path.parent.name, path.parent) for path in sorted(directory.glob("[!.]*/volume.json"))]


def require_volume(name: str) -> Volume:
    """Return a volume by its name. Raises SpecError for an unknown one, naming those that exist."""
    volumes = {volume.name: volume for volume in list_volumes()}
    if name not in volumes:
        known = ", ".join(volumes) or "none"
        raise SpecError(f"there is no volume '{name}' (there are: {known})", hint=f"kata-dind up --volume {name}")
    return volumes[name]


def find_volume_of(record: Record) -> Volume | None:
    """Return the volume that holds a sandbox's data root; None when that is the sandbox's own."""
    name = record.read("spec.json").get("volume")
    return Volume(name, _volumes_directory() / name) if name else None


def _volumes_directory() -> Path:
    directory = state_directory() / "volumes"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


@contextlib.contextmanager
def _registry() -> Iterator[Path]:
    """Keep names from coming and going for the length of the block, so that nobody waits for a lock that is removed.

    Yields the directory of the volumes, swept. What has no name any more is deleted after the block, when others may go
    on; what cannot be deleted stands in nobody's way.
    """
    directory = _volumes_directory()
    with locked(directory / ".lock", timeout_seconds=None):
        for path in _unmissed(directory):
            _set_aside(path)
        yield directory
        removed = _removed(directory)
    for path in removed:
        try:
            remove_tree(path)
        except (HostError, ProcessError) as error:
            logger.warning("%s\n%s", error.summary, error.details)


def _unmissed(directory: Path) -> list[Path]:
    """Return the volumes that have no passing verdict and are in no use: their first start was killed."""
    unproven = [mark.parent for mark in directory.glob("[!.]*/unproven")]
    return [path for path in unproven if not is_locked_exclusively(path / "lock")]


def _removed(directory: Path) -> list[Path]:
    return [*directory.glob(f"{_REMOVED}*")]


def _set_aside(directory: Path) -> Path:
    """Take a volume's name away; a removal that is killed half-way leaves no half volume under it."""
    return directory.rename(_nameless(directory))


def _nameless(directory: Path) -> Path:
    # Unlike any other: one of an earlier volume of that name may be there still.
    return directory.with_name(f"{_REMOVED}{directory.name}-{secrets.token_hex(4)}")


def _make(volume: Volume, kind: DataRootKind) -> None:
    # Under its name in one step, and before that as what is swept: a kill leaves nothing that looks like a volume.
    unfinished = _nameless(volume.directory)
    unfinished.mkdir(mode=0o700)
    (unfinished / "unproven").touch()
    write_json(unfinished / "volume.json", {"name": volume.name, "kind": str(kind), "created_at": time.time()})
    unfinished.rename(volume.directory)


def _tree_bytes(directory: Path) -> int:
    """Return what a directory and all below it really take on disk; a file of many names counts once."""
    total, seen, pending = 0, set(), [str(directory)]
    # Not os.walk, which recurses before Python 3.12: a guest may make its share as deep as it likes.
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # it may vanish meanwhile, and be closed to us
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(entry.path)
                    if (status.st_dev, status.st_ino) not in seen:
                        seen.add((status.st_dev, status.st_ino))
                        total += status.st_blocks * 512
    return total
