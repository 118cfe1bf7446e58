"""What the scripts of a container mount by themselves, and whether a data root can be on it. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from kata_dind.pod.argv import names

_UNFIT_TYPES = names(
    "overlay 9p virtiofs nfs nfs4 cifs fuse proc sysfs cgroup cgroup2 devpts securityfs bpf devtmpfs debugfs "
    "tracefs mqueue hugetlbfs fuse.sshfs fuse.gcsfuse fuse-overlayfs"
)


@dataclass(frozen=True, slots=True)
class HandMount:
    """A mount that a script makes."""

    target: str
    is_memory: bool
    source: str
    unless_mounted: bool = False
    """The script asks first whether something is mounted there."""
    is_fit: bool = True
    """A data root can be on it: no bind mount of something unknown, no network file system."""


def read_mount(words: Sequence[str], before: Sequence[HandMount]) -> HandMount | None:
    """Read `mount -o loop FILE DIR` and its kin; None for what gives a data root nothing."""
    kind, options, operands = "", "", []
    at = 1
    while at < len(words):
        word = words[at]
        if word in ("-t", "--types", "-o", "--options", "-L", "-U", "--source", "--target"):
            value = words[at + 1] if at + 1 < len(words) else ""
            if word in ("-t", "--types"):
                kind = value
            elif word in ("-o", "--options"):
                options += "," + value
            else:
                operands.append(value)
            at += 2
            continue
        if word.startswith("-t") and len(word) > 2:
            kind = word[2:]
        elif word.startswith("-o") and len(word) > 2:
            options += "," + word[2:]
        elif word.startswith("--make-"):
            return None
        elif word in ("--bind", "--rbind", "-B", "-R", "--move", "-M"):
            options += ",bind"
        elif not word.startswith("-"):
            operands.append(word)
        at += 1
    if len(operands) != 2 or not operands[1].startswith("/"):
        return None
    source, target = operands[0], posixpath.normpath(operands[1])
    if kind in _UNFIT_TYPES:
        return HandMount(target, False, source, is_fit=False)
    names = options.split(",")
    if "bind" in names or "rbind" in names:
        below = mount_over(posixpath.normpath(source), before) if source.startswith("/") else None
        return HandMount(
            target, below is not None and below.is_memory, source, is_fit=below is not None and below.is_fit
        )
    return HandMount(target, kind in ("tmpfs", "ramfs"), source)


def mount_over(path: str, mounts: Sequence[HandMount]) -> HandMount | None:
    """Return the mount that a path lies on, the last that covers it; one of all of `/` does not count."""
    for mount in reversed(mounts):
        if mount.target != "/" and (path == mount.target or path.startswith(mount.target + "/")):
            return mount
    return None
