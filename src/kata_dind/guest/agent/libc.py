"""The system calls that Python 3.11 has no function for; each raises OSError. Linux's numbers, equal everywhere."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_NOATIME, MS_BIND = 0x1, 0x2, 0x4, 0x20, 0x400, 0x1000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
MNT_DETACH = 0x2
AT_FDCWD = -100
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWPID = 0x20000, 0x2000000, 0x8000000, 0x20000000
_POWER_OFF = 0x4321FEDC  # LINUX_REBOOT_CMD_POWER_OFF, reboot(2)
_OPEN_TREE, _MOVE_MOUNT = 428, 429  # Linux 5.2; glibc has functions for them since 2.36
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 0x1, 0o2000000
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_SYMLINKS, _MOVE_MOUNT_T_AUTOMOUNTS = 0x4, 0x10, 0x20

_IO_URING_SETUP, _IO_URING_ENTER = 425, 426  # Linux 5.1; the layouts below are those of linux/io_uring.h
_IORING_OP_WRITE, _IOSQE_ASYNC, _IORING_ENTER_GETEVENTS = 23, 0x10, 0x1
_IORING_OFF_SQ_RING, _IORING_OFF_CQ_RING, _IORING_OFF_SQES = 0, 0x8000000, 0x10000000
_SQE_BYTES, _CQE_BYTES = 64, 16

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", *, flags: int = 0, options: str = "") -> None:
    """Mount, as mount(2)."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None
    )
    _check(result, f"mount {kind or 'bind'} on {target}")


def clone_mount(path: str) -> int:
    """Return a descriptor of a detached mount of the file or directory at a path, as a bind mount would make it."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    tree: int = _libc.syscall(_OPEN_TREE, AT_FDCWD, path.encode(), flags)
    _check(tree, f"open_tree {path}")
    return tree


def attach_mount(tree: int, target: str) -> None:
    """Mount what `clone_mount` returned, in the mount namespace that this process is in now."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_SYMLINKS | _MOVE_MOUNT_T_AUTOMOUNTS
    _check(_libc.syscall(_MOVE_MOUNT, tree, b"", AT_FDCWD, target.encode(), flags), f"move_mount to {target}")


def detach(target: str) -> None:
    """Take a mount out of the tree now; it ends when no process uses it any more."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def unshare(flags: int) -> None:
    """Leave namespaces for new ones; a new pid namespace begins with the next child."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """Join a namespace's file, or namespaces of a process; its pid namespace begins with the next child.

    A pidfd needs Linux 5.8.
    """
    _check(_libc.setns(fd, flags), "setns")


def pivot_root(new_root: str, old_root: str) -> None:
    """Make a mount the root, as pivot_root(2)."""
    _check(_libc.pivot_root(new_root.encode(), old_root.encode()), "pivot_root")


class Ring:
    """An io_uring that can do one thing: writes of no bytes, which Linux reports as it does any other."""

    def __init__(self, entries: int) -> None:
        """Make it; raises OSError for a kernel that has none."""
        answer = bytearray(120)
        self._fd: int = _libc.syscall(_IO_URING_SETUP, entries, (ctypes.c_char * len(answer)).from_buffer(answer))
        _check(self._fd, "io_uring_setup")
        sq_entries, cq_entries = struct.unpack_from("2I", answer)
        _, self._tail, _, _, _, _, self._array = struct.unpack_from("7I", answer, 40)
        self._done, _, _, _, _, completed = struct.unpack_from("6I", answer, 80)
        self._sq = mmap.mmap(self._fd, self._array + 4 * sq_entries, offset=_IORING_OFF_SQ_RING)
        self._cq = mmap.mmap(self._fd, completed + _CQE_BYTES * cq_entries, offset=_IORING_OFF_CQ_RING)
        self._sqes = mmap.mmap(self._fd, _SQE_BYTES * sq_entries, offset=_IORING_OFF_SQES)
        self._entries = sq_entries
        self._nothing = ctypes.create_string_buffer(1)

    def close(self) -> None:
        """Let go of it."""
        for memory in (self._sq, self._cq, self._sqes):
            memory.close()
        os.close(self._fd)

    def write_nothing(self, fds: Sequence[int]) -> None:
        """Write no bytes to files that are open for writing, and wait for the end of that."""
        address = ctypes.addressof(self._nothing)
        (tail,) = struct.unpack_from("I", self._sq, self._tail)
        for number, fd in enumerate(fds):
            place = (tail + number) % self._entries
            sqe = struct.pack("BBHiQQII", _IORING_OP_WRITE, _IOSQE_ASYNC, 0, fd, 0, address, 0, 0)
            self._sqes[_SQE_BYTES * place : _SQE_BYTES * (place + 1)] = sqe.ljust(_SQE_BYTES, b"\0")
            self._sq[self._array + 4 * place : self._array + 4 * place + 4] = struct.pack("I", place)
        self._sq[self._tail : self._tail + 4] = struct.pack("I", tail + len(fds) & 0xFFFFFFFF)
        count = len(fds)
        _check(_libc.syscall(_IO_URING_ENTER, self._fd, count, count, _IORING_ENTER_GETEVENTS, None, 0), "io_uring")
        (done,) = struct.unpack_from("I", self._cq, self._done)
        self._cq[self._done : self._done + 4] = struct.pack("I", done + count & 0xFFFFFFFF)


def power_off() -> None:
    """Switch the machine off; nothing is written out first."""
    _check(_libc.reboot(_POWER_OFF), "reboot")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
