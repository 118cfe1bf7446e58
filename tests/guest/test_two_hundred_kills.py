"""SIGKILL to all of a container: 200 times at random moments over all kinds, and at each program that a start runs.

After each kill the next start comes up, and what a command had fsynced before is there, but for a tmpfs that ended with
the container. The kernel lives on, so this tests what the entrypoint leaves and what it takes for leftovers;
tests/vm/test_kills.py cuts the power.

KATA_DIND_TEST_SEED chooses the moments; a failure names the seed of its own.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import random
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kata_dind.host.process import run
from tests import requirements
from tests.guest.conftest import Ended, Shell, attach_loop, detach_loops, make_shell
from tests.guest.kills import Killer, detach_what_is_left, loops_of
from tests.guest.shares import served, succeeds, wait_until

pytestmark = [pytest.mark.requires("root", "loop", "busybox", "xfs"), pytest.mark.slow(minutes=2)]

# Both are told the data root, and a number: of the first file to write, or of how many to read.
CONTENT = "def content(number): return hashlib.sha256(b'%d' % number).hexdigest().encode() * (number % 200 + 1)"
WRITER = f"""
import hashlib, os, sys, time
{CONTENT}
root, first = sys.argv[1], int(sys.argv[2])
directory = os.open(root, os.O_RDONLY)
for number in range(first, first + 100):
    with open(f"{{root}}/{{number}}", "wb") as file:
        file.write(content(number))
        file.flush()
        os.fsync(file.fileno())
    os.fsync(directory)
    os.write(1, b"%d\\n" % number)
time.sleep(60)
"""
READER = f"""
import hashlib, sys
{CONTENT}
root, count = sys.argv[1], int(sys.argv[2])
for number in range(count):
    try:
        with open(f"{{root}}/{{number}}", "rb") as file:
            print(*[] if file.read() == content(number) else ["other content:", number, "\\n"], end="")
    except OSError as error:
        print(error)
print(count, "were read")
"""
_PYTHON = (sys.executable, "-I", "-S", "-c")


def make_random(storage: Storage) -> tuple[str, random.Random]:
    """Return a generator of moments, and how to get the same once more."""
    seed = os.environ.get("KATA_DIND_TEST_SEED") or secrets.token_hex(4)
    return f"KATA_DIND_TEST_SEED={seed}", random.Random(f"{seed} {storage.name}")


def sleep(seconds: float, _: int) -> bytes:
    time.sleep(seconds)
    return b""


@dataclass
class Storage:
    """What outlives a container, and how a container is told of it; `name` is that of a case in CASES."""

    name: str
    directory: Path
    undo: contextlib.ExitStack
    variables: dict[str, Any] = field(default_factory=dict)
    size_mib: int = 0
    is_lost: bool = False
    """Whether it ends with the mount namespace, so that nothing is expected of the files."""

    @property
    def data_root(self) -> Path:
        return self.directory / "docker"

    @property
    def asked(self) -> dict[str, Any]:
        size = {"SIZE": f"{self.size_mib}M"} if self.size_mib else {}
        return {"PATH": self.data_root, "LOG": "error", **size, **self.variables}

    def make_blank(self) -> None:
        """Make it what it is before the first start."""

    def grow(self) -> None:
        """Make it what it is when somebody has asked for more space."""

    def is_free(self) -> bool:
        """Return whether the kernel has ended the mounts of the last container."""
        return True


class Memory(Storage):
    """A tmpfs that the entrypoint mounts."""

    def make_blank(self) -> None:
        self.variables, self.size_mib, self.is_lost = {"DATA_ROOT": "memory"}, 96, True

    def grow(self) -> None:
        self.size_mib += 64


class EmptyDir(Memory):
    """A tmpfs of the pod's, which outlives its containers."""

    def make_blank(self) -> None:
        super().make_blank()
        self.is_lost = False
        mount_again(self, "-t", "tmpfs", "emptydir")


class Kept(Storage):
    """A disk that somebody else has mounted on the data root."""

    def make_blank(self) -> None:
        image = self.directory / "mounted.img"
        unmount(self.data_root)
        make_file(image, 96)
        wait_until(lambda: not is_in_use(image), what="its mounts in other namespaces have ended")
        run(["mkfs.ext4", "-q", "-F", image], timeout_seconds=30)
        mount_again(self, "-o", "loop", str(image))


class Share(Storage):
    """The file system of the data root as it is: this machine's own, in the place of a share that overlay works on."""

    def make_blank(self) -> None:
        self.variables = {"DATA_ROOT": "virtiofs"}
        shutil.rmtree(self.data_root, ignore_errors=True)


