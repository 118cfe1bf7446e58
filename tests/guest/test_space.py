"""The agent lets a real ext4 or xfs refuse new data: it loses none, and is as before afterwards."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from kata_dind.guest.agent import xfs
from kata_dind.guest.agent.space import Space

pytestmark = pytest.mark.requires("root", "loop")

_RATIOS = {"dirty_background_bytes": 0, "dirty_background_ratio": 10, "dirty_bytes": 0, "dirty_ratio": 20}


@dataclass(frozen=True)
class Mounted:
    """A mounted file system, its directory of attributes in the kernel, and a process that sees the mount."""

    root: Path
    device: str
    attributes: Path
    process: Path

    @property
    def reserved(self) -> int:
        """Clusters of ext4, blocks of xfs."""
        for _, root in xfs.opened(str(self.process)):
            return xfs.reserved_blocks(root)
        return int((self.attributes / self.device / "reserved_clusters").read_text())


@contextlib.contextmanager
def mounted(directory: Path, mkfs: Sequence[str], *, mib: int, check: Sequence[str]) -> Iterator[Mounted]:
    disk, root, attributes, process = (directory / name for name in ("disk", "a root", "attributes", "process"))
    for made in (root, attributes, process):
        made.mkdir()
    with disk.open("wb") as file:
        file.truncate(mib << 20)
    subprocess.run([*mkfs, str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(root)], check=True)
    try:
        (row,) = (row for row in Path("/proc/self/mountinfo").read_text().splitlines() if f"{directory}/" in row)
        (process / "mountinfo").write_text(f"{row}\n")
        (process / "root").symlink_to("/")
        device = Path(row.partition(" - ")[2].split()[1]).name
        if Path("/sys/fs/ext4", device).exists():
            (attributes / device).symlink_to(f"/sys/fs/ext4/{device}")
        yield Mounted(root, device, attributes, process)
    finally:
        subprocess.run(["umount", str(root)], check=True)
        subprocess.run([*check, str(disk)], check=True, capture_output=True)


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Mounted]:
    with mounted(tmp_path, ["mke2fs", "-q", "-t", "ext4"], mib=64, check=["e2fsck", "-f", "-n"]) as ext4:
        yield ext4


@pytest.fixture(params=["ext4", pytest.param("xfs", marks=pytest.mark.requires("xfs"))])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mounted]:
    if request.param == "ext4":
        yield request.getfixturevalue("ext4")
    else:
        with mounted(tmp_path, ["mkfs.xfs", "-q"], mib=320, check=["xfs_repair", "-n"]) as on_xfs:
            yield on_xfs


def test_a_file_system_that_refuses_data_takes_it_again_afterwards(either: Mounted, tmp_path: Path) -> None:
    before = either.reserved
    (either.root / "kept").write_bytes(b"k" * 10000)
    dirty = (either.root / "dirty").open("wb", buffering=0)
    dirty.write(b"d" * 1000000)
    space = Space(str(either.attributes), str(tmp_path / "no-such"))
    assert space.refuse_data(str(either.process)) == space.refuse_data(str(either.process)) == [either.device]
    with pytest.raises(OSError, match="No space left on device") as refused, (either.root / "new").open("wb") as file:
        file.write(b"n" * 100000)
    assert refused.value.errno == errno.ENOSPC
    assert os.statvfs(either.root).f_bavail == 0
    with dirty:
        os.fsync(dirty.fileno())  # had its place already
    (either.root / "kept").unlink()
    assert os.statvfs(either.root).f_bavail == 0
    space.take_data(str(either.process))
    assert either.reserved == before
    (either.root / "new").write_bytes(b"n" * 100000)
    assert (either.root / "dirty").read_bytes() == b"d" * 1000000


def test_a_file_system_that_is_gone_does_not_matter_to_the_end_of_the_refusal(ext4: Mounted, tmp_path: Path) -> None:
    space = Space(str(ext4.attributes), str(tmp_path / "no-such"))
    space.refuse_data("/no-such")
    (device,) = ext4.attributes.iterdir()
    target = device.readlink()
    device.unlink()
    space.take_data("/no-such")
    device.symlink_to(target)
    assert space.refuse_data("/no-such") == [device.name]


@pytest.mark.requires("xfs")
def test_an_xfs_that_is_read_only_need_not_refuse_data(tmp_path: Path) -> None:
    with mounted(tmp_path, ["mkfs.xfs", "-q"], mib=320, check=["xfs_repair", "-n"]) as on_xfs:
        subprocess.run(["mount", "-o", "remount,ro", str(on_xfs.root)], check=True)
        space = Space(str(on_xfs.attributes), str(tmp_path / "no-such"))
        assert space.refuse_data(str(on_xfs.process)) == []
        space.take_data(str(on_xfs.process))


def test_without_any_file_system_none_refuses_data(tmp_path: Path) -> None:
    space = Space(str(tmp_path / "no-such"), str(tmp_path / "no-such"))
    assert space.refuse_data("/no-such") == []
    space.take_data("/no-such")


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
