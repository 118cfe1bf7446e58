"""A real dockerd on this host behind the guest entrypoint, no VM: its data root lies on FUSE without xattr, which
overlayfs refuses as it refuses Kata's virtio-fs. The proof is the one that sandboxes are ready by.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kata_dind.errors import VerdictFailed
from kata_dind.host.process import require_tool, scrubbed_environment
from kata_dind.image.entrypoint import entrypoint_script
from kata_dind.proof.round_trip import prove
from tests.guest.alpine import make_root
from tests.guest.daemons import (
    NAMESPACES,
    START_SECONDS,
    process_1,
    wait_until_it_answers,
    wait_until_no_loop_lies_in,
)

pytestmark = pytest.mark.requires("root", "docker", "fuse", "loop", "netns")

# Nothing of the host is within dockerd's reach: its network namespace is empty, and its mounts end with it.
_AROUND = """
set -eu
ip link set lo up
mount -t proc proc /proc
mount -t tmpfs cover /sys/fs/cgroup; mount -t cgroup2 cgroup /sys/fs/cgroup
for path in /run /proc/sys/fs/inotify; do mount -t tmpfs cover "$path"; done
exec "$@"
"""


@dataclass(frozen=True)
class Dockerd:
    """A daemon that was started through the entrypoint."""

    process: subprocess.Popen[bytes]
    directory: Path

    @property
    def socket(self) -> Path:
        return self.directory / "docker.sock"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @property
    def status(self) -> dict[str, Any]:
        status = json.loads((self.directory / "status" / "status.json").read_text())
        assert isinstance(status, dict)
        return status

    def wait_until_it_answers(self) -> None:
        wait_until_it_answers(self.process, self.socket, self.directory / "log")

    def stop(self) -> int:
        """End dockerd as a runtime ends a container: TERM to its process 1."""
        os.kill(process_1(self.process), signal.SIGTERM)
        return self.process.wait(30)


@contextlib.contextmanager
def share_without_xattr(directory: Path) -> Iterator[int]:
    """Mount the share in a mount namespace of its own for the length of the block; yields a process that is in it.

    Not in dockerd's: a FUSE server that goes down with what is mounted from it waits for itself, in the kernel.
    """
    for name in ("share", "docker"):
        (directory / name).mkdir(exist_ok=True)
    argv = ["bindfs", "-f", "--xattr-none", f"{directory}/share", f"{directory}/docker"]
    bindfs = subprocess.Popen(["unshare", "--mount", "--propagation", "private", *argv])
    try:
        mounts = Path(f"/proc/{bindfs.pid}/mountinfo")
        deadline = time.monotonic() + START_SECONDS
        while f" {directory}/docker " not in mounts.read_text():
            assert bindfs.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        yield bindfs.pid
    finally:
        bindfs.terminate()
        bindfs.wait()


@contextlib.contextmanager
def started(directory: Path, *arguments: str, enter: tuple[str, ...] = ("sh",), **variables: Any) -> Iterator[Dockerd]:
    """Start dockerd with its data root on the share, for the length of the block.

    `enter` is the shell that runs the entrypoint, with what brings it into its root.
    """
    dockerd = [
        str(require_tool("dockerd", package="docker.io")), f"--data-root={directory}/docker", "--iptables=false",
        "--bridge=none", f"--host=unix://{directory}/docker.sock", "--exec-root=/run/docker",
        "--pidfile=/run/docker.pid", *arguments,
    ]  # fmt: skip
    script = directory / "entrypoint.sh"
    script.write_text(entrypoint_script())
    told = {f"KATA_DIND_{name}": value for name, value in {"STATUS_DIR": f"{directory}/status", **variables}.items()}
    with share_without_xattr(directory) as sharing, (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["nsenter", f"--mount=/proc/{sharing}/ns/mnt", *NAMESPACES, "sh", "-c", _AROUND, "sh",
             *enter, str(script), *dockerd],
            env={**scrubbed_environment(), **told},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )  # fmt: skip
        try:
            yield Dockerd(process, directory)
        finally:
            process.kill()
            process.wait()
            wait_until_no_loop_lies_in(directory)


@pytest.mark.parametrize(
    ("variables", "kind", "storage"),
    [
        ({"SIZE": "1G"}, "loop", "overlay2 on extfs"),
        ({"SIZE": "1G", "FILESYSTEM": "xfs"}, "loop", "overlay2 on xfs"),
        ({"SIZE": "512M", "DATA_ROOT": "memory"}, "memory", "overlay2 on tmpfs"),
    ],
)
def test_dockerd_works_on_a_share_that_refuses_overlay(
    tmp_path: Path, variables: dict[str, Any], kind: str, storage: str
) -> None:
    with started(tmp_path, **variables) as dockerd:
        dockerd.wait_until_it_answers()
        verdict = prove(dockerd.socket, timeout_seconds=60)
        assert (dockerd.status["kind"], verdict.storage) == (kind, storage)
        assert verdict.native_diff


@pytest.mark.requires("busybox")
def test_dockerd_works_in_a_root_like_the_official_images(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root", entrypoint="", dialect="dash")
    (tmp_path / "work").mkdir()
    enter = root.enter(f"{tmp_path}/work={tmp_path}/work", "tmpfs=run:mode=755")
    (root.path / str(tmp_path).lstrip("/") / "work").mkdir(parents=True)
    with started(tmp_path / "work", enter=(*enter, root.shell), SIZE="1G") as dockerd:
        dockerd.wait_until_it_answers()
        verdict = prove(dockerd.socket, timeout_seconds=60)
        assert (dockerd.status["kind"], verdict.storage) == ("loop", "overlay2 on extfs")
        assert dockerd.status["direct_io"] is True
        assert dockerd.status["proof"]["file capability"] == "passed"


def test_a_storage_driver_that_copies_is_not_what_dockerd_gets(tmp_path: Path) -> None:
    """The way round that people have put into their pods, which the proof makes unnecessary."""
    with started(tmp_path, "--storage-driver=vfs", SIZE="1G") as dockerd:
        dockerd.wait_until_it_answers()
        assert prove(dockerd.socket, timeout_seconds=60).storage == "overlay2 on extfs"
        assert "the storage driver vfs is overruled" in dockerd.log


def test_straight_on_the_share_nothing_is_started(tmp_path: Path) -> None:
    with started(tmp_path, DATA_ROOT="virtiofs") as dockerd:
        assert dockerd.process.wait(START_SECONDS) == 78
        assert "overlay does not work on fuse" in dockerd.log
        assert "API listen on" not in dockerd.log


def test_vfs_is_what_who_asks_for_it_gets_and_no_proof(tmp_path: Path) -> None:
    with started(tmp_path, DATA_ROOT="virtiofs", FALLBACK="vfs") as dockerd:
        dockerd.wait_until_it_answers()
        assert dockerd.status["storage_driver"] == "vfs"
        with pytest.raises(VerdictFailed, match="vfs, which copies every layer"):
            prove(dockerd.socket, timeout_seconds=60)


def test_what_docker_has_stored_is_there_after_a_stop_and_after_a_kill(tmp_path: Path) -> None:
    for end in ("stop", "kill"):
        with started(tmp_path, SIZE="1G") as dockerd:
            dockerd.wait_until_it_answers()
            run_docker(dockerd, "volume", "create", end)
            if end == "stop":
                assert dockerd.stop() == 0
            else:
                dockerd.process.kill()
    with started(tmp_path) as dockerd:
        dockerd.wait_until_it_answers()
        assert run_docker(dockerd, "volume", "ls", "--quiet").split() == ["kill", "stop"]
    assert [path.name for path in (tmp_path / "share").iterdir()] == ["kata-dind.img"]


def run_docker(dockerd: Dockerd, *arguments: str) -> str:
    done = subprocess.run(
        ["docker", f"--host=unix://{dockerd.socket}", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout
