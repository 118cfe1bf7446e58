"""What the containerd backend will do, and why: the plan's own part, and the pod as CRI takes it. Pure."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_dind.backend.dockerd import PUBLISHED_PORT
from kata_dind.backend.plan import AnyPlan, Plan, with_own
from kata_dind.dataroot.kinds import DATA_DISK, DATA_ROOT_SHARE, GUEST_PATH, KINDS
from kata_dind.vocabulary import DataRootKind, Filesystem, NetworkMode

NAME = "containerd"

SANDBOX, IDENTITY, VOLUME = "kata-dind.io/sandbox", "kata-dind.io/identity", "kata-dind.io/volume"
"""Labels of a pod: its sandbox's name, what no other sandbox of this host has, and the directory of its volume."""

CONTAINER = "dind"
DEVICE = "/dev/kata-dind"
"""Where the container sees the disk of the block kind."""

POD_DIRECTORY = "pod"
"""Where containerd writes what the container prints, in the sandbox's directory."""
CONTAINER_LOG = "dind.log"

PORTS_DIRECTORY = f"{posixpath.dirname(PUBLISHED_PORT)}/ports"
"""Where the scripts that dockerd starts for its ports and the host's command meet in the container."""
_ON_TMPFS = "/dev/kata-dind.ports"
"""In the guest's own memory, since all else of a container may be on a share, and they meet in FIFOs."""

# `served` tells these scripts that no agent answers, but a command that is yet to come. dockerd does not reap what its
# containers leave behind, so as process 1 it gets the program in front that the official images put there as well.
_WITH_PORTS = f"""
set -eu
mkdir -p {posixpath.dirname(PUBLISHED_PORT)} {_ON_TMPFS}
ln -sfn {_ON_TMPFS} {PORTS_DIRECTORY}
[ -p {PORTS_DIRECTORY}/asked ] || mkfifo -m 0600 {PORTS_DIRECTORY}/asked
: >{PORTS_DIRECTORY}/served
printf %s "$2" >{PUBLISHED_PORT}
chmod 0755 {PUBLISHED_PORT}
script=$1
shift 2
case ${{1##*/}} in dockerd) ! command -v docker-init >/dev/null || set -- docker-init -- "$@" ;; esac
exec /bin/sh -c "$script" kata-dind "$@"
"""

_PERIOD_MICROSECONDS = 100_000


@dataclass(frozen=True)
class PodShare:
    """A directory or a file of the host in the container."""

    host_path: Path
    guest_path: str
    read_only: bool


@dataclass(frozen=True)
class Annotation:
    """An annotation of a pod."""

    name: str
    value: str


@dataclass(frozen=True)
class Pod:
    """The containerd backend's own part of a plan."""

    address: Path
    """containerd's socket."""
    handler: str
    identity: str
    """What no other sandbox of this host has; it stays with a sandbox from start to start."""
    isolated: bool
    """Whether the handler runs a virtual machine."""
    argv: tuple[str, ...]
    """The image's own entrypoint and command, and dockerd's additional flags."""
    filesystem: Filesystem
    network: NetworkMode
    data_directory: Path
    """The directory of the data root, which is a disk or a share there: the sandbox's, or its volume's."""
    shares: tuple[PodShare, ...]
    annotations: tuple[Annotation, ...]
    """For Kata."""


PodPlan = Plan[Pod]


def pod_plan(plan: AnyPlan) -> PodPlan:
    """Return a plan as this backend made it. Raises PlanOutdated."""
    return with_own(plan, Pod)


def pod_config(plan: PodPlan, directory: Path) -> dict[str, Any]:
    """Return the pod, as `RunPodSandbox` takes it."""
    volume = {VOLUME: volume_label(plan.own.data_directory)} if plan.volume else {}
    return {
        "metadata": {"name": plan.name, "uid": plan.own.identity, "namespace": "kata-dind"},
        "hostname": plan.name,
        "log_directory": str(directory / POD_DIRECTORY),
        "labels": {SANDBOX: plan.name, IDENTITY: plan.own.identity, **volume},
        "annotations": {each.name: each.value for each in plan.own.annotations},
        "linux": {
            # A container can only have what its pod has. The pod's own process is a pause.
            "security_context": {"privileged": True, "namespace_options": {"pid": "CONTAINER"}},
            "resources": _resources(plan),
        },
    }


