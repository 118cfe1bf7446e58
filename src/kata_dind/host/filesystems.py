"""File systems in disk files: what is in one, a full check, and growth that may be killed at any moment.

All this works as an ordinary user, since nothing is mounted. A disk that a machine has open is refused, and so is
anything but a plain file, since a guest may have written to the directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from kata_dind.errors import CommandFailed, DataRootBusy, DataRootError, ForeignData, NoSpace
from kata_dind.host.process import Completed, require_tool, run

_CHECK_SECONDS = 3600.0
"""For e2fsck and its kin on a large and slow disk; a user who waits for them may interrupt them."""

_LETS_GO_SECONDS = 5.0
"""For a machine with a killed owner: it gets a signal at once, and ends within milliseconds on an idle host."""

_POLL_SECONDS = 0.05
_SUPERBLOCK_BYTES = 4096

_TAIL_BYTES = 32 << 20
"""Less may be too little for a group of blocks with its inode table (measured: the last 2 MiB of 1026)."""

Outcome = Literal["clean", "repaired"]


@dataclass(frozen=True)
class FileSystem:
    """The file system in a disk file."""

    kind: Literal["ext4", "xfs"]
    size_bytes: int
    """The size of the file system, which may be smaller than its disk."""


def find_filesystem(disk: Path) -> FileSystem | None:
    """Read which file system a disk file has; None for a blank disk, an unknown file system or no file.

    Raises ForeignData.
    """
    try:
        with _opened(disk, os.O_RDONLY) as file:
            return _read_superblock(file)
    except FileNotFoundError:
        return None


def find_size(disk: Path) -> int | None:
    """Return a disk file's size in bytes; None when it is absent or not a plain file."""
    try:
        status = disk.lstat()
    except FileNotFoundError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def parse_superblock(start: bytes) -> FileSystem | None:
    """Parse the first 4096 bytes of a disk. Source: ext4's and xfs' on-disk formats in the kernel's documentation."""
    if start[:4] == b"XFSB":
        block_bytes, blocks = int.from_bytes(start[4:8], "big"), int.from_bytes(start[8:16], "big")
        return FileSystem("xfs", block_bytes * blocks)
    ext4 = start[1024:]
    if ext4[0x38:0x3A] != b"\x53\xef":
        return None
    block_bytes = 1024 << int.from_bytes(ext4[0x18:0x1C], "little")
    has_64bit = int.from_bytes(ext4[0x60:0x64], "little") & 0x80
    blocks = int.from_bytes(ext4[0x04:0x08], "little")
    blocks |= int.from_bytes(ext4[0x150:0x154], "little") << 32 if has_64bit else 0
    return FileSystem("ext4", block_bytes * blocks)


def check_filesystem(disk: Path) -> Outcome:
    """Check a disk's file system in full, and repair what can be repaired without a choice.

    An xfs is only looked at: a mount repairs it from its log. Raises DataRootError for a damaged file system, with the
    command that would repair it, DataRootBusy, ForeignData.
    """
    with _unused(disk) as file:
        found = _read_superblock(file)
        if found is not None and found.kind == "xfs":
            _check_xfs(disk, file)
            return "clean"
        return _check_ext4(disk, file)


def grow_filesystem(disk: Path, size_bytes: int, *, undo: Path) -> None:
    """Grow a disk and its ext4 to a size, in whole MiB, unless they are as large; an xfs grows when it is next mounted.

    It may be killed at any moment, and nothing is lost: with the help of the file `undo`, the next call of this
    function or of `mend_filesystem` repairs the file system. Raises DataRootError for a damaged file system, NoSpace,
    DataRootBusy, ForeignData.
    """
    with _unused(disk) as file:
        _mend(disk, file, undo)
        found, present = _read_superblock(file), os.fstat(file.fileno()).st_size
        if grows := present < size_bytes:
            _truncate(disk, file, size_bytes)
        tail_bytes = max(size_bytes, present) - found.size_bytes if found else 0
        if found and found.kind == "ext4" and tail_bytes >= (1 if grows else _TAIL_BYTES):
            _check_ext4(disk, file)  # resize2fs demands it
            _resize_ext4(disk, file, undo)


def mend_filesystem(disk: Path, *, undo: Path) -> None:
    """Take back a growth that was killed half-way, if there was one.

    Waits until a machine whose owner was killed has closed the disk. Raises DataRootError, DataRootBusy, ForeignData.
    """
    with contextlib.suppress(FileNotFoundError), _unused(disk) as file:
        _mend(disk, file, undo)


def _mend(disk: Path, file: IO[bytes], undo: Path) -> None:
    if not undo.exists():
        return
    # e2undo refuses the undo file of a growth that was at its very beginning or end; e2fsck has the last word.
    with contextlib.suppress(CommandFailed):
        _run_on(file, [_e2fsprogs("e2undo"), undo])
    _check_ext4(disk, file)
    undo.unlink()


