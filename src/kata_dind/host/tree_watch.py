"""Watching a directory, or a file, with all that is below it, by inotify(7). Only directories are watched, and no links
are followed.

A watch costs memory of the kernel, and users have a limited number. So directories are left out that are large, and
that no program waits for: those of version control, and of packages that a tool has installed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from inotify_simple import INotify, flags

LEFT_OUT = frozenset((".git", ".hg", ".svn", "__pycache__", "node_modules"))
"""The names of directories that are not watched."""

MARKS = frozenset(("pyvenv.cfg", "CACHEDIR.TAG"))
"""Files that mark a directory below which nothing is watched: a virtual environment of Python, and a tool's cache."""

MOST_DIRECTORIES = 65536
"""More are not watched, also where the kernel would let us; so many take 16 MiB of ours."""

_MADE_OR_GONE = flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO
_WRITTEN = flags.MODIFY | _MADE_OR_GONE
_MASK = _WRITTEN | flags.CLOSE_WRITE | flags.ATTRIB
_TO_DIRECTORY = flags.ONLYDIR | flags.DONT_FOLLOW | flags.EXCL_UNLINK

_CLOCK_SECONDS = 2.0
"""How far the times of a file system may be behind this process's clock."""

Signature = tuple[int, int, int, int] | None
"""What tells one state of a file from another: its number, size, time of modification, and mode. None for no file."""


class Full(Exception):
    """No more directories can be watched; the text is a whole sentence's end, with what to do."""


class Change(NamedTuple):
    """A path below the root, empty for the root itself, and whether it was surely changed."""

    path: str
    is_sure: bool
    """False where a file was only closed after it could have been written, or its time or mode was set."""


class _Directory:
    """A directory that is watched, or the root, which may be a file."""

    __slots__ = ("children", "name", "number", "parent")

    def __init__(self, name: str, parent: _Directory | None) -> None:
        self.name = name
        self.parent = parent
        self.number = -1
        self.children: dict[str, _Directory] = {}

    @property
    def path(self) -> str:
        names, directory = [], self
        while directory.parent is not None:
            names.append(directory.name)
            directory = directory.parent
        return "/".join(reversed(names))


