"""Each kind of data root for real, on this host's kernel: made, proven, and used by the command."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kata_dind.host.process import run
from tests.guest.conftest import GROWING, Shell, attach_loop, with_overlay_refused

pytestmark = [pytest.mark.requires("root")]

# Says what the data root is mounted from, and that it can be written.
LOOK = """
while read -r _ _ _ _ point rest; do [ "$point" != "$0" ] || echo "$rest"; done </proc/self/mountinfo
touch "$0/made"
"""


def look(path: Path) -> tuple[str, ...]:
    return ("sh", "-c", LOOK, str(path))


def kind_of(status: Path) -> tuple[str, str]:
    fields = json.loads(status.read_text())
    return fields["kind"], fields["filesystem"]


@pytest.fixture
def data_root(shell: Shell) -> Path:
    return shell.directory / "docker"


def make_image(shell: Shell, size_mib: int) -> Path:
    image = shell.directory / "disk.img"
    with image.open("wb") as file:
        os.truncate(file.fileno(), size_mib << 20)
    return image


# --- kept, memory


def test_a_good_file_system_is_kept_as_it_is(shell: Shell, data_root: Path) -> None:
    data_root.mkdir()
    (data_root / "image").write_text("an image")
    ended = shell.entrypoint(
        "sh",
        "-c",
        'ls -A "$0"',
        str(data_root),
        PATH=data_root,
        before=f"mount -t tmpfs t {data_root}; touch {data_root}/image",
    )
    assert (ended.code, ended.stdout) == (0, "image\n"), ended.stderr
    assert kind_of(ended.status) == ("kept", "tmpfs")
    assert [path.name for path in data_root.iterdir()] == ["image"]


def test_the_path_is_made_and_taken_from_the_command(shell: Shell) -> None:
    path = shell.directory / "a" / "b"
    ended = shell.entrypoint("echo", f"--data-root={path}", before=f"mount -t tmpfs t {shell.directory}")
    assert ended.code == 0, ended.stderr
    (ready,) = [line for line in ended.lines if line["step"] == "ready"]
    assert (ready["path"], ready["kind"], ready["filesystem"]) == (str(path), "kept", "tmpfs")


def test_memory_is_a_tmpfs_of_the_size(shell: Shell, data_root: Path) -> None:
    ended = shell.entrypoint(*look(data_root), PATH=data_root, DATA_ROOT="memory", SIZE="96M")
    assert ended.code == 0, ended.stderr
    assert " - tmpfs kata-dind " in ended.stdout
    assert "size=98304k" in ended.stdout
    assert "mode=710" in ended.stdout
    assert kind_of(ended.status) == ("memory", "tmpfs")
    assert [*data_root.iterdir()] == []


def test_a_tmpfs_outlives_a_restart_of_its_container(shell: Shell, data_root: Path) -> None:
    data_root.mkdir()
    ended = shell.entrypoint(
        "sh", "-c", 'ls "$0"', str(data_root), PATH=data_root, DATA_ROOT="memory", SIZE="96M",
        before=f"mount -t tmpfs emptydir {data_root}; mkdir {data_root}/overlay2",
    )  # fmt: skip
    assert (ended.code, ended.stdout) == (0, "overlay2\n"), ended.stderr


@pytest.mark.parametrize("variables", [{"DATA_ROOT": "memory"}, {}], ids=["memory", "auto"])
def test_a_tmpfs_that_is_there_gets_the_size_that_kata_ignores(
    shell: Shell, data_root: Path, variables: dict[str, str]
) -> None:
    data_root.mkdir()
    ended = shell.entrypoint(
        *look(data_root), PATH=data_root, SIZE="96M", before=f"mount -t tmpfs emptydir {data_root}", **variables
    )
    assert ended.code == 0, ended.stderr
    assert "size=98304k" in ended.stdout
    assert ended.stdout.count("tmpfs") == 1
    assert kind_of(ended.status) == ("memory", "tmpfs")


def test_more_than_half_of_the_memory_is_a_warning(shell: Shell, data_root: Path) -> None:
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="memory", SIZE="1T")
    assert ended.code == 0, ended.stderr
    assert ended.said("warning") == ["a memory data root of 1T may take more than half of the guest's memory"]


# --- loop


@pytest.mark.requires("loop")
def test_loop_makes_a_sparse_ext4_disk_on_the_share(shell: Shell, data_root: Path) -> None:
    share = shell.directory / "share"
    ended = shell.entrypoint(*look(data_root), PATH=data_root, DATA_ROOT="loop", SIZE="2G", DIR=share)
    assert ended.code == 0, ended.stderr
    assert re.search(r" - ext4 /dev/loop\d+ ", ended.stdout)
    assert "discard" in ended.stdout
    assert kind_of(ended.status) == ("loop", "ext4")
    image = share / "kata-dind.img"
    assert image.stat().st_size == 2 << 30
    assert image.stat().st_blocks * 512 < 64 << 20
    assert [path.name for path in share.iterdir()] == ["kata-dind.img"]


WRITE = 'echo kept >"$0/file"'
SIZE = 'cat "$0/file"; df -k "$0" | tail -n 1'


def size_mib(df: str) -> int:
    return int(df.splitlines()[-1].split()[1]) >> 10


@pytest.mark.requires("loop")
@pytest.mark.parametrize("filesystem", GROWING)
def test_loop_grows_when_more_is_asked_for_and_never_shrinks(shell: Shell, data_root: Path, filesystem: str) -> None:
    asked: dict[str, Any] = {
        "PATH": data_root,
        "DATA_ROOT": "loop",
        "DIR": shell.directory / "share",
        "FILESYSTEM": filesystem,
    }
    assert shell.entrypoint("sh", "-c", WRITE, str(data_root), SIZE="512M", **asked).code == 0
    for size, expected_mib in (("2G", 2048), ("1G", 2048), ("", 2048)):
        ended = shell.entrypoint("sh", "-c", SIZE, str(data_root), **asked, **({"SIZE": size} if size else {}))
        assert ended.code == 0, ended.stderr
        assert ended.stdout.startswith("kept\n")
        assert expected_mib * 0.9 < size_mib(ended.stdout) <= expected_mib
        assert not any("formatting" in message or "making" in message for message in ended.said("info"))
        assert kind_of(ended.status)[1] == filesystem
        assert abs(json.loads(ended.status.read_text())["size_bytes"] / (size_mib(ended.stdout) << 20) - 1) < 0.01


@pytest.mark.requires("loop")
@pytest.mark.parametrize("filesystem", GROWING)
def test_a_growth_that_was_killed_half_way_is_completed(shell: Shell, data_root: Path, filesystem: str) -> None:
    share = shell.directory / "share"
    asked: dict[str, Any] = {"PATH": data_root, "DATA_ROOT": "loop", "DIR": share, "FILESYSTEM": filesystem}
    assert shell.entrypoint("sh", "-c", WRITE, str(data_root), SIZE="512M", **asked).code == 0
    os.truncate(share / "kata-dind.img", 2 << 30)
    ended = shell.entrypoint("sh", "-c", SIZE, str(data_root), **asked)
    assert ended.code == 0, ended.stderr
    assert size_mib(ended.stdout) > 1800


@pytest.mark.requires("loop")
def test_loop_has_direct_io(shell: Shell, data_root: Path) -> None:
    look = """
    while read -r _ _ _ _ point _ _ _ source _; do [ "$point" != "$0" ] || loop=${source#/dev/}; done \
        </proc/self/mountinfo
    cat "/sys/block/$loop/loop/dio"
    """
    ended = shell.entrypoint(
        "sh", "-c", look, str(data_root), PATH=data_root, DATA_ROOT="loop", SIZE="256M", DIR=shell.directory / "share"
    )
    assert (ended.code, ended.stdout.strip()) == (0, "1"), ended.stderr
    assert json.loads(ended.status.read_text())["direct_io"] is True
    assert ended.said("warning") == []


@pytest.mark.requires("loop")
def test_nothing_is_left_when_the_container_ends(shell: Shell, data_root: Path) -> None:
    """Also when its command is killed: the kernel takes the loop device along, and the file system is clean."""
    share = shell.directory / "share"
    for command in ("true", "kill -9 $$"):
        shell.entrypoint("sh", "-c", command, PATH=data_root, DATA_ROOT="loop", SIZE="256M", DIR=share)
        backing = [file.read_text() for file in Path("/sys/block").glob("loop*/loop/backing_file")]
        assert not any(str(share) in file for file in backing)
        state = run(["dumpe2fs", "-h", share / "kata-dind.img"], timeout_seconds=10).stdout
        assert re.search(r"Filesystem state: +clean\n", state)
        assert "needs_recovery" not in state


@pytest.mark.requires("loop")
def test_a_disk_in_use_by_another_container_is_refused(shell: Shell, data_root: Path) -> None:
    share = shell.directory / "share"
    asked: dict[str, Any] = {"PATH": data_root, "DATA_ROOT": "loop", "SIZE": "256M", "DIR": share}
    # The first one's command is the second one, in a mount namespace of its own.
    second = f"""
    unshare -m sh -c 'umount {data_root} && KATA_DIND_STATUS_DIR={shell.directory}/second "$@"' sh "$@"
    echo "second: $?"
    """
    inner = [*shell.argv, str(shell.script), "echo", "went on"]
    ended = shell.entrypoint("sh", "-c", second, "sh", *inner, **asked)
    assert (ended.code, ended.stdout) == (0, "second: 78\n"), ended.stderr
    assert ended.error["message"] == f"{share}/kata-dind.img is in use by another container"


@pytest.mark.requires("loop")
def test_a_loop_file_that_is_none_is_refused_and_untouched(shell: Shell, data_root: Path, tmp_path: Path) -> None:
    share = shell.directory / "share"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"somebody's")
    for make in (lambda image: image.symlink_to(elsewhere), lambda image: image.mkdir(), os.mkfifo):
        shutil.rmtree(share, ignore_errors=True)
        share.mkdir()
        make(share / "kata-dind.img")
        ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="loop", SIZE="256M", DIR=share)
        assert ended.code == 78
        assert ended.error["message"] == (f"{share}/kata-dind.img is not the disk of a data root; it was not touched")
    assert elsewhere.read_bytes() == b"somebody's"


@pytest.mark.requires("loop")
def test_a_planted_link_in_place_of_the_unfinished_disk_is_not_followed(
    shell: Shell, data_root: Path, tmp_path: Path
) -> None:
    share = shell.directory / "share"
    share.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"somebody's")
    (share / "kata-dind.img.new").symlink_to(elsewhere)
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="loop", SIZE="256M", DIR=share)
    assert ended.code == 0, ended.stderr
    assert elsewhere.read_bytes() == b"somebody's"


@pytest.mark.requires("loop")
@pytest.mark.parametrize("content", ["blank", "foreign"])
def test_a_loop_file_without_a_file_system_is_refused_and_untouched(
    shell: Shell, data_root: Path, content: str
) -> None:
    share = shell.directory / "share"
    share.mkdir()
    image = share / "kata-dind.img"
    image.write_bytes((b"" if content == "blank" else b"a database's own format") + bytes(1 << 20))
    before = digest(image)
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="loop", SIZE="1G", DIR=share)
    assert ended.code == 78
    assert "it was not touched" in ended.error["message"]
    assert digest(image) == before


@pytest.mark.requires("loop")
def test_a_disk_that_shrank_is_refused_and_untouched(shell: Shell, data_root: Path) -> None:
    share = shell.directory / "share"
    asked: dict[str, Any] = {"PATH": data_root, "DATA_ROOT": "loop", "DIR": share}
    assert shell.entrypoint("true", SIZE="512M", **asked).code == 0
    os.truncate(share / "kata-dind.img", 300 << 20)
    before = digest(share / "kata-dind.img")
    ended = shell.entrypoint("true", **asked)
    assert ended.code == 78
    assert ended.error["message"].endswith("is smaller than the file system on it; it was not touched")
    assert digest(share / "kata-dind.img") == before


@pytest.mark.requires("loop")
@pytest.mark.parametrize("kind", ["loop", "memory"])
def test_a_mount_never_hides_what_is_in_the_data_root(shell: Shell, data_root: Path, kind: str) -> None:
    for content in ("image", ".hidden", "..odd"):
        shutil.rmtree(data_root, ignore_errors=True)
        (data_root / content).mkdir(parents=True)
        ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT=kind, SIZE="256M")
        assert ended.code == 78
        assert ended.error["message"] == f"{data_root} is not empty, and a mount would hide {content}"
        assert [path.name for path in data_root.iterdir()] == [content]


@pytest.mark.requires("loop")
@pytest.mark.parametrize("where", ["data root", "directory in it"])
def test_loop_keeps_its_disk_below_the_mount(shell: Shell, data_root: Path, where: str) -> None:
    variables: dict[str, Any] = {} if where == "data root" else {"DIR": f"{data_root}/disk/"}
    for _ in range(2):
        ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="loop", SIZE="256M", **variables)
        assert ended.code == 0, ended.stderr
    assert [path.name for path in data_root.iterdir()] == ["kata-dind.img" if where == "data root" else "disk"]


@pytest.mark.requires("loop")
@pytest.mark.parametrize("where", ["data root", "directory beside it"])
def test_what_is_mounted_below_the_data_root_goes_along(shell: Shell, data_root: Path, where: str) -> None:
    """As the logs of containers, which another container of the pod reads."""
    logs = shell.directory / "logs"
    (data_root / "containers").mkdir(parents=True)
    logs.mkdir()
    before = f"mount --bind {logs} {data_root}/containers"
    variables: dict[str, Any] = {"DIR": shell.directory / "share"} if where != "data root" else {}
    script = f"echo x >{data_root}/containers/log; echo y >{data_root}/on-the-disk; cat /proc/self/mountinfo"
    for _ in range(2):
        ended = shell.entrypoint(
            "sh", "-c", script, PATH=data_root, DATA_ROOT="loop", SIZE="256M", before=before, **variables
        )
        assert ended.code == 0, ended.stderr
        assert kind_of(ended.status) == ("loop", "ext4")
        points = [line.split()[4] for line in ended.stdout.splitlines()]
        assert points.count(f"{data_root}/containers") == 2  # below the disk, and on it
        assert not [point for point in points if point.startswith(f"{ended.status.parent}/below")]
        assert (logs / "log").read_text() == "x\n"
        assert not (data_root / "on-the-disk").exists()


@pytest.mark.requires("loop")
def test_a_start_that_is_refused_leaves_what_is_mounted_below_as_it_was(shell: Shell, data_root: Path) -> None:
    logs = shell.directory / "logs"
    (data_root / "containers").mkdir(parents=True)
    (data_root / "image").mkdir()
    logs.mkdir()
    before = f"mount --bind {logs} {data_root}/containers"
    command = ["sh", "-c", "cat /proc/self/mountinfo"]
    ended = shell.entrypoint(*command, PATH=data_root, DATA_ROOT="loop", SIZE="256M", FALLBACK="vfs", before=before)
    assert ended.code == 0, ended.stderr
    assert "a mount would hide image" in ended.stderr
    points = [line.split()[4] for line in ended.stdout.splitlines()]
    assert points.count(f"{data_root}/containers") == 1
    assert not [point for point in points if point.startswith(f"{ended.status.parent}/below")]


def _without(missing: str, shell: Shell, tools: Path) -> Shell:
    """Return a shell that has all programs but one."""
    tools.mkdir()
    for directory in shell.tools.split(":"):
        for program in Path(directory).glob("*") if Path(directory).is_dir() else ():
            if program.name != missing and not (tools / program.name).exists():
                (tools / program.name).symlink_to(program)
    return dataclasses.replace(shell, tools=str(tools))


@pytest.mark.requires("loop")
@pytest.mark.parametrize("shell", ["dash"], indirect=True)
def test_a_disk_that_another_image_has_made_needs_no_mkfs(shell: Shell, data_root: Path, tmp_path: Path) -> None:
    """As in a repaired pod of BuildKit's: an init container makes the disk, and the program's own image mounts it."""
    variables: dict[str, Any] = {"PROGRAM": "buildkitd", "DATA_ROOT": "loop", "SIZE": "256M"}
    variables["DIR"] = shell.directory / "share"
    made = shell.entrypoint("/bin/true", PATH=data_root, **variables)
    assert made.code == 0, made.stderr
    bare = _without("mkfs.ext4", shell, tmp_path / "tools")
    ended = bare.entrypoint(*look(data_root), PATH=data_root, FALLBACK="vfs", **variables)
    assert ended.code == 0, ended.stderr
    assert kind_of(ended.status) == ("loop", "ext4")


@pytest.mark.parametrize("shell", ["dash"], indirect=True)
@pytest.mark.parametrize("missing", ["mkfs.ext4", "mkfs.xfs"])
def test_a_missing_mkfs_is_told(shell: Shell, data_root: Path, tmp_path: Path, missing: str) -> None:
    bare = _without(missing, shell, tmp_path / "tools")
    share = shell.directory / "share"
    ended = bare.entrypoint(
        "true", PATH=data_root, DATA_ROOT="loop", SIZE="512M", DIR=share, FILESYSTEM=missing.removeprefix("mkfs.")
    )
    assert ended.code == 78
    assert ended.error["message"].startswith(f"cannot format {share}/kata-dind.img with ")
    assert ended.error["message"].endswith(f"{missing}: not found")
    assert ended.error["hint"].startswith(f"install {missing} in the image")
    assert [*share.iterdir()] == []


def test_without_loop_devices_there_is_no_loop(shell: Shell, data_root: Path) -> None:
    """A /dev where nodes can be made but not opened, as in a container without the right to them."""
    before = f"""
    touch {shell.directory}/null; mount --bind /dev/null {shell.directory}/null
    mount -t tmpfs -o nodev dev /dev; touch /dev/null; mount --move {shell.directory}/null /dev/null
    """
    share = shell.directory / "share"
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="loop", SIZE="256M", DIR=share, before=before)
    assert ended.code == 78
    assert ended.error["message"].startswith(f"cannot attach a loop device to {share}/kata-dind.img: ")
    assert "BLK_DEV_LOOP" in ended.error["hint"]
    assert [*share.iterdir()] == []


@pytest.mark.requires("loop")
def test_loop_works_at_the_smallest_size_that_may_be_asked_for(shell: Shell, data_root: Path) -> None:
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="loop", SIZE="64M", DIR=shell.directory / "share")
    assert ended.code == 0, ended.stderr


@pytest.mark.requires("loop")
def test_auto_takes_loop_where_overlay_does_not_work(shell: Shell, data_root: Path) -> None:
    """An overlay as data root, as in a container without a volume there; the disk lies on it, below the mount."""
    layers = shell.directory / "layers"
    before = f"""
    mkdir -p {layers} {data_root}
    mount -t tmpfs layers {layers}
    mkdir {layers}/lower {layers}/upper {layers}/work
    mount -t overlay -o lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work o {data_root}
    """
    ended = shell.entrypoint(*look(data_root), PATH=data_root, SIZE="256M", before=before)
    assert ended.code == 0, ended.stderr
    assert kind_of(ended.status) == ("loop", "ext4")


@pytest.mark.requires("loop")
@pytest.mark.parametrize("fallback", ["none", "vfs"])
def test_auto_takes_loop_where_the_proof_of_what_is_there_fails(shell: Shell, data_root: Path, fallback: str) -> None:
    """What the first proof has tried is not asked of the disk's mount."""
    shell = with_overlay_refused(shell, until="ext4")
    ended = shell.entrypoint(*look(data_root), PATH=data_root, SIZE="256M", FALLBACK=fallback)
    assert ended.code == 0, ended.stderr
    assert kind_of(ended.status) == ("loop", "ext4")
    assert "mount failed" in json.loads(ended.status.read_text())["reasons"]["kept"]


@pytest.mark.requires("loop")
def test_a_fallback_takes_the_place_of_a_disk_whose_proof_fails(shell: Shell, data_root: Path) -> None:
    told: dict[str, Any] = {"PATH": data_root, "DATA_ROOT": "loop", "SIZE": "256M", "DIR": shell.directory / "share"}
    ended = with_overlay_refused(shell).entrypoint("sh", "-c", "echo $DOCKER_DRIVER", FALLBACK="vfs", **told)
    assert (ended.code, ended.stdout) == (0, "vfs\n"), ended.stderr
    assert kind_of(ended.status) == ("kept", "ext4")
    assert [*(shell.directory / "share").iterdir()] == []


@pytest.mark.requires("loop")
def test_loop_nodes_are_made_where_a_container_has_none(shell: Shell, data_root: Path) -> None:
    before = "mount -t tmpfs dev /dev; mknod -m 0666 /dev/null c 1 3"
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="loop", SIZE="256M", before=before)
    assert ended.code == 0, ended.stderr


