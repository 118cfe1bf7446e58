from __future__ import annotations

import pytest

from kata_dind.dataroot.choose import choose_data_root
from kata_dind.dataroot.kinds import KINDS, LOOP_GUEST_PATH, DataRootNeeds
from kata_dind.vocabulary import DataRootKind


def test_auto_is_block_and_says_why() -> None:
    needs, reason = choose_data_root(DataRootKind.AUTO)
    assert needs == DataRootNeeds(DataRootKind.BLOCK, disk=True)
    assert reason == "block is the fastest kind that outlives a start"


@pytest.mark.parametrize(
    ("asked", "needs"),
    [
        (DataRootKind.MEMORY, DataRootNeeds(DataRootKind.MEMORY)),
        (DataRootKind.BLOCK, DataRootNeeds(DataRootKind.BLOCK, disk=True)),
        (
            DataRootKind.LOOP,
            DataRootNeeds(
                DataRootKind.LOOP, share="/var/lib/kata-dind", environment={"KATA_DIND_DIR": "/var/lib/kata-dind"}
            ),
        ),
        (
            DataRootKind.VIRTIOFS,
            DataRootNeeds(DataRootKind.VIRTIOFS, share="/var/lib/docker", xattr=True, sized=False),
        ),
    ],
)
def test_a_kind_that_is_asked_for_is_taken(asked: DataRootKind, needs: DataRootNeeds) -> None:
    assert choose_data_root(asked) == (needs, "as asked")


def test_every_kind_knows_its_own_name() -> None:
    assert all(needs.kind is kind for kind, needs in KINDS.items())
    assert {*KINDS, DataRootKind.AUTO} == {*DataRootKind}


def test_the_loop_kinds_share_does_not_lie_below_the_data_root() -> None:
    assert not LOOP_GUEST_PATH.startswith("/var/lib/docker")
