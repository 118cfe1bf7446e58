from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from kata_dind.errors import DataRootBusy, DataRootError, ForeignData, NoSpace
from kata_dind.host import filesystems
from kata_dind.host.disks import create_disk
from kata_dind.host.filesystems import (
    FileSystem,
    check_filesystem,
    find_filesystem,
    find_size,
    grow_filesystem,
    mend_filesystem,
    parse_superblock,
)
from kata_dind.host.process import Completed, require_tool, run

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An ext4 of 1 GiB, as a block data root is made."""
    disk = tmp_path / "data.img"
    create_disk(disk, size_mib=1024)
    return disk


def undo_of(disk: Path) -> Path:
    return disk.with_name("growth.undo")


def grow(disk: Path, size_bytes: int) -> None:
    grow_filesystem(disk, size_bytes, undo=undo_of(disk))


def mend(disk: Path) -> None:
    mend_filesystem(disk, undo=undo_of(disk))


def debugfs(disk: Path, request: str) -> str:
    return run([require_tool("debugfs", package="e2fsprogs"), "-w", "-R", request, disk], timeout_seconds=20).stdout


def is_clean(disk: Path) -> bool:
    e2fsck = require_tool("e2fsck", package="e2fsprogs")
    return run([e2fsck, "-f", "-n", disk], timeout_seconds=20, allowed_codes=range(256)).code == 0


def kill_growing(disk: Path, *, size_mib: int) -> None:
    """Grow as `grow_filesystem` does, but for a limit on its writes: the kernel kills resize2fs half-way."""
    os.truncate(disk, size_mib * MIB)
    resize2fs = str(require_tool("resize2fs", package="e2fsprogs"))
    argv = ["prlimit", f"--fsize={size_mib * MIB // 2}", "--core=0", resize2fs, "-z", str(undo_of(disk)), str(disk)]
    assert subprocess.run(argv, capture_output=True, check=False).returncode < 0, "it was not killed"


# --- what is there


def test_ext4_is_found_with_its_size(disk: Path) -> None:
    assert find_filesystem(disk) == FileSystem("ext4", 1024 * MIB)
    os.truncate(disk, 1100 * MIB)
    assert find_filesystem(disk) == FileSystem("ext4", 1024 * MIB)


def test_ext4_beyond_four_billion_blocks() -> None:
    start = bytearray(4096)
    start[1024 + 0x38 : 1024 + 0x3A] = b"\x53\xef"
    start[1024 + 0x04 : 1024 + 0x08] = (5).to_bytes(4, "little")
    start[1024 + 0x18 : 1024 + 0x1C] = (2).to_bytes(4, "little")
    start[1024 + 0x150 : 1024 + 0x154] = (1).to_bytes(4, "little")
    assert parse_superblock(bytes(start)) == FileSystem("ext4", 5 * 4096)
    start[1024 + 0x60] = 0x80
    assert parse_superblock(bytes(start)) == FileSystem("ext4", ((1 << 32) + 5) * 4096)


@pytest.mark.requires("xfs")
def test_xfs_is_found_with_its_size(tmp_path: Path) -> None:
    assert find_filesystem(made_xfs(tmp_path)) == FileSystem("xfs", 320 * MIB)


def made_xfs(directory: Path) -> Path:
    disk = directory / "xfs.img"
    disk.touch()
    os.truncate(disk, 320 * MIB)
    run([require_tool("mkfs.xfs", package="xfsprogs"), "-q", disk], timeout_seconds=60)
    return disk


@pytest.mark.parametrize("content", [b"", b"short", bytes(4096), b"x" * 4096])
def test_anything_else_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "disk").write_bytes(content)
    assert find_filesystem(tmp_path / "disk") is None
    assert find_filesystem(tmp_path / "absent") is None


# --- check


def test_a_clean_file_system_is_clean(disk: Path) -> None:
    assert check_filesystem(disk) == "clean"


def test_damage_that_needs_no_choice_is_repaired(disk: Path) -> None:
    debugfs(disk, "set_inode_field <2> links_count 9")
    assert not is_clean(disk)
    assert check_filesystem(disk) == "repaired"
    assert is_clean(disk)


def test_a_damaged_file_system_is_reported_with_the_command_that_repairs_it(disk: Path) -> None:
    debugfs(disk, "clri <2>")
    with pytest.raises(DataRootError, match=f"the file system in {disk} is damaged") as caught:
        check_filesystem(disk)
    command = caught.value.hint.partition(",")[0].split()
    assert command[1:] == ["-f", "-y", str(disk)]
    run(command, timeout_seconds=20, allowed_codes=(0, 1))
    assert check_filesystem(disk) == "clean"


@pytest.mark.requires("xfs")
def test_xfs_is_looked_at(tmp_path: Path) -> None:
    disk = made_xfs(tmp_path)
    assert check_filesystem(disk) == "clean"
    with disk.open("r+b") as file:
        file.seek(512)
        file.write(b"x" * 512)  # the free space of the first group
    with pytest.raises(DataRootError, match="is damaged"):
        check_filesystem(disk)


def test_a_disk_that_a_machine_has_open_is_left_alone(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystems, "_LETS_GO_SECONDS", 0.1)
    # As QEMU does: it locks a few bytes, shared.
    holder = f"import fcntl, sys; f = open({str(disk)!r}, 'r+b'); fcntl.lockf(f, {int(fcntl.LOCK_SH)}, 1, 100);"
    argv = ["python3", "-c", f"{holder} print('held', flush=True); sys.stdin.read()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(DataRootBusy):
            check_filesystem(disk)
        with pytest.raises(DataRootBusy):
            grow(disk, 2048 * MIB)
        with pytest.raises(DataRootBusy):
            mend(disk)
        monkeypatch.setattr(filesystems, "_LETS_GO_SECONDS", 20)
        killer = threading.Timer(0.2, process.kill)
        killer.start()
        mend(disk)
        killer.join()
    assert disk.stat().st_size == 1024 * MIB
    assert check_filesystem(disk) == "clean"


# --- files that a guest may have put there


def foreign(directory: Path, kind: str) -> tuple[Path, Path]:
    """A disk's name that is not a plain file, and a disk elsewhere, which a link leads to."""
    elsewhere, name = directory / "elsewhere.img", directory / "kata-dind.img"
    create_disk(elsewhere, size_mib=1024)
    if kind == "link":
        name.symlink_to(elsewhere)
    elif kind == "dangling link":
        name.symlink_to(directory / "made-by-us")
    elif kind == "fifo":
        os.mkfifo(name)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(name))
    else:
        name.mkdir()
    return name, elsewhere