@pytest.mark.requires("loop")
def test_an_unfinished_disk_of_a_killed_start_is_made_anew(shell: Shell, data_root: Path) -> None:
    share = shell.directory / "share"
    share.mkdir()
    (share / "kata-dind.img.new").write_bytes(b"half")
    assert shell.entrypoint("true", PATH=data_root, DATA_ROOT="loop", SIZE="256M", DIR=share).code == 0
    assert [path.name for path in share.iterdir()] == ["kata-dind.img"]


def test_a_share_without_room_for_the_disk_is_told(shell: Shell, data_root: Path) -> None:
    share = shell.directory / "share"
    share.mkdir()
    limit = "ulimit -f 1000"  # no file above half a megabyte, as on a file system that takes none so large
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="loop", SIZE="1G", DIR=share, before=limit)
    assert ended.code == 78
    assert ended.error["message"] == f"cannot make {share}/kata-dind.img of 1G"
    assert [*share.iterdir()] == []


def test_a_share_that_is_nearly_full_gets_no_disk(shell: Shell, data_root: Path) -> None:
    share = shell.directory / "share"
    share.mkdir()
    before = f"mount -t tmpfs -o size=63m small {share}"
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="loop", SIZE="1G", DIR=share, before=before)
    assert ended.code == 78
    assert ended.error["message"] == f"there are less than 64 MiB left in {share}"


