"""Everything can be built without root, and the files of other owners that a killed build leaves are swept."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kata_dind.image.dind import build_dind_image
from kata_dind.image.source import default_source
from kata_dind.progress import silent
from tests.users import OrdinaryUser

pytestmark = [pytest.mark.requires("mmdebstrap", "ordinary-user"), pytest.mark.timeout(1200)]

_BUILD_GUEST = """
from kata_dind.progress import silent
from kata_dind.image.guestos import require_guest_os
from kata_dind.image.kernel import require_guest_kernel
from kata_dind.image.source import default_source
print(require_guest_os(default_source(), report=silent))
print(require_guest_kernel(None, default_source(), report=silent).initramfs)
"""

_BUILD_DIND = """
from kata_dind.progress import silent
from kata_dind.image.dind import build_dind_image
from kata_dind.image.source import default_source
print(build_dind_image(default_source(), report=silent).image_id)
"""

_PLANT = """
import sys
from kata_dind.host.rootlike import run_rootlike
script = 'mkdir -m 0700 "$0" && touch "$0/file" && chown -R 5:5 "$0"'
run_rootlike(["sh", "-c", script, sys.argv[1]], timeout_seconds=20)
"""

_SETUP = """
from kata_dind.__main__ import execute
from kata_dind.cli.session import Session
execute(["setup", "--json"], session=Session())
"""

_SBIN = {**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

_SWEEP = """
from kata_dind.host.directories import cache_directory
from kata_dind.image.workspace import sweep_workspaces
sweep_workspaces(cache_directory())
"""


@pytest.mark.thorough
def test_an_ordinary_user_builds_the_guest_os_and_gets_a_kernel(ordinary_user: OrdinaryUser) -> None:
    for path in ordinary_user.run(_BUILD_GUEST).split():
        assert Path(path).stat().st_uid == ordinary_user.uid
    assert _leftovers(ordinary_user.cache) == []


@pytest.mark.slow(minutes=5)
def test_an_ordinary_user_builds_the_dind_image_that_root_builds(ordinary_user: OrdinaryUser) -> None:
    ours = build_dind_image(default_source(), report=silent)
    assert ordinary_user.run(_BUILD_DIND).strip() == ours.image_id


@pytest.mark.thorough
def test_a_killed_build_leaves_no_process_and_nothing_that_is_used_and_is_swept(ordinary_user: OrdinaryUser) -> None:
    before = _published(ordinary_user.cache)
    argv = ordinary_user.argv(_BUILD_DIND)
    with subprocess.Popen(argv, env=ordinary_user.environment, cwd="/", stderr=subprocess.PIPE) as builder:
        _wait_for(lambda: any(_owned_by_others(ordinary_user)), timeout_seconds=120)
        builder.kill()
        builder.wait(timeout=10)
    _wait_for(lambda: not any(_processes_of(ordinary_user.uid)), timeout_seconds=10)
    assert _published(ordinary_user.cache) == before
    (workspace,) = (path for path in (ordinary_user.cache / "tmp").iterdir() if path.is_dir())
    # Debian's packages own groups; other images' files have owners of all kinds, and bar other users.
    ordinary_user.run(_PLANT, str(workspace / "private"))
    assert (workspace / "private").stat().st_uid not in (ordinary_user.uid, 0, 5)
    ordinary_user.run(_SWEEP)
    assert _leftovers(ordinary_user.cache) == []


@pytest.mark.requires("root")
def test_setup_has_the_commands_that_make_a_user_fit(ordinary_user: OrdinaryUser) -> None:
    assert _commands(ordinary_user) == []
    with _without_subordinate_ids(ordinary_user):
        commands = _commands(ordinary_user)
        assert [command.split()[:2] for command in commands] == [["sudo", "touch"], ["sudo", "usermod"]]
        for command in commands:
            subprocess.run(["sh", "-c", command.removeprefix("sudo ")], check=True, env=_SBIN)
        assert _commands(ordinary_user) == []


@contextlib.contextmanager
def _without_subordinate_ids(user: OrdinaryUser) -> Iterator[None]:
    """Take a user's ids away for the length of the block; ids that the user gets in it are removed again."""
    files = [Path("/etc/subuid"), Path("/etc/subgid")]
    lines = [[line for line in file.read_text().splitlines() if line.startswith(f"{user.name}:")] for file in files]
    assert all(lines)
    try:
        _take_ids(user)
        yield
        _take_ids(user)
    finally:
        for kind, owned in zip(("uids", "gids"), lines, strict=True):
            _usermod("add", kind, owned, user)


def _take_ids(user: OrdinaryUser) -> None:
    for kind, file in (("uids", "/etc/subuid"), ("gids", "/etc/subgid")):
        owned = [line for line in Path(file).read_text().splitlines() if line.startswith(f"{user.name}:")]
        _usermod("del", kind, owned, user)


def _usermod(how: str, kind: str, lines: list[str], user: OrdinaryUser) -> None:
    for _, first, count in (line.split(":") for line in lines):
        ids = f"{first}-{int(first) + int(count) - 1}"
        subprocess.run(["usermod", f"--{how}-sub{kind}", ids, user.name], check=True, env=_SBIN)


def _commands(user: OrdinaryUser) -> list[str]:
    """Return the commands with which setup would give the user subordinate ids."""
    [step] = [step for step in json.loads(user.run(_SETUP)) if step["step"] == "subordinate-ids"]
    assert step["needed"] == bool(step["commands"])
    return list(step["commands"])


def _leftovers(cache: Path) -> list[str]:
    return [path.name for path in (cache / "tmp").iterdir() if path.name != "sweep.lock"]


def _published(cache: Path) -> set[Path]:
    rooms = ("bases", "guest-os", "images", "kernels", "initramfs")
    return {path for room in rooms if (cache / room).exists() for path in (cache / room).iterdir()}


def _owned_by_others(user: OrdinaryUser) -> Iterator[Path]:
    """Return the files of a build in progress that belong to subordinate ids."""
    for directory, names, files in os.walk(user.cache / "tmp"):
        for name in [*names, *files]:
            path = Path(directory, name)
            try:
                if path.lstat().st_gid != user.uid:
                    yield path
            except OSError:  # it has been removed meanwhile
                continue


def _processes_of(uid: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.stat().st_uid == uid and (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                yield int(path.name)
        except OSError:
            continue


def _wait_for(condition: Callable[[], bool], *, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)