class Loop(Storage):
    """A disk in a file, which in one case lies on a mount of the directory, as on a share."""

    def make_blank(self) -> None:
        filesystem = "xfs" if "xfs" in self.name else "ext4"
        if not self.variables:
            (self.directory / "shared").mkdir()
            if "FUSE" in self.name:
                self.undo.enter_context(served(self.directory / "shared", self.directory / "share"))
                self.undo.callback(detach_what_is_left, self.directory / "share/kata-dind.img")
            else:
                (self.directory / "share").symlink_to("shared")
        # Through the mount, for FUSE trusts for a second that nobody else changes the directory.
        image = self.directory / "share/kata-dind.img"
        detach_what_is_left(image)
        image.unlink(missing_ok=True)
        self.variables = {"DATA_ROOT": "loop", "DIR": self.directory / "share", "FILESYSTEM": filesystem}
        self.size_mib = 300 if filesystem == "xfs" else 96

    def grow(self) -> None:
        if can_grow(self):
            self.size_mib += 64

    def is_free(self) -> bool:
        image = self.directory / "share/kata-dind.img"
        return not image.exists() or not is_in_use(image)


class Block(Storage):
    """A device."""

    def make_blank(self) -> None:
        filesystem = "xfs" if "xfs" in self.name else "ext4"
        image = self.directory / "disk.img"
        make_file(image, 300 if filesystem == "xfs" else 96)
        if not self.variables:
            device = attach_loop(image)
            self.undo.callback(run, ["losetup", "--detach", device], timeout_seconds=10)
            self.variables = {"DATA_ROOT": "block", "DEVICE": device, "FILESYSTEM": filesystem}
        run(["losetup", "--set-capacity", self.variables["DEVICE"]], timeout_seconds=10)
        run(["blkdiscard", "--force", "--zeroout", self.variables["DEVICE"]], timeout_seconds=30)

    def grow(self) -> None:
        if can_grow(self):
            os.truncate(self.directory / "disk.img", (self.directory / "disk.img").stat().st_size + (64 << 20))
            run(["losetup", "--set-capacity", self.variables["DEVICE"]], timeout_seconds=10)

    def is_free(self) -> bool:
        try:
            os.close(os.open(self.variables["DEVICE"], os.O_RDONLY | os.O_EXCL))  # a mount holds it exclusively
        except OSError:
            return False
        return True


def make_file(path: Path, size_mib: int) -> None:
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(size_mib << 20)


def mount_again(storage: Storage, *argv: str) -> None:
    unmount(storage.data_root)
    storage.data_root.mkdir(exist_ok=True)
    run(["mount", *argv, storage.data_root], timeout_seconds=10)
    storage.undo.callback(unmount, storage.data_root)


def unmount(path: Path) -> None:
    if path.is_mount():
        wait_until(functools.partial(succeeds, "umount", path), what=f"{path} is unmounted")


def is_in_use(image: Path) -> bool:
    return any(loops_of(image, held=True))


def can_grow(storage: Storage) -> bool:
    """The kernel lets an ext4 grow only with a capability more than a mount needs."""
    return "xfs" in storage.name or requirements.explain_missing("sys-resource") is None


CASES: dict[str, type[Storage]] = {
    "memory": Memory,
    "memory of the pod": EmptyDir,
    "kept": Kept,
    "virtiofs": Share,
    "loop, ext4": Loop,
    "loop, xfs": Loop,
    "loop, ext4, on FUSE": Loop,
    "block, ext4": Block,
    "block, xfs": Block,
}
KIND_OF = {"memory of the pod": "memory"}
DISKS = [case for case in CASES if "," in case]
ALL = [case for case in CASES if "," not in case] + DISKS
KILLS = math.ceil(200 / len(CASES))


