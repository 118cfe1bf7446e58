"""Control groups of a node's own, below those that the tests run in: one in each hierarchy of the first version."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 30


@dataclass(frozen=True)
class Hierarchy:
    """A mounted hierarchy of control groups, and the group in it that we are in."""

    mount: Path
    options: str
    """What mounts the same hierarchy again; empty for the second version."""
    ours: Path


def hierarchies() -> list[Hierarchy]:
    """Return those of the first version, or else the one of the second. Source: cgroups(7)."""
    rows = (line.partition(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines())
    mounted = [(before.split(), after.split()) for before, _, after in rows]
    paths = _paths()
    first = [
        _hierarchy(before, options=_options(after[2]), path=paths[_options(after[2]).removeprefix("none,")])
        for before, after in mounted
        if after[0] == "cgroup"
    ]
    second = [_hierarchy(before, options="", path=paths[""]) for before, after in mounted if after[0] == "cgroup2"]
    return first or second[:1]


def _paths() -> dict[str, str]:
    rows = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return {controllers: path for _, controllers, path in rows}


def _options(superblock: str) -> str:
    kept = [word for word in superblock.split(",") if word not in {"rw", "xattr", "noprefix", "clone_children"}]
    kept = [word for word in kept if not word.startswith("release_agent=")]
    return ",".join(["none", *kept] if kept[:1] and kept[0].startswith("name=") else kept)


def _hierarchy(before: list[str], *, options: str, path: str) -> Hierarchy:
    root, mount = before[3], Path(before[4])
    return Hierarchy(mount, options, mount / path.removeprefix(root.rstrip("/")).lstrip("/"))


@contextlib.contextmanager
def make_groups(name: str) -> Iterator[tuple[Path, ...]]:
    """Make a group of that name in each hierarchy; whatever is still in them at the end is killed.

    The node mounts its groups where `text_of` says.
    """
    groups = tuple(each.ours / name for each in hierarchies())
    try:
        for group in groups:
            _make(group)
        yield groups
    finally:
        for group in groups:
            _remove(group)


def text_of(found: list[Hierarchy]) -> str:
    """Return a line for each hierarchy of the first version: the name of its directory, and its options."""
    return "".join(f"{each.mount.name} {each.options}\n" for each in found if each.options)


def _make(group: Path) -> None:
    group.mkdir()
    if (controllers := group.parent / "cgroup.controllers").exists():
        wanted = " ".join(f"+{name}" for name in controllers.read_text().split())
        (group.parent / "cgroup.subtree_control").write_text(wanted)
    for file in ("cpuset.cpus", "cpuset.mems"):  # of the first version, where a new group has none
        if (group / file).exists() and not (group / "cgroup.type").exists():
            (group / file).write_text((group.parent / file).read_text())


def _remove(group: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while group.exists():
        # The deepest first: one that has others in it can't be removed.
        for each in sorted((*group.rglob("*/"), group), key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):
                each.rmdir()
                continue
            with contextlib.suppress(OSError):
                for pid in (each / "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
        assert time.monotonic() < deadline, f"{group} can't be removed"
        time.sleep(0.02)
