"""What the vm backend will do, and why, computed from the spec and what this host has. Pure."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kata_dind.backend.plan import AnyPlan, Plan, PlannedImage, StartKind, plan_to_json, with_own
from kata_dind.dataroot.kinds import DATA_DISK, DATA_ROOT_SHARE, GUEST_PATH, DataRootNeeds
from kata_dind.machine.argv import GUEST_ADDRESS, GUEST_GATEWAY
from kata_dind.machine.network import OUTER_DNS
from kata_dind.machine.shape import DATA, GUEST_OS, IMAGE, LAYER, MODULES, Disk, MachineShape, MemoryFile
from kata_dind.vocabulary import Accelerator, Filesystem, NetworkMode

if TYPE_CHECKING:
    from kata_dind.image.kernel import GuestKernel
    from kata_dind.image.store import DindImage
    from kata_dind.spec import SandboxSpec

NAME = "vm"

MEMORY, STATE, CHILD_SUFFIX = "memory", "state", ".qcow2"
"""Files of a machine that was snapshot, and what a disk over one of its disks has in place of `.img`."""

MOST_CPUS = 8
"""How many processors a seed's machine has room for, each for some 100 KiB of its memory."""
MOST_MEMORY_MIB = 64 << 10
"""How much memory a seed's machine has room for, which costs nothing."""
_MEMORY_BLOCK_MIB = 128
"""What Linux takes memory in."""

SIZE_VARIABLE = "KATA_DIND_SIZE"
DOCKER_SOCKET = "unix:///var/run/docker.sock"


@dataclass(frozen=True)
class PlannedShare:
    """A share: its place below the shared directory, and where the container sees it."""

    name: str
    host_path: Path
    guest_path: str
    read_only: bool


@dataclass(frozen=True)
class RunsOn:
    """What a machine runs on and never writes."""

    guest_os: Path
    vmlinuz: Path
    initramfs: Path
    modules: Path | None
    image_disk: Path


@dataclass(frozen=True)
class Asked:
    """What was asked for and reaches the machine as it is, by the names that it has in the spec.

    A new option of this kind is declared in the spec, on the command line, and here; then it is used.
    """

    filesystem: Filesystem
    network: NetworkMode
    allow_link_local: bool


@dataclass(frozen=True)
class SeedMachine:
    """The machine that was snapshot, of which a clone is made: it gets what it lacks while it runs."""

    directory: Path
    cpus: int
    memory_mib: int
    data_root_mib: int
    """The size from which the clone's data root grows; 0 for one without a limit."""


@dataclass(frozen=True)
class Machine:
    """The vm backend's own part of a plan."""

    runs_on: RunsOn
    kernel_origin: str
    asked: Asked
    argv: tuple[str, ...]
    environment: tuple[str, ...]
    data_disk: bool
    data_directory: Path
    """Where the data root lies, on a disk or as a share: the sandbox's directory, or its volume's."""
    shares: tuple[PlannedShare, ...]
    xattr: bool
    """Whether virtiofsd passes extended attributes on."""
    seed: SeedMachine | None = None


VmPlan = Plan[Machine]


def vm_plan(plan: AnyPlan) -> VmPlan:
    """Return a plan as this backend made it. Raises PlanOutdated."""
    return with_own(plan, Machine)


def with_machine(plan: VmPlan, **changes: Any) -> VmPlan:
    """Return a plan whose machine has other values in some fields."""
    return replace(plan, own=replace(plan.own, **changes))


class Capabilities(NamedTuple):
    """What this host has for a sandbox, as data."""

    accelerator: Accelerator
    accelerator_reason: str
    guest_os: Path
    kernel: GuestKernel
    image: DindImage


