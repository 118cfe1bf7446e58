"""The kinds of data root as data: what each needs of the machine, and what the guest entrypoint is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from kata_dind.vocabulary import DataRootKind


@dataclass(frozen=True)
class DataRootNeeds:
    """What a kind needs: a disk of its own, a share, or nothing but the guest's memory."""

    kind: DataRootKind
    disk: bool = False
    share: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    """For the guest entrypoint, beside KATA_DIND_DATA_ROOT and KATA_DIND_SIZE."""


LOOP_SHARE = "data-root"
"""The loop kind's directory below the sandbox's shared directory."""

LOOP_GUEST_PATH = "/var/lib/kata-dind"
"""Where the guest sees it: in the container, beside dockerd's own directory."""

KINDS = {
    DataRootKind.MEMORY: DataRootNeeds(DataRootKind.MEMORY),
    DataRootKind.BLOCK: DataRootNeeds(DataRootKind.BLOCK, disk=True),
    DataRootKind.LOOP: DataRootNeeds(DataRootKind.LOOP, share=True, environment={"KATA_DIND_DIR": LOOP_GUEST_PATH}),
}