def container_config(plan: PodPlan, *, script: str, published_port: str, check: bool) -> dict[str, Any]:
    """Return the container, as `CreateContainer` takes it; the guest entrypoint stands in front, as in repaired pods.

    `script` is that, and `published_port` what dockerd starts for each port. `check` demands a full check of the data
    root's file system.
    """
    needs = KINDS[plan.data_root]
    variables = {
        "KATA_DIND_DATA_ROOT": needs.kind.value,
        **({"KATA_DIND_SIZE": f"{plan.data_root_mib}M"} if is_sized_inside(needs.kind) else {}),
        **({"KATA_DIND_DEVICE": DEVICE} if needs.disk else {}),
        "KATA_DIND_PATH": GUEST_PATH,
        **({"KATA_DIND_FILESYSTEM": plan.own.filesystem.value} if needs.kind in _WITH_FILESYSTEM else {}),
        **({"KATA_DIND_FALLBACK": plan.fallback.value} if plan.fallback != "none" else {}),
        **({"KATA_DIND_CHECK": "1"} if check and needs.kind in _WITH_FILESYSTEM else {}),
        **needs.environment,
    }
    return {
        "metadata": {"name": CONTAINER},
        "image": {"image": plan.image.image_id},
        "command": ["/bin/sh", "-c", _WITH_PORTS, "kata-dind", script, published_port, *plan.own.argv],
        # As on `vm`. Kata refuses an image whose own is not there (kata-containers#13694).
        "working_dir": "/",
        "envs": [{"key": name, "value": value.encode()} for name, value in variables.items()],
        "mounts": [_mount(share) for share in mounted(plan)],
        "labels": {SANDBOX: plan.name, IDENTITY: plan.own.identity},
        "log_path": CONTAINER_LOG,
        "linux": {
            # With a process 1 of its own nothing of the container outlives dockerd, and so its disk is unmounted by the
            # time that the pod ends.
            "security_context": {"privileged": True, "namespace_options": {"pid": "CONTAINER"}},
            "resources": _resources(plan),
        },
    }


_WITH_FILESYSTEM = (DataRootKind.LOOP, DataRootKind.BLOCK)


def is_sized_inside(kind: DataRootKind) -> bool:
    """Tell whether the guest entrypoint makes a data root of the size that was asked for."""
    return kind in (DataRootKind.LOOP, DataRootKind.MEMORY)


def mounted(plan: PodPlan) -> list[PodShare]:
    """Return all that is shared with the container: the shares, and the data root's directory where it has one."""
    share = KINDS[plan.data_root].share
    own = [PodShare(plan.own.data_directory / DATA_ROOT_SHARE, share, read_only=False)] if share else []
    return [*plan.own.shares, *own]


def data_disk(plan: PodPlan) -> Path | None:
    """Return the file that the container gets as a device; None for a kind without one."""
    return plan.own.data_directory / DATA_DISK if KINDS[plan.data_root].disk else None


def volume_label(directory: Path) -> str:
    """Return what a pod is labelled with that has its data root in a volume's directory: labels have no slashes."""
    return str(directory).strip("/").replace("/", ".")[-63:].strip(".-_")


def _mount(share: PodShare) -> dict[str, Any]:
    return {"host_path": str(share.host_path), "container_path": share.guest_path, "readonly": share.read_only}


def _resources(plan: PodPlan) -> dict[str, int]:
    return {
        "cpu_period": _PERIOD_MICROSECONDS,
        "cpu_quota": plan.cpus * _PERIOD_MICROSECONDS,
        "cpu_shares": 1024 * plan.cpus,
        "memory_limit_in_bytes": plan.memory_mib << 20,
    }
