"""Temporary directories of builds: each builder locks its own, so that a free lock marks a leftover to sweep."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kata_dind.errors import CommandFailed, CommandTimedOut, HostError, ImageError, NoSpace
from kata_dind.host.directories import make_private
from kata_dind.host.locks import is_locked, locked
from kata_dind.host.process import run
from kata_dind.host.rootlike import remove_tree, run_rootlike

logger = logging.getLogger(__name__)

_NO_SPACE = re.compile("No space left on device|Disk quota exceeded")


@dataclass(frozen=True)
class Workspace:
    """A build's private directory, and the output of its commands."""

    directory: Path

    @property
    def log(self) -> Path:
        """The output of all commands of the build."""
        return self.directory / "build.log"

    def output(self) -> str:
        """Return the output of all commands so far."""
        try:
            return self.log.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def run(self, *argv: str | os.PathLike[str], timeout_seconds: float = 900) -> None:
        """Run a command of the build as this user."""
        run(argv, timeout_seconds=timeout_seconds, log=self.log, environment=self._environment)

    def run_rootlike(self, *argv: str | os.PathLike[str], timeout_seconds: float = 900) -> None:
        """Run a command of the build that has to own the files of many users."""
        run_rootlike(argv, timeout_seconds=timeout_seconds, log=self.log, environment=self._environment)

    @property
    def _environment(self) -> dict[str, str]:
        # A killed tool's temporary files are swept with our directory. Files that are made during the build get a fixed
        # time, so that the same packages give the same image.
        return {"TMPDIR": str(self.directory), "SOURCE_DATE_EPOCH": str(FIXED_TIME)}


FIXED_TIME = 1577836800
"""2020-01-01: the time of files that a build makes."""


@dataclass(frozen=True)
class Goal:
    """The purpose of a build, and the space that it needs."""

    what: str
    """Completes "could not …" in the ImageError or NoSpace that a failed command or a full disk becomes."""
    needs_mib: int
    """Space for the build; without that it is not begun, since apt waits for ever when the disk becomes full."""


@contextlib.contextmanager
def open_workspace(cache: Path, goal: Goal) -> Iterator[Workspace]:
    """Make a build's directory in the cache, remove it after the block, and sweep those of builders that died.

    Raises NoSpace when there is too little space to begin.
    """
    parent = make_private(cache / "tmp")
    directory = parent / os.urandom(6).hex()
    lock = _lock_of(directory)
    with contextlib.ExitStack() as stack:
        with locked(parent / "sweep.lock", timeout_seconds=None):
            _sweep(parent)
            _require_space(parent, goal)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            directory.mkdir(mode=0o700)
        stack.callback(_discard, directory)
        workspace = Workspace(directory)
        with _translated_errors(workspace, goal):
            yield workspace


def sweep_workspaces(cache: Path) -> None:
    """Remove the directories of builders that died."""
    parent = cache / "tmp"
    if parent.is_dir():
        with locked(parent / "sweep.lock", timeout_seconds=None):
            _sweep(parent)


def _sweep(parent: Path) -> None:
    for lock in parent.glob("*.lock"):
        if lock.name != "sweep.lock" and not is_locked(lock):
            logger.info("removing %s, which a killed build has left behind", lock.with_suffix(""))
            _discard(lock.with_suffix(""))


def _discard(directory: Path) -> None:
    try:
        remove_tree(directory)
    except HostError as error:
        # The tools of a killed builder may not have ended yet. The lock file stays, so that the next build tries again.
        logger.warning("%s; the next build will try again", error.summary)
    else:
        _lock_of(directory).unlink(missing_ok=True)


def _lock_of(directory: Path) -> Path:
    return directory.with_name(directory.name + ".lock")


@contextlib.contextmanager
def _translated_errors(workspace: Workspace, goal: Goal) -> Iterator[None]:
    try:
        yield
    except (CommandFailed, CommandTimedOut) as error:
        if _NO_SPACE.search(error.details + workspace.output()) or _free_mib(workspace.directory) == 0:
            raise _no_space(workspace.directory.parent, goal, "is full") from error
        raise ImageError(
            f"could not {goal.what}: {error.summary}", id="image.command-failed", details=error.details, hint=error.hint
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(workspace.directory.parent, goal, "is full") from error
        raise ImageError(f"could not {goal.what}: {error}", id="image.file-failed") from error


def _require_space(parent: Path, goal: Goal) -> None:
    if (free := _free_mib(parent)) < goal.needs_mib:
        raise _no_space(parent, goal, f"has {free} MiB left, and {goal.needs_mib} MiB are needed")


def _free_mib(directory: Path) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize >> 20


def _no_space(parent: Path, goal: Goal, why: str) -> NoSpace:
    return NoSpace(
        f"could not {goal.what}: the disk under {parent.parent} {why}",
        id="host.no-space",
        hint="free 2 GiB there, or point KATA_DIND_CACHE_DIR at a directory on a larger disk",
    )
