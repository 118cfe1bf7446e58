"""The dind container: its root is built as Kata's agent would build it, then process 1 becomes the guest entrypoint."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import stat
import struct
import time

from . import libc, spawn
from .shares import SHARED, cover, mounts_of, with_shares

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .shares import Place

RUN = "/run/kata-dind/run"
"""The container's /run: a directory of ours, so that we reach its Docker socket without entering it."""

PORTS = f"{RUN}/kata-dind/ports"
"""Where dockerd's questions about published ports arrive."""

_BASE = "/run/kata-dind"
_ROOT = f"{_BASE}/root"
_ENTRYPOINT = "/run/kata-dind/entrypoint.sh"
_SCRIPTS = ("entrypoint.sh", "published_port.sh")
_CODE = "/usr/lib/kata-dind"
NO_CONTAINER = 78
"""The guest entrypoint's exit code for a start without a data root; the host knows it as EXIT_NO_DATA_ROOT."""

_EXT4_IOC_RESIZE_FS = 0x40086610
"""Takes the new number of blocks. Source: linux/ext4.h, _IOW('f', 16, __u64)."""

_CHECK_FILE, _CHECK_BYTES = ".kata-dind-check", 4096

# The container has the host name of the guest, so that a clone has only one name to change.
_NAMESPACES = libc.CLONE_NEWNS | libc.CLONE_NEWPID | libc.CLONE_NEWIPC | libc.CLONE_NEWCGROUP

# A container's /dev under Kata: a few nodes, and no loop devices, /dev/fuse or /dev/kmsg even when it is privileged
# (https://github.com/kata-containers/kata-containers/issues/8118).
_NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}


class Layout:
    """The parts of a container: disks and a block device by their paths, shares as `NAME PATH` pairs."""

    def __init__(self, *, image: str, layer: str, device: str | None, shares: Sequence[str]) -> None:
        self.image = image
        self.layer = layer
        self.device = device
        self.shares = shares


def start(layout: Layout, argv: Sequence[str], environment: dict[str, str]) -> spawn.Child:
    """Start the container in mount, pid, ipc and cgroup namespaces of its own; its pid is its process 1's.

    A container that can't be built ends with 78 and says why, as the entrypoint would, in a JSON line.
    Raises OSError when the shared directory can't be mounted.
    """
    if layout.shares:
        # In our own namespace, where it stays: once no mount of the directory itself is left, a new one shows whichever
        # share the kernel finds first, since each is a superblock of the same device: virtio_fs_test_super() in
        # https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/fs/fuse/virtio_fs.c
        mount_shared()

    def make_namespaces() -> None:
        spawn.join_first([spawn.CONTAINER_CGROUP])
        libc.unshare(_NAMESPACES)

    def become() -> None:
        try:
            _build(layout)
        except OSError as error:
            line = {"kata_dind": "error", "step": "container", "message": str(error), "hint": ""}
            os.write(2, json.dumps(line).encode() + b"\n")
            os._exit(NO_CONTAINER)
        os.execve("/bin/sh", ["/bin/sh", _ENTRYPOINT, "--", *argv], environment)

    return spawn.spawn(become, size=None, change=make_namespaces)


def enter(
    pid: int, argv: Sequence[str], environment: dict[str, str], *, cwd: str, size: tuple[int, int] | None
) -> spawn.Child:
    """Start a program beside the container's process 1, whose pid it gets.

    Not by nsenter, which stays as its parent and which a signal to the process group would end first.
    """

    def join_namespaces() -> None:
        spawn.join_first([f"{spawn.CONTAINER_CGROUP}/init", spawn.CONTAINER_CGROUP])
        libc.setns(os.pidfd_open(pid), _NAMESPACES)

    return spawn.spawn(spawn.program(argv, environment, cwd=cwd), size=size, change=join_namespaces)


class Check:
    """Writes a block to a running container's data root and reads it back.

    This is the one part of the proof that a restore could have undone, since overlay and dockerd are in the memory that
    was proven. It bypasses the page cache, so that the disk itself answers, except on a tmpfs, which has no disk.
    """

    def __init__(self, pid: int, path: str) -> None:
        self._file = f"{_inside(pid, path)}/{_CHECK_FILE}"
        self._fd = -1
        self._block, self._answer = (mmap.mmap(-1, _CHECK_BYTES) for _ in range(2))  # aligned, as O_DIRECT demands

    def prepare(self) -> None:
        """Make the file, and leave it open for the next look, so that a clone needs no free space for it."""
        self._fd = _open_direct(self._file)
        try:
            self._look()
            os.fsync(self._fd)
        except OSError:
            self._close()
            raise

    def look(self) -> float:
        """Check, and return how many seconds that took. Raises OSError when other data is read than was written."""
        started = time.monotonic()
        if self._fd < 0:
            self._fd = _open_direct(self._file)
        try:
            self._look()
        finally:
            self._close()
        return time.monotonic() - started

    def _close(self) -> None:
        # An open file would keep the container's file system mounted beyond the container's end.
        os.close(self._fd)
        self._fd = -1

    def _look(self) -> None:
        self._block[:16] = os.urandom(16)
        os.pwritev(self._fd, [self._block], 0)
        os.preadv(self._fd, [self._answer], 0)
        if self._answer[:] != self._block[:]:
            raise OSError(errno.EIO, "the data root does not return what was written", self._file)


def _open_direct(file: str) -> int:
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o600)


def mount_shared() -> None:
    """Mount the shared directory. Raises OSError, also when the guest's kernel does not know its device yet."""
    _make_directory(SHARED)
    if not os.path.ismount(SHARED):
        libc.mount("kataShared", SHARED, "virtiofs")


def attach_shares(pid: int, shares: Sequence[str], places: Sequence[Place] = ()) -> spawn.Child:
    """Start a process that attaches shares to a running container, which has turned away from our mounts.

    Then it covers places where shares were mounted before the machine was suspended. It says on its standard error
    what failed, if anything did.
    """

    def become() -> None:
        namespaces = [os.open(f"/proc/{each}/ns/mnt", os.O_RDONLY) for each in with_shares(pid)]
        missing = [(namespace, _clone_shares(_not_at(places, namespace, shares))) for namespace in namespaces]
        cover(places, [share.partition(" ")[0] for share in shares])
        for namespace, trees in missing:
            libc.setns(namespace, libc.CLONE_NEWNS)
            _attach(trees, "")
        os._exit(0)

    return spawn.spawn(become, size=None, keep=[fd for place in places for fd in place.descriptors])


def _not_at(places: Sequence[Place], namespace: int, shares: Sequence[str]) -> list[str]:
    """Return the shares that were not mounted in a namespace before the machine was suspended."""
    ours = [place for place in places if os.path.sameopenfile(place.namespace, namespace)]
    known = {f"{place.share} {place.path}" for place in ours if not place.below}
    return [share for share in shares if share not in known]


def detach_share(pid: int, share: str) -> spawn.Child:
    """Start a process that takes a share away from a running container. It says what failed, as above."""

    def become() -> None:
        name, _, path = share.partition(" ")
        if os.path.ismount(f"{SHARED}/{name}/."):
            libc.detach(f"{SHARED}/{name}")
        inside = [(os.pidfd_open(each), [mount.path for mount in mounts_of(each)]) for each in with_shares(pid)]
        for process, mounted in inside:
            libc.setns(process, libc.CLONE_NEWNS)
            place = os.path.realpath(path)
            for _ in range(mounted.count(place)):  # one more for each time that the machine was suspended
                libc.detach(place)
        os._exit(0)

    return spawn.spawn(become, size=None)


def grow_data_root(pid: int, path: str, disk_bytes: int) -> spawn.Child:
    """Start a process that makes a running container's ext4 as large as its disk has become.

    It says on its standard error what failed, if anything did.
    """

    def become() -> None:
        directory = os.open(_inside(pid, path), os.O_RDONLY)
        blocks = disk_bytes // os.fstatvfs(directory).f_bsize
        fcntl.ioctl(directory, _EXT4_IOC_RESIZE_FS, struct.pack("Q", blocks))
        os._exit(0)

    return spawn.spawn(become, size=None)


def data_root_bytes(pid: int, path: str) -> int:
    """Return the size of a running container's data root."""
    status = os.statvfs(_inside(pid, path))
    return status.f_blocks * status.f_frsize


def _inside(pid: int, path: str) -> str:
    return f"/proc/{pid}/root{path}"


def _build(layout: Layout) -> None:
    libc.mount("none", "/", flags=libc.MS_REC | libc.MS_PRIVATE)
    _mount_root(layout)
    _mount_dev(layout.device)
    _mount_kernel_views()
    _bind_names()
    # The official image's start script mounts a tmpfs over /tmp, and over shares below it, unless /tmp is a mount.
    _bind(f"{_ROOT}/tmp", f"{_ROOT}/tmp")
    _attach(_clone_shares(layout.shares), _ROOT)
    _make_directory(f"{RUN}/kata-dind")
    for script in _SCRIPTS:
        _copy(f"{_CODE}/{script}", f"{RUN}/kata-dind/{script}")
    os.chdir(_ROOT)
    libc.pivot_root(".", ".")  # stacks the old root on the new one, from where it is detached: pivot_root(2), NOTES
    libc.detach(".")
    os.chdir("/")


