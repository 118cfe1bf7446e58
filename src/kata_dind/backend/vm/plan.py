"""What the vm backend will do, and why, computed from the spec and the facts of this host. Pure."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kata_dind.backend.dockerd import ASKS_FOR_PORTS, dockerd_argv, why_not_told
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
"""Two files of a snapshot, and the suffix of a disk that lies over a seed's disk, whose own suffix is `.img`."""

MOST_CPUS = 8
"""How many processors a clone can have; each costs a seed's machine some 100 KiB of its memory."""
MOST_MEMORY_MIB = 64 << 10
"""How much memory a clone can have, which costs a seed's machine nothing."""
_MEMORY_BLOCK_MIB = 128
"""Linux takes further memory in blocks of this size."""

SIZE_VARIABLE = "KATA_DIND_SIZE"


@dataclass(frozen=True)
class PlannedShare:
    """A share: its place below the shared directory, and where the container sees it."""

    name: str
    host_path: Path
    guest_path: str
    read_only: bool


@dataclass(frozen=True)
class RunsOn:
    """The files that a machine runs on and never writes."""

    guest_os: Path
    vmlinuz: Path
    initramfs: Path
    modules: Path | None
    image_disk: Path


@dataclass(frozen=True)
class Asked:
    """The options that reach the machine unchanged, by their names in the spec.

    A new option of this kind is declared in the spec, on the command line, and here; then it is used.
    """

    filesystem: Filesystem
    network: NetworkMode
    allow_link_local: bool
    host_ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class SeedMachine:
    """The machine of the seed that a clone is restored from; what the clone needs beyond it is plugged in."""

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
    """The directory of the data root, which is a disk or a share there: the sandbox's, or its volume's."""
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
    """The facts of this host that a sandbox's plan is made from."""

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
        "KATA_DIND_EXCLUSIVE": "1",  # by the host's locks, which end with the machine
        **needs.environment,
    }
    machine = Machine(
        runs_on=RunsOn(capabilities.guest_os, kernel.vmlinuz, kernel.initramfs, kernel.modules, image.disk),
        kernel_origin=kernel.origin,
        asked=asked_of(spec),
        argv=(*dockerd_argv(image), ASKS_FOR_PORTS, *spec.dockerd_args),
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
    """Return the options of a spec that reach the machine unchanged."""
    return Asked(**{field.name: getattr(spec, field.name) for field in dataclasses.fields(Asked)})


def why_no_ports(plan: VmPlan) -> str:
    """Return why this host never hears of the ports that a plan's dockerd publishes; empty where it does."""
    if ASKS_FOR_PORTS not in plan.own.argv:
        made_by = f"the seed '{plan.seed}' was" if plan.seed else "it was"
        return (
            f"published ports can't be reached from this host, since {made_by} made by an earlier version of kata-dind"
        )
    return why_not_told(plan.own.argv)


def _own_environment(image: DindImage) -> tuple[str, ...]:
    """Return an image's variables, without those that our entrypoint would take for the user's options.

    What starts containerd is the image's to say: a script of its own may start dockerd as another user.
    """
    images = re.compile(r"(?!KATA_DIND_)|KATA_DIND_CONTAINERD=")
    return tuple(pair for pair in image.environment if images.match(pair))


def next_share(shares: tuple[PlannedShare, ...], host_path: Path, guest_path: str, *, read_only: bool) -> PlannedShare:
    """Name a further share."""
    numbers = [int(share.name.rpartition("-")[2]) for share in shares if share.name != DATA_ROOT_SHARE]
    return PlannedShare(f"share-{max(numbers, default=-1) + 1}", host_path, guest_path, read_only)


def kept_shares(before: tuple[PlannedShare, ...], shares: list[tuple[Path, str, bool]]) -> tuple[PlannedShare, ...]:
    """Name the shares of a machine that resumes: those that it had keep their names, by which its guest knows them."""
    named = {(share.host_path, share.guest_path, share.read_only): share for share in before}
    used = before
    kept = []
    for host_path, guest_path, read_only in shares:
        share = named.get((host_path, guest_path, read_only))
        if share is None:
            share = next_share(used, host_path, guest_path, read_only=read_only)
            used = (*used, share)
        kept.append(share)
    return tuple(kept)


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
        # A clone's lies beside its other disk, since no clone has its data root on a volume.
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
        # A machine that boots may get shares later.
        shared_directory=bool(plan.own.shares) or plan.start is StartKind.BOOT,
        memory_file=memory_file,
    )


