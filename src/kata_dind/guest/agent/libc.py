"""The system calls that Python 3.11 has no function for; each raises OSError. Linux's numbers, equal everywhere."""

from __future__ import annotations

import ctypes
import os

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOATIME, MS_BIND = 0x1, 0x2, 0x4, 0x400, 0x1000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
MNT_DETACH = 0x2
AT_FDCWD = -100
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWPID = 0x20000, 0x2000000, 0x8000000, 0x20000000
_POWER_OFF = 0x4321FEDC  # LINUX_REBOOT_CMD_POWER_OFF, reboot(2)
_OPEN_TREE, _MOVE_MOUNT = 428, 429  # Linux 5.2; glibc has functions for them since 2.36
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 0x1, 0o2000000
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_SYMLINKS, _MOVE_MOUNT_T_AUTOMOUNTS = 0x4, 0x10, 0x20

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


def power_off() -> None:
    """Switch the machine off; nothing is written out first."""
    _check(_libc.reboot(_POWER_OFF), "reboot")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
