from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kata_dind.errors import NoSpace
from kata_dind.host.disks import (
    LABEL,
    XFS_LEAST_MIB,
    allocated_bytes,
    copied_to_memory,
    copy_sparse,
    create_disk,
    link_or_copy,
    mke2fs_argv,
    mkfs_xfs_argv,
)
from kata_dind.host.process import run
from kata_dind.vocabulary import Filesystem


def fields_of(disk: Path) -> dict[str, str]:
    """The superblock, as dumpe2fs prints it."""
    lines = run(["dumpe2fs", "-h", disk], timeout_seconds=10).stdout.splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_the_argv_of_mke2fs() -> None:
    assert mke2fs_argv(Path("/sbin/mke2fs"), Path("/a b/disk.new"), size_mib=20480) == [
        "/sbin/mke2fs",
        "-t",
        "ext4",
        "-q",
        "-F",
        "-b",
        "4096",
        "-i",
        "16384",
        "-m",
        "0",
        "-L",
        "kata-dind",
        "-J",
        "size=64",
        "-E",
        "lazy_itable_init=1,lazy_journal_init=1,nodiscard,assume_storage_prezeroed=1",
        "/a b/disk.new",
    ]


def test_a_disk_is_sparse_ext4_of_its_size(tmp_path: Path) -> None:
    disk = tmp_path / "data.img"
    create_disk(disk, size_mib=20 * 1024)
    assert disk.stat().st_size == 20 << 30
    assert disk.stat().st_blocks * 512 < 8 << 20
    assert [path.name for path in tmp_path.iterdir()] == ["data.img"]
    fields = fields_of(disk)
    assert fields["Filesystem volume name"] == LABEL
    assert fields["Filesystem state"] == "clean"
    assert (fields["Reserved block count"], fields["Total journal size"]) == ("0", "64M")


@pytest.mark.parametrize("size_mib", [64, 65, 100, 255, 256, 257, 1024])
def test_the_smallest_disks_that_a_user_may_ask_for_can_be_made(tmp_path: Path, size_mib: int) -> None:
    disk = tmp_path / "data.img"
    create_disk(disk, size_mib=size_mib)
    run(["e2fsck", "-f", "-n", disk], timeout_seconds=20)
    assert disk.stat().st_size == size_mib << 20


def test_the_argv_of_mkfs_xfs() -> None:
    argv = mkfs_xfs_argv(Path("/sbin/mkfs.xfs"), Path("/a b/disk.new"))
    assert argv == ["/sbin/mkfs.xfs", "-q", "-f", "-K", "-L", "kata-dind", "/a b/disk.new"]


@pytest.mark.parametrize("size_mib", [XFS_LEAST_MIB, 20 * 1024])
def test_a_disk_may_be_xfs(tmp_path: Path, size_mib: int) -> None:
    disk = tmp_path / "data.img"
    create_disk(disk, size_mib=size_mib, filesystem=Filesystem.XFS)
    assert disk.stat().st_size == size_mib << 20
    assert disk.stat().st_blocks * 512 < 80 << 20
    assert 'LABEL="kata-dind"' in (facts := run(["blkid", "-p", disk], timeout_seconds=10).stdout)
    assert 'TYPE="xfs"' in facts
    run(["xfs_repair", "-n", "-f", disk], timeout_seconds=20)


def test_a_disk_that_exists_is_kept(tmp_path: Path) -> None:
    disk = tmp_path / "data.img"
    disk.write_bytes(b"somebody's data")
    create_disk(disk, size_mib=64)
    assert disk.read_bytes() == b"somebody's data"
    assert [path.name for path in tmp_path.iterdir()] == ["data.img"]


def test_an_unfinished_disk_of_a_killed_start_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "data.new").write_bytes(b"half")
    create_disk(tmp_path / "data.img", size_mib=64)
    assert [path.name for path in tmp_path.iterdir()] == ["data.img"]


CREATE = """
import sys
from pathlib import Path
from kata_dind.errors import NoSpace
from kata_dind.host.disks import create_disk
try:
    create_disk(Path(sys.argv[1]) / "data.img", size_mib=int(sys.argv[2]))
except NoSpace as error:
    print(error.summary, error.hint, *Path(sys.argv[1]).iterdir(), sep="|")
"""


