from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from subprocess import run

import pytest


def completed(*words: str) -> list[str]:
    """Ask for completions as bash does, for the last word."""
    variables = {
        "_KATA_DIND_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(["kata-dind", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = run(
        [sys.executable, "-m", "kata_dind"], env={**os.environ, **variables}, capture_output=True, check=True, text=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def sandbox_directories(home: Path) -> None:
    """Two sandboxes that are stopped."""
    for name in ("demo", "default"):
        directory = home / "state" / "kata-dind" / "sandboxes" / name
        directory.mkdir(parents=True)
        (directory / "status.json").write_text(json.dumps({"state": "stopped"}))


@pytest.mark.usefixtures("sandbox_directories")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ins"], ["inspect"]),
        (["up", "--data"], ["--data-root"]),
        (["up", "--backend", ""], ["vm", "containerd"]),
        (["up", "--data-root", ""], ["auto", "memory", "loop", "block", "virtiofs"]),
        (["inspect", "de"], ["default", "demo"]),
        (["docker", "dem"], ["demo"]),
        (["stop", "demo", "d"], ["default", "demo"]),
        (["env", "--shell", "f"], ["fish"]),
        (["image", "r"], ["rm"]),
        (["image", "rm", ""], []),
        (["fix", "-o", "s"], ["sarif"]),
        (["fix", "--in"], ["--in-place"]),
        (["policy", ""], ["check", "schema", "show"]),
        (["render", "--workload", "s"], ["statefulset"]),
        (["render", "--kind", "l"], ["loop"]),
        (["render", "-o", ""], ["yaml", "json"]),
        (["cluster", "plan", "--handler", "qemu-r"], ["qemu-runtime-rs"]),
        (["cluster", "plan", "--distribution", "k3"], ["k3s"]),
    ],
)
def test_completion(words: list[str], expected: list[str]) -> None:
    assert completed(*words) == expected


def test_completion_of_a_broken_state_is_silent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("KATA_DIND_STATE_DIR", str(home / "file"))
    (home / "config" / "kata-dind").mkdir(parents=True)
    (home / "config" / "kata-dind" / "config.toml").write_text("size =")
    assert completed("inspect", "d") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_can_be_shown(shell: str) -> None:
    variables = {"_KATA_DIND_COMPLETE": f"source_{shell}"}
    done = run(
        [sys.executable, "-m", "kata_dind"], env={**os.environ, **variables}, capture_output=True, check=True, text=True
    )
    assert "_KATA_DIND_COMPLETE=complete_" in done.stdout
