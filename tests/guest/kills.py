"""Kills the entrypoint at the programs that it runs, and finds the loop devices that it has left by then."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kata_dind.host.process import run
from tests.guest.conftest import Ended, Shell

# What the entrypoint runs; the number of the call at which to kill it is in a file, and pipes run several at a time.
PROGRAMS = (
    *("mkdir", "rm", "mv", "truncate", "stat", "od", "dd", "tr", "head", "mknod", "chmod", "uname", "ln"),
    *("mount", "umount", "losetup", "flock", "blkid", "blockdev"),
    *("mkfs.ext4", "mkfs.xfs", "e2fsck", "e2label", "tune2fs", "resize2fs", "xfs_growfs", "setfattr"),
)
NOT_IN_ALPINE = ("xfs_growfs", "setfattr")
_STUB = """#!/bin/dash
exec 8<>{directory}/lock
{flock} 8
read -r left <{directory}/left
left=$((left - 1))
echo $left >{directory}/left
exec 8>&-
read -r pid <{directory}/pid
if [ $left = 0 ]; then
	read -r delay <{directory}/delay
	case $delay in 0) kill -9 "$pid" ;; *) {{ cd /; sleep "$delay"; kill -9 "$pid"; }} & ;; esac
fi
{program} "$@"
code=$?
[ $left != 1 ] || [ ! -e {directory}/after ] || kill -9 "$pid"
exit $code
"""


class Killer:
    """Kills the entrypoint at its Nth program: before that has run, or some seconds later, perhaps while it runs.

    Or `after`, when the one before it has run.

    Kills its shell alone, so that its children live on for a moment, or its whole process group, as a container ends.
    busybox's shell runs its own applets, so that no other program can stand in their place. What waits for a kill waits
    in a directory that no mount hides, for it may outlast the program.
    """

    def __init__(
        self,
        shell: Shell,
        directory: Path,
        *,
        programs: Sequence[str] = PROGRAMS,
        after: bool = False,
        whole_group: bool = False,
    ) -> None:
        self._shell = shell
        self._directory = directory
        self._whole_group = whole_group
        directory.mkdir()
        if after:
            (directory / "after").touch()
        for name in programs:
            program = shutil.which(name, path=shell.tools)
            assert program or name in NOT_IN_ALPINE, name
            if not program:
                continue
            stub = directory / name
            stub.write_text(_STUB.format(directory=directory, program=program, flock=shutil.which("flock")))
            stub.chmod(0o755)

    def start(self, call: int, *command: str, delay_seconds: float = 0, **variables: Any) -> Ended:
        """Run the entrypoint with a command until that call, or to its end."""
        (self._directory / "left").write_text(f"{call}\n")
        (self._directory / "delay").write_text(f"{delay_seconds:g}\n")
        # The pid of the shell that becomes the entrypoint, in the namespace that both are in; or 0, the group, kill(2).
        pid = "0" if self._whole_group else "$$"
        script = f'echo {pid} >{self._directory}/pid; exec {" ".join(self._shell.argv)} {self._shell.script} "$@"'
        wrapped = dataclasses.replace(self._shell, argv=("sh", "-c", script))
        return wrapped.entrypoint(*command, tools=str(self._directory), **variables)


def loops_of(image: Path, *, held: bool) -> Iterator[str]:
    """Find the loop devices of a file: those that end when nobody holds them any more, or those that stay."""
    at = image.stat()
    wanted = [str(int(held)), str(at.st_ino), f"{os.major(at.st_dev)}:{os.minor(at.st_dev)}"]
    columns = ["--list", "--noheadings", "--output", "NAME,AUTOCLEAR,BACK-INO,BACK-MAJ:MIN"]
    for line in run(["losetup", *columns], timeout_seconds=10).stdout.splitlines():
        device, *found = line.split()
        if found == wanted:
            yield device


def detach_what_is_left(image: Path) -> None:
    """Detach what a start has left that was killed before it detached its open device.

    The next start may not know it: when a mount has ended, its files have the paths that they have from its root.
    """
    for device in loops_of(image, held=False) if image.exists() else ():
        run(["losetup", "--detach", device], timeout_seconds=10)
