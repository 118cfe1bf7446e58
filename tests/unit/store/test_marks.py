from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata_dind.host.disks import copy_sparse
from kata_dind.store.marks import changed_file, content_hash, damaged_file, mark_files, remarked_files

BLOCK = 64 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A file of 40 blocks and a bit, whose data begins and ends beside the blocks' borders."""
    path = tmp_path / "disk"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 40 * BLOCK + 100)
        for place in (3 * BLOCK + 7, 30 * BLOCK - 2, 40 * BLOCK + 96):
            os.pwrite(file.fileno(), b"data", place)
    return path


def test_a_hash_does_not_depend_on_holes(disk: Path, tmp_path: Path) -> None:
    dense, sparse = tmp_path / "dense", tmp_path / "sparse"
    dense.write_bytes(disk.read_bytes())
    copy_sparse(disk, sparse)
    assert sparse.stat().st_blocks < dense.stat().st_blocks
    assert content_hash(disk) == content_hash(dense) == content_hash(sparse)


def test_a_hash_tells_place_length_and_content(disk: Path) -> None:
    hashes = {content_hash(disk)}
    whole = disk.read_bytes()
    for changed in (
        whole + b"\0",
        whole[:-1],
        whole[BLOCK:] + bytes(BLOCK),
        whole[: 3 * BLOCK] + b"\1" + whole[3 * BLOCK + 1 :],
        bytes(len(whole)),
    ):
        disk.write_bytes(changed)
        hashes.add(content_hash(disk))
    assert len(hashes) == 6


@pytest.mark.parametrize("size_bytes", [0, 1, BLOCK, 16 * BLOCK, 16 * BLOCK + 1])
def test_files_of_any_size_have_a_hash(size_bytes: int, tmp_path: Path) -> None:
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.write_bytes(b"x" * size_bytes)
    with empty.open("wb") as file:
        os.truncate(file.fileno(), size_bytes)
    assert (content_hash(full) == content_hash(empty)) == (size_bytes == 0)


def test_a_cheap_look_finds_what_was_truncated_replaced_written_or_removed(disk: Path, tmp_path: Path) -> None:
    marks = mark_files(tmp_path, ["disk"])
    assert changed_file(tmp_path, marks) is None
    os.truncate(disk, 40 * BLOCK)
    assert changed_file(tmp_path, marks) == "disk"

    marks = mark_files(tmp_path, ["disk"])
    with disk.open("r+b") as file:
        file.write(b"x")
    assert changed_file(tmp_path, marks) == "disk"

    marks = mark_files(tmp_path, ["disk"])
    times = (disk.stat().st_atime_ns, disk.stat().st_mtime_ns)
    other = tmp_path / "other"
    other.write_bytes(disk.read_bytes())
    os.utime(other, ns=times)
    other.replace(disk)
    assert changed_file(tmp_path, marks) == "disk"
    assert damaged_file(tmp_path, marks) is None
    assert changed_file(tmp_path, remarked_files(tmp_path, marks)) is None

    disk.unlink()
    assert changed_file(tmp_path, marks) == damaged_file(tmp_path, marks) == "disk"


def test_a_full_look_finds_a_flipped_byte_that_a_cheap_one_cannot(disk: Path, tmp_path: Path) -> None:
    marks = mark_files(tmp_path, ["disk"])
    times = (disk.stat().st_atime_ns, disk.stat().st_mtime_ns)
    with disk.open("r+b") as file:
        os.pwrite(file.fileno(), b"D", 3 * BLOCK + 7)
    os.utime(disk, ns=times)
    assert changed_file(tmp_path, marks) is None
    assert damaged_file(tmp_path, marks) == "disk"
