"""The closed sets of words that users type; no third-party import, so that `--help` and completion stay quick."""

from __future__ import annotations

from enum import StrEnum


class BackendName(StrEnum):
    """Where a sandbox's virtual machine comes from."""

    VM = "vm"
    CONTAINERD = "containerd"
    KUBERNETES = "kubernetes"


BACKEND_MODULES: dict[str, str] = {BackendName.VM: "kata_dind.backend.vm.backend"}
"""The backends that this installation has, by name, each with the module that is imported when it is chosen."""


class DataRootKind(StrEnum):
    """How dockerd's data root is backed; `auto` lets the plan choose."""

    AUTO = "auto"
    MEMORY = "memory"
    LOOP = "loop"
    BLOCK = "block"
    VIRTIOFS = "virtiofs"


class Filesystem(StrEnum):
    """What a disk of the `loop` and `block` kinds is formatted with."""

    EXT4 = "ext4"
    XFS = "xfs"


class Fallback(StrEnum):
    """The storage driver that dockerd may use where overlay works on no data root; `none` ends the start instead."""

    NONE = "none"
    VFS = "vfs"
    FUSE_OVERLAYFS = "fuse-overlayfs"


class Accelerator(StrEnum):
    """What runs the guest's processors; `auto` is KVM where a guest has booted on it, else TCG."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class NetworkMode(StrEnum):
    """What the guest reaches: nothing, or the outside through NAT."""

    NONE = "none"
    NAT = "nat"
