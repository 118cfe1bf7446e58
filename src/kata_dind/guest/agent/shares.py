"""The shares of containers that run: attached, taken away, and attached again after the machine was suspended.

A suspended machine has no device for shares, and after it has resumed, the device is a new one. So before the
suspension everything stands still (`Shares.freeze`), and what is mounted of shares is remembered: the places, and
what else is mounted below them. Afterwards (`Shares.thaw`) each place is covered by a mount of the new device, and
everything runs on. A file that is open on a share can't be replaced in this way.
"""

from __future__ import annotations

import os

from . import libc, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .loop import Loop

SHARED = "/run/kata-containers/shared/containers"
"""Where Kata's guests mount the shared directory, whose tag is kataShared."""

_FREEZE, _EVENTS = f"{spawn.CONTAINER_CGROUP}/cgroup.freeze", f"{spawn.CONTAINER_CGROUP}/cgroup.events"
_FREEZE_SECONDS, _PAUSE_SECONDS = 10.0, 0.02

_ATTEMPTS, _BETWEEN_SECONDS = 8, 0.15

_OPTIONS = {"ro": libc.MS_RDONLY, "nosuid": 0x2, "nodev": 0x4, "noexec": 0x8, "noatime": libc.MS_NOATIME}

_MOST_USERS = 5
"""How many processes are named that stand in the way."""


class Mounted:
    """A line of mountinfo, proc(5)."""

    def __init__(self, line: str) -> None:
        fields, _, filesystem = line.partition(" - ")
        number, parent, self.device, root, path, options, *_ = fields.split(" ")
        self.number, self.parent = int(number), int(parent)
        self.root, self.path = _unescaped(root), _unescaped(path)
        self.options = options.split(",")
        self.kind = filesystem.partition(" ")[0]

    @property
    def flags(self) -> int:
        """The flags of the mount itself, for a mount that takes its place."""
        return sum(flag for word, flag in _OPTIONS.items() if word in self.options)


class Place:
    """A mount of a share: its namespace, its path, the share, the path in the share, flags, and mounts below it."""

    def __init__(self, namespace: int, mounted: Mounted, share: str, below: str, inner: list[tuple[int, str]]) -> None:
        self.namespace = namespace
        self.path = mounted.path
        self.flags = mounted.flags
        self.share = share
        self.below = below
        self.inner = inner

    @property
    def descriptors(self) -> list[int]:
        """The open files that it consists of."""
        return [self.namespace, *(fd for fd, _ in self.inner)]

    def close(self) -> None:
        """Let go of the mounts below it."""
        for fd, _ in self.inner:
            os.close(fd)


class Shares:
    """What has become of the shares while the machine is suspended."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._places: list[Place] = []
        self._namespaces: list[int] = []
        self._frozen = False

    def freeze(self, on_end: Callable[[str], None], attempts: int = _ATTEMPTS) -> None:
        """Let all containers stand still, and remember their shares; `on_end` is told why that can't be, or ''.

        A process that has something open on a share is such a reason, if it still has after some attempts: most files
        are open for a moment.
        """

        def attempted(why: str) -> None:
            if why and attempts > 1:
                self._loop.after(_BETWEEN_SECONDS, lambda: self.freeze(on_end, attempts - 1))
            else:
                on_end(why)

        self._frozen = True
        _write(_FREEZE, "1")
        self._when_frozen(_FREEZE_SECONDS, attempted)

    def _when_frozen(self, left_seconds: float, on_end: Callable[[str], None]) -> None:
        why = ""
        if "frozen 1" in _read(_EVENTS):
            try:
                why = self._remember()
            except OSError as error:
                why = f"{error.strerror}"
        elif left_seconds > 0:
            return self._loop.after(_PAUSE_SECONDS, lambda: self._when_frozen(left_seconds - _PAUSE_SECONDS, on_end))
        else:
            why = "its processes don't stand still"
        if why:
            self.run_on()
        return on_end(why)

    def _remember(self) -> str:
        devices = share_devices()
        if users := [*_users(set(devices))]:
            more = f" and {len(users) - _MOST_USERS} more" if len(users) > _MOST_USERS else ""
            return f"files are open on a share: {', '.join(users[:_MOST_USERS])}{more}"
        for pid in _one_of_each_namespace():
            namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            self._namespaces.append(namespace)
            self._places += places_of(pid, namespace, devices)
        libc.detach(SHARED)
        return ""

    @property
    def places(self) -> list[Place]:
        """The places that have to be covered by mounts of the new device."""
        return self._places

    def run_on(self) -> None:
        """Let the containers run on, if they stand still, and forget the places."""
        for place in self._places:
            place.close()
        for namespace in self._namespaces:
            os.close(namespace)
        self._places, self._namespaces = [], []
        if self._frozen:
            self._frozen = False
            _write(_FREEZE, "0")


def cover(places: Sequence[Place], names: Sequence[str]) -> None:
    """Cover places by mounts of the shares of these names, in a process of its own, which changes its namespace.

    Raises OSError. A directory that is gone on the host, or whose share is gone, is left without a mount that works.
    """
    trees = []
    for place in places:
        if place.share in names:
            try:
                trees.append((place, libc.clone_mount(f"{SHARED}/{place.share}{place.below}")))
            except FileNotFoundError:
                os.write(1, f"{place.path}\n".encode())
    for place, tree in trees:
        libc.setns(place.namespace, libc.CLONE_NEWNS)
        libc.attach_mount(tree, place.path)
        os.close(tree)
        if place.flags:
            libc.mount("none", place.path, flags=libc.MS_REMOUNT | libc.MS_BIND | place.flags)
        for fd, path in place.inner:
            libc.attach_mount(fd, path)


def places_of(pid: int, namespace: int, devices: dict[str, str]) -> Iterator[Place]:
    """Yield the mounts of shares in a process's namespace, outer ones first; `devices` names the shares by device."""
    mounts = mounts_of(pid)
    for mounted in mounts:
        if mounted.device not in devices or mounted.root.endswith("//deleted"):
            continue
        share, below = devices[mounted.device], mounted.root.rstrip("/")
        if not share:  # a file, which is shared without a device of its own
            share, below = below.lstrip("/"), ""
        inner = [
            (os.open(f"/proc/{pid}/root{other.path}", os.O_PATH | os.O_CLOEXEC), other.path)
            for other in mounts
            if other.parent == mounted.number and other.device not in devices
        ]
        yield Place(namespace, mounted, share, below, inner)


