"""Named volumes: data roots that outlive their sandboxes, each used by one at a time. Host state only, no backend.

A volume is in use while the lock in its directory is taken: by the owner of the sandbox that uses the volume and the
owner's processes that write to it, or by a command that works on it. `volume_data.py` describes the directory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from kata_dind.errors import DataRootBusy, SpecError
from kata_dind.host.directories import make_private, state_directory
from kata_dind.host.filesystems import Outcome
from kata_dind.host.locks import is_locked_exclusively
from kata_dind.store.sandboxes import Record, list_records
from kata_dind.store.shelf import ErrorIds, Shelf, set_aside, used_alone
from kata_dind.store.volume_data import FACTS, UNPROVEN, VolumeData, write_new
from kata_dind.store.volume_view import VolumeSummary, inspect_volume, summary_of
from kata_dind.vocabulary import DataRootKind

_LOCK_SECONDS = 1.0
"""A process that only looks at a lock, as `volume ls` does, has it for a moment."""

_LETS_GO_SECONDS = 5.0
"""For the processes of a killed owner: they get a signal at once, and end within milliseconds on an idle host."""


class Volume(VolumeData):
    """A named volume."""

    def summary(self) -> VolumeSummary:
        """Return the volume's row of `volume ls`."""
        return summary_of(self)

    def inspect(self) -> dict[str, Any]:
        """Return all facts about the volume."""
        return inspect_volume(self)

    @property
    def is_in_use(self) -> bool:
        """Whether a running sandbox, or a command, uses it now."""
        return is_locked_exclusively(self.directory / "lock")

    def used_by(self) -> list[str]:
        """Return the names of the sandboxes, running or not, that have their data root on this volume."""
        return [record.name for record in self._users()]

    def require_unused(self) -> None:
        """Raise SpecError when a sandbox, running or not, refers to the volume."""
        _shelf().require_unused(self.name, self.used_by())

    @contextlib.contextmanager
    def used(self) -> Iterator[int]:
        """Use the volume for the length of the block; a growth that was killed is taken back first.

        Yields the lock's descriptor: a process that inherits it uses the volume as well, and still does after us.
        Raises DataRootBusy, which names the sandbox that uses the volume.
        """
        with contextlib.ExitStack() as stack:
            with _shelf().changing():
                descriptor = stack.enter_context(self._locked())
            self.mend()
            yield descriptor

    def resize(self, size_bytes: int) -> None:
        """Grow a volume that no sandbox uses now; its file system follows, xfs at the next start.

        Raises SpecError for a smaller size or a kind without a disk, DataRootBusy, DataRootError, NoSpace.
        """
        self.require_place_of_disk()
        with self.used():
            self.grow_to(size_bytes)

    def fsck(self) -> Outcome:
        """Check the file system of a volume that no sandbox uses now, and repair what can be repaired without a choice.

        Raises SpecError for a kind without a disk, DataRootBusy, DataRootError for a damaged file system.
        """
        self.require_place_of_disk()
        with self.used():
            return self.check()

    def remove(self) -> None:
        """Delete the volume and all in it. Raises SpecError when a sandbox refers to it, DataRootBusy, HostError."""
        with _shelf().removing(self.name), self._locked():
            self.require_unused()

    def _locked(self) -> contextlib.AbstractContextManager[int]:
        patience = _LOCK_SECONDS if self._owned_by() else _LETS_GO_SECONDS
        return used_alone(self.directory / "lock", timeout_seconds=patience, busy=self._busy)

    def _busy(self) -> DataRootBusy:
        if owner := self._owned_by():
            return DataRootBusy(
                f"the volume '{self.name}' is in use by the sandbox '{owner}'",
                id="volume.used-by-running-sandbox",
                hint=f"kata-dind stop {owner}, or use another volume",
            )
        return DataRootBusy(
            f"the volume '{self.name}' is in use by another command",
            id="volume.used-by-command",
            hint="try again when that command has ended",
        )

    def _owned_by(self) -> str:
        return next((record.name for record in self._users() if record.is_owned()), "")

    def _users(self) -> list[Record]:
        return [record for record in list_records() if record.read("spec.json").get("volume") == self.name]


@contextlib.contextmanager
def use_volume(name: str, *, asked: DataRootKind) -> Iterator[tuple[Volume, int]]:
    """Use a volume for the length of the block; when it does not exist, it is made with the asked kind.

    Yields the volume and its lock's descriptor, as `Volume.used` does. A volume that has no passing verdict by the end
    of the block is removed. Raises SpecError when the volume is of another kind than asked, DataRootBusy, HostError
    when its disk is gone.
    """
    shelf = _shelf()
    volume = Volume(name, shelf.path(name))
    with contextlib.ExitStack() as stack:
        stack.callback(shelf.sweep)
        with shelf.changing():
            shelf.set_aside_unmissed()
            if not volume.directory.exists():
                _make(volume, asked, shelf)
            elif asked not in (DataRootKind.AUTO, volume.kind):
                raise SpecError(
                    f"--data-root: '{asked}' is not the kind of the volume '{name}', which is {volume.kind}; "
                    "leave --data-root out",
                    id="volume.other-kind",
                )
            descriptor = stack.enter_context(volume._locked())
        volume.mend()
        if volume.disk is not None and not volume.unproven.exists():
            volume.require_disk()  # a new one in its place would look like a volume that has lost all its data
        try:
            yield volume, descriptor
        finally:
            if volume.unproven.exists():
                with shelf.changing():
                    set_aside(volume.directory)


def _make(volume: Volume, asked: DataRootKind, shelf: Shelf) -> None:
    unfinished = shelf.new_nameless()
    write_new(unfinished, name=volume.name, kind=DataRootKind.BLOCK if asked is DataRootKind.AUTO else asked)
    shelf.place(unfinished, volume.name)


def list_volumes() -> list[Volume]:
    """Return this user's volumes by name, and sweep the leftovers of killed commands."""
    shelf = _shelf()
    shelf.sweep()
    return [Volume(path.name, path) for path in shelf.paths() if (path / FACTS).exists()]


def require_volume(name: str) -> Volume:
    """Return a volume by its name. Raises SpecError for an unknown name, with the known ones."""
    return _shelf().require(name, {volume.name: volume for volume in list_volumes()})


def volume_named(name: str) -> Volume:
    """Return the volume that a name has or would have."""
    return Volume(name, _shelf().path(name))


def _shelf() -> Shelf:
    return Shelf(
        make_private(state_directory() / "volumes"),
        "volume",
        ids=ErrorIds(name_taken="volume.name-taken", unknown="volume.unknown", in_use="volume.in-use"),
        unmissed=UNPROVEN,
        make_hint="kata-dind up --volume {}",
    )
