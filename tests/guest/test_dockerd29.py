"""Docker 29 on this host behind the guest entrypoint, on the share of test_dockerd.py: no VM, and its own containerd.

A fresh root gets containerd's image store there, whose snapshotter never tries a mount; so nothing but the proof would
tell that overlay does not work.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kata_dind.errors import VerdictFailed
from kata_dind.proof.docker_api import DockerApi
from kata_dind.proof.round_trip import prove
from scripts import build_dind29
from tests.guest.test_dockerd import started

pytestmark = [
    pytest.mark.requires("root", "docker29", "fuse", "loop", "netns"),
    pytest.mark.thorough if build_dind29.find_programs() else pytest.mark.slow(minutes=15),
    pytest.mark.timeout(3600),  # the first one builds it
]


@pytest.fixture(autouse=True)
def docker29_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What test_dockerd.py starts is then this dockerd, with its own containerd and runc."""
    monkeypatch.setenv("PATH", f"{build_dind29.require_programs()}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("variables", "kind", "filesystem"),
    [
        ({"SIZE": "1G"}, "loop", "ext4"),
        ({"SIZE": "1G", "FILESYSTEM": "xfs"}, "loop", "xfs"),
        ({"SIZE": "512M", "DATA_ROOT": "memory"}, "memory", "tmpfs"),
    ],
)
def test_containerds_store_works_on_a_share_that_refuses_overlay(
    tmp_path: Path, variables: dict[str, Any], kind: str, filesystem: str
) -> None:
    with started(tmp_path, **variables) as dockerd:
        dockerd.wait_until_it_answers()
        verdict = prove(dockerd.socket, timeout_seconds=60)
        assert verdict.docker_version == build_dind29.docker_version()
        assert (dockerd.status["kind"], dockerd.status["filesystem"]) == (kind, filesystem)
        assert verdict.storage == "overlayfs"
        assert DockerApi(dockerd.socket, timeout_seconds=60).info()["DriverStatus"] == [
            ["driver-type", "io.containerd.snapshotter.v1"]
        ]


def test_overlay2_is_the_store_of_who_asks_for_it(tmp_path: Path) -> None:
    with started(tmp_path, "--storage-driver=overlay2", SIZE="1G") as dockerd:
        dockerd.wait_until_it_answers()
        assert prove(dockerd.socket, timeout_seconds=60).storage == "overlay2 on extfs"


@pytest.mark.parametrize(("driver", "instead"), [("vfs", "overlay2 on extfs"), ("native", "overlayfs")])
def test_a_store_that_copies_is_not_what_dockerd_gets(tmp_path: Path, driver: str, instead: str) -> None:
    with started(tmp_path, f"--storage-driver={driver}", SIZE="1G") as dockerd:
        dockerd.wait_until_it_answers()
        assert prove(dockerd.socket, timeout_seconds=60).storage == instead
        assert f"the storage driver {driver} is overruled" in dockerd.log


def test_straight_on_the_share_nothing_is_started(tmp_path: Path) -> None:
    with started(tmp_path, DATA_ROOT="virtiofs") as dockerd:
        assert dockerd.process.wait(60) == 78
        assert "overlay does not work on fuse" in dockerd.log
        assert "API listen on" not in dockerd.log


def test_vfs_is_what_who_asks_for_it_gets_and_no_proof(tmp_path: Path) -> None:
    with started(tmp_path, DATA_ROOT="virtiofs", FALLBACK="vfs") as dockerd:
        dockerd.wait_until_it_answers()
        with pytest.raises(VerdictFailed, match="vfs, which copies every layer"):
            prove(dockerd.socket, timeout_seconds=60)


def test_what_is_stored_is_there_after_a_kill(tmp_path: Path) -> None:
    with started(tmp_path, SIZE="1G") as dockerd:
        dockerd.wait_until_it_answers()
        prove(dockerd.socket, timeout_seconds=60)
        dockerd.process.kill()
    with started(tmp_path) as dockerd:
        dockerd.wait_until_it_answers()
        assert prove(dockerd.socket, timeout_seconds=60).storage == "overlayfs"
