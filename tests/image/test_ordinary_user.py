"""Everything is built without root, too, and what a killed build leaves of other owners is swept."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_dind.host.progress import silent
from kata_dind.image.dind import require_dind_image
from kata_dind.image.source import default_source
from tests.image.conftest import OrdinaryUser

pytestmark = [pytest.mark.requires("mmdebstrap", "ordinary-user"), pytest.mark.timeout(1200)]

_BUILD_ALL = """
import json
from kata_dind.host.progress import silent
from kata_dind.image.dind import require_dind_image
from kata_dind.image.guestos import require_guest_os
from kata_dind.image.kernel import require_guest_kernel
from kata_dind.image.source import default_source
source = default_source()
paths = [require_guest_os(source, report=silent), require_guest_kernel(None, source, report=silent).initramfs]
image = require_dind_image("", source, report=silent)
print(json.dumps([image.image_id, [str(path) for path in [*paths, image.disk]]]))
"""

_BUILD_GUEST_OS = """
from kata_dind.host.progress import silent
from kata_dind.image.guestos import require_guest_os
from kata_dind.image.source import default_source
require_guest_os(default_source(), report=silent)
"""

_SWEEP = """
from kata_dind.host.directories import cache_directory
from kata_dind.image.workspace import sweep_workspaces
sweep_workspaces(cache_directory())
"""


def test_an_ordinary_user_builds_everything_and_gets_the_image_that_root_gets(ordinary_user: OrdinaryUser) -> None:
    image_id, paths = json.loads(ordinary_user.run(_BUILD_ALL))
    assert all(Path(path).stat().st_uid == ordinary_user.uid for path in paths)
    assert image_id == require_dind_image("", default_source(), report=silent).image_id
    assert [path.name for path in (ordinary_user.cache / "tmp").iterdir()] == ["sweep.lock"]


def test_a_killed_build_leaves_no_process_and_nothing_that_is_used_and_is_swept(ordinary_user: OrdinaryUser) -> None:
    before = _published(ordinary_user.cache)
    for base in (ordinary_user.cache / "bases").glob("guest-*.tar"):
        base.rename(base.with_suffix(".aside"))
    argv = ordinary_user.argv(_BUILD_GUEST_OS)
    with subprocess.Popen(argv, env=ordinary_user.environment, cwd="/", stderr=subprocess.PIPE) as builder:
        _wait_for(lambda: any(_owned_by_others(ordinary_user)), timeout_seconds=120)
        builder.kill()
        builder.wait(timeout=10)
    _wait_for(lambda: not any(_processes_of(ordinary_user.uid)), timeout_seconds=30)
    for aside in (ordinary_user.cache / "bases").glob("*.aside"):
        aside.rename(aside.with_suffix(".tar"))
    assert _published(ordinary_user.cache) == before
    ordinary_user.run(_SWEEP)
    assert [path.name for path in (ordinary_user.cache / "tmp").iterdir()] == ["sweep.lock"]


def _published(cache: Path) -> set[Path]:
    rooms = ("bases", "guest-os", "images", "kernels", "initramfs")
    return {path for room in rooms if (cache / room).exists() for path in (cache / room).iterdir()}


def _owned_by_others(user: OrdinaryUser) -> Iterator[Path]:
    """Name what a build in progress has made for its subordinate ids."""
    for directory, names, files in os.walk(user.cache / "tmp"):
        for name in [*names, *files]:
            path = Path(directory, name)
            try:
                if path.lstat().st_uid != user.uid:
                    yield path
            except OSError:  # it went meanwhile
                continue


def _processes_of(uid: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.stat().st_uid == uid and (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                yield int(path.name)
        except OSError:
            continue


def _wait_for(condition: object, *, timeout_seconds: float) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)
