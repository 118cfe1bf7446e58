"""What the vm backend will do, and why, computed from the spec and what this host has. Pure; as plain as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kata_dind.dataroot.kinds import DATA_DISK, DATA_ROOT_SHARE, GUEST_PATH, DataRootNeeds
from kata_dind.machine.argv import GUEST_ADDRESS, GUEST_GATEWAY
from kata_dind.machine.network import OUTER_DNS
from kata_dind.machine.shape import DATA, GUEST_OS, IMAGE, LAYER, MODULES, Disk, MachineShape, MemoryFile
from kata_dind.vocabulary import Accelerator, DataRootKind, Fallback, Filesystem

if TYPE_CHECKING:
    from kata_dind.image.kernel import GuestKernel
    from kata_dind.image.store import DindImage

MEMORY, STATE, CHILD_SUFFIX = "memory", "state", ".qcow2"
"""Files of a saved machine, and what a disk over one of its disks has in place of `.img`."""

MOST_CPUS = 8
"""How many processors a saved machine has room for, each for some 100 KiB of its memory."""
MOST_MEMORY_MIB = 64 << 10
"""How much memory a saved machine has room for, which costs nothing."""
_MEMORY_BLOCK_MIB = 128
"""What Linux takes memory in."""

SIZE_VARIABLE = "KATA_DIND_SIZE"
DOCKER_SOCKET = "unix:///var/run/docker.sock"


class StartKind(StrEnum):
    """How a guest comes up: it boots, goes on from a seed's memory or from its own, or boots to become a seed."""

    BOOT = "boot"
    RESTORE = "restore"
    RESUME = "resume"
    BOOT_TO_SAVE = "boot-to-save"

    @property
    def goes_on(self) -> bool:
        """Whether the guest's kernel runs already."""
        return self in (StartKind.RESTORE, StartKind.RESUME)


@dataclass(frozen=True)
class PlannedShare:
    """A share: its place below the shared directory, and where the container sees it."""

    name: str
    host_path: Path
    guest_path: str
    read_only: bool


@dataclass(frozen=True)
class Plan:
    """Everything that a start needs to know; it looks nothing up any more."""

    name: str
    accelerator: Accelerator
    accelerator_reason: str
    cpus: int
    memory_mib: int
    guest_os: Path
    kernel_version: str
    kernel_origin: str
    vmlinuz: Path
    initramfs: Path
    modules: Path | None
    image_reference: str
    image_id: str
    image_disk: Path
    argv: tuple[str, ...]
    environment: tuple[str, ...]
    data_root: DataRootKind
    data_root_reason: str
    data_root_mib: int
    """0 for a kind without a limit of its own."""
    data_disk: bool
    filesystem: Filesystem
    fallback: Fallback
    data_directory: Path
    """Where the data root lies, on a disk or as a share: the sandbox's directory, or its volume's."""
    network: bool
    allow_link_local: bool
    shares: tuple[PlannedShare, ...]
    xattr: bool
    """Whether virtiofsd passes extended attributes on."""
    timeout_seconds: float
    start: StartKind = StartKind.BOOT
    start_reason: str = ""
    seed_key: str = ""
    """Of the internal seed that such a machine would be restored from; empty where none can be."""
    seed: str = ""
    """The id of the seed whose disks lie under the sandbox's own; empty for a sandbox with disks of its own alone."""
    seed_directory: Path | None = None
    seed_cpus: int = 0
    """How many processors that seed's machine has; the sandbox's further ones are plugged into it."""
    seed_memory_mib: int = 0
    """How much memory that seed's machine has; the sandbox's further memory is plugged into it."""
    seed_root_mib: int = 0
    """How large the data root of that seed is, from which the sandbox's own grows; 0 without a seed, or a limit."""


class Capabilities(NamedTuple):
    """What this host has for a sandbox, as data."""

    accelerator: Accelerator
    accelerator_reason: str
    guest_os: Path
    kernel: GuestKernel
    image: DindImage


def dockerd_argv(image: DindImage) -> tuple[str, ...]:
    """Compute the container's command: the image's own way to dockerd, on the Unix socket alone.

    Naming dockerd and its socket keeps the official image's entrypoint from opening a TCP port, and from the seconds
    that dockerd waits for an unauthenticated one.
    """
    words = (*image.entrypoint, *image.command)
    if not any(word.rpartition("/")[2] == "dockerd" for word in words):
        # The official entrypoint takes flags for dockerd's own; anything else is what the image runs instead of it.
        flags = image.command if image.command and image.command[0].startswith("-") else ()
        words = (*image.entrypoint, "dockerd", *flags)
    return (*words, f"--host={DOCKER_SOCKET}")


def make_plan(
    *,
    name: str,
    cpus: int,
    memory_mib: int,
    needs: DataRootNeeds,
    data_root_reason: str,
    data_root_mib: int,
    filesystem: Filesystem,
    fallback: Fallback,
    dockerd_args: tuple[str, ...],
    data_directory: Path,
    network: bool,
    allow_link_local: bool,
    shares: tuple[PlannedShare, ...],
    virtiofs_xattr: bool,
    timeout_seconds: float,
    capabilities: Capabilities,
) -> Plan:
    """Compute the plan of a sandbox."""
    told = {
        "KATA_DIND_DATA_ROOT": needs.kind.value,
        **({SIZE_VARIABLE: f"{data_root_mib}M"} if needs.sized else {}),
        "KATA_DIND_PATH": GUEST_PATH,
        "KATA_DIND_FILESYSTEM": filesystem.value,
        "KATA_DIND_FALLBACK": fallback.value,
        **needs.environment,
    }
    return Plan(
        name=name,
        accelerator=capabilities.accelerator,
        accelerator_reason=capabilities.accelerator_reason,
        cpus=cpus,
        memory_mib=memory_mib,
        guest_os=capabilities.guest_os,
        kernel_version=capabilities.kernel.version,
        kernel_origin=capabilities.kernel.origin,
        vmlinuz=capabilities.kernel.vmlinuz,
        initramfs=capabilities.kernel.initramfs,
        modules=capabilities.kernel.modules,
        image_reference=capabilities.image.reference,
        image_id=capabilities.image.image_id,
        image_disk=capabilities.image.disk,
        argv=(*dockerd_argv(capabilities.image), *dockerd_args),
        environment=(*_own_environment(capabilities.image), *(f"{key}={value}" for key, value in told.items())),
        data_root=needs.kind,
        data_root_reason=data_root_reason,
        data_root_mib=data_root_mib if needs.sized else 0,
        data_disk=needs.disk,
        filesystem=filesystem,
        fallback=fallback,
        data_directory=data_directory,
        network=network,
        allow_link_local=allow_link_local,
        shares=shares,
        xattr=needs.xattr and virtiofs_xattr,
        timeout_seconds=timeout_seconds,
    )


def _own_environment(image: DindImage) -> tuple[str, ...]:
    """Return an image's variables but for those that would speak to our entrypoint in the user's place."""
    return tuple(pair for pair in image.environment if not pair.startswith("KATA_DIND_"))


def plan_shares(
    shares: list[tuple[Path, str, bool]], needs: DataRootNeeds, directory: Path
) -> tuple[PlannedShare, ...]:
    """Name the shares (host path, guest path, read-only), and add a kind's own, which lies in `directory`."""
    planned = [
        PlannedShare(f"share-{number}", host_path, guest_path, read_only)
        for number, (host_path, guest_path, read_only) in enumerate(shares)
    ]
    if needs.share:
        planned.append(PlannedShare(DATA_ROOT_SHARE, directory / DATA_ROOT_SHARE, needs.share, read_only=False))
    return tuple(planned)


def machine_shape(plan: Plan, directory: Path) -> MachineShape:
    """Compute the machine of a plan; its layer lies in the sandbox's directory."""
    disks = [Disk(GUEST_OS, plan.guest_os, read_only=True)]
    if plan.modules is not None:
        disks.append(Disk(MODULES, plan.modules, read_only=True))
    disks += [Disk(IMAGE, plan.image_disk, read_only=True), _own_disk(LAYER, layer_disk(directory), plan)]
    if plan.data_disk:
        # A clone's lies with its other disk: a volume's data root is never a seed's.
        disks.append(_own_disk(DATA, data_disk(directory if plan.seed else plan.data_directory), plan))
    memory_file, cpus, memory_mib = None, plan.cpus, plan.memory_mib
    if plan.start.goes_on:
        cpus, memory_mib = plan.seed_cpus, plan.seed_memory_mib
    saved = plan.start is not StartKind.BOOT
    if plan.start is StartKind.BOOT_TO_SAVE:
        memory_file = MemoryFile(directory / MEMORY, written=True)
    elif plan.start is StartKind.RESTORE and plan.seed_directory and not plan.shares:
        memory_file = MemoryFile(plan.seed_directory / MEMORY, written=False)
    return MachineShape(
        name=plan.name,
        accelerator=plan.accelerator,
        cpus=cpus,
        most_cpus=max(MOST_CPUS, cpus) if saved else 0,
        memory_mib=memory_mib,
        most_memory_mib=max(MOST_MEMORY_MIB, 2 * memory_mib) if saved else 0,
        kernel=plan.vmlinuz,
        initramfs=plan.initramfs,
        disks=tuple(disks),
        network=plan.network,
        shared_directory=bool(plan.shares),
        memory_file=memory_file,
    )


