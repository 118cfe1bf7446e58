"""Argument lists that give a program its own namespaces; an ordinary user gets them through a user namespace."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from kata_dind.errors import CommandFailed, PermissionMissing
from kata_dind.host.json_files import read_json, write_passing_json
from kata_dind.host.process import require_tool, run

_WORKED = "namespaces.json"


def private_network_argv(argv: Sequence[str], *, unshare: Path, as_root: bool) -> list[str]:
    """Run a program in a network namespace of its own, as its root; it keeps the caller's process id."""
    user = [] if as_root else ["--user", "--map-root-user"]
    return [str(unshare), *user, "--net", "--", *argv]


def inside_network_argv(argv: Sequence[str], *, pid: int, as_root: bool) -> list[str]:
    """Run a program in the network namespace of a process that `private_network_argv` has started."""
    user = [] if as_root else ["--user", "--preserve-credentials"]
    return ["nsenter", "--target", str(pid), *user, "--net", "--", *argv]


def private_mounts_argv(argv: Sequence[str], *, unshare: Path, as_root: bool) -> list[str]:
    """Run a program in a mount namespace of its own, so that its mounts end with it.

    An ordinary user is root in there, and the subordinate ids of that user are the other users.
    """
    user = [] if as_root else ["--user", "--map-root-user", "--map-auto"]
    return [str(unshare), *user, "--mount", "--propagation", "private", "--", *argv]


def in_mounts_argv(argv: Sequence[str], *, pid: int, as_root: bool) -> list[str]:
    """Run a program in the mount namespace that another one got by `private_mounts_argv`."""
    user = [] if as_root else ["--user", "--preserve-credentials"]
    return ["nsenter", f"--target={pid}", *user, "--mount", "--", *argv]


def allowed_unshare() -> Path:
    """Return the place of the copy of `unshare` that AppArmor allows to make namespaces: beside our interpreter."""
    return Path(sys.executable).with_name("kata-dind-unshare")


def find_unshare() -> Path:
    """Return the `unshare` to use: our copy, where there is one."""
    beside = allowed_unshare()
    return beside if beside.exists() else require_tool("unshare", package="util-linux")


def require_network_namespaces(unshare: Path, *, as_root: bool, cache: Path) -> None:
    """Raise PermissionMissing when this user can't make a network namespace and set it up.

    Once it has worked, it is not tried again before the host's next boot, since that would slow down each start.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    tried = {"boot": boot, "unshare": str(unshare), "as_root": as_root}
    if read_json(cache / _WORKED) == tried:
        return
    try:
        run(
            private_network_argv(["ip", "link", "set", "lo", "up"], unshare=unshare, as_root=as_root),
            timeout_seconds=10,
        )
    except CommandFailed as error:
        raise PermissionMissing(
            "this user may not make network namespaces, which keep the guest away from this host",
            id="network.namespaces-forbidden",
            details=error.details,
            hint="kata-dind setup, which on Ubuntu 24.04 allows one program to make them",
        ) from error
    with contextlib.suppress(OSError):
        write_passing_json(cache / _WORKED, tried)