class DataRootChoice(NamedTuple):
    """The kind of data root that a sandbox gets, why, and where it lies."""

    needs: DataRootNeeds
    reason: str
    directory: Path


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
    spec: SandboxSpec, data_root: DataRootChoice, shares: tuple[PlannedShare, ...], capabilities: Capabilities
) -> VmPlan:
    """Compute the plan of a sandbox that boots."""
    needs, image, kernel = data_root.needs, capabilities.image, capabilities.kernel
    data_root_mib = spec.size_bytes >> 20
    told = {
        "KATA_DIND_DATA_ROOT": needs.kind.value,
        **({SIZE_VARIABLE: f"{data_root_mib}M"} if needs.sized else {}),
        "KATA_DIND_PATH": GUEST_PATH,
        "KATA_DIND_FILESYSTEM": spec.filesystem.value,
        "KATA_DIND_FALLBACK": spec.fallback.value,
        **needs.environment,
    }
    machine = Machine(
        runs_on=RunsOn(capabilities.guest_os, kernel.vmlinuz, kernel.initramfs, kernel.modules, image.disk),
        kernel_origin=kernel.origin,
        asked=asked_of(spec),
        argv=(*dockerd_argv(image), *spec.dockerd_args),
        environment=(*_own_environment(image), *(f"{key}={value}" for key, value in told.items())),
        data_disk=needs.disk,
        data_directory=data_root.directory,
        shares=shares,
        xattr=needs.xattr and spec.virtiofs_xattr,
    )
    return Plan(
        backend=NAME,
        name=spec.name,
        image=PlannedImage(image.reference, image.image_id),
        accelerator=str(capabilities.accelerator),
        accelerator_reason=capabilities.accelerator_reason,
        kernel_version=kernel.version,
        cpus=spec.cpus,
        memory_mib=spec.memory_bytes >> 20,
        data_root=needs.kind,
        data_root_reason=data_root.reason,
        data_root_mib=data_root_mib if needs.sized else 0,
        fallback=spec.fallback,
        timeout_seconds=spec.timeout_seconds,
        own=machine,
    )


def asked_of(spec: SandboxSpec) -> Asked:
    """Return what of a spec reaches the machine as it is."""
    return Asked(**{field.name: getattr(spec, field.name) for field in dataclasses.fields(Asked)})


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


def machine_shape(plan: VmPlan, directory: Path) -> MachineShape:
    """Compute the machine of a plan; its layer lies in the sandbox's directory."""
    disks = [Disk(GUEST_OS, plan.own.runs_on.guest_os, read_only=True)]
    if plan.own.runs_on.modules is not None:
        disks.append(Disk(MODULES, plan.own.runs_on.modules, read_only=True))
    disks += [Disk(IMAGE, plan.own.runs_on.image_disk, read_only=True), _own_disk(LAYER, layer_disk(directory), plan)]
    if plan.own.data_disk:
        # A clone's lies with its other disk: a volume's data root is never a seed's.
        disks.append(_own_disk(DATA, data_disk(directory if plan.seed else plan.own.data_directory), plan))
    memory_file, cpus, memory_mib = None, plan.cpus, plan.memory_mib
    seed = plan.own.seed
    if plan.start.continues and seed:
        cpus, memory_mib = seed.cpus, seed.memory_mib
    kept = plan.start is not StartKind.BOOT
    if plan.start is StartKind.BOOT_TO_SNAPSHOT:
        memory_file = MemoryFile(directory / MEMORY, written=True)
    elif plan.start is StartKind.RESTORE and seed and not plan.own.shares:
        memory_file = MemoryFile(seed.directory / MEMORY, written=False)
    return MachineShape(
        name=plan.name,
        accelerator=Accelerator(plan.accelerator),
        cpus=cpus,
        most_cpus=max(MOST_CPUS, cpus) if kept else 0,
        memory_mib=memory_mib,
        most_memory_mib=max(MOST_MEMORY_MIB, 2 * memory_mib) if kept else 0,
        kernel=plan.own.runs_on.vmlinuz,
        initramfs=plan.own.runs_on.initramfs,
        disks=tuple(disks),
        network=plan.own.asked.network is NetworkMode.NAT,
        shared_directory=bool(plan.own.shares),
        memory_file=memory_file,
    )


def _own_disk(serial: str, disk: Path, plan: VmPlan) -> Disk:
    """A disk that the sandbox writes: its own, or a qcow2 over the seed's disk of the same name."""
    if plan.own.seed is None:
        return Disk(serial, disk)
    return Disk(serial, disk.with_suffix(CHILD_SUFFIX), backing=plan.own.seed.directory / disk.name)


def container_request(plan: VmPlan, *, check: bool, entropy: bytes = b"") -> dict[str, Any]:
    """Compute what the agent is asked to start, or to become after a restore.

    `check` demands a full check of the data root's file system; `entropy` is for a restored guest, whose kernel
    would give each clone the same random numbers.
    """
    network = {"address": GUEST_ADDRESS, "gateway": GUEST_GATEWAY, "nameserver": OUTER_DNS}
    shared = {
        "hostname": plan.name,
        "network": network if plan.own.asked.network is NetworkMode.NAT else None,
        "shares": [f"{share.name} {share.guest_path}" for share in plan.own.shares],
    }
    if plan.start.continues:
        seed = require_seed_machine(plan)
        return {
            "kind": "renew",
            "entropy": entropy.hex(),
            **shared,
            "cpus": plan.cpus if plan.cpus > seed.cpus else 0,
            "memory_mib": plan.memory_mib if plan.memory_mib > seed.memory_mib else 0,
            "data_root": GUEST_PATH,
            "disk_bytes": plan.data_root_mib << 20 if grows(plan) else 0,
        }
    environment = dict(pair.partition("=")[::2] for pair in plan.own.environment)
    if check:
        environment["KATA_DIND_CHECK"] = "1"
    return {
        "kind": "container",
        "argv": list(plan.own.argv),
        "environment": environment,
        **shared,
    }


def can_plug_cpus(saved: int, *, to: int) -> bool:
    """Tell whether a saved machine with some processors can get further ones."""
    return saved <= to <= max(saved, MOST_CPUS)


def can_plug_memory(saved_mib: int, *, to_mib: int) -> bool:
    """Tell whether a saved machine with some memory can get further memory."""
    return saved_mib <= to_mib <= max(saved_mib, MOST_MEMORY_MIB) and (to_mib - saved_mib) % _MEMORY_BLOCK_MIB == 0


def grows(plan: VmPlan) -> bool:
    """Tell whether a restored guest's data root is to become larger than the seed's."""
    seed = plan.own.seed if plan.start is StartKind.RESTORE else None  # a resumed guest's has grown
    return seed is not None and plan.own.data_disk and plan.data_root_mib > seed.data_root_mib


def why_not_suspendable(plan: VmPlan) -> str:
    """Return why the guest of a plan can't be suspended; empty when it can."""
    if not plan.start.continues:
        return f"it has booted ({plan.start_reason}), and only a sandbox that was restored from a seed can be suspended"
    if plan.own.shares:
        return "it has shares, and a suspended machine can't have any"
    seed = require_seed_machine(plan)
    if plan.cpus > seed.cpus or plan.memory_mib > seed.memory_mib:
        return "processors or memory were plugged into it, and a suspended machine can't have any"
    return ""


def require_seed_machine(plan: VmPlan) -> SeedMachine:
    """Return the seed's machine of a plan whose guest was restored or resumed."""
    assert plan.own.seed is not None
    return plan.own.seed


def layer_disk(directory: Path) -> Path:
    """The disk of a sandbox that takes what is written over the image."""
    return directory / "layer.img"


def data_disk(directory: Path) -> Path:
    """The disk that holds the data root of the block kind."""
    return directory / DATA_DISK


def stand_in(plan: VmPlan) -> str:
    """Return what is equal for clones that could be each other's until they are renewed.

    Empty for a machine that is started for one sandbox alone: one that boots, or that shares a directory.
    """
    if plan.start is not StartKind.RESTORE or plan.own.shares:
        return ""
    anybody = replace(with_machine(plan, data_directory=Path()), name="", timeout_seconds=0, accelerator_reason="",
                      start_reason="", warnings=())  # fmt: skip
    return json.dumps(plan_to_json(anybody), sort_keys=True)
