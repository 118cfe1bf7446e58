from __future__ import annotations

from pathlib import Path

import pytest

from kata_dind.backend.vm.begin import make_disks
from kata_dind.backend.vm.plan import PlannedShare, plan_shares
from kata_dind.dataroot.kinds import KINDS
from kata_dind.vocabulary import DataRootKind, Filesystem
from tests.unit.backend.test_plan import changed, plan_of


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("block", ["data.img", "layer.img"]),
        ("loop", ["data-root", "layer.img"]),
        ("virtiofs", ["data-root", "layer.img"]),
        ("memory", ["layer.img"]),
    ],
)
def test_a_data_root_gets_what_its_kind_needs_and_no_more(tmp_path: Path, kind: str, made: list[str]) -> None:
    shares = plan_shares([(tmp_path, "/src", True)], KINDS[DataRootKind(kind)], tmp_path)
    plan = plan_of(DataRootKind(kind), shares=shares)
    plan = changed(plan, data_directory=tmp_path, data_root_mib=64, filesystem=Filesystem.EXT4)
    for _ in range(2):
        make_disks(plan, tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == made


def test_a_share_of_the_users_is_not_made(tmp_path: Path) -> None:
    share = PlannedShare("share-0", tmp_path / "absent", "/src", read_only=False)
    make_disks(changed(plan_of(DataRootKind.MEMORY, shares=(share,)), data_directory=tmp_path), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["layer.img"]
