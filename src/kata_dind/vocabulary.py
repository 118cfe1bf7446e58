"""The closed sets of words that users type; no third-party import, so that `--help` and completion stay quick."""

from __future__ import annotations

from enum import StrEnum


class BackendName(StrEnum):
    """The software that runs a sandbox's virtual machine."""

    VM = "vm"
    CONTAINERD = "containerd"
    KUBERNETES = "kubernetes"


BACKEND_MODULES: dict[str, str] = {
    BackendName.VM: "kata_dind.backend.vm.backend",
    BackendName.CONTAINERD: "kata_dind.backend.containerd.backend",
}
"""The backends that this installation has, by name, each with the module that is imported when it is chosen."""


class DataRootKind(StrEnum):
    """How dockerd's data root is backed; with `auto` the plan chooses."""

    AUTO = "auto"
    MEMORY = "memory"
    LOOP = "loop"
    BLOCK = "block"
    VIRTIOFS = "virtiofs"


class Filesystem(StrEnum):
    """The file system of a disk of the `loop` or `block` kind."""

    EXT4 = "ext4"
    XFS = "xfs"


class Fallback(StrEnum):
    """The storage driver that dockerd may use where overlay works on no data root; with `none` the start fails."""

    NONE = "none"
    VFS = "vfs"
    FUSE_OVERLAYFS = "fuse-overlayfs"


class Accelerator(StrEnum):
    """The part of QEMU that runs the guest's processors; `auto` is KVM where a guest has booted on it, else TCG."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class NetworkMode(StrEnum):
    """The network that the guest reaches: none, or the host's through NAT."""

    NONE = "none"
    NAT = "nat"


class Transport(StrEnum):
    """The protocol of a port."""

    TCP = "tcp"
    UDP = "udp"


class FixOutput(StrEnum):
    """What `kata-dind fix` prints."""

    YAML = "yaml"
    DIFF = "diff"
    PATCH = "patch"
    JSON = "json"
    EXPLAIN = "explain"
    FINDINGS = "findings"
    GITHUB = "github"
    SARIF = "sarif"


class PlanOutput(StrEnum):
    """What `kata-dind cluster plan` prints."""

    TEXT = "text"
    YAML = "yaml"
    VALUES = "values"


class LogFormat(StrEnum):
    """How `kata-dind webhook serve` writes its log."""

    JSON = "json"
    TEXT = "text"


class Workload(StrEnum):
    """What `kata-dind render` makes around a pod."""

    POD = "pod"
    DEPLOYMENT = "deployment"
    STATEFULSET = "statefulset"
    JOB = "job"


class RenderOutput(StrEnum):
    """How `kata-dind render` prints."""

    YAML = "yaml"
    JSON = "json"


class CertificateSource(StrEnum):
    """Where the webhook's certificate comes from."""

    JOB = "job"
    """A job of ours makes it, and a cron job renews it."""
    CERT_MANAGER = "cert-manager"
    PROVIDED = "provided"
    """Somebody else puts it into a Secret."""


class FailurePolicy(StrEnum):
    """What becomes of a pod while no webhook answers: it is admitted as it is, or refused."""

    IGNORE = "Ignore"
    FAIL = "Fail"
