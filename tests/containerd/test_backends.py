"""`kata-dind backends` on a host with a containerd, and on one without."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kata_dind.backend.containerd.client import connected
from kata_dind.backend.containerd.survey import survey
from tests.kube.node import Host

pytestmark = pytest.mark.requires("containerd")


def backends(*words: str) -> str:
    argv = [sys.executable, "-m", "kata_dind", "backends", *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_table_has_each_handler_and_the_line_that_would_change_it(host: Host) -> None:
    said = backends(f"--containerd-address={host.address}")
    assert "kata-qemu  no    -     yes    yes     yes   yes    no        no" in said
    line = (
        (host.directory / "containerd.toml")
        .read_text()
        .splitlines()
        .index('    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]')
    )
    assert f"{host.directory}/containerd.toml:{line + 1}: privileged_without_host_devices = true" in said
    assert backends("--quiet", f"--containerd-address={host.address}") == "kata-qemu\nrunc\n"


def test_as_json(host: Host) -> None:
    told: dict[str, Any] = json.loads(backends("--json", f"--containerd-address={host.address}"))["containerd"]
    kata = told["handlers"][0]
    assert (kata["name"], kata["is_kata"], kata["kata"]) == ("kata-qemu", False, None)
    assert kata["abilities"]["virtiofs"]["why"].endswith("so there is no virtiofsd")


def test_without_a_containerd_it_says_so(tmp_path: Path) -> None:
    said = backends(f"--containerd-address={tmp_path}/absent.sock")
    assert "containerd: there is no socket" in said
    assert "systemctl start containerd" in said


@pytest.mark.requires("docker29")
def test_a_containerd_2_tells_the_same(newer_host: Host) -> None:
    with connected(newer_host.address) as containerd:
        found = survey(containerd)
    assert found.version.startswith("v2.")
    assert [(each.name, each.privileged_without_host_devices) for each in found.handlers] == [
        ("kata-qemu", True), ("runc", False)
    ]  # fmt: skip
