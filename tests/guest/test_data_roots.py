"""Each kind of data root for real, on this host's kernel: made, proven, and used by the command."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kata_dind.host.process import run
from tests.guest.conftest import Shell, attach_loop

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
    assert f"{path} lies on tmpfs" in ended.said("info")


def test_memory_is_a_tmpfs_of_the_size(shell: Shell, data_root: Path) -> None:
    ended = shell.entrypoint(*look(data_root), PATH=data_root, DATA_ROOT="memory", SIZE="96M")
    assert ended.code == 0, ended.stderr
    assert " - tmpfs kata-dind " in ended.stdout
    assert "size=98304k" in ended.stdout
    assert "mode=710" in ended.stdout
    assert kind_of(ended.status) == ("memory", "tmpfs")
    assert [*data_root.iterdir()] == []


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


@pytest.mark.requires("loop")
def test_loop_keeps_what_is_on_its_disk_whatever_size_is_asked_for_later(shell: Shell, data_root: Path) -> None:
    share = shell.directory / "share"
    write = ("sh", "-c", 'echo kept >"$0/file"', str(data_root))
    read = ("cat", f"{data_root}/file")
    assert shell.entrypoint(*write, PATH=data_root, DATA_ROOT="loop", SIZE="512M", DIR=share).code == 0
    ended = shell.entrypoint(*read, PATH=data_root, DATA_ROOT="loop", SIZE="1G", DIR=share)
    assert (ended.code, ended.stdout) == (0, "kept\n"), ended.stderr
    assert (share / "kata-dind.img").stat().st_size == 512 << 20
    assert not any("formatting" in message for message in ended.said("info"))


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
}


def digest(image: Path) -> str:
    return hashlib.sha256(image.read_bytes()).hexdigest()


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
    run(["mkfs.ext4", "-q", "-F", image], timeout_seconds=30)
    # The root directory's inode: nothing that is mended without being asked.
    subprocess.run(["debugfs", "-w", "-R", "clri <2>", str(image)], check=True, capture_output=True)
    device = attach_loop(image)
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="block", DEVICE=device, CHECK="1")
    assert ended.code == 78
    assert ended.error["message"] == f"the file system on {device} is damaged"
    assert ended.error["hint"] == f"repair it with: e2fsck -f {device}"


def test_a_device_that_is_none_is_told(shell: Shell, data_root: Path) -> None:
    for device in (shell.directory / "absent", shell.directory):
        ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="block", DEVICE=device)
        assert ended.code == 78
        assert ended.error["message"] == f"{device} is not a block device"
