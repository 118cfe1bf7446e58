"""The disks of seeds, with qemu-img: children that hold nothing, and copies that lie over nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata_dind.backend.vm.backend import BACKEND
from kata_dind.backend.vm.plan import SeedMachine, VmPlan, with_machine
from kata_dind.backend.vm.seeds import copy_disks, machine_files, make_children
from kata_dind.errors import SpecError
from kata_dind.host.process import find_tool, run
from kata_dind.vocabulary import DataRootKind
from tests.unit.backend.test_plan import changed, plan_of

pytestmark = pytest.mark.skipif(not find_tool("qemu-io"), reason="qemu-utils is not installed")
SIZE_BYTES = 4 << 20


@pytest.fixture
def plan(tmp_path: Path) -> VmPlan:
    """The plan of a sandbox in `sandbox`."""
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "target").mkdir()
    return changed(plan_of(DataRootKind.BLOCK), data_directory=tmp_path / "sandbox")


def make_disks(directory: Path) -> None:
    for name in ("layer.img", "data.img"):
        with (directory / name).open("wb") as file:
            os.truncate(file.fileno(), SIZE_BYTES)
            os.pwrite(file.fileno(), name.encode(), 1 << 20)


def test_a_saved_machine_has_these_files(plan: VmPlan) -> None:
    files = ["memory", "state", "layer.img", "data.img", "guest-os", "kernel", "initramfs", "image"]
    assert set(machine_files(changed(plan, modules=None))) == set(files)
    assert set(machine_files(changed(plan, modules=Path("/modules")))) == {*files, "modules"}
    assert set(machine_files(changed(plan, modules=None, data_disk=False))) == {*files} - {"data.img"}


def test_disks_of_its_own_are_copied(plan: VmPlan, tmp_path: Path) -> None:
    make_disks(tmp_path / "sandbox")
    copy_disks(plan, tmp_path / "sandbox", tmp_path / "target")
    for name in ("layer.img", "data.img"):
        assert (tmp_path / "target" / name).read_bytes() == (tmp_path / "sandbox" / name).read_bytes()


def test_a_clones_disks_are_copied_whole_wherever_the_seed_lies_now(plan: VmPlan, tmp_path: Path) -> None:
    made, seed, sandbox, target = (tmp_path / name for name in ("made", "seed", "sandbox", "target"))
    made.mkdir()
    make_disks(made)
    assert make_children(plan, made) == ["layer.qcow2", "data.qcow2"]
    made.rename(seed)
    for child in ("layer.qcow2", "data.qcow2"):
        (sandbox / child).write_bytes((seed / child).read_bytes())
    json = f'json:{{"driver":"qcow2","file.filename":"{sandbox}/data.qcow2","backing":null}}'
    run(["qemu-io", "-c", "write -P 0x41 2M 64k", json], timeout_seconds=20)
    copy_disks(with_machine(plan, seed=SeedMachine(seed, 2, 2048, 20480)), sandbox, target)
    expected = bytearray((seed / "data.img").read_bytes())
    expected[2 << 20 : (2 << 20) + 65536] = b"A" * 65536
    assert (target / "data.img").read_bytes() == expected
    assert (target / "layer.img").read_bytes() == (seed / "layer.img").read_bytes()
    assert (target / "data.img").stat().st_blocks * 512 < SIZE_BYTES


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"data_root": DataRootKind.LOOP}, "is of the kind loop"),
        ({"data_root": DataRootKind.MEMORY}, "is of the kind memory"),
        ({"data_directory": Path("/volumes/db")}, "is a volume"),
    ],
    ids=str,
)
def test_only_a_block_disk_of_its_own_becomes_a_seeds(
    change: dict[str, object], complaint: str, plan: VmPlan, tmp_path: Path
) -> None:
    other = changed(plan, **change)
    with pytest.raises(SpecError, match=complaint):
        BACKEND.snapshots.copy_disks(other, tmp_path / "sandbox", tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []
