"""The block kind's disk: a file of the host that a container gets as a device, through a loop device of the host."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from kata_dind.backend.containerd.plan import DEVICE, PodPlan, data_disk, mounted
from kata_dind.dataroot.kinds import DATA_ROOT_SHARE, LOOP_FILE
from kata_dind.errors import DataRootBusy, HostError
from kata_dind.host.disks import create_disk
from kata_dind.host.file_users import is_open, users_of

_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_AUTOCLEAR, _DIRECT_IO = 4, 16
_ATTEMPTS = 50
_LET_GO_SECONDS, _PAUSE_SECONDS = 10.0, 0.1
"""How long a machine that is being ended may keep its disk, and how often is looked."""


class _Info(ctypes.Structure):
    """`struct loop_info64` of linux/loop.h."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("device", "inode", "rdevice", "offset", "sizelimit")),
        *((name, ctypes.c_uint32) for name in ("number", "encrypt_type", "encrypt_key_size", "flags")),
        ("file_name", ctypes.c_char * 64),
        ("crypt_name", ctypes.c_char * 64),
        ("encrypt_key", ctypes.c_char * 32),
        ("init", ctypes.c_uint64 * 2),
    )


class _Config(ctypes.Structure):
    """`struct loop_config` of linux/loop.h, since Linux 5.8."""

    _fields_ = (
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("info", _Info),
        ("reserved", ctypes.c_uint64 * 8),
    )


def require_data_place(plan: PodPlan) -> None:
    """Make the disk or the directory of a plan's data root, unless it is there already. Raises NoSpace."""
    disk = data_disk(plan)
    if disk is not None:
        create_disk(disk, size_mib=plan.data_root_mib, filesystem=plan.own.filesystem)
    for share in mounted(plan):
        if share.host_path.is_relative_to(plan.own.data_directory):
            share.host_path.mkdir(exist_ok=True)


def has_data(plan: PodPlan) -> bool:
    """Tell whether a plan's data root may hold containers of an earlier start."""
    disk = data_disk(plan)
    own = [share.host_path for share in mounted(plan) if share.host_path.is_relative_to(plan.own.data_directory)]
    return (disk is not None and disk.exists()) or any(place.is_dir() and any(place.iterdir()) for place in own)


def require_unused(plan: PodPlan, *, within_seconds: float = _LET_GO_SECONDS) -> None:
    """Raise DataRootBusy while a process has a plan's disk, which has no pod.

    A virtual machine may outlive its shim and its pod: containerd takes the pod of a shim that was killed for ended. Of
    two guests on one disk ext4 refuses the second by itself, and xfs does not.
    """
    deadline = time.monotonic() + within_seconds
    for file in (data_disk(plan), plan.own.data_directory / DATA_ROOT_SHARE / LOOP_FILE):
        if file is None or not file.exists():
            continue
        while is_open(file):
            if time.monotonic() >= deadline:
                users = ", ".join(users_of(file)) or "a process that can't be seen from here"
                raise DataRootBusy(
                    f"the disk of '{plan.name}' is still in use by {users}",
                    id="dataroot.in-use-without-pod",
                    hint="a virtual machine may have outlived its shim: end that process, and try again",
                )
            time.sleep(_PAUSE_SECONDS)


@contextlib.contextmanager
def attached_disk(disk: Path | None) -> Iterator[dict[str, str] | None]:
    """Attach a disk to a loop device, and yield that as CRI takes devices; it is detached when its last user lets go.

    At the end of the block a container that has it open keeps it until its own end, also when we are long gone. Raises
    HostError.
    """
    if disk is None:
        yield None
        return
    with _attached(disk) as path:
        yield {"host_path": path, "container_path": DEVICE, "permissions": "rwm"}


@contextlib.contextmanager
def _attached(disk: Path) -> Iterator[str]:
    try:
        backing = os.open(disk, os.O_RDWR | os.O_CLOEXEC)
        try:
            descriptor, path = _loop_on(backing)
        finally:
            os.close(backing)
    except OSError as error:
        raise HostError(
            f"the disk {disk} can't be attached to a loop device: {error.strerror}",
            id="containerd.no-loop-device",
            hint="use --data-root loop, whose loop device is the guest's",
        ) from error
    try:
        yield path
    finally:
        os.close(descriptor)


def _loop_on(backing: int) -> tuple[int, str]:
    """Attach a file to a free loop device with direct I/O where its file system has that; return the device, open."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            _require_node(path)
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            for flags in (_AUTOCLEAR | _DIRECT_IO, _AUTOCLEAR):
                try:
                    fcntl.ioctl(descriptor, _LOOP_CONFIGURE, _Config(fd=backing, info=_Info(flags=flags)))
                    return descriptor, path
                except OSError as error:
                    if error.errno == errno.EBUSY:  # another took it first
                        break
                    if error.errno != errno.EINVAL or flags == _AUTOCLEAR:
                        os.close(descriptor)
                        raise
            os.close(descriptor)
        raise OSError(errno.EBUSY, "no loop device is free")
    finally:
        os.close(control)


def _require_node(path: str) -> None:
    """Make a device's node where nobody does it, as in most containers."""
    number = int(path.removeprefix("/dev/loop"))
    if not Path(path).exists():
        with contextlib.suppress(FileExistsError):
            os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, number))