# --- block


@pytest.mark.requires("loop")
def test_a_blank_device_is_formatted_and_used(shell: Shell, data_root: Path) -> None:
    device = attach_loop(make_image(shell, 1024))
    ended = shell.entrypoint(*look(data_root), PATH=data_root, DATA_ROOT="block", DEVICE=device)
    assert ended.code == 0, ended.stderr
    assert f" - ext4 {device} " in ended.stdout
    assert kind_of(ended.status) == ("block", "ext4")
    assert json.loads(ended.status.read_text())["device"] == str(device)
    label = run(["blkid", "-p", "-s", "LABEL", "-o", "value", device], timeout_seconds=10).stdout
    assert label == "kata-dind\n"


@pytest.mark.requires("loop")
def test_auto_takes_a_device_that_is_given(shell: Shell, data_root: Path) -> None:
    ended = shell.entrypoint("true", PATH=data_root, DEVICE=attach_loop(make_image(shell, 512)))
    assert ended.code == 0, ended.stderr
    assert kind_of(ended.status)[0] == "block"


@pytest.mark.requires("loop")
@pytest.mark.parametrize("size_mib", [64, 100, 256])
def test_a_small_device_is_formatted_too(shell: Shell, data_root: Path, size_mib: int) -> None:
    device = attach_loop(make_image(shell, size_mib))
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="block", DEVICE=device)
    assert ended.code == 0, ended.stderr


@pytest.mark.requires("loop")
@pytest.mark.parametrize("program", [("mkfs.ext4", "-q"), ("mkfs.xfs", "-q")], ids=["ext4", "xfs"])
@pytest.mark.parametrize("check", ["", "1"], ids=["unchecked", "checked"])
def test_a_file_system_of_the_right_kind_is_used_as_it_is(
    shell: Shell, data_root: Path, program: tuple[str, ...], check: str
) -> None:
    device = attach_loop(make_image(shell, 512))
    run([*program, device], timeout_seconds=30)
    before = run(["blkid", "-p", device], timeout_seconds=10).stdout
    ended = shell.entrypoint(*look(data_root), PATH=data_root, DATA_ROOT="block", DEVICE=device, CHECK=check)
    assert ended.code == 0, ended.stderr
    assert kind_of(ended.status)[1] == program[0].removeprefix("mkfs.")
    assert run(["blkid", "-p", device], timeout_seconds=10).stdout == before


def write_at(offset: int, content: bytes) -> Callable[[Path], None]:
    def write(image: Path) -> None:
        with image.open("r+b") as file:
            file.seek(offset)
            file.write(content)

    return write


def program_on(*argv: str) -> Callable[[Path], None]:
    def make(image: Path) -> None:
        run([*argv, image], timeout_seconds=30)

    return make


FOREIGN = {
    "ext2": program_on("mkfs.ext2", "-q", "-F"),
    "ext3": program_on("mkfs.ext3", "-q", "-F"),
    "swap": program_on("mkswap"),
    "squashfs": write_at(0, b"hsqs" + bytes(24) + b"\x04\x00\x00\x00" + bytes(64)),
    "LUKS": write_at(0, b"LUKS\xba\xbe\x00\x02" + bytes(100)),
    "LVM": write_at(512, b"LABELONE" + bytes(16) + b"LVM2 001"),
    "MBR": write_at(446, bytes(4) + b"\x83" + bytes(3) + b"\x00\x08\x00\x00\x00\x10\x00\x00" + bytes(48) + b"\x55\xaa"),
    "MBR's mark alone": write_at(510, b"\x55\xaa"),
    "raw data": write_at(0, b"a database's own format"),
    "one byte": write_at((1 << 20) - 1, b"x"),
    "one byte at the end": write_at((64 << 20) - 1, b"x"),
    "a partition table's copy": write_at((64 << 20) - 512, b"EFI PART"),
}


def digest(image: Path) -> str:
    with image.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.requires("loop")
@pytest.mark.parametrize("content", [*FOREIGN])
def test_what_is_not_ours_is_refused_and_untouched(shell: Shell, data_root: Path, content: str) -> None:
    image = make_image(shell, 64)
    FOREIGN[content](image)
    before = digest(image)
    device = attach_loop(image)
    ended = shell.entrypoint("echo", "went on", PATH=data_root, DATA_ROOT="block", DEVICE=device)
    assert (ended.code, ended.stdout) == (78, "")
    assert ended.error["step"] == "prepare"
    assert "it was not touched" in ended.error["message"]
    run(["sync", image], timeout_seconds=30)
    assert digest(image) == before


