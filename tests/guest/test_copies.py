"""The copies for a pod: each does its work for real, and refuses what it has left out."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
from kata_dind.pod.model import Copy, Program
from kata_dind.vocabulary import DataRootKind, Filesystem
from tests.guest.conftest import Ended, Shell, attach_loop, with_overlay_refused

pytestmark = pytest.mark.requires("root")

LOOP, BLOCK, MEMORY, VIRTIOFS, AUTO = (
    DataRootKind.LOOP,
    DataRootKind.BLOCK,
    DataRootKind.MEMORY,
    DataRootKind.VIRTIOFS,
    DataRootKind.AUTO,
)
OTHERS = [pytest.param(program, marks=pytest.mark.thorough) for program in Program if program is not Program.DOCKERD]
SIZES = {Filesystem.EXT4: "96M", Filesystem.XFS: "320M"}


def of(shell: Shell, copy: Copy) -> Shell:
    """Return the shell with a copy in the place of the whole entrypoint."""
    script = shell.directory / "copy.sh"
    script.write_text(entrypoint_for_pods(copy))
    return dataclasses.replace(shell, script=script)


def status_of(ended: Ended) -> dict[str, Any]:
    assert (ended.code, ended.said("error")) == (0, []), ended.stderr
    assert set(ended.stderr.splitlines()) == {line for line in ended.stderr.splitlines() if line.startswith('{"kata')}
    status = json.loads(ended.status.read_text())
    assert {"passed"} == set(status["proof"].values())
    return dict(status)


@pytest.mark.requires("loop")
@pytest.mark.parametrize("filesystem", Filesystem)
@pytest.mark.parametrize("program", [Program.DOCKERD, *OTHERS])
def test_a_loop_copy_makes_and_keeps_its_disk(
    shell: Shell, data_root: Path, program: Program, filesystem: Filesystem
) -> None:
    copy, size = of(shell, Copy(LOOP, program, filesystem)), SIZES[filesystem]
    write = ["sh", "-c", "echo precious >$0/file", str(data_root)]
    status = status_of(copy.entrypoint(*write, PATH=data_root, SIZE=size))
    assert (status["kind"], status["filesystem"], status["program"]) == ("loop", filesystem, program)
    again = copy.entrypoint("cat", f"{data_root}/file", PATH=data_root, SIZE=size)
    assert (again.code, again.stdout) == (0, "precious\n"), again.stderr
    assert status_of(again)["size_bytes"] == status["size_bytes"]


@pytest.mark.requires("loop", "sys-resource")
@pytest.mark.parametrize("filesystem", Filesystem)
def test_a_loop_copy_grows_its_disk(shell: Shell, data_root: Path, filesystem: Filesystem) -> None:
    copy = of(shell, Copy(LOOP, filesystem=filesystem))
    small, large = (
        status_of(copy.entrypoint("true", PATH=data_root, SIZE=size))["size_bytes"] for size in ("320M", "500M")
    )
    assert large - small > 150 << 20


@pytest.mark.thorough
@pytest.mark.requires("loop")
@pytest.mark.parametrize("filesystem", Filesystem)
def test_a_loop_copy_checks_a_disk_that_was_not_unmounted(
    shell: Shell, data_root: Path, filesystem: Filesystem
) -> None:
    copy = of(shell, Copy(LOOP, filesystem=filesystem))
    status_of(copy.entrypoint("true", PATH=data_root, SIZE="320M"))
    told: dict[str, Any] = {"CHECK": "1"} if filesystem is Filesystem.EXT4 else {}
    ended = copy.entrypoint("true", PATH=data_root, EXCLUSIVE="1", **told)
    assert status_of(ended)["kind"] == "loop"
    assert any("in full" in line for line in ended.said("info")) == (filesystem is Filesystem.EXT4)


@pytest.mark.requires("loop")
@pytest.mark.parametrize("filesystem", Filesystem)
@pytest.mark.parametrize("program", [Program.DOCKERD, OTHERS[0]])
def test_a_block_copy_formats_its_device(
    shell: Shell, data_root: Path, program: Program, filesystem: Filesystem
) -> None:
    image = shell.directory / "blank"
    with image.open("wb") as file:
        file.truncate(320 << 20)
    device = attach_loop(image)
    copy = of(shell, Copy(BLOCK, program, filesystem))
    for _ in range(2):
        status = status_of(copy.entrypoint("true", PATH=data_root, DEVICE=device))
        assert (status["kind"], status["filesystem"], status["device"]) == ("block", filesystem, str(device))
    other = Filesystem.XFS if filesystem is Filesystem.EXT4 else Filesystem.EXT4
    refused = of(shell, Copy(BLOCK, program, other)).entrypoint("true", PATH=data_root, DEVICE=device)
    assert refused.code == 78
    assert "it was not touched" in refused.error["message"]
    assert refused.error["hint"].endswith(f"kata-dind entrypoint --filesystem {filesystem}")


@pytest.mark.parametrize("kind", [MEMORY, VIRTIOFS, AUTO])
def test_the_other_kinds_work(shell: Shell, data_root: Path, kind: DataRootKind) -> None:
    before = f"mount -t tmpfs -o size=80m theirs {data_root}"
    told: dict[str, Any] = {} if kind is VIRTIOFS else {"SIZE": "96M"}
    status = status_of(of(shell, Copy(kind)).entrypoint("true", PATH=data_root, before=before, **told))
    assert status["kind"] == {MEMORY: "memory", VIRTIOFS: "virtiofs", AUTO: "memory"}[kind]
    if kind is not VIRTIOFS:
        assert status["size_bytes"] == 96 << 20


def test_a_fallback_is_for_a_copy_that_has_it(shell: Shell, data_root: Path) -> None:
    (data_root / "theirs").touch()
    told: dict[str, Any] = {"PATH": data_root, "SIZE": "96M", "FALLBACK": "vfs"}
    ended = of(shell, Copy(LOOP, fallback=True)).entrypoint("sh", "-c", "echo $DOCKER_DRIVER", **told)
    assert (ended.code, ended.stdout) == (0, "vfs\n"), ended.stderr
    ended = of(shell, Copy(LOOP, fallback=True)).entrypoint("true", **{**told, "FALLBACK": "none"})
    assert (ended.code, ended.error["step"]) == (78, "prepare")


@pytest.mark.requires("loop")
@pytest.mark.parametrize("more", [{}, {"fallback": True}, {"containerd": True}, {"mounts_below": True}], ids=str)
def test_a_proof_that_fails_ends_a_start_with_a_loop_copy_and_leaves_nothing(
    shell: Shell, data_root: Path, more: dict[str, Any]
) -> None:
    copy, share = of(shell, dataclasses.replace(Copy(LOOP), **more)), shell.directory / "share"
    ended = with_overlay_refused(copy).entrypoint("true", PATH=data_root, SIZE="96M", DIR=share)
    assert (ended.code, ended.error["step"]) == (78, "verify")
    assert ended.error["message"].startswith(f"overlay does not work on ext4 at {data_root}: mount failed")
    status = json.loads(ended.status.read_text())
    assert (status["kind"], status["error"], status["proof"]) == (
        "loop",
        ended.error["message"],
        {"write": "passed", "mount": "failed"},
    )
    assert [*share.iterdir()] == []


@pytest.mark.requires("loop")
def test_a_disk_with_data_outlives_a_proof_that_fails(shell: Shell, data_root: Path) -> None:
    copy = of(shell, Copy(LOOP))
    told: dict[str, Any] = {"PATH": data_root, "SIZE": "96M", "DIR": shell.directory / "share"}
    assert copy.entrypoint("sh", "-c", f"echo kept >{data_root}/file", **told).code == 0
    assert with_overlay_refused(copy).entrypoint("true", **told).code == 78
    assert copy.entrypoint("cat", f"{data_root}/file", **told).stdout == "kept\n"


@pytest.mark.requires("loop")
def test_a_full_disk_is_used_unproven_with_a_loop_copy(shell: Shell, data_root: Path) -> None:
    copy = of(shell, Copy(LOOP))
    told: dict[str, Any] = {"PATH": data_root, "SIZE": "64M", "EXCLUSIVE": "1"}
    fill = f"cat /dev/zero >{data_root}/zeros 2>/dev/null; :"
    assert copy.entrypoint("sh", "-c", fill, **told).code == 0
    ended = copy.entrypoint("echo", "went on", **told)
    assert (ended.code, ended.stdout) == (0, "went on\n"), ended.stderr
    assert ended.said("warning") == [f"{data_root} is full, so it was not proven again"]
    assert json.loads(ended.status.read_text())["proof"] == {"write": "failed"}


@pytest.mark.requires("fuse", "loop")
@pytest.mark.parametrize("fallback", [False, True])
def test_a_copy_says_whose_root_is_in_the_way(shell: Shell, data_root: Path, fallback: bool) -> None:
    root, share = shell.directory / "containerd", shell.directory / "containerd-share"
    for path in (root, share / "theirs"):
        path.mkdir(parents=True)
    ended = of(shell, Copy(LOOP, containerd=True, fallback=fallback)).entrypoint(
        "true", before=f"bindfs --xattr-none {share} {root}", PATH=data_root, SIZE="96M", CONTAINERD=root
    )
    assert (ended.code, ended.error["step"]) == (78, "prepare")
    assert ended.error["message"] == (
        f"containerd keeps its data in {root}: {root} is not empty, and a mount would hide theirs"
    )
    assert ended.error["hint"] == "move that away; or, if nothing uses it: KATA_DIND_CONTAINERD=none"
    assert (data_root / "kata-dind.img").exists()


LEFT_OUT = [
    (Copy(LOOP), "DATA_ROOT", "memory", "--kind"),
    (Copy(LOOP), "DATA_ROOT", "auto", "--kind"),
    (Copy(LOOP), "DEVICE", "/dev/vdb", "--kind=block"),
    (Copy(LOOP), "FILESYSTEM", "xfs", "--filesystem"),
    (Copy(LOOP, filesystem=Filesystem.XFS), "FILESYSTEM", "ext4", "--filesystem"),
    (Copy(LOOP), "FALLBACK", "vfs", "--fallback"),
    (Copy(LOOP), "PROGRAM", "buildkitd", "--program"),
    (Copy(LOOP, Program.BUILDKITD), "PROGRAM", "dockerd", "--program"),
    (Copy(BLOCK), "DIR", "/elsewhere", "--kind=loop"),
    (Copy(BLOCK), "SIZE", "1G", "--kind=loop"),
    (Copy(MEMORY), "DEVICE", "/dev/vdb", "--kind=block"),
    (Copy(MEMORY), "DIR", "/elsewhere", "--kind=loop"),
    (Copy(MEMORY), "FILESYSTEM", "ext4", "--kind=loop"),
    (Copy(MEMORY), "CHECK", "1", "--kind=loop"),
    (Copy(MEMORY), "EXCLUSIVE", "1", "--kind=loop"),
    (Copy(VIRTIOFS), "SIZE", "1G", "--kind=loop"),
    (Copy(AUTO), "FILESYSTEM", "xfs", "--filesystem"),
    (Copy(AUTO), "FALLBACK", "vfs", "--fallback"),
    (Copy(LOOP), "CONTAINERD", "/var/lib/containerd", "--containerd"),
]


@pytest.mark.parametrize(("copy", "variable", "value", "option"), LEFT_OUT)
def test_what_is_left_out_is_refused_with_the_option_for_it(
    shell: Shell, tmp_path: Path, copy: Copy, variable: str, value: str, option: str
) -> None:
    told: dict[str, Any] = {"DEVICE": "/dev/none"} if copy.kind is BLOCK else {}
    ended = of(shell, copy).entrypoint("echo", "went on", **{**told, "PATH": tmp_path / "new", variable: value})
    assert (ended.code, ended.stdout) == (64, "")
    assert ended.error["message"].startswith(f"KATA_DIND_{variable} is '{value}', ")
    assert ended.error["hint"].endswith(f"kata-dind entrypoint {option}")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", ["$(touch mark)", "'; touch mark; '", '"; touch mark; "', "`touch mark`", "\\"])
@pytest.mark.parametrize("variable", ["DATA_ROOT", "FALLBACK", "FILESYSTEM", "PROGRAM", "DEVICE"])
def test_what_is_refused_is_never_evaluated(shell: Shell, variable: str, value: str) -> None:
    ended = of(shell, Copy(LOOP)).entrypoint("true", **{variable: value})
    assert ended.code == 64
    assert value in ended.error["message"]
    assert not [*shell.directory.rglob("mark")]


@pytest.mark.parametrize(
    ("program", "command", "found"),
    [
        (Program.DOCKERD, ["tini", "--", "buildkitd"], "buildkitd"),
        (Program.CONTAINERD, ["dockerd", "--debug"], "dockerd"),
    ],
)
def test_another_program_is_refused(shell: Shell, program: Program, command: list[str], found: str) -> None:
    ended = of(shell, Copy(LOOP, program)).entrypoint(*command)
    assert ended.code == 64
    assert ended.error["message"] == f"the command starts {found}, but this file serves {program}"
    assert ended.error["hint"].startswith("use: kata-dind entrypoint --program NAME, or ")


@pytest.mark.parametrize(
    ("command", "before", "told"),
    [
        (["dockerd", "--containerd=/run/containerd/containerd.sock"], "", {"CONTAINERD": "auto"}),
        (["/usr/local/share/docker-init.sh"], "containerd() { :; }", {"CONTAINERD": "auto"}),
    ],
)
@pytest.mark.requires("docker")
def test_a_system_containerd_is_refused(
    tmp_path: Path, entrypoint_file: Path, command: list[str], before: str, told: dict[str, str]
) -> None:
    shell = Shell("sh", ("sh",), os.environ["PATH"], entrypoint_file, tmp_path)
    ended = of(shell, Copy(LOOP)).entrypoint(*command, before=before, PATH=tmp_path / "new", **told)
    assert (ended.code, ended.stdout) == (64, "")
    assert ended.error["message"] == "this file does not serve a system containerd"
    assert "kata-dind entrypoint --containerd" in ended.error["hint"]
    assert not (tmp_path / "new").exists()


@pytest.mark.requires("loop")
def test_a_copy_for_it_takes_a_system_containerd(shell: Shell, data_root: Path) -> None:
    root = shell.directory / "containerd"
    root.mkdir()
    before = f"mount -t tmpfs theirs {root}"
    ended = of(shell, Copy(LOOP, containerd=True)).entrypoint(
        "true", before=before, PATH=data_root, SIZE="96M", CONTAINERD=root
    )
    assert status_of(ended)["containerd_root"] == str(root)


def test_another_user_than_root_is_refused(shell: Shell) -> None:
    """By what the kernel says of the user, which the script reads from a file."""
    status = shell.directory / "status"
    status.write_text("Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\n")
    done = of(shell, Copy(LOOP)).call(
        f"KATA_DIND_STATUS_DIR={shell.directory}/run; parse true; preflight", files={"/proc/self/status": status}
    )
    assert done.returncode == 78, done
    assert "the container is not privileged, or not root" in done.stderr
    assert "securityContext.privileged: true" in done.stderr
