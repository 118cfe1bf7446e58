"""The agent holds a real ext4 on this host's kernel: it takes no new data, loses none, and is as before afterwards."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kata_dind.guest.agent.space import Space

pytestmark = pytest.mark.requires("root", "loop")

_RATIOS = {"dirty_background_bytes": 0, "dirty_background_ratio": 10, "dirty_bytes": 0, "dirty_ratio": 20}


@dataclass(frozen=True)
class Ext4:
    """A mounted file system, and a place where its kernel attributes are the only ones."""

    root: Path
    attributes: Path

    @property
    def reserved_clusters(self) -> int:
        (device,) = self.attributes.iterdir()
        return int((device / "reserved_clusters").read_text())


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Ext4]:
    disk, mounted = tmp_path / "disk", Ext4(tmp_path / "root", tmp_path / "attributes")
    mounted.root.mkdir()
    mounted.attributes.mkdir()
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(mounted.root)], check=True)
    try:
        findmnt = ["findmnt", "--noheadings", "--output", "SOURCE", str(mounted.root)]
        device = Path(subprocess.run(findmnt, check=True, capture_output=True, text=True).stdout.strip()).name
        (mounted.attributes / device).symlink_to(f"/sys/fs/ext4/{device}")
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted.root)], check=True)
        subprocess.run(["e2fsck", "-f", "-n", str(disk)], check=True, capture_output=True)


def test_a_held_file_system_takes_no_new_data_until_it_is_released(ext4: Ext4, tmp_path: Path) -> None:
    before = ext4.reserved_clusters
    (ext4.root / "kept").write_bytes(b"k" * 10000)
    dirty = (ext4.root / "dirty").open("wb", buffering=0)
    dirty.write(b"d" * 1000000)
    space = Space(str(ext4.attributes), str(tmp_path / "no-such"))
    assert space.hold() == space.hold() == [device.name for device in ext4.attributes.iterdir()]
    with pytest.raises(OSError, match="No space left on device") as refused, (ext4.root / "new").open("wb") as file:
        file.write(b"n" * 100000)
    assert refused.value.errno == errno.ENOSPC
    assert os.statvfs(ext4.root).f_bavail == 0
    with dirty:
        os.fsync(dirty.fileno())  # had its place already
    (ext4.root / "kept").unlink()
    space.release()
    assert ext4.reserved_clusters == before
    (ext4.root / "new").write_bytes(b"n" * 100000)
    assert (ext4.root / "dirty").read_bytes() == b"d" * 1000000


def test_a_file_system_that_is_gone_is_released_all_the_same(ext4: Ext4, tmp_path: Path) -> None:
    space = Space(str(ext4.attributes), str(tmp_path / "no-such"))
    space.hold()
    (device,) = ext4.attributes.iterdir()
    target = device.readlink()
    device.unlink()
    space.release()
    device.symlink_to(target)
    assert space.hold() == [device.name]


def test_without_any_ext4_nothing_is_held(tmp_path: Path) -> None:
    space = Space(str(tmp_path / "no-such"), str(tmp_path / "no-such"))
    assert space.hold() == []
    space.release()


def test_dirty_memory_is_bounded_and_has_its_ratios_back_afterwards(tmp_path: Path) -> None:
    for name, number in _RATIOS.items():
        (tmp_path / name).write_text(f"{number}\n")
    space = Space(str(tmp_path / "no-such"), str(tmp_path))
    space.unbound_dirty()
    space.bound_dirty()
    space.bound_dirty()
    assert (tmp_path / "dirty_bytes").read_text() == str(16 << 20)
    assert (tmp_path / "dirty_background_bytes").read_text() == str(4 << 20)
    for name in _RATIOS:
        (tmp_path / name).write_text("0")
    space.unbound_dirty()
    assert {name: int((tmp_path / name).read_text()) for name in _RATIOS} == _RATIOS