def _mount_root(layout: Layout) -> None:
    image, layer = f"{_BASE}/image", f"{_BASE}/layer"
    for directory in (image, layer, _ROOT):
        _make_directory(directory)
    _mount_read_only_disk(layout.image, image)
    libc.mount(layout.layer, layer, "ext4", flags=libc.MS_NOATIME)
    _make_directory(f"{layer}/upper")
    _make_directory(f"{layer}/work")
    libc.mount("container", _ROOT, "overlay", options=f"lowerdir={image},upperdir={layer}/upper,workdir={layer}/work")
    for name in ("proc", "sys", "dev", "run", "var", "etc", "tmp"):
        _make_directory(f"{_ROOT}/{name}")


def _mount_read_only_disk(disk: str, target: str) -> None:
    try:
        libc.mount(disk, target, "erofs", flags=libc.MS_RDONLY)
    except OSError:
        libc.mount(disk, target, "ext4", flags=libc.MS_RDONLY)


def _mount_dev(device: str | None) -> None:
    dev = f"{_ROOT}/dev"
    libc.mount("dev", dev, "tmpfs", flags=libc.MS_NOSUID, options="mode=0755")
    for name, (major, minor) in _NODES.items():
        os.mknod(f"{dev}/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
        os.chmod(f"{dev}/{name}", 0o666)  # mknod's mode is cut by the umask
    for name, target in _LINKS.items():
        os.symlink(target, f"{dev}/{name}")
    if device:
        os.mknod(f"{_ROOT}{device}", stat.S_IFBLK | 0o600, os.stat(device).st_rdev)
    for name in ("pts", "shm", "mqueue"):
        _make_directory(f"{dev}/{name}")
    libc.mount("/dev/pts", f"{dev}/pts", flags=libc.MS_BIND)
    libc.mount("shm", f"{dev}/shm", "tmpfs", flags=libc.MS_NOSUID | libc.MS_NODEV, options="mode=1777")
    libc.mount("mqueue", f"{dev}/mqueue", "mqueue")


def _mount_kernel_views() -> None:
    libc.mount("proc", f"{_ROOT}/proc", "proc")
    libc.mount("sysfs", f"{_ROOT}/sys", "sysfs")
    libc.mount("cgroup2", f"{_ROOT}/sys/fs/cgroup", "cgroup2")
    _bind(RUN, f"{_ROOT}/run")
    if not os.path.islink(f"{_ROOT}/var/run"):
        # A real directory there would put the Docker socket where we do not look for it.
        _make_directory(f"{_ROOT}/var/run")
        _bind(RUN, f"{_ROOT}/var/run")


def _bind_names() -> None:
    """Bind the guest's own files of names into the container, as container managers do: both change together."""
    for name in ("hosts", "hostname", "resolv.conf"):
        path = f"{_ROOT}/etc/{name}"
        if os.path.lexists(path):
            os.unlink(path)  # it may be a link that leads out of the image
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
        _bind(f"/run/{name}", path)


def _clone_shares(shares: Sequence[str]) -> list[tuple[int, str]]:
    """Return a detached mount of each share in the shared directory, with its place in the container.

    Read-only shares are mounted read-only on the host already.
    """
    pairs = [share.partition(" ")[::2] for share in shares]
    return [(libc.clone_mount(f"{SHARED}/{name}"), path) for name, path in pairs]


def _attach(trees: Sequence[tuple[int, str]], root: str) -> None:
    for tree, path in trees:
        target = f"{root}{path}"
        if _is_there(tree, target):  # of a guest that could not be suspended
            os.close(tree)
            continue
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            _make_directory(target)
        else:
            _make_directory(target.rpartition("/")[0])
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        libc.attach_mount(tree, target)
        os.close(tree)


def _is_there(tree: int, target: str) -> bool:
    try:
        return os.path.samestat(os.fstat(tree), os.stat(target))
    except OSError:
        return False


def _bind(source: str, target: str) -> None:
    libc.mount(source, target, flags=libc.MS_BIND)


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as read, open(target, "wb") as write:  # shutil would bring three compressors along
        write.write(read.read())
        os.fchmod(write.fileno(), 0o755)


def _make_directory(path: str) -> None:
    os.makedirs(path, exist_ok=True)
