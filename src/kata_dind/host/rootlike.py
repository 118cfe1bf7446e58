"""Commands that must own files of many users: run by root in a private mount namespace, by others in a user namespace.

In the user namespace the caller is root, and ids from 1 up are the caller's subordinate ids, so that a root file
system can be unpacked with its real owners, packed, and removed again. Every call maps ids in the same way.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from kata_dind.errors import CommandFailed, CommandTimedOut, HostError, PermissionMissing
from kata_dind.host.namespaces import find_unshare
from kata_dind.host.process import Completed, run

# A setting, the value that forbids user namespaces, and the change: Ubuntu since 23.10, Debian up to 10, any kernel.
_SETTINGS = (
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
    ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
)


def rootlike_argv(
    argv: Sequence[str | os.PathLike[str]], *, as_root: bool, unshare: Path = Path("unshare")
) -> list[str]:
    """Wrap a command so that it runs as root, or as the root of a user namespace, with its own mounts.

    It has its own process namespace as well, and is killed when the caller ends, however the caller ends: mmdebstrap
    first finishes its work when a gentler signal asks it to stop, and unshare blocks those signals.
    """
    user = [] if as_root else ["--user", "--map-root-user", "--map-auto"]
    wrapper = [str(unshare), *user, "--mount", "--pid", "--kill-child"]
    return ["setpriv", "--pdeathsig", "KILL", "--", *wrapper, "--", *(os.fspath(word) for word in argv)]


def run_rootlike(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout_seconds: float,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Run a command as `rootlike_argv` wraps it; errors are those of `run`, and name the command, not the wrapper."""
    wrapped = rootlike_argv(argv, as_root=os.geteuid() == 0, unshare=find_unshare())
    try:
        return run(wrapped, timeout_seconds=timeout_seconds, log=log, environment=environment)
    except (CommandFailed, CommandTimedOut) as error:
        program = Path(os.fspath(argv[0])).name
        summary = error.summary.replace(wrapped[0], program, 1)
        raise type(error)(summary, id=error.id, details=error.details, hint=error.hint) from error


def require_rootlike() -> None:
    """Raise PermissionMissing, with the way out, when this user cannot have such a namespace."""
    try:
        run_rootlike(["true"], timeout_seconds=20)
    except CommandFailed as error:
        raise PermissionMissing(
            "this user cannot own the files of a root file system, which building an image needs",
            id="host.user-namespaces-forbidden",
            details=error.details,
            hint=_hint(error.details),
        ) from error


def remove_tree(path: Path) -> None:
    """Remove a directory and all in it, files of our subordinate ids included. Raises HostError."""
    try:
        shutil.rmtree(path)
    except (OSError, RecursionError) as error:  # foreign owners; a tree that changes; a tree that is too deep
        if not path.exists():
            return
        try:
            run_rootlike(["rm", "-rf", "--one-file-system", "--", path], timeout_seconds=600)
        except CommandFailed as failure:
            raise HostError(
                f"{path} cannot be removed: {error}", id="host.directory-not-removed", details=failure.details
            ) from error


def _hint(evidence: str) -> str:
    if os.geteuid() == 0:
        return "give this root CAP_SYS_ADMIN, or build as an ordinary user with subordinate ids"
    if re.search("subordinate|sub[ug]id|newuidmap|newgidmap", evidence):
        return "kata-dind setup, which installs uidmap and gives this user subordinate ids"
    closed = [change for name, value, change in _SETTINGS if read_setting(name) == value]
    return f"sudo sysctl {' '.join(closed)}" if closed else ""


def read_setting(name: str) -> str:
    """Return a setting of the kernel by its path under /proc/sys; empty when the kernel has no such setting."""
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return ""
