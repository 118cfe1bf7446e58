"""A file that is written anew in one step: at every moment it is the old one or the new one, never half of either."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO

from kata_dind.errors import SpecError


@dataclass
class Replacement:
    """The new content of a file; `keep()` makes it the file's."""

    file: TextIO
    _name: str
    _path: Path
    _temporary: Path
    _before: os.stat_result

    def keep(self) -> None:
        """Put the new content in place of the old. Raises SpecError if the file was changed meanwhile."""
        self.file.flush()
        _copy_properties(self.file, self._path, self._before)
        os.fsync(self.file.fileno())  # else some file systems keep the rename, and lose the content
        if _identity(self._path.stat()) != _identity(self._before):
            raise SpecError(
                f"{self._name}: it was changed while it was read, so it is left alone; run the command again",
                id="spec.file-changed",
            )
        self._temporary.replace(self._path)
        _sync_directory(self._path.parent)


@contextlib.contextmanager
def replacing(path: Path, *, opened: IO[str]) -> Iterator[Replacement]:
    """Write a file anew, of which `opened` is what was read; without `keep()` it stays as it is.

    A symbolic link is followed. Mode, owner and extended attributes stay. Raises SpecError if that is not possible.
    """
    target = path.resolve()
    before = os.fstat(opened.fileno())
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:200]}.", suffix=".kata-dind")
    except OSError as error:
        raise _unwritable(path, error) from error
    temporary = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123 - a descriptor, not a path
            yield Replacement(file, str(path), target, temporary, before)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _copy_properties(file: TextIO, path: Path, before: os.stat_result) -> None:
    descriptor = file.fileno()
    if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
    with contextlib.suppress(OSError):  # a file system without them
        for name in os.listxattr(path):
            with contextlib.suppress(OSError):
                os.setxattr(descriptor, name, os.getxattr(path, name))


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # not every file system can
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> SpecError:
    return SpecError(f"{path}: it cannot be written: {error.strerror}", id="spec.unwritable-file")
