"""What stands before containerd in our images, with the containerd of this machine behind it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

CONTAINERD = Path(__file__).parents[2] / "src" / "kata_dind" / "guest" / "containerd.sh"

# As dockerd writes it: 20.10 without a version, and later ones with the second.
OLD = 'version = 0\ndisabled_plugins = ["cri"]\n\n[plugins]\n  [plugins.linux]\n    shim = "containerd-shim"\n'
NEW = 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'

pytestmark = [
    pytest.mark.requires("docker"),
    pytest.mark.parametrize("shell", [["dash"], ["busybox", "ash"]], ids=["dash", "busybox"]),
]


def said(shell: list[str], *argv: str) -> str:
    done = subprocess.run([*shell, CONTAINERD, *argv], text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("config", [OLD, NEW], ids=["old", "new"])
def test_it_looks_for_garbage_when_something_was_deleted(shell: list[str], tmp_path: Path, config: str) -> None:
    path = tmp_path / "containerd.toml"
    path.write_text(config)
    dump = said(shell, "-c", str(path), "config", "dump")
    assert "pause_threshold = 0.02\n" in dump
    assert "deletion_threshold = 0\n" in dump
    for _ in range(2):
        dump = said(shell, "--config", str(path), "config", "dump")
        assert "pause_threshold = 0.00002\n" in dump
        assert "deletion_threshold = 1\n" in dump


def test_what_others_have_set_stays(shell: list[str], tmp_path: Path) -> None:
    path = tmp_path / "containerd.toml"
    path.write_text('version = 2\n[plugins."io.containerd.gc.v1.scheduler"]\n  pause_threshold = 0.5\n')
    assert "pause_threshold = 0.5" in said(shell, "--config", str(path), "config", "dump")


def test_without_a_configuration_it_is_containerd(shell: list[str]) -> None:
    assert said(shell, "--version").startswith("containerd ")