@pytest.mark.requires("loop")
def test_a_device_that_cannot_be_read_is_not_taken_for_blank(shell: Shell, data_root: Path, tmp_path: Path) -> None:
    image = make_image(shell, 512)
    write_at(0, b"somebody's data")(image)
    before = digest(image)
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name in ("head", "blkid"):
        (stubs / name).write_text('#!/bin/sh\necho "$0: Input/output error" >&2\nexit 1\n')
        (stubs / name).chmod(0o755)
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="block", DEVICE=attach_loop(image), tools=str(stubs))
    assert ended.code == 78
    run(["sync", image], timeout_seconds=30)
    assert digest(image) == before


@pytest.mark.requires("loop")
def test_a_damaged_file_system_is_told_with_the_repair(shell: Shell, data_root: Path) -> None:
    image = make_image(shell, 256)
    run(["mkfs.ext4", "-q", "-F", "-L", "kata-dind", image], timeout_seconds=30)
    # The root directory's inode: nothing that is mended without being asked.
    subprocess.run(["debugfs", "-w", "-R", "clri <2>", str(image)], check=True, capture_output=True)
    device = attach_loop(image)
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="block", DEVICE=device, CHECK="1")
    assert ended.code == 78
    assert ended.error["message"] == f"{device} is damaged"
    assert ended.error["hint"] == f"repair it with: e2fsck -f {device}"


@pytest.mark.requires("loop")
@pytest.mark.parametrize(
    ("content", "accepted"),
    [
        ("", True),
        ("overlay2/l image", True),
        ("image/overlay2/repositories.json", True),
        ("containerd/daemon", True),
        ("engine-id home", True),
        ("buildkitd.lock cache.db", True),
        ("io.containerd.metadata.v1.bolt", True),
        ("home etc", False),
        ("image containerd", False),
        (".secret", False),
    ],
)
def test_a_file_system_of_somebody_elses_is_used_when_it_is_a_data_root(
    shell: Shell, data_root: Path, tmp_path: Path, content: str, accepted: bool
) -> None:
    tree = tmp_path / "tree"
    for name in ("x", *content.split()):
        (tree / name).mkdir(parents=True)
    (tree / "x").rmdir()
    image = make_image(shell, 128)
    run(["mkfs.ext4", "-q", "-F", "-d", tree, image], timeout_seconds=30)
    before = digest(image)
    device = attach_loop(image)
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="block", DEVICE=device)
    assert ended.code == (0 if accepted else 78), ended.stderr
    if not accepted:
        assert f"{device} holds " in ended.error["message"]
        assert ended.error["message"].endswith(" but no Docker data root; it was not touched")
        run(["sync", image], timeout_seconds=30)
        assert digest(image) == before