def _check_ext4(disk: Path, file: IO[bytes]) -> Outcome:
    e2fsck = _e2fsprogs("e2fsck")
    try:
        # Source of the codes: e2fsck(8).
        done = _run_on(file, [e2fsck, "-f", "-p"], allowed_codes=(0, 1))
    except CommandFailed as error:
        if "MMP: device currently active" in error.details:
            raise DataRootBusy(
                f"{disk} is in use by a container",
                id="dataroot.in-use",
                details=error.details,
                hint="stop the container that has mounted it, in whichever machine that runs",
            ) from error
        if "MMP: e2fsck being run" in error.details:
            raise DataRootBusy(
                f"a check of {disk} is running, or was killed",
                id="dataroot.being-checked",
                details=error.details,
                hint=f"if none is running: {_e2fsprogs('tune2fs')} -f -E clear_mmp {disk}",
            ) from error
        raise _damaged(disk, f"{e2fsck} -f -y {disk}", error) from error
    return "repaired" if done.code else "clean"


def _check_xfs(disk: Path, file: IO[bytes]) -> None:
    xfs_repair = require_tool("xfs_repair", package="xfsprogs")
    try:
        _run_on(file, [xfs_repair, "-n"])
    except CommandFailed as error:
        raise _damaged(disk, f"{xfs_repair} {disk}", error) from error


def _resize_ext4(disk: Path, file: IO[bytes], undo: Path) -> None:
    """Let ext4 fill its disk.

    A resize2fs that is killed leaves a file system that e2fsck can repair only by guesses (measured, 1.47.0: at 24 of
    25 points in its 149 writes). After e2undo had applied the undo file, e2fsck had no question at any point.
    """
    try:
        _run_on(file, [_e2fsprogs("resize2fs"), "-z", undo])
    except CommandFailed as error:
        _mend(disk, file, undo)
        raise DataRootError(
            f"the file system in {disk} could not grow", id="dataroot.growth-failed", details=error.details
        ) from error
    undo.unlink(missing_ok=True)


def _truncate(disk: Path, file: IO[bytes], size_bytes: int) -> None:
    try:
        os.truncate(file.fileno(), size_bytes)
    except OSError as error:
        raise NoSpace(
            f"the file system of {disk.parent} takes no file of {size_bytes >> 20} MiB", id="host.file-too-large"
        ) from error


def _run_on(
    file: IO[bytes], argv: Sequence[str | os.PathLike[str]], *, allowed_codes: Collection[int] = (0,)
) -> Completed:
    """Run a tool on an open disk; by the disk's name, the tool might find another file than the one that we checked."""
    return run(
        [*argv, f"/proc/self/fd/{file.fileno()}"],
        timeout_seconds=_CHECK_SECONDS,
        allowed_codes=allowed_codes,
        pass_fds=[file.fileno()],
    )


def _e2fsprogs(tool: str) -> Path:
    return require_tool(tool, package="e2fsprogs")


def _damaged(disk: Path, command: str, error: CommandFailed) -> DataRootError:
    return DataRootError(
        f"the file system in {disk} is damaged",
        id="dataroot.damaged",
        details=error.details,
        hint=f"{command}, which may drop files; copy the disk first",
    )


def _read_superblock(file: IO[bytes]) -> FileSystem | None:
    return parse_superblock(os.pread(file.fileno(), _SUPERBLOCK_BYTES, 0))


@contextlib.contextmanager
def _opened(disk: Path, flags: int) -> Iterator[IO[bytes]]:
    """Open a disk that is a plain file. A guest may put anything into the directory of its loop disk."""
    foreign = ForeignData(
        f"{disk} is not a plain file, so it is not touched",
        id="dataroot.not-a-file",
        hint=f"ls -l {disk.parent}, and put the disk back under that name",
    )
    if not stat.S_ISREG(disk.lstat().st_mode):
        raise foreign
    try:
        # The file may have been replaced since: no link is followed, and no FIFO or device waited for.
        descriptor = os.open(disk, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise foreign from error
        raise
    with os.fdopen(descriptor, "r+b" if flags == os.O_RDWR else "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise foreign
        yield file


@contextlib.contextmanager
def _unused(disk: Path) -> Iterator[IO[bytes]]:
    """Open a disk and keep machines from it. QEMU locks bytes of each disk, and outlives a killed owner for a moment.

    Our lock ends when this process closes any descriptor of the disk, so it must not open the disk a second time.
    """
    deadline = time.monotonic() + _LETS_GO_SECONDS
    with _opened(disk, os.O_RDWR) as file:
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise DataRootBusy(
                        f"{disk} is in use by another process", id="dataroot.in-use", hint="try again in a moment"
                    ) from error
                time.sleep(_POLL_SECONDS)
            else:
                break
        yield file