def _own_disk(serial: str, disk: Path, plan: VmPlan) -> Disk:
    """Return a disk that the sandbox writes: a raw one, or a qcow2 over the seed's disk of the same name."""
    if plan.own.seed is None:
        return Disk(serial, disk)
    return Disk(serial, disk.with_suffix(CHILD_SUFFIX), backing=plan.own.seed.directory / disk.name)


def container_request(plan: VmPlan, *, check: bool, entropy: bytes = b"") -> dict[str, Any]:
    """Compute the agent's request: to start the container, or to renew a guest that was restored or resumed.

    `check` demands a full check of the data root's file system. `entropy` is for a guest that is renewed, since without
    it every clone of a seed would draw the same random numbers.
    """
    nameserver = GUEST_GATEWAY if plan.own.asked.host_ports else OUTER_DNS  # see machine/names.py
    network = {"address": GUEST_ADDRESS, "gateway": GUEST_GATEWAY, "nameserver": nameserver}
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


def can_plug_cpus(seeds: int, *, to: int) -> bool:
    """Tell whether a clone of a seed with some processors can get further ones."""
    return seeds <= to <= max(seeds, MOST_CPUS)


def can_plug_memory(seeds_mib: int, *, to_mib: int) -> bool:
    """Tell whether a clone of a seed with some memory can get further memory."""
    return seeds_mib <= to_mib <= max(seeds_mib, MOST_MEMORY_MIB) and (to_mib - seeds_mib) % _MEMORY_BLOCK_MIB == 0


def grows(plan: VmPlan) -> bool:
    """Tell whether a restored guest's data root is to become larger than the seed's."""
    seed = plan.own.seed if plan.start is StartKind.RESTORE else None  # that of a resumed guest has grown already
    return seed is not None and plan.own.data_disk and plan.data_root_mib > seed.data_root_mib


def why_not_suspendable(plan: VmPlan) -> str:
    """Return why the guest of a plan can't be suspended, as a part of a sentence; empty when it can."""
    if not plan.start.continues:
        return f"it has booted ({plan.start_reason}), and only a sandbox that was restored from a seed can be suspended"
    seed = require_seed_machine(plan)
    if plan.cpus > seed.cpus or plan.memory_mib > seed.memory_mib:
        return "processors or memory were plugged into it, and a suspended machine can't have any"
    return ""


def can_plug_share(plan: VmPlan) -> bool:
    """Tell whether a running machine can be given its first share: virtiofsd must see its memory."""
    return plan.start is StartKind.BOOT or bool(plan.own.shares)


def require_seed_machine(plan: VmPlan) -> SeedMachine:
    """Return the seed's machine of a plan whose guest was restored or resumed."""
    assert plan.own.seed is not None
    return plan.own.seed


def layer_disk(directory: Path) -> Path:
    """Return the path of the disk that takes what a sandbox writes over its image."""
    return directory / "layer.img"


def data_disk(directory: Path) -> Path:
    """Return the path of the disk with a data root of the block kind."""
    return directory / DATA_DISK


def stand_in(plan: VmPlan) -> str:
    """Return a key that two plans share if a clone started for one can be adopted for the other.

    Empty for a machine that can only be started for one sandbox: one that boots, or has shares.
    """
    if plan.start is not StartKind.RESTORE or plan.own.shares:
        return ""
    anybody = replace(with_machine(plan, data_directory=Path()), name="", timeout_seconds=0, accelerator_reason="",
                      start_reason="", warnings=())  # fmt: skip
    return json.dumps(plan_to_json(anybody), sort_keys=True)
