"""The kinds of data root as data: what each needs of the machine, and what the guest entrypoint is given."""

from __future__ import annotations

from dataclasses import dataclass, field

from kata_dind.vocabulary import DataRootKind


@dataclass(frozen=True)
class DataRootNeeds:
    """What a kind needs: a disk of its own, a share, or nothing but the guest's memory."""

    kind: DataRootKind
    disk: bool = False
    share: str = ""
    """Where the container sees a shared directory of the sandbox or volume; empty when the kind has no share."""
    xattr: bool = False
    """Whether virtiofsd must pass extended attributes on, `trusted.*` included, since overlay lies on the share."""
    sized: bool = True
    """Whether KATA_DIND_SIZE limits it; without that, it may fill the host's file system."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables for the guest entrypoint, in addition to KATA_DIND_DATA_ROOT and KATA_DIND_SIZE."""


GUEST_PATH = "/var/lib/docker"
"""The data root, as the container sees it."""

DATA_DISK = "data.img"
"""The block kind's disk, in the sandbox's directory or in the volume's."""

DATA_ROOT_SHARE = "data-root"
"""The directory that the loop and virtiofs kinds have in place of `DATA_DISK`; also its name below the shared one."""

LOOP_FILE = "kata-dind.img"
"""The disk file in the directory of the loop kind; the guest entrypoint makes it."""

LOOP_GUEST_PATH = "/var/lib/kata-dind"
"""Where the container sees the directory of the loop kind: beside dockerd's own directory."""

KINDS = {
    DataRootKind.MEMORY: DataRootNeeds(DataRootKind.MEMORY),
    DataRootKind.BLOCK: DataRootNeeds(DataRootKind.BLOCK, disk=True),
    DataRootKind.LOOP: DataRootNeeds(
        DataRootKind.LOOP, share=LOOP_GUEST_PATH, environment={"KATA_DIND_DIR": LOOP_GUEST_PATH}
    ),
    DataRootKind.VIRTIOFS: DataRootNeeds(DataRootKind.VIRTIOFS, share=GUEST_PATH, xattr=True, sized=False),
}