class TreeWatch:
    """A watch, for one thread, until it is closed."""

    def __init__(self, root: Path) -> None:
        """Begin with the root alone; `fill` adds what is below it. Raises OSError, and Full."""
        # By a descriptor, so that it stays the same one when it is renamed, as for those that it is shared with.
        self._fd = os.open(root, os.O_PATH | os.O_CLOEXEC)
        self._is_file = not stat.S_ISDIR(os.fstat(self._fd).st_mode)
        self._base = f"/proc/self/fd/{self._fd}"
        try:
            self._inotify = INotify(nonblocking=True)
        except OSError as error:
            os.close(self._fd)
            if error.errno != errno.EMFILE:
                raise
            raise _full("instances") from error
        self._directories: dict[int, _Directory] = {}
        self._root = _Directory("", None)
        self._emptied = time.time()
        self._overflowed = False
        self.full = ""
        """Why not all directories are watched; empty where all are."""

    def close(self) -> None:
        """End the watch."""
        self._inotify.close()
        os.close(self._fd)

    def fileno(self) -> int:
        """Return the descriptor that can be read when there are changes."""
        return int(self._inotify.fileno())

    def __len__(self) -> int:
        return len(self._directories)

    def fill(self) -> None:
        """Watch all there is."""
        for _ in self._watch_below(self._root):
            pass

    def read(self) -> list[Change]:
        """Return the changes since the last time, each path once. Raises OSError."""
        changes: dict[str, bool] = {}
        for event in self._inotify.read(timeout=0):
            for path, is_sure in self._understood(event.wd, event.mask, event.name):
                changes[path] = changes.get(path, False) or is_sure
        if self._overflowed:
            self._overflowed = False
            changes |= dict.fromkeys(self._changed_since(self._emptied - _CLOCK_SECONDS), True)
        self._emptied = time.time()
        return [Change(path, is_sure) for path, is_sure in changes.items()]

    def signature(self, path: str) -> Signature:
        """Return what tells the state of a file from a later one."""
        try:
            status = self._status(path)
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode

    def _understood(self, number: int, mask: int, name: str) -> Iterator[tuple[str, bool]]:
        if mask & flags.Q_OVERFLOW:
            self._overflowed = True
        directory = self._directories.get(number)
        if directory is None:
            return
        if mask & flags.IGNORED:
            self._forget(directory)
            return
        path = _joined(directory.path, name)
        yield path, bool(mask & _WRITTEN)
        if not name:
            return
        if mask & _MADE_OR_GONE:
            yield directory.path, True
        if mask & flags.ISDIR and mask & _MADE_OR_GONE:
            if (before := directory.children.get(name)) is not None:
                self._unwatch(before)
            if mask & (flags.CREATE | flags.MOVED_TO) and name not in LEFT_OUT and not self._is_marked(directory):
                # What was made in it before it was watched.
                for found in self._watch_below(_Directory(name, directory)):
                    yield found, True

    def _watch_below(self, top: _Directory) -> Iterator[str]:
        """Watch a directory, and those below it, and yield what is in them."""
        waiting = [top]
        while waiting:
            directory = waiting.pop()
            if not self._watch(directory):
                continue
            path, entries = directory.path, _entries(self._place(directory.path))
            below = [] if any(entry.name in MARKS for entry in entries) else entries
            waiting += [_Directory(entry.name, directory) for entry in below if _is_watchable(entry)]
            yield from (_joined(path, entry.name) for entry in entries)

    def _watch(self, directory: _Directory) -> bool:
        """Watch one directory; tell whether there is anything to be found in it."""
        if len(self._directories) >= MOST_DIRECTORIES:
            self.full = f"kata-dind watches at most {MOST_DIRECTORIES} directories; share fewer"
            return False
        is_file = directory is self._root and self._is_file
        place = self._base if is_file else f"{self._place(directory.path)}/."
        try:
            number = self._inotify.add_watch(place, _MASK if is_file else _MASK | _TO_DIRECTORY)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                self.full = str(_full("watches"))
            return False  # else it is gone, or may not be read
        directory.number = number
        self._directories[number] = directory  # in place of another path's, which it was moved from
        if directory.parent is not None:
            directory.parent.children[directory.name] = directory
        return not is_file

    def _unwatch(self, directory: _Directory) -> None:
        """Watch a directory no more that was moved away, nor those below it."""
        for child in [*directory.children.values()]:
            self._unwatch(child)
        if self._directories.get(directory.number) is directory:
            with contextlib.suppress(OSError):  # it was deleted a moment ago
                self._inotify.rm_watch(directory.number)
        self._forget(directory)

    def _forget(self, directory: _Directory) -> None:
        if self._directories.get(directory.number) is directory:
            del self._directories[directory.number]
        parent = directory.parent
        if parent is not None and parent.children.get(directory.name) is directory:
            del parent.children[directory.name]

    def _changed_since(self, seconds: float) -> Iterator[str]:
        """Look for what was changed while events were lost, and watch directories that are new."""
        waiting = [self._root]
        while waiting:
            directory = waiting.pop()
            path = directory.path
            if self._changed(path, seconds):
                yield path
            is_marked = self._is_marked(directory)
            for entry in _entries(self._place(path)) if not self._is_file else ():
                below = _joined(path, entry.name)
                if _is_watchable(entry) and not is_marked:
                    if entry.name in directory.children:
                        waiting.append(directory.children[entry.name])
                    else:
                        yield below
                        yield from self._watch_below(_Directory(entry.name, directory))
                elif self._changed(below, seconds):
                    yield below

    def _is_marked(self, directory: _Directory) -> bool:
        return any(Path(self._place(directory.path), mark).exists() for mark in MARKS)

    def _changed(self, path: str, seconds: float) -> bool:
        try:
            return self._status(path).st_ctime >= seconds
        except OSError:
            return False

    def _status(self, path: str) -> os.stat_result:
        return Path(self._place(path)).lstat() if path else os.fstat(self._fd)

    def _place(self, path: str) -> str:
        return f"{self._base}/{path}" if path else self._base if self._is_file else f"{self._base}/."


def _entries(place: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return [*entries]
    except OSError:
        return []


def _is_watchable(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.name not in LEFT_OUT and entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if path and name else path or name


def _full(what: str) -> Full:
    name = f"fs.inotify.max_user_{what}"
    return Full(f"this host's limit {name} is reached; as root, raise it: sysctl {name}={_LARGER[what]}")


_LARGER = {"watches": 524288, "instances": 1024}
