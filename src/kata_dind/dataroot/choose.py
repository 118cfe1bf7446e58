"""Which kind of data root a sandbox gets, and why. Pure."""

from __future__ import annotations

from kata_dind.dataroot.kinds import KINDS, DataRootNeeds
from kata_dind.errors import SpecError
from kata_dind.vocabulary import DataRootKind


def choose_data_root(asked: DataRootKind) -> tuple[DataRootNeeds, str]:
    """Return what the chosen kind needs, and the reason in one sentence.

    Raises SpecError for a kind that this version can't make.
    """
    if asked is DataRootKind.AUTO:
        return KINDS[DataRootKind.BLOCK], "block is the fastest kind that outlives a start"
    if asked not in KINDS:
        raise SpecError(f"--data-root: '{asked}' is not available yet on the vm backend; use block, loop or memory")
    return KINDS[asked], "as asked"
