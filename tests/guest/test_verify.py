"""The overlay proof on file systems that pass or fail, the steps after it, and the hand-over to the command."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.guest.conftest import Shell

pytestmark = pytest.mark.requires("root")


def fuse_without_xattr(shell: Shell, data_root: Path) -> str:
    """A FUSE mount that overlayfs refuses as Kata's virtio-fs is refused: it has no extended attributes."""
    source = shell.directory / "source"
    source.mkdir(exist_ok=True)
    return f"bindfs --xattr-none {source} {data_root}"


def on_fuse_without_xattr(shell: Shell, data_root: Path) -> dict[str, Any]:
    """The same for what mounts a disk from it: a FUSE server that ends together with that waits for itself."""
    return {"before": fuse_without_xattr(shell, data_root), "after": f"umount {data_root}"}


# --- the proof


def test_a_good_data_root_passes_and_keeps_no_trace_of_the_proof(shell: Shell, data_root: Path) -> None:
    ended = shell.entrypoint("sh", "-c", 'ls -A "$0"', str(data_root), PATH=data_root, DATA_ROOT="memory", SIZE="64M")
    assert (ended.code, ended.stdout) == (0, ""), ended.stderr
    steps = ["mount", "copy-up", "whiteout", "d_type", "rename", "opaque directory", "file capability"]
    assert json.loads(ended.status.read_text())["proof"] == dict.fromkeys(["write", *steps], "passed")


def test_what_a_killed_proof_has_left_is_no_hindrance(shell: Shell, data_root: Path) -> None:
    (data_root / ".kata-dind-probe" / "merged" / "x").mkdir(parents=True)
    (data_root / ".kata-dind-probe" / "lower").write_text("a file")
    ended = shell.entrypoint("true", PATH=data_root)
    assert ended.code == 0, ended.stderr
    assert [*data_root.iterdir()] == []


@pytest.mark.requires("fuse")
def test_a_share_without_xattr_is_refused_with_the_step_that_failed(shell: Shell, data_root: Path) -> None:
    ended = shell.entrypoint(
        "echo", "went on", PATH=data_root, DATA_ROOT="virtiofs", before=fuse_without_xattr(shell, data_root)
    )
    assert (ended.code, ended.stdout) == (78, "")
    assert ended.error["step"] == "verify"
    assert ended.error["message"].startswith(f"overlay does not work on fuse at {data_root}: ")
    assert " failed" in ended.error["message"]
    assert "loop" in ended.error["hint"]
    assert [*(shell.directory / "source").iterdir()] == []


@pytest.mark.requires("fuse")
def test_vfs_is_fallen_back_to_only_when_that_is_asked_for(shell: Shell, data_root: Path) -> None:
    ended = shell.entrypoint(
        "sh",
        "-c",
        'echo "$DOCKER_DRIVER"',
        PATH=data_root,
        DATA_ROOT="virtiofs",
        FALLBACK="vfs",
        before=fuse_without_xattr(shell, data_root),
    )
    assert (ended.code, ended.stdout) == (0, "vfs\n"), ended.stderr
    (warning,) = ended.said("warning")
    assert warning.endswith("continuing with vfs, as KATA_DIND_FALLBACK says")


@pytest.mark.requires("fuse", "loop")
def test_loop_works_on_the_share_that_is_refused(shell: Shell, data_root: Path) -> None:
    ended = shell.entrypoint(
        "true", PATH=data_root, DATA_ROOT="loop", SIZE="256M", **on_fuse_without_xattr(shell, data_root)
    )
    assert ended.code == 0, ended.stderr


@pytest.mark.requires("fuse", "loop")
def test_auto_takes_loop_on_the_share_that_is_refused(shell: Shell, data_root: Path) -> None:
    ended = shell.entrypoint("true", PATH=data_root, SIZE="256M", **on_fuse_without_xattr(shell, data_root))
    assert ended.code == 0, ended.stderr
    assert json.loads(ended.status.read_text())["kind"] == "loop"