class Rounds:
    """Starts, kills and looks; `written` is the count of files that were fsynced, which are numbered from 0."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.written = 0

    def make_blank(self) -> None:
        self.storage.make_blank()
        self.written = 0

    def start_and_kill(self, shell: Shell, wait: Callable[[int], bytes]) -> Ended:
        """Start a command that writes, kill all of the container after a wait, and note what it has fsynced.

        The wait is given the pipe on which the command tells what it has fsynced, and returns what it has read from it.
        """
        writer = (*_PYTHON, WRITER, str(self.storage.data_root), str(self.written))
        with shell.start(*writer, **self.storage.asked) as process:
            assert process.stdout
            told = wait(process.stdout.fileno())
            os.killpg(process.pid, signal.SIGKILL)
            ended = shell.ended(process)
        wait_until(self.storage.is_free, what="its mounts have ended")
        assert ended.code == -signal.SIGKILL, ended.stderr
        told += ended.stdout.encode()
        self.written += 0 if self.storage.is_lost else told.count(b"\n")
        return ended

    def write_some(self, shell: Shell) -> None:
        """Start it without a blow, and let it write."""
        self.start_and_kill(shell, lambda pipe: os.read(pipe, 1))

    def look(self, shell: Shell) -> float:
        """Start once more, and read all files. Returns how many seconds that took."""
        began = time.monotonic()
        reader = (*_PYTHON, READER, str(self.storage.data_root), str(self.written))
        ended = shell.entrypoint(*reader, **self.storage.asked)
        took = time.monotonic() - began
        assert (ended.code, ended.stdout) == (0, f"{self.written} were read\n"), ended.stdout + ended.stderr
        status = json.loads(ended.status.read_text())
        kind = self.storage.name.partition(",")[0]
        assert status["kind"] == KIND_OF.get(kind, kind), status
        assert set(status["proof"].values()) <= {"passed", "untested"}, status
        wait_until(self.storage.is_free, what="its mounts have ended")
        return took


@pytest.fixture
def rounds(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rounds]:
    with contextlib.ExitStack() as undo:
        (tmp_path / "storage").mkdir()
        undo.callback(detach_loops, tmp_path)
        yield Rounds(CASES[request.param](request.param, tmp_path / "storage", undo))


@pytest.fixture
def shells(entrypoint_file: Path, busybox_programs: Path, tmp_path: Path) -> list[Shell]:
    (tmp_path / "work").mkdir()
    return [make_shell(entrypoint_file, tmp_path, programs) for programs in (None, busybox_programs)]


@pytest.mark.requires("fuse")
@pytest.mark.parametrize("rounds", ALL, indirect=True)
def test_at_random_moments(rounds: Rounds, shells: list[Shell]) -> None:
    seed, chosen = make_random(rounds.storage)
    rounds.make_blank()
    typical_seconds = {"blank": rounds.look(shells[0]), "used": rounds.look(shells[0])}
    for number in range(KILLS):
        shell = shells[number % 2]
        state = chosen.choices(["blank", "grown", "used"], [3, 1, 4])[0]
        if state == "blank":
            rounds.make_blank()
        elif state == "grown":
            rounds.storage.grow()
        # A quarter of the kills come when the command is at work, or so.
        moment = chosen.uniform(0, typical_seconds["used" if state == "used" else "blank"] * 4 / 3)
        killed = rounds.start_and_kill(shell, functools.partial(sleep, moment))
        try:
            typical_seconds["used"] = rounds.look(shells[chosen.randrange(2)])
        except AssertionError as error:
            error.add_note(
                f"{seed}, kill {number}: {shell.name}, {state}, after {moment:.3f} s of "
                f"{typical_seconds}\n{killed.stderr}\nfsynced: {killed.stdout.split()}"
            )
            raise


@pytest.mark.requires("fuse")
@pytest.mark.parametrize(("state", "longest_seconds"), [("blank", 0), ("blank", 0.02), ("used", 0.02)])
@pytest.mark.parametrize("rounds", ALL, indirect=True)
def test_at_each_program(
    rounds: Rounds, shells: list[Shell], tmp_path: Path, state: str, longest_seconds: float
) -> None:
    """Before it runs, or a random while after it was started."""
    shell = shells[0]
    seed, chosen = make_random(rounds.storage)
    killer = Killer(shell, tmp_path / "stubs", whole_group=True)
    rounds.make_blank()
    rounds.write_some(shell)
    for call in range(1, 100):
        if state == "blank":
            rounds.make_blank()
        delay = chosen.uniform(0.001, longest_seconds) if longest_seconds else 0
        ended = killer.start(call, "sleep", "0.1", delay_seconds=delay, **rounds.storage.asked)
        wait_until(rounds.storage.is_free, what="its mounts have ended")
        if ended.code == 0:
            assert call > 5, "it was hardly ever killed"
            return
        try:
            assert ended.code == -signal.SIGKILL
            rounds.look(shells[call % 2])
        except AssertionError as error:
            error.add_note(f"{seed}, {delay} s after program {call} was started\n{ended.stderr}")
            raise
    raise AssertionError("it never completes")


@pytest.mark.requires("fuse")
@pytest.mark.parametrize("rounds", DISKS, indirect=True)
def test_while_it_formats(rounds: Rounds, shells: list[Shell], tmp_path: Path) -> None:
    """At a random moment within mkfs, which takes longer than all else."""
    seed, chosen = make_random(rounds.storage)
    programs = [f"mkfs.{'xfs' if 'xfs' in rounds.storage.name else 'ext4'}"]
    killer = Killer(shells[0], tmp_path / "stubs", programs=programs, whole_group=True)
    rounds.make_blank()
    began = time.monotonic()
    assert killer.start(2, "true", **rounds.storage.asked).code == 0
    longest_seconds = time.monotonic() - began
    for number in range(20):
        wait_until(rounds.storage.is_free, what="its mounts have ended")
        rounds.make_blank()
        delay = chosen.uniform(0, longest_seconds / 2)
        ended = killer.start(1, "sleep", "10", delay_seconds=delay, **rounds.storage.asked)
        wait_until(rounds.storage.is_free, what="its mounts have ended")
        try:
            assert ended.code == -signal.SIGKILL
            rounds.look(shells[number % 2])
        except AssertionError as error:
            error.add_note(f"{seed}, {delay:.3f} s after mkfs was started\n{ended.stderr}")
            raise
