"""File locks: the owner of some state has its lock, so a lock that is taken means alive, and a free one left over.

The kernel releases a lock when its owner dies, however it dies. A lock file is never removed while another process may
wait for it, since that process would then lock a file that no other one sees.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from kata_dind.errors import HostError, LockBusy

_POLL_SECONDS = 0.05


@contextlib.contextmanager
def locked(path: Path, *, timeout_seconds: float | None) -> Iterator[int]:
    """Lock a file, made when absent, for the length of the block, against every other lock; yields its descriptor.

    Waits at most `timeout_seconds`, for ever when None. Raises LockBusy when another lock lasts until then, HostError
    when the file can't be opened.
    """
    with _opened(path) as descriptor:
        _acquire(descriptor, fcntl.LOCK_EX, path=path, timeout_seconds=timeout_seconds)
        yield descriptor


@contextlib.contextmanager
def locked_shared(path: Path, *, timeout_seconds: float | None) -> Iterator[int]:
    """Lock a file as `locked` does, but share the lock with others; only an exclusive lock keeps it waiting."""
    with _opened(path) as descriptor:
        _acquire(descriptor, fcntl.LOCK_SH, path=path, timeout_seconds=timeout_seconds)
        yield descriptor


def is_locked(path: Path) -> bool:
    """Tell whether a process, this one included, has a lock on a file; False when there is no file."""
    return _is_refused(path, fcntl.LOCK_EX)


def is_locked_exclusively(path: Path) -> bool:
    """Tell whether a process has a lock as `locked` takes it. Two that ask at the same time don't see each other."""
    return _is_refused(path, fcntl.LOCK_SH)


def _is_refused(path: Path, operation: int) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HostError(f"the lock {path} cannot be read: {error.strerror}", id="host.lock-unusable") from error
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(f"the lock {path} cannot be opened: {error.strerror}", id="host.lock-unusable") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, operation: int, *, path: Path, timeout_seconds: float | None) -> None:
    if timeout_seconds is None:
        fcntl.flock(descriptor, operation)
        return
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            # flock(2) has no timeout of its own, and an alarm signal would belong to the whole process.
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise LockBusy(f"{path} is in use by another process", id="host.lock-busy") from error
            time.sleep(_POLL_SECONDS)
        else:
            return


class Claims:
    """Numbers that are claimed in a file, each by one holder at a time: a lock of one byte at that place.

    Unlike files of their own these cost one descriptor in all. They end when the file is closed, so also with a process
    that is killed. Source: F_OFD_SETLK in fcntl(2).
    """

    def __init__(self, path: Path) -> None:
        """Open the file, which is made when absent. Raises HostError."""
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"the lock {path} cannot be opened: {error.strerror}", id="host.lock-unusable") from error

    def claim(self, number: int) -> bool:
        """Claim a number; return False when another holder has it."""
        try:
            self._set(fcntl.F_WRLCK, number)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self, number: int) -> None:
        """Let go of a number."""
        self._set(fcntl.F_UNLCK, number)

    def close(self) -> None:
        """Let go of all numbers."""
        os.close(self._descriptor)

    def _set(self, kind: int, number: int) -> None:
        fcntl.fcntl(
            self._descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi", kind, os.SEEK_SET, number, 1, 0) + bytes(4)
        )
