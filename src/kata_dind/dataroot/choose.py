"""Which kind of data root a sandbox gets, and why. Pure."""

from __future__ import annotations

from kata_dind.dataroot.kinds import KINDS, DataRootNeeds
from kata_dind.vocabulary import DataRootKind


def choose_data_root(asked: DataRootKind) -> tuple[DataRootNeeds, str]:
    """Return what the chosen kind needs, and the reason in one sentence."""
    if asked is DataRootKind.AUTO:
        return KINDS[DataRootKind.BLOCK], "block is the fastest kind that outlives a start"
    return KINDS[asked], "as asked"