CREATE_XFS = """
import sys
from pathlib import Path
from kata_dind.errors import ToolMissing
from kata_dind.host.disks import create_disk
from kata_dind.vocabulary import Filesystem
try:
    create_disk(Path(sys.argv[1]) / "data.img", size_mib=1024, filesystem=Filesystem.XFS)
except ToolMissing as error:
    print(error.summary, error.hint, *Path(sys.argv[1]).iterdir(), sep="|")
"""


@pytest.mark.requires("root")
def test_without_its_mkfs_no_disk_is_begun(tmp_path: Path) -> None:
    """A program that may not be executed counts as none."""
    script = 'mount --bind /dev/null "$(command -v mkfs.xfs)" && exec "$1" -c "$2" "$0"'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(tmp_path), sys.executable]
    printed = subprocess.run([*argv, CREATE_XFS], capture_output=True, text=True, check=True, timeout=30).stdout
    assert printed == "mkfs.xfs is not installed|sudo apt-get install xfsprogs\n"


@pytest.mark.requires("root")
def test_a_full_file_system_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=100k small "$0" && exec "$1" -c "$2" "$0" 20480'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(tmp_path), sys.executable, CREATE]
    printed = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout
    assert printed == (
        f"cannot make a disk in {tmp_path}|free space there, or set KATA_DIND_STATE_DIR to a directory with more\n"
    )


def test_a_file_that_the_file_system_cannot_hold_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match=f"the file system of {tmp_path} takes no file of 99999999999 MiB"):
        create_disk(tmp_path / "data.img", size_mib=99_999_999_999)
    assert [*tmp_path.iterdir()] == []


def test_allocated_bytes_counts_blocks_not_sizes(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        os.truncate(file.fileno(), 1 << 30)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "full").write_bytes(os.urandom(100_000))
    assert 100_000 <= allocated_bytes(tmp_path) < 300_000


def test_allocated_bytes_of_nothing_is_nothing(tmp_path: Path) -> None:
    assert allocated_bytes(tmp_path / "absent") == 0


def test_allocated_bytes_bears_files_that_vanish_meanwhile(tmp_path: Path) -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for number in range(20):
                (tmp_path / f"d{number}" / "e").mkdir(parents=True)
                (tmp_path / f"d{number}" / "e" / "file").touch()
            for number in range(20):
                (tmp_path / f"d{number}" / "e" / "file").unlink()
                (tmp_path / f"d{number}" / "e").rmdir()
                (tmp_path / f"d{number}").rmdir()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(300):
            allocated_bytes(tmp_path)
    finally:
        stop.set()
        thread.join()


def test_a_copy_in_memory_holds_what_the_file_does_and_no_more(tmp_path: Path) -> None:
    file = tmp_path / "memory"
    with file.open("wb") as sparse:
        os.truncate(sparse.fileno(), 64 << 20)
        for position in (0, 8 << 20, (64 << 20) - 4096):
            os.pwrite(sparse.fileno(), os.urandom(4096), position)
    with copied_to_memory(file) as copy:
        os.pwrite(copy, b"its own", 4096)
        assert os.pread(copy, 4096, 0) == file.read_bytes()[:4096]
        assert os.pread(copy, 56 << 20, 8 << 20) == file.read_bytes()[8 << 20 :]
        assert (os.fstat(copy).st_size, os.fstat(copy).st_nlink) == (64 << 20, 0)
        assert os.fstat(copy).st_blocks * 512 < 1 << 20
    assert file.read_bytes()[4096:8192] == bytes(4096)


def test_a_copy_has_the_same_data_and_no_more_of_it(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        os.truncate(file.fileno(), 64 << 20)
        for place in (0, 5 << 20, (64 << 20) - 3):
            os.pwrite(file.fileno(), b"abc", place)
    copy_sparse(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks


def test_a_link_is_the_file_itself(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x")
    link_or_copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").samefile(tmp_path / "source")
