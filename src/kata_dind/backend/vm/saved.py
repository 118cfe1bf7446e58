"""The saved state of a stopped sandbox: its memory and its devices, from which it resumes once.

saved.state  what QEMU has written
saved.json   its note: how to recognise that file and the disks that belong to it, and what is known of the guest

The note is written last and removed first; a state without a note is a leftover. The note is removed before the guest
runs, since the disks don't match the state any more once the guest writes to them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kata_dind.errors import NoSpace, SandboxError
from kata_dind.host.disks import sync_path
from kata_dind.host.json_files import read_json, write_json

FORMAT = 1

STATE_FILE, UNFINISHED, NOTE_FILE = "saved.state", "saved.new", "saved.json"

_LOOK_BYTES = 1 << 20
"""So much is read at either end of the state, which takes a moment and shows whether it was cut or overwritten."""


class SavedState(NamedTuple):
    """A saved state, and its note."""

    directory: Path
    note: dict[str, Any]

    @property
    def file(self) -> Path:
        """The file that QEMU has written."""
        return self.directory / STATE_FILE

    @property
    def saved_at(self) -> float:
        """In seconds since the epoch."""
        return float(self.note.get("saved_at") or 0.0)

    @property
    def facts(self) -> dict[str, Any]:
        """The facts about the guest that were known when it was suspended."""
        return dict(self.note.get("facts") or {})

    @property
    def size_bytes(self) -> int:
        """The space that the state takes on disk."""
        try:
            return self.file.stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def why_unusable(self) -> str:
        """Return why the guest can't resume from it, by a cheap look at the state and the disks; empty when it can."""
        if self.note.get("format") != FORMAT:
            return "it was made by another version of kata-dind"
        try:
            if _state_mark(self.file) != self.note.get("state"):
                return "it is damaged"
            disks = dict(self.note.get("disks") or {})
            if not disks or _disk_marks(self.directory, [*disks]) != disks:
                return "the sandbox's disks were written to since"
        except OSError as error:
            return f"it can't be read: {error.strerror}"
        return ""


def find_saved(directory: Path) -> SavedState | None:
    """Return the saved state in a sandbox's directory; None where there is none."""
    note = read_json(directory / NOTE_FILE)
    return SavedState(directory, note) if note else None


def commit_saved(directory: Path, disks: Sequence[str], facts: Mapping[str, Any]) -> None:
    """Make a saved state of what QEMU has written; no process may write to the disks. Raises NoSpace or SandboxError.

    It blocks until the state would survive a crash of the host.
    """
    unfinished = directory / UNFINISHED
    try:
        for path in (unfinished, *(directory / disk for disk in disks)):
            sync_path(path)
        unfinished.replace(directory / STATE_FILE)
        note = {
            "format": FORMAT,
            "saved_at": time.time(),
            "state": _state_mark(directory / STATE_FILE),
            "disks": _disk_marks(directory, disks),
            "facts": dict(facts),
        }
        write_json(directory / NOTE_FILE, note)
        sync_path(directory)
    except OSError as error:
        drop_saved(directory)
        failure = f"the saved state can't be written: {error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(failure, id="host.no-space") from error
        raise SandboxError(failure, id="sandbox.state-not-kept") from error


def take_saved(directory: Path) -> None:
    """Remove the note of a saved state, whose guest is about to run. Raises SandboxError when it is gone already."""
    try:
        (directory / NOTE_FILE).unlink()
    except FileNotFoundError as error:
        raise SandboxError("the saved state was used already", id="sandbox.state-used") from error
    sync_path(directory)  # else it could be back after a crash of the host, and the disks would not match


def drop_saved(directory: Path) -> None:
    """Remove a saved state, whole or not; harmless where there is none."""
    for name in (NOTE_FILE, STATE_FILE, UNFINISHED):
        with contextlib.suppress(FileNotFoundError):
            (directory / name).unlink()


def no_space_for_state(directory: Path, details: str = "") -> NoSpace:
    """Return the error of a state that does not fit on the disk."""
    return NoSpace(
        f"there is no space for the saved state in {directory}",
        id="host.no-space",
        details=details,
        hint="free space there, or stop the sandbox without --save",
    )


def _state_mark(path: Path) -> dict[str, Any]:
    import hashlib  # which a start without a saved state need not load

    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        ends = hashlib.sha256(file.read(_LOOK_BYTES))
        file.seek(max(0, size_bytes - _LOOK_BYTES))
        ends.update(file.read(_LOOK_BYTES))
    return {"size_bytes": size_bytes, "ends_sha256": ends.hexdigest()}


def _disk_marks(directory: Path, disks: Sequence[str]) -> dict[str, dict[str, int]]:
    statuses = {name: (directory / name).stat() for name in disks}
    return {name: {"size_bytes": it.st_size, "mtime_ns": it.st_mtime_ns} for name, it in statuses.items()}