@pytest.mark.requires("loop")
@pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
def test_a_device_that_is_in_use_is_refused(shell: Shell, data_root: Path, filesystem: str) -> None:
    """Also when it is mounted in another container, whose mounts we do not see."""
    device = attach_loop(make_image(shell, 400))
    asked: dict[str, Any] = {"PATH": data_root, "DATA_ROOT": "block", "DEVICE": device, "FILESYSTEM": filesystem}
    assert shell.entrypoint("true", **asked).code == 0
    other = shell.directory / "other"
    other.mkdir()
    before = f"""
    unshare -m sh -c 'mount {device} {other}; exec sleep 60' & pid=$!
    until [ -e /sys/fs/{filesystem}/{device.name} ]; do sleep 0.1; done
    """
    ended = shell.entrypoint("echo", "went on", before=before, after="kill $pid; wait $pid 2>/dev/null || :", **asked)
    assert (ended.code, ended.stdout) == (78, ""), ended.stderr
    assert ended.error["message"] == f"{device} is in use by another container"


@pytest.mark.requires("loop")
@pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
@pytest.mark.parametrize("size_mib", [400, pytest.param(1024, marks=pytest.mark.thorough)])
def test_the_claim_to_a_device_ends_with_its_formatting(
    shell: Shell, data_root: Path, filesystem: str, size_mib: int
) -> None:
    image = make_image(shell, size_mib)
    device = attach_loop(image)
    asked: dict[str, Any] = {"PATH": data_root, "DATA_ROOT": "block", "DEVICE": device, "FILESYSTEM": filesystem}
    assert shell.entrypoint("true", **asked).code == 0
    # From then on another program uses the disk, with data of an unknown kind.
    with device.open("r+b") as disk:
        disk.write(b"somebody's data " * (20 << 16))
    before = digest(device)
    ended = shell.entrypoint("echo", "went on", **asked)
    assert (ended.code, ended.stdout) == (78, "")
    assert digest(device) == before


@pytest.mark.requires("loop")
def test_a_device_that_was_given_is_not_left_for_another_kind(shell: Shell, data_root: Path) -> None:
    data_root.mkdir()
    (data_root / "theirs").touch()
    device = attach_loop(make_image(shell, 128))
    ended = shell.entrypoint("echo", "went on", PATH=data_root, DEVICE=device)
    assert (ended.code, ended.stdout) == (78, "")
    assert ended.error["message"] == f"{data_root} is not empty, and a mount would hide theirs"


FILL = 'cp /dev/zero "$0/filler" 2>/dev/null; :'


@pytest.mark.requires("loop")
@pytest.mark.parametrize("kind", ["loop", "auto"])
def test_a_full_disk_is_started_again_unproven_and_no_other_kind_takes_its_place(
    shell: Shell, data_root: Path, kind: str
) -> None:
    layers = shell.directory / "layers"
    before = f"""
    mkdir -p {layers} {data_root}
    mount -t tmpfs layers {layers}
    mkdir {layers}/lower {layers}/upper {layers}/work
    mount -t overlay -o lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work o {data_root}
    """
    share = shell.directory / "share"
    asked: dict[str, Any] = {"PATH": data_root, "DATA_ROOT": kind, "SIZE": "64M", "DIR": share, "before": before}
    assert shell.entrypoint("sh", "-c", FILL, str(data_root), **asked).code == 0
    ended = shell.entrypoint("sh", "-c", 'ls "$0/filler"', str(data_root), **asked)
    assert (ended.code, ended.stdout) == (0, f"{data_root}/filler\n"), ended.stderr
    assert f"{data_root} is full, so it was not proven again" in ended.said("warning")
    assert kind_of(ended.status) == ("loop", "ext4")


@pytest.mark.requires("loop")
def test_a_device_that_shrank_is_refused(shell: Shell, data_root: Path) -> None:
    image = make_image(shell, 512)
    run(["mkfs.ext4", "-q", "-F", image], timeout_seconds=30)
    os.truncate(image, 256 << 20)
    device = attach_loop(image)
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="block", DEVICE=device)
    assert ended.code == 78
    assert ended.error["message"] == f"{device} is smaller than the file system on it; it was not touched"


@pytest.mark.requires("loop")
@pytest.mark.parametrize("filesystem", GROWING)
def test_a_device_that_grew_gives_its_file_system_more_room(shell: Shell, data_root: Path, filesystem: str) -> None:
    image = make_image(shell, 512)
    device = attach_loop(image)
    asked: dict[str, Any] = {"PATH": data_root, "DATA_ROOT": "block", "DEVICE": device, "FILESYSTEM": filesystem}
    assert shell.entrypoint("sh", "-c", WRITE, str(data_root), **asked).code == 0
    os.truncate(image, 2 << 30)
    run(["losetup", "--set-capacity", device], timeout_seconds=10)
    ended = shell.entrypoint("sh", "-c", SIZE, str(data_root), **asked)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.startswith("kept\n")
    assert size_mib(ended.stdout) > 1800


@pytest.mark.requires("loop")
def test_a_device_of_a_megabyte_is_too_small(shell: Shell, data_root: Path) -> None:
    image = make_image(shell, 1)
    device = attach_loop(image)
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="block", DEVICE=device)
    assert ended.code == 78
    assert ended.error["message"] == f"{device} has only 1048576 bytes"
    assert image.read_bytes() == bytes(1 << 20)


