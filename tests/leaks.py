"""What a test may leave behind, as a comparison of two snapshots; read from /proc and /sys in half a millisecond.

Processes are all our descendants: `adopt_orphans` makes those whose parent ended ours. While we have none, the table of
all processes is not read, which on a machine with two hundred costs ten times as much as all the rest.
Of what the whole machine shares (mounts, loop devices, sockets) only that under the given roots counts, for the machine
has other users.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, order=True)
class Resource:
    """One thing that lives on by itself; `identity` tells it from a later one under the same name."""

    kind: str
    name: str
    identity: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Surroundings:
    """Where to look: what is shared counts below `roots`; each entry of `emptied` directories counts by itself."""

    roots: tuple[Path, ...]
    emptied: tuple[Path, ...]

    def snapshot(self) -> frozenset[Resource]:
        """Return everything that is there now."""
        shared = (*_mounts(self.roots), *_loops(self.roots), *_sockets(self.roots))
        return frozenset((*_processes(), *_descriptors(), *shared, *_entries(self.emptied)))

    def left_since(
        self, before: frozenset[Resource], allowed: set[Resource], *, grace_seconds: float
    ) -> list[Resource]:
        """Return what is new since a snapshot and stays; what is just ending gets `grace_seconds` to do so."""
        deadline = time.monotonic() + grace_seconds
        while True:
            reap_orphans(before | allowed)
            left = sorted(self.snapshot() - before - allowed)
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.02)


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose parent ends. Source: PR_SET_CHILD_SUBREAPER(2const)."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def reap_orphans(known: frozenset[Resource]) -> None:
    """Reap our ended children, but none of the known processes: who started those waits for them."""
    known_pids = {int(resource.identity.split()[0]) for resource in known if resource.kind == "process"}
    for pid, parent, state, _ in _process_table() if _has_children() else ():
        if parent == os.getpid() and state == "Z" and pid not in known_pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def end_processes(left: Sequence[Resource], *, wait_seconds: float = 1.0) -> None:
    """Kill left-over processes, so that one leaking test is one failure and the machine stays usable."""
    pids = [int(resource.identity.split()[0]) for resource in left if resource.kind == "process"]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + wait_seconds
    while any(_is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _is_running(pid: int) -> bool:
    return any(entry[0] == pid and entry[2] not in "ZX" for entry in _process_table())


def _process_table() -> Iterator[tuple[int, int, str, str]]:
    for name in _names("/proc"):
        if not name.isdecimal():
            continue
        try:
            fields = _read(f"/proc/{name}/stat").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield int(name), int(fields[1]), fields[0], fields[19]


def _has_children() -> bool:
    """Tell whether any process is our child, ended or not.

    Beside children that end, a list may be incomplete, but an empty one means none. Source: proc_tid_children(5).
    """
    threads = _names("/proc/self/task")
    try:
        if any(_read(f"/proc/self/task/{thread}/children") for thread in threads):
            return True
    except OSError:  # a thread that ended meanwhile, or a kernel without CONFIG_PROC_CHILDREN
        return True
    return threads != _names("/proc/self/task")  # another thread inherits the children of one that ended


def _processes() -> Iterator[Resource]:
    if not _has_children():
        return
    table = {pid: (parent, state, started) for pid, parent, state, started in _process_table()}
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _) in table.items():
        children.setdefault(parent, []).append(pid)
    waiting = list(children.get(os.getpid(), ()))
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, ())
        _, state, started = table[pid]
        if state not in "ZX":
            yield Resource("process", f"{pid} ({_command_line(pid)})", f"{pid} {started}")


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:200]
    except OSError:
        return "ended meanwhile"


def _descriptors() -> Iterator[Resource]:
    for name in _names("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that reads the directory
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115 - as in _names
            yield Resource("open descriptor", f"{name} ({target})", target)


def _mounts(roots: Sequence[Path]) -> Iterator[Resource]:
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        number, _, _, _, place, *_ = line.split()
        if _is_below(place, roots):
            yield Resource("mount", place, number)


def _loops(roots: Sequence[Path]) -> Iterator[Resource]:
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # detached meanwhile
            backing = file.read_text(encoding="utf-8", errors="replace").strip()
            if _is_below(backing, roots):
                yield Resource("loop device", file.parts[3], backing)


def _sockets(roots: Sequence[Path]) -> Iterator[Resource]:
    for line in Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and _is_below(fields[7], roots):
            yield Resource("bound socket", fields[7], fields[6])


def _entries(directories: Sequence[Path]) -> Iterator[Resource]:
    for directory in directories:
        with contextlib.suppress(FileNotFoundError):
            for entry in directory.iterdir():
                yield Resource("left-over entry", str(entry), str(entry.lstat().st_ino))


def _names(directory: str) -> list[str]:
    return os.listdir(directory)  # noqa: PTH208 - a Path per process would cost more than all the rest


def _read(file: str) -> str:
    with open(file, encoding="utf-8", errors="replace") as opened:  # noqa: PTH123 - as in _names
        return opened.read()


def _is_below(path: str, roots: Sequence[Path]) -> bool:
    return any(path == str(root) or path.startswith(f"{root}/") for root in roots)