@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "socket", "directory"])
def test_anything_but_a_plain_file_is_not_touched(tmp_path: Path, kind: str) -> None:
    disk, elsewhere = foreign(tmp_path, kind)
    undo_of(disk).touch()
    before = elsewhere.stat()
    assert find_size(disk) is None
    for use in (find_filesystem, check_filesystem, mend, lambda disk: grow(disk, 2048 * MIB)):
        with pytest.raises(ForeignData, match=f"{disk} is not a plain file"):
            use(disk)
    assert elsewhere.stat() == before
    assert undo_of(disk).exists()
    assert not (tmp_path / "made-by-us").exists()


@pytest.mark.parametrize("kind", ["link", "fifo", "socket"])
def test_a_replacement_after_the_look_is_not_touched_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    disk, elsewhere = foreign(tmp_path, kind)
    before = elsewhere.stat()
    monkeypatch.setattr(Path, "lstat", lambda _path: before)
    with pytest.raises(ForeignData):
        find_filesystem(disk)
    with pytest.raises(ForeignData):
        grow(disk, 2048 * MIB)
    monkeypatch.undo()
    assert elsewhere.stat() == before


def test_tools_work_on_the_file_that_was_looked_at(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = disk.with_name("kept.img")

    def swap(*arguments: Any, **options: Any) -> Completed:
        if not kept.exists():
            disk.rename(kept)
            disk.write_bytes(b"another")
        return run(*arguments, **options)

    monkeypatch.setattr(filesystems, "run", swap)
    grow(disk, 2048 * MIB)
    assert disk.read_bytes() == b"another"
    assert find_filesystem(kept) == FileSystem("ext4", 2048 * MIB)


# --- growth


def test_a_disk_grows_with_its_file_system(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"as it was")
    debugfs(disk, f"write {tmp_path / 'kept'} kept")
    grow(disk, 3072 * MIB)
    assert disk.stat().st_size == 3072 * MIB
    assert find_filesystem(disk) == FileSystem("ext4", 3072 * MIB)
    assert disk.stat().st_blocks * 512 < 16 * MIB, "it is not sparse any more"
    assert debugfs(disk, "cat kept") == "as it was"
    assert is_clean(disk)
    assert not undo_of(disk).exists()


@pytest.mark.parametrize(("made_mib", "size_mib"), [(1024, 1026), (51201, 51201)])
def test_a_tail_that_ext4_cannot_use_costs_no_check_at_each_start(tmp_path: Path, made_mib: int, size_mib: int) -> None:
    disk = tmp_path / "data.img"
    create_disk(disk, size_mib=made_mib)
    if made_mib < size_mib:
        grow(disk, size_mib * MIB)
    found = find_filesystem(disk)
    assert found is not None
    assert found.size_bytes <= size_mib * MIB - MIB, "there is no tail"
    before = disk.stat().st_mtime_ns
    grow(disk, size_mib * MIB)
    assert disk.stat().st_mtime_ns == before, "the disk was written"


def test_a_small_growth_reaches_the_file_system(disk: Path) -> None:
    grow(disk, 1050 * MIB)
    assert find_filesystem(disk) == FileSystem("ext4", 1050 * MIB)


def test_a_disk_never_shrinks(disk: Path) -> None:
    grow(disk, 512 * MIB)
    assert disk.stat().st_size == 1024 * MIB
    assert find_filesystem(disk) == FileSystem("ext4", 1024 * MIB)


def test_a_growth_that_was_killed_before_the_file_system_grew_is_continued(disk: Path) -> None:
    os.truncate(disk, 2048 * MIB)
    grow(disk, 1024 * MIB)
    assert find_filesystem(disk) == FileSystem("ext4", 2048 * MIB)


def test_a_growth_that_was_killed_half_way_is_taken_back_and_may_be_done_again(disk: Path) -> None:
    kill_growing(disk, size_mib=3072)
    assert not is_clean(disk)
    mend(disk)
    assert is_clean(disk)
    assert find_filesystem(disk) == FileSystem("ext4", 1024 * MIB)
    grow(disk, 3072 * MIB)
    assert find_filesystem(disk) == FileSystem("ext4", 3072 * MIB)
    assert is_clean(disk)


def test_a_growth_continues_where_another_was_killed(disk: Path) -> None:
    kill_growing(disk, size_mib=3072)
    grow(disk, 1024 * MIB)
    assert find_filesystem(disk) == FileSystem("ext4", 3072 * MIB)
    assert is_clean(disk)


def test_an_empty_undo_file_does_no_harm(disk: Path) -> None:
    undo_of(disk).touch()
    mend(disk)
    assert is_clean(disk)
    assert not undo_of(disk).exists()


def test_a_size_that_the_host_cannot_hold_is_told(disk: Path) -> None:
    with pytest.raises(NoSpace, match=f"the file system of {disk.parent} takes no file of 99999999999 MiB"):
        grow(disk, 99_999_999_999 * MIB)
    assert is_clean(disk)


def test_a_damaged_file_system_does_not_grow(disk: Path) -> None:
    debugfs(disk, "clri <2>")
    with pytest.raises(DataRootError, match="is damaged"):
        grow(disk, 2048 * MIB)
    assert find_filesystem(disk) == FileSystem("ext4", 1024 * MIB)


@pytest.mark.requires("xfs")
def test_xfs_grows_later(tmp_path: Path) -> None:
    disk = made_xfs(tmp_path)
    grow(disk, 512 * MIB)
    assert disk.stat().st_size == 512 * MIB
    assert find_filesystem(disk) == FileSystem("xfs", 320 * MIB)