def stub(tmp_path: Path, name: str, script: str) -> str:
    """A program on PATH that does one thing wrong and is itself in all else."""
    directory = tmp_path / "stubs"
    directory.mkdir(exist_ok=True)
    program = directory / name
    program.write_text(f'#!/bin/sh\n{script}\nexec {shutil.which(name) or "false"} "$@"\n')
    program.chmod(0o755)
    return str(directory)


# busybox's shell runs its own applets, whatever is on PATH.
@pytest.mark.parametrize("shell", ["dash"], indirect=True)
@pytest.mark.parametrize(
    ("name", "script", "step"),
    [
        ("rm", "case $2 in removed) exit 1 ;; esac", "whiteout"),
        (
            "rm",
            'case $2 in removed) /bin/rm "$@"; /bin/rm -f "../upper/removed"; exit ;; esac',
            "whiteout",
        ),
        ("mv", "case $1 in renamed) exit 1 ;; esac", "rename"),
        ("mv", 'case $1 in renamed) exec cp "$@" ;; esac', "rename"),
        ("mkdir", "case $1 in dir) exit 1 ;; esac", "opaque directory"),
        ("mkdir", 'case $1 in dir) /bin/mkdir "$1"; touch "$1/hidden"; exit ;; esac', "opaque directory"),
        ("mount", "case $2 in overlay) exit 32 ;; esac", "mount"),
        ("setfattr", "exit 1", "file capability"),
    ],
)
def test_each_step_of_the_proof_can_fail_and_is_named(
    shell: Shell, data_root: Path, tmp_path: Path, name: str, script: str, step: str
) -> None:
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="virtiofs", tools=stub(tmp_path, name, script))
    assert ended.code == 78
    assert f"at {data_root}: {step} failed" in ended.error["message"]
    assert list(json.loads(ended.status.read_text())["proof"].items())[-1] == (step, "failed")
    assert [*data_root.iterdir()] == [], "the proof has left something"


def test_a_data_root_that_cannot_be_written_is_told(shell: Shell, data_root: Path) -> None:
    before = f"mount -t tmpfs t {data_root}; mount -o remount,ro {data_root}"
    ended = shell.entrypoint("true", PATH=data_root, before=before)
    assert ended.code == 78
    assert f"kept: overlay does not work on tmpfs at {data_root}: write failed" in ended.error["message"]
    assert ended.error["hint"] == "make it writable, with space and inodes left"


def test_a_root_that_cannot_be_written_costs_the_status_alone(shell: Shell, data_root: Path) -> None:
    """As with `readOnlyRootFilesystem`, where only the volumes can be written."""
    status = shell.directory / "status"
    status.mkdir()
    before = f"mount -t tmpfs good {data_root}; mount -t tmpfs -o ro run {status}"
    ended = shell.entrypoint("echo", "went on", PATH=data_root, STATUS_DIR=status / "deeper", before=before)
    assert (ended.code, ended.stdout) == (0, "went on\n"), ended.stderr
    assert ended.said("warning") == [f"cannot write {status}/deeper/status.json"]


def test_a_full_data_root_is_told(shell: Shell, data_root: Path) -> None:
    before = f"mount -t tmpfs -o nr_inodes=4 t {data_root}"
    ended = shell.entrypoint("true", PATH=data_root, before=before)
    assert ended.code == 78
    assert "write failed" in ended.error["message"]
    assert json.loads(ended.status.read_text())["proof"] == {"write": "failed"}


def test_a_data_root_that_cannot_be_made_is_told(shell: Shell) -> None:
    (shell.directory / "file").touch()
    ended = shell.entrypoint("true", PATH=shell.directory / "file" / "docker")
    assert (ended.code, ended.error["step"]) == (78, "detect")


# --- what dockerd would fail on


def test_parameters_that_spoil_the_native_diff_are_switched_off(shell: Shell, data_root: Path) -> None:
    look = "cat /sys/module/overlay/parameters/redirect_dir /sys/module/overlay/parameters/metacopy"
    ended = shell.entrypoint("true", PATH=data_root, after=look)
    assert (ended.code, ended.stdout) == (0, "NN")


