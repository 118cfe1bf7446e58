"""Disk files: sparse, formatted on the host in milliseconds, and never touched when they exist."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from kata_dind.errors import CommandFailed, NoSpace
from kata_dind.host.process import require_tool, run
from kata_dind.vocabulary import Filesystem

LABEL = "kata-dind"

_FICLONE = 0x40049409
"""Source: ioctl_ficlone(2)."""

XFS_LEAST_MIB = 300
"""mkfs.xfs makes nothing smaller since xfsprogs 5.19."""

LARGEST_JOURNAL_MIB = 64
"""The journal is a quarter of a small disk, which has no space for a larger one."""

EXT4_OPTIONS = (
    "-q",
    "-F",
    *("-b", "4096"),  # suits direct I/O; for less than 512 MiB mke2fs would take blocks of 1 KiB
    *("-i", "16384"),  # many small files: an inode per 16 KiB, where Kata's block-plain has one per 160
    *("-m", "0"),
    *("-L", LABEL),
)
"""mke2fs' options for every data root, on the host and in the guest entrypoint."""

EXT4_EXTENDED = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
"""The value of mke2fs' -E, on the host and in the guest. Almost nothing is allocated at first: lazy tables and a 64 MiB
journal take 4.4 MiB of a 20 GiB disk, the defaults 135 MiB."""

_EXT4_EXTENDED_ON_THE_HOST = "assume_storage_prezeroed=1"
"""On the host alone, where the disk is a file that was made a moment ago. In the guest it may be a device, of which
only the first and the last megabyte are known to be zeros, and the image's mke2fs may not know the option."""

XFS_OPTIONS = ("-q", "-f", "-K", "-L", LABEL)
"""mkfs.xfs' own defaults but for `-K`: a blank disk has nothing to discard. On the host and in the guest entrypoint."""


def mke2fs_argv(mke2fs: Path, disk: Path, *, size_mib: int) -> list[str]:
    """Compute the ext4 of a data root."""
    journal_mib = min(LARGEST_JOURNAL_MIB, size_mib // 4)
    extended = f"{EXT4_EXTENDED},{_EXT4_EXTENDED_ON_THE_HOST}"
    return [str(mke2fs), "-t", "ext4", *EXT4_OPTIONS, "-J", f"size={journal_mib}", "-E", extended, str(disk)]


def mkfs_xfs_argv(mkfs: Path, disk: Path) -> list[str]:
    """Compute the xfs of a data root."""
    return [str(mkfs), *XFS_OPTIONS, str(disk)]


def create_disk(disk: Path, *, size_mib: int, filesystem: Filesystem = Filesystem.EXT4) -> None:
    """Make a sparse, formatted disk unless there is one; it gets its name only when it is whole.

    Raises NoSpace when the host's file system is full, ToolMissing without the file system's mkfs.
    """
    if disk.exists():
        return
    argv = _mkfs_argv(disk.with_suffix(".new"), size_mib=size_mib, filesystem=filesystem)
    unfinished = disk.with_suffix(".new")
    try:
        with unfinished.open("wb") as file:
            os.truncate(file.fileno(), size_mib << 20)
        run(argv, timeout_seconds=120)
        unfinished.replace(disk)
    except (OSError, CommandFailed) as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            raise NoSpace(
                f"the file system of {disk.parent} takes no file of {size_mib} MiB",
                id="host.file-too-large",
                hint="use a smaller --size",
            ) from error
        if isinstance(error, CommandFailed) or error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"cannot make a disk in {disk.parent}",
                id="host.no-space",
                details=getattr(error, "details", str(error)),
                hint="free space there, or set KATA_DIND_STATE_DIR to a directory with more",
            ) from error
        raise


@contextlib.contextmanager
def copied_to_memory(source: Path) -> Iterator[int]:
    """Copy a file without its holes into memory, where nothing that is written to the copy has to go to a disk.

    Yields a descriptor; the copy lasts as long as any process has it open or mapped.
    """
    write = os.memfd_create(source.name, os.MFD_CLOEXEC)
    try:
        _copy_data(source, write)
        yield write
    finally:
        os.close(write)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file without its holes; where the file system can, the two share what neither has changed."""
    with source.open("rb") as read, target.open("wb") as write:
        try:
            fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
        except OSError:  # a file system without reflinks, or two of them
            _copy_data(source, write.fileno())


def _copy_data(source: Path, write: int) -> None:
    with source.open("rb") as file:
        read, size_bytes = file.fileno(), os.fstat(file.fileno()).st_size
        os.truncate(write, size_bytes)
        position = next_data(read, 0)
        while position < size_bytes:
            end = os.lseek(read, position, os.SEEK_HOLE)
            os.lseek(write, position, os.SEEK_SET)
            while position < end:
                position += os.sendfile(write, read, position, end - position)
            position = next_data(read, position)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that never changes a second name; if that lies on another file system, copy the file."""
    try:
        os.link(source, target)
    except OSError:
        copy_sparse(source, target)


def next_data(descriptor: int, position: int) -> int:
    """Return the first position from a given one on at which a file has data; a huge number when there is none."""
    try:
        return os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return sys.maxsize


def file_mark(path: Path) -> str:
    """Return a text that changes when a file is replaced or written to: its path, size and time."""
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _mkfs_argv(disk: Path, *, size_mib: int, filesystem: Filesystem) -> list[str]:
    if filesystem is Filesystem.XFS:
        return mkfs_xfs_argv(require_tool("mkfs.xfs", package="xfsprogs"), disk)
    return mke2fs_argv(require_tool("mke2fs", package="e2fsprogs"), disk, size_mib=size_mib)


def sync_path(path: Path) -> None:
    """Wait until a file, or a directory's names, would outlive a crash of the host. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_durable(product: Path) -> None:
    """Write a file, or a directory with all in it, to the disk."""
    for path in [*product.rglob("*"), product]:
        if not path.is_symlink():
            sync_path(path)


def free_bytes(directory: Path) -> int:
    """Return how much the file system of a directory has left for ordinary users, since a disk should not starve them.

    A tmpfs without a limit reports no blocks at all, and counts as having any number of them.
    """
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize if status.f_blocks else sys.maxsize


def is_full(directory: Path) -> bool:
    """Tell whether the file system of a directory has less than 1 MiB left for this user."""
    return free_bytes(directory) < 1 << 20


def allocated_bytes(directory: Path) -> int:
    """Return how much the files of a directory, and of the directories in it, really take on disk.

    It looks no deeper, since a guest may have made what lies below. Files that vanish meanwhile count nothing.
    """
    total = 0
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            with contextlib.suppress(OSError):
                total += path.lstat().st_blocks * 512
                if path.is_dir() and not path.is_symlink():
                    total += sum(below.lstat().st_blocks * 512 for below in path.iterdir())
    return total
