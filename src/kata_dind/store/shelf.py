"""A shelf: a directory of named directories, the things on it.

A thing gets its name when it is whole, is locked while it is in use, and loses its name before it is deleted.

NAME           a thing that is whole
.w*            a workshop: a thing that is being made, or never gets a name; its maker has its lock
.removed-*     a thing that has lost its name and is being deleted
../SHELF.lock  locked while names come and go, and never for long

A directory without a name whose lock is free was left by a process that was killed: the next look sweeps it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from kata_dind.errors import HostError, KataDindError, LockBusy, ProcessError, SpecError
from kata_dind.host.locks import is_locked, is_locked_exclusively, locked, locked_shared

logger = logging.getLogger(__name__)

Thing = TypeVar("Thing")

_WORKSHOP = ".w"
"""Short, since a sandbox's workshop has sockets in it, and the path of a socket must be short."""

_REMOVED = ".removed-"

_NAMELESS = (_WORKSHOP, _REMOVED, ".new-")
"""The last one is how earlier versions named the workshop of a seed."""


class ErrorIds(NamedTuple):
    """The ids of a shelf's errors."""

    name_taken: str
    unknown: str
    in_use: str
    """For the error that says which sandboxes, running or not, need a thing."""


@dataclass(frozen=True)
class Shelf:
    """Where things of one kind lie, how they are locked, and the words of the shelf's messages."""

    directory: Path
    noun: str
    ids: ErrorIds
    lock: str = "lock"
    """The lock's file in each thing."""
    unmissed: str = ""
    """A mark in each thing that may be swept when no process uses it; empty where there is no such mark."""
    kept_by: str = ""
    """A mark that keeps such a thing all the same: something elsewhere belongs to it, and must go first."""
    make_hint: str = ""
    """The command that makes a thing with the name `{}`."""
    free_hint: str = ""
    """The command that frees the name `{}`, or other ways out."""

    def path(self, name: str) -> Path:
        """Return where the thing with this name lies, or would lie."""
        return self.directory / name

    def paths(self) -> list[Path]:
        """Return the things that have a name, in the order of their names."""
        return sorted(path for path in self.directory.glob("[!.]*") if path.is_dir())

    def changing(self) -> contextlib.AbstractContextManager[int]:
        """Let no other process give or take names during the block, so that none waits for a removed thing's lock."""
        return locked(self.directory.with_name(f"{self.directory.name}.lock"), timeout_seconds=None)

    # --- coming

    @contextlib.contextmanager
    def workshop(self) -> Iterator[Path]:
        """Make and lock a directory without a name; unless it got a name in the block, it is deleted after that."""
        with contextlib.ExitStack() as stack:
            with self.changing():  # so that no sweep finds it before it is locked
                directory = self.new_nameless()
                stack.enter_context(locked(directory / self.lock, timeout_seconds=None))
            try:
                yield directory
            finally:
                if directory.exists():
                    delete(directory)

    def new_nameless(self) -> Path:
        """Make an empty directory without a name, in a block of `changing`, after which it is swept unless locked."""
        # Short at first; where many are at work, short names may be taken.
        names = (f"{_WORKSHOP}{os.urandom(attempt // 16 + 1).hex()}" for attempt in itertools.count(1))
        directory = next(path for path in map(self.path, names) if not path.exists())
        directory.mkdir(mode=0o700)
        return directory

    def place(self, directory: Path, name: str) -> Path:
        """Give a finished directory its name, in a block of `changing`. Raises SpecError when the name is taken."""
        from kata_dind.host.disks import sync_path  # imported here, since a look at a shelf does not need it

        self.require_free(name)
        home = directory.rename(self.path(name))
        sync_path(self.directory)
        return home

    def require_free(self, name: str) -> None:
        """Raise SpecError when a name is taken."""
        if self.path(name).exists():
            raise SpecError(
                f"there is a {self.noun} '{name}' already", id=self.ids.name_taken, hint=self.free_hint.format(name)
            )

    # --- use

    @contextlib.contextmanager
    def shared(self, name: str, *, gone: KataDindError) -> Iterator[int]:
        """Use a thing, beside other users, for the length of the block, in which it is not removed; yields its lock.

        Raises `gone` when there is no such thing.
        """
        with contextlib.ExitStack() as stack:
            with self.changing():  # so that it is not removed between our look and our lock
                if not self.path(name).is_dir():
                    raise gone
                descriptor = stack.enter_context(locked_shared(self.path(name) / self.lock, timeout_seconds=None))
            yield descriptor

    def require(self, name: str, things: Mapping[str, Thing]) -> Thing:
        """Return the thing with a name. Raises SpecError for an unknown name, with the known ones."""
        if name not in things:
            known = ", ".join(things) or "none"
            raise SpecError(
                f"there is no {self.noun} '{name}' (there are: {known})",
                id=self.ids.unknown,
                hint=self.make_hint.format(name),
            )
        return things[name]

    def require_unused(self, name: str, users: Sequence[str]) -> None:
        """Raise SpecError when sandboxes, running or not, need the thing with a name."""
        if users:
            sandboxes = "the sandbox" if len(users) == 1 else "the sandboxes"
            message = f"the {self.noun} '{name}' is used by {sandboxes} {', '.join(users)}"
            raise SpecError(message, id=self.ids.in_use, hint=f"kata-dind rm {' '.join(users)}")

    # --- going

    @contextlib.contextmanager
    def removing(self, name: str) -> Iterator[None]:
        """Remove a thing after the block, in which no process can begin to use it; an error in the block keeps it."""
        with self.changing():
            yield
            doomed = set_aside(self.path(name))
        delete(doomed)

    def sweep(self) -> None:
        """Remove the leftovers of processes that were killed. One that cannot be deleted is logged, and has no name."""
        if not self._left() and not self._left_unmissed():  # the usual case; a full host has to write nothing then
            return
        with self.changing():
            self.set_aside_unmissed()
            left = self._left()
        for directory in left:
            try:
                delete(directory)
            except (HostError, ProcessError) as error:
                logger.warning("%s\n%s", error.summary, error.details)

    def set_aside_unmissed(self) -> None:
        """Take the name of each thing that may be swept and has no user, in a block of `changing`."""
        for mark in self._left_unmissed():
            # A process that only looks at the lock has it for a moment.
            with contextlib.suppress(HostError), locked(mark.with_name(self.lock), timeout_seconds=1.0):
                if mark.exists():
                    set_aside(mark.parent)

    def _left(self) -> list[Path]:
        nameless = [path for path in self.directory.glob(".*") if path.name.startswith(_NAMELESS)]
        return [path for path in nameless if not is_locked(path / self.lock)]

    def _left_unmissed(self) -> list[Path]:
        marks = self.directory.glob(f"[!.]*/{self.unmissed}") if self.unmissed else []
        return [mark for mark in marks if not self._is_kept(mark.parent)]

    def _is_kept(self, directory: Path) -> bool:
        marked = bool(self.kept_by) and (directory / self.kept_by).exists()
        return marked or is_locked_exclusively(directory / self.lock)


@contextlib.contextmanager
def used_alone(lock: Path, *, timeout_seconds: float, busy: Callable[[], KataDindError]) -> Iterator[int]:
    """Take a lock alone for the length of the block; raises the error from `busy` when the lock is taken until then.

    Yields the lock's descriptor: a process that inherits it has the lock as well, and still has it after us.
    """
    with contextlib.ExitStack() as stack:
        try:
            descriptor = stack.enter_context(locked(lock, timeout_seconds=timeout_seconds))
        except LockBusy as error:
            raise busy() from error
        yield descriptor


def set_aside(directory: Path) -> Path:
    """Take a directory's name away and return its new path, so that a killed deletion leaves no half under the name."""
    # The random part is needed: an earlier directory of that name may be there still.
    return directory.rename(directory.with_name(f"{_REMOVED}{directory.name}-{os.urandom(4).hex()}"))


def delete(directory: Path) -> None:
    """Delete a directory that has no name. Raises HostError."""
    from kata_dind.host.rootlike import remove_tree

    remove_tree(directory)