def share_devices() -> dict[str, str]:
    """Return the names of the shares by their devices; the shared directory's own device has an empty name."""
    devices = {_device(os.stat(SHARED).st_dev): ""}
    for name in os.listdir(SHARED):
        try:
            devices[_device(os.stat(f"{SHARED}/{name}/.").st_dev)] = name
        except NotADirectoryError:
            pass
    return devices


def users_of(share: str, own_pid: int) -> list[str]:
    """Return which containers have mounted a share, beside the one that dockerd itself is in."""
    devices, own = share_devices(), [_namespace_of(pid) for pid in with_shares(own_pid)]
    return [
        _name_of(pid)
        for pid in _one_of_each_namespace()
        if _namespace_of(pid) not in own and any(place.share == share for place in _closed(pid, devices))
    ]


def with_shares(own_pid: int) -> list[int]:
    """Return a process of each mount namespace that gets every share.

    These are the container's and, where dockerd is rootless, its own, in which containers' binds have their sources.
    """
    cgroup, found = _read(f"/proc/{own_pid}/cgroup"), {_namespace_of(own_pid): own_pid}
    for pid in _pids():
        # A dockerd in one of dockerd's containers has another cgroup.
        if _read(f"/proc/{pid}/comm") == "dockerd\n" and _read(f"/proc/{pid}/cgroup") == cgroup:
            try:
                found.setdefault(_namespace_of(pid), pid)
            except OSError:
                continue
    return [*found.values()]


def _namespace_of(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/mnt").st_ino


def mounts_of(pid: int) -> list[Mounted]:
    """Return what is mounted for a process."""
    return [Mounted(line) for line in _read(f"/proc/{pid}/mountinfo").splitlines()]


def _closed(pid: int, devices: dict[str, str]) -> Iterator[Place]:
    for place in places_of(pid, -1, devices):
        place.close()
        yield place


def _one_of_each_namespace() -> list[int]:
    """Return a process of each mount namespace but our own."""
    seen = {os.stat("/proc/self/ns/mnt").st_ino}
    found = []
    for pid in _pids():
        try:
            namespace = os.stat(f"/proc/{pid}/ns/mnt").st_ino
        except OSError:
            continue
        if namespace not in seen:
            seen.add(namespace)
            found.append(pid)
    return found


def _users(devices: set[str]) -> Iterator[str]:
    """Yield the processes that have something open on one of the devices."""
    for pid in _pids():
        if pid != os.getpid() and _uses(pid, devices):
            yield _name_of(pid)


def _uses(pid: int, devices: set[str]) -> bool:
    try:
        paths = [f"/proc/{pid}/{name}" for name in ("cwd", "root", "exe")]
        paths += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return False
    for path in paths:
        try:
            if _device(os.stat(path).st_dev) in devices:
                return True
        except OSError:
            continue
    mapped = (line.split(None, 4)[3] for line in _read(f"/proc/{pid}/maps").splitlines())
    return any(_from_hexadecimal(device) in devices for device in mapped if device != "00:00")


def _name_of(pid: int) -> str:
    """Return a process's program and container, in words."""
    container = _read(f"/proc/{pid}/cgroup").rpartition("/")[2].strip()
    where = f" in the container {container[:12]}" if len(container) == 64 else ""
    return f"{_read(f'/proc/{pid}/comm').strip()} (process {pid}){where}"


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _device(number: int) -> str:
    return f"{os.major(number)}:{os.minor(number)}"


def _from_hexadecimal(device: str) -> str:
    major, _, minor = device.partition(":")
    return f"{int(major, 16)}:{int(minor, 16)}"


def _unescaped(path: str) -> str:
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, letter)
    return path


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
