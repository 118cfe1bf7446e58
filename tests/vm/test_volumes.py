"""Named volumes with real disks: what a sandbox has written is there for the next one, also after a power cut."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from kata_dind.sandbox.api import list_sandboxes
from kata_dind.store.volumes import list_volumes
from tests.vm.driver import STOP_SECONDS, SandboxDriver, kata_dind, states, succeed, wait_until

pytestmark = pytest.mark.requires("qemu", "virtiofsd")

GIB = 1 << 30


@pytest.fixture(autouse=True)
def removed_at_the_end(private_directories: object) -> Iterator[None]:
    yield
    if names := [summary.name for summary in list_sandboxes() if summary.volume]:
        succeed("rm", "--force", *names)
    if volumes := [volume.name for volume in list_volumes()]:
        succeed("volume", "rm", *volumes)


def volume(name: str) -> dict[str, Any]:
    return dict(json.loads(succeed("volume", "inspect", name, "--json")))


def data_root_mib(sandbox: SandboxDriver) -> int:
    """Return the size of the data root's file system, as df sees it."""
    return int(sandbox.succeed("df --output=size -m /var/lib/docker | tail -n 1"))


def keep_an_image(sandbox: SandboxDriver) -> None:
    succeed("docker", sandbox.name, "--", "run", "--name", "first", "kata-dind/hello", "sh", "-c", "echo kept >/file")
    succeed("docker", sandbox.name, "--", "commit", "first", "kept:1")


def assert_it_is_kept(sandbox: SandboxDriver) -> None:
    assert sandbox.succeed("docker run --rm kept:1 cat /file") == "kept\n"
    sandbox.fail("dmesg | grep -E 'EXT4-fs (error|warning)'", where="guest")


@pytest.mark.thorough
def test_a_block_volume_goes_from_sandbox_to_sandbox_and_grows() -> None:
    succeed("up", "one", "--volume", "db", "--size", "2G")
    keep_an_image(SandboxDriver("one"))
    assert (volume("db")["used_by"], volume("db")["in_use"], volume("db")["size_bytes"]) == (["one"], True, 2 * GIB)
    assert not [*SandboxDriver("one").sandbox.directory.glob("data.*")]

    # One at a time, and nothing that works on the disk meanwhile.
    for words in (["up", "two", "--volume", "db"], ["volume", "fsck", "db"], ["volume", "resize", "db", "3G"]):
        refused = kata_dind(*words)
        assert refused.returncode == 5
        assert refused.stderr == (
            "kata-dind: the volume 'db' is in use by the sandbox 'one'\n"
            "hint: kata-dind stop one, or use another volume\n"
        )
    assert "two" not in states()
    assert "the volume 'db' is used by the sandbox one" in kata_dind("volume", "rm", "db").stderr

    succeed("rm", "--force", "one")
    assert (volume("db")["used_by"], volume("db")["needs_check"]) == ([], False)
    succeed("volume", "resize", "db", "3G")
    assert succeed("volume", "fsck", "db") == "clean\n"

    succeed("up", "two", "--volume", "db")
    two = SandboxDriver("two")
    assert two.disk_checks == 0
    assert_it_is_kept(two)
    assert 2900 < data_root_mib(two) < 3072

    # A power cut: the next sandbox is another one, and checks; it is also the one that wants more space.
    os.kill(two.supervisor_pid, signal.SIGKILL)
    wait_until(lambda: states()["two"] == "crashed", what="ls says so", timeout_seconds=STOP_SECONDS)
    # QEMU uses the volume as well, and ends a moment after its owner.
    wait_until(lambda: volume("db")["needs_check"], what="volume inspect says so", timeout_seconds=STOP_SECONDS)
    succeed("up", "three", "--volume", "db", "--size", "4G")
    three = SandboxDriver("three")
    assert three.disk_checks == 1
    assert_it_is_kept(three)
    assert 3900 < data_root_mib(three) < 4096


@pytest.mark.thorough
def test_a_loop_volume_outlives_a_run() -> None:
    succeed("run", "--volume", "loops", "--data-root", "loop", "--size", "2G", "kata-dind/hello", "true")
    assert (volume("loops")["kind"], volume("loops")["filesystem"]) == ("loop", "ext4")
    assert (volume("loops")["used_by"], volume("loops")["needs_check"]) == ([], False)
    assert succeed("volume", "fsck", "loops") == "clean\n"
    succeed("volume", "resize", "loops", "3G")

    succeed("up", "four", "--volume", "loops")
    four = SandboxDriver("four")
    assert "kata-dind/hello" in four.succeed("docker image ls --format '{{.Repository}}'")
    assert 2900 < data_root_mib(four) < 3072