@pytest.mark.requires("loop")
@pytest.mark.parametrize("check", ["", "1"])
def test_a_file_system_that_saw_a_power_cut_is_mended_and_checked(shell: Shell, data_root: Path, check: str) -> None:
    image = make_image(shell, 256)
    run(["mkfs.ext4", "-q", "-F", "-L", "kata-dind", image], timeout_seconds=30)
    other = shell.directory / "other"
    other.mkdir()
    # A copy of a mounted disk is what is on it at that moment.
    run(
        ["unshare", "--mount", "sh", "-ec", 'mount -o loop "$0" "$1"; echo kept >"$1/file"; sync; cp "$0" "$2"', image,
         other, f"{image}.cut"],
        timeout_seconds=30,
    )  # fmt: skip
    assert "needs_recovery" in run(["dumpe2fs", "-h", f"{image}.cut"], timeout_seconds=10).stdout
    device = attach_loop(Path(f"{image}.cut"))
    ended = shell.entrypoint("cat", f"{data_root}/file", PATH=data_root, DATA_ROOT="block", DEVICE=device, CHECK=check)
    assert (ended.code, ended.stdout) == (0, "kept\n"), ended.stderr
    assert f"checking {device} in full" in ended.said("info")


def half_format(device: Path) -> None:
    """Make an xfs as a mkfs.xfs leaves it that was killed: its sb_inprogress is set; fs/xfs/libxfs/xfs_format.h."""
    run(["mkfs.xfs", "-q", "-f", device], timeout_seconds=30)
    write_at(126, b"\1")(device)


@pytest.mark.requires("loop", "xfs")
def test_a_half_formatted_xfs_without_our_claim_is_not_touched(shell: Shell, data_root: Path) -> None:
    device = attach_loop(make_image(shell, 300))
    half_format(device)
    before = digest(device)
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="block", DEVICE=device, FILESYSTEM="xfs")
    assert ended.code == 78
    assert ended.error["message"] == f"mkfs.xfs has not come to its end on {device}; it was not touched"
    assert digest(device) == before


@pytest.mark.thorough
@pytest.mark.requires("loop", "xfs")
@pytest.mark.parametrize("shell", ["dash"], indirect=True)  # it waits for long
@pytest.mark.parametrize("who", ["none", "a container"])
def test_a_claim_of_another_boot_is_waited_for(shell: Shell, data_root: Path, who: str) -> None:
    """A kernel that formats the device now takes its claim away soon; one that has ended does not."""
    device = attach_loop(make_image(shell, 300))
    half_format(device)
    write_at(299 << 20, b"kata-dind is formatting another-boot")(device)
    before = f"(sleep 5; dd if=/dev/zero of={device} bs=1M seek=299 count=1 conv=notrunc,fsync) 2>/dev/null &"
    ended = shell.entrypoint(
        "true", PATH=data_root, DATA_ROOT="block", DEVICE=device, FILESYSTEM="xfs",
        before="" if who == "none" else before,
    )  # fmt: skip
    assert f"waiting for 30 s: another container may use {device}" in ended.said("info")
    if who == "none":
        assert ended.code == 0, ended.stderr
    else:
        assert ended.code == 78
        assert ended.error["message"] == f"{device} is in use by another container"


@pytest.mark.requires("loop")
def test_a_claim_beside_somebodys_data_is_no_leave_to_format(shell: Shell, data_root: Path) -> None:
    image = make_image(shell, 64)
    write_at(63 << 20, b"kata-dind is formatting")(image)
    program_on("mkfs.ext2", "-q", "-F")(image)
    device = attach_loop(image)
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="block", DEVICE=device)
    assert ended.code == 78
    assert "it was not touched" in ended.error["message"]


def test_a_device_is_found_by_its_serial_number(shell: Shell, tmp_path: Path) -> None:
    for name, file, serial in [
        ("vdy", "serial", b"data-1\n"),
        ("vdz", "serial", b"data\n"),
        ("sdz", "device/vpd_pg80", b"\x00\x80\x00\x04scsi"),
    ]:
        path = tmp_path / "block" / name / file
        path.parent.mkdir(parents=True)
        path.write_bytes(serial)
        (tmp_path / "block" / name / "dev").write_text("254:16\n")
    script = f'step=prepare status_dir={tmp_path}; mknod() {{ echo "mknod $*"; }}'
    script += '; device=$1; find_device; echo "$device"'
    for number, name in (("data", "vdz"), ("data-1", "vdy"), ("scsi", "sdz")):
        done = shell.call(script, number, files={"/sys/block": tmp_path / "block"})
        assert done.stdout == f"mknod -m 0600 /dev/{name} b 254 16\n/dev/{name}\n", done.stderr
    done = shell.call(script, "dat", files={"/sys/block": tmp_path / "block"})
    assert done.returncode == 78
    assert "no disk has the serial number 'dat'" in done.stderr


def test_a_device_that_is_none_is_told(shell: Shell, data_root: Path) -> None:
    for device in (shell.directory / "absent", shell.directory):
        ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="block", DEVICE=device)
        assert ended.code == 78
        assert ended.error["message"] == f"{device} is not a block device"