CGROUP = "/sys/fs/cgroup"


def test_processes_move_one_cgroup_down_and_every_controller_is_given_on(shell: Shell, data_root: Path) -> None:
    """On files in place of a cgroup file system: what is written last to one is what it holds."""
    before = f"""
    printf '101\\n' >{CGROUP}/cgroup.procs
    printf 'cpu memory pids\\n' >{CGROUP}/cgroup.controllers
    : >{CGROUP}/cgroup.subtree_control
    """
    after = f"cat {CGROUP}/init/cgroup.procs {CGROUP}/cgroup.subtree_control"
    ended = shell.entrypoint("true", PATH=data_root, before=before, after=after)
    assert (ended.code, ended.stdout) == (0, "101\n+pids\n"), ended.stderr


@pytest.mark.parametrize("controllers", ["", r"\n"], ids=["no line", "an empty line"])
def test_a_cgroup_without_controllers_is_no_hindrance(shell: Shell, data_root: Path, controllers: str) -> None:
    before = f"""
    : >{CGROUP}/cgroup.procs
    printf '{controllers}' >{CGROUP}/cgroup.controllers
    : >{CGROUP}/cgroup.subtree_control
    """
    ended = shell.entrypoint("echo", "went on", PATH=data_root, before=before)
    assert (ended.code, ended.stdout) == (0, "went on\n"), ended.stderr


def test_cgroups_that_cannot_be_written_are_left_alone(shell: Shell, data_root: Path) -> None:
    before = f"""
    printf '101\\n' >{CGROUP}/cgroup.procs
    printf 'cpu\\n' >{CGROUP}/cgroup.controllers
    : >{CGROUP}/cgroup.subtree_control
    mount -o remount,ro {CGROUP}
    """
    ended = shell.entrypoint("echo", "went on", PATH=data_root, before=before)
    assert (ended.code, ended.stdout) == (0, "went on\n"), ended.stderr


# --- the hand-over


@pytest.mark.parametrize("code", [0, 1, 42, 64, 78, 255])
def test_the_commands_exit_code_is_the_containers(shell: Shell, data_root: Path, code: int) -> None:
    assert shell.entrypoint("sh", "-c", f"exit {code}", PATH=data_root).code == code


def test_arguments_arrive_as_they_were(shell: Shell, data_root: Path) -> None:
    odd = ["a b", "", "*", "$HOME", "'\"", "--", "new\nline"]
    ended = shell.entrypoint("--", "printf", "<%s>", *odd, PATH=data_root)
    assert ended.stdout == "".join(f"<{word}>" for word in odd)


def test_a_command_that_does_not_exist_is_127(shell: Shell, data_root: Path) -> None:
    assert shell.entrypoint("/no/such/program", PATH=data_root).code == 127


def test_the_command_takes_the_entrypoints_place(shell: Shell, data_root: Path) -> None:
    """Process 1 gets a container's signals, so it must be the command."""
    ended = shell.entrypoint("sh", "-c", 'echo "$PPID"; kill -TERM $$; sleep 5', PATH=data_root)
    assert ended.code == 143
    assert ended.stdout == "1\n", "something stands between the container's process and its command"


def test_the_command_may_catch_signals_itself(shell: Shell, data_root: Path) -> None:
    ended = shell.entrypoint("sh", "-c", "trap 'exit 9' TERM; kill -TERM $$; sleep 5", PATH=data_root)
    assert ended.code == 9


def test_the_environment_is_the_commands_too(shell: Shell, data_root: Path) -> None:
    ended = shell.entrypoint("sh", "-c", 'echo "$KATA_DIND_PATH"', PATH=data_root)
    assert ended.stdout == f"{data_root}\n"


def test_quiet_is_quiet(shell: Shell, data_root: Path) -> None:
    ended = shell.entrypoint("true", PATH=data_root, LOG="error")
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.status.exists()
    assert os.access(ended.status, os.R_OK)