def _own_disk(serial: str, disk: Path, plan: Plan) -> Disk:
    """A disk that the sandbox writes: its own, or a qcow2 over the seed's disk of the same name."""
    if plan.seed_directory is None:
        return Disk(serial, disk)
    return Disk(serial, disk.with_suffix(CHILD_SUFFIX), backing=plan.seed_directory / disk.name)


def container_request(plan: Plan, *, check: bool, entropy: bytes = b"") -> dict[str, Any]:
    """Compute what the agent is asked to start, or to become after a restore.

    `check` demands a full check of the data root's file system; `entropy` is for a restored guest, whose kernel
    would give each clone the same random numbers.
    """
    network = {"address": GUEST_ADDRESS, "gateway": GUEST_GATEWAY, "nameserver": OUTER_DNS}
    if plan.start.goes_on:
        return {
            "kind": "renew",
            "entropy": entropy.hex(),
            "hostname": plan.name,
            "network": network if plan.network else None,
            "shares": [f"{share.name} {share.guest_path}" for share in plan.shares],
            "cpus": plan.cpus if plan.cpus > plan.seed_cpus else 0,
            "memory_mib": plan.memory_mib if plan.memory_mib > plan.seed_memory_mib else 0,
            "data_root": GUEST_PATH,
            "disk_bytes": plan.data_root_mib << 20 if grows(plan) else 0,
        }
    environment = dict(pair.partition("=")[::2] for pair in plan.environment)
    if check:
        environment["KATA_DIND_CHECK"] = "1"
    return {
        "kind": "container",
        "argv": list(plan.argv),
        "environment": environment,
        "hostname": plan.name,
        "network": network if plan.network else None,
        "shares": [f"{share.name} {share.guest_path}" for share in plan.shares],
    }


def can_plug_cpus(saved: int, *, to: int) -> bool:
    """Tell whether a saved machine with some processors can get further ones."""
    return saved <= to <= max(saved, MOST_CPUS)


def can_plug_memory(saved_mib: int, *, to_mib: int) -> bool:
    """Tell whether a saved machine with some memory can get further memory."""
    return saved_mib <= to_mib <= max(saved_mib, MOST_MEMORY_MIB) and (to_mib - saved_mib) % _MEMORY_BLOCK_MIB == 0


def grows(plan: Plan) -> bool:
    """Tell whether a restored guest's data root is to become larger than the seed's."""
    restored = plan.start is StartKind.RESTORE  # a resumed one's has grown
    return restored and plan.data_disk and plan.data_root_mib > plan.seed_root_mib


def why_not_savable(plan: Plan) -> str:
    """Return why a running sandbox can't be stopped with its state saved; empty when it can."""
    if not plan.start.goes_on:
        return f"it has booted ({plan.start_reason}), and only what goes on from a seed can be saved"
    if plan.shares:
        return "it has shares, which a saved machine can't have"
    if plan.cpus > plan.seed_cpus or plan.memory_mib > plan.seed_memory_mib:
        return "processors or memory were plugged into it, which a saved machine can't have"
    return ""


def layer_disk(directory: Path) -> Path:
    """The disk of a sandbox that takes what is written over the image."""
    return directory / "layer.img"


def data_disk(directory: Path) -> Path:
    """The disk that holds the data root of the block kind."""
    return directory / DATA_DISK


def stand_in(plan: Plan) -> str:
    """Return what is equal for clones that could be each other's until they are renewed.

    Empty for a machine that is started for one sandbox alone: one that boots, or that shares a directory.
    """
    if plan.start is not StartKind.RESTORE or plan.shares:
        return ""
    anybody = replace(plan, name="", data_directory=Path(), timeout_seconds=0, accelerator_reason="", start_reason="")
    return json.dumps(plan_to_json(anybody), sort_keys=True)


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON values."""
    return {key: _plain(value) for key, value in asdict(plan).items()}


def plan_from_json(values: dict[str, Any]) -> Plan:
    """Rebuild a plan from `plan_to_json`; a plan of another version raises TypeError or KeyError."""
    converted = dict(values)
    for key in ("guest_os", "vmlinuz", "initramfs", "image_disk", "data_directory"):
        converted[key] = Path(values[key])
    for key in ("modules", "seed_directory"):
        converted[key] = Path(values[key]) if values[key] else None
    converted["start"] = StartKind(values["start"])
    converted["accelerator"] = Accelerator(values["accelerator"])
    converted["data_root"] = DataRootKind(values["data_root"])
    converted["filesystem"] = Filesystem(values["filesystem"])
    converted["fallback"] = Fallback(values["fallback"])
    converted["argv"] = tuple(values["argv"])
    converted["environment"] = tuple(values["environment"])
    converted["shares"] = tuple(
        PlannedShare(**{**share, "host_path": Path(share["host_path"])}) for share in values["shares"]
    )
    return Plan(**converted)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
