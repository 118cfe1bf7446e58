"""From plans to seeds and back: what a seed's machine depends on, which seed fits a plan, which files make a seed.

A seed can be restored only on a machine like its own: same QEMU, same devices, same processor. So all of that is in the
seed's key, part by part, and a part that differs is the reason why a seed does not fit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kata_dind.backend.plan import AnyPlan, StartKind, WantedSeed, plan_from_json
from kata_dind.backend.vm.plan import (
    CHILD_SUFFIX,
    MEMORY,
    SIZE_VARIABLE,
    STATE,
    PlannedShare,
    RunsOn,
    SeedMachine,
    VmPlan,
    asked_of,
    can_plug_cpus,
    can_plug_memory,
    container_request,
    data_disk,
    kept_shares,
    layer_disk,
    machine_shape,
    vm_plan,
    with_machine,
)
from kata_dind.backend.vm.saved import SavedState
from kata_dind.errors import CommandFailed, NoSpace, PlanOutdated, SeedUnfit, SpecError
from kata_dind.host.disks import copy_sparse, file_mark, link_or_copy
from kata_dind.host.json_files import read_json, write_passing_json
from kata_dind.host.process import require_tool, run
from kata_dind.host.processor import processor_facts
from kata_dind.image.cache import content_key
from kata_dind.image.store import adopt_image
from kata_dind.machine.argv import machine_argv, qemu_binary
from kata_dind.machine.shape import Wiring
from kata_dind.spec import DEFAULT_CPUS, DEFAULT_MEMORY, DEFAULT_SIZE, parse_size
from kata_dind.store.marks import changed_file
from kata_dind.store.seeds import FORMAT, Seed, internal_id, load_seed
from kata_dind.vocabulary import Accelerator, DataRootKind, Filesystem

if TYPE_CHECKING:
    from kata_dind.spec import SandboxSpec

SEEDABLE = (DataRootKind.BLOCK, DataRootKind.MEMORY)
"""Kinds whose data root is in the machine; loop and virtiofs lie on a share, which no seed's machine can have."""

_GROWS_TO_MIB = 1 << 20
"""Up to here a data root grows in the clone: 10 ms a GiB under TCG, so that 1 TiB takes 10 s, a third of a boot."""

_RUNS_ON = {"guest_os": "guest-os", "modules": "modules", "vmlinuz": "kernel", "initramfs": "initramfs",
            "image_disk": "image"}  # fmt: skip
"""The names that the files of `RunsOn` have in a seed."""

_COPY_SECONDS = 3600.0


def why_not_seedable(plan: VmPlan, *, stored: bool) -> str:
    """Return why a plan's machine can only boot; empty when it can be restored."""
    if stored:
        return "its data root is a volume, and a seed brings its own"
    if plan.data_root not in SEEDABLE:
        return f"a {plan.data_root} data root lies on a share, which a seed's machine can't have"
    return ""


def host_parts(plan: VmPlan, *, cache: Path) -> dict[str, str]:
    """Return the parts of this host that the seed of a plan depends on, each with its version or digest."""
    anywhere = Path("/seed")
    machine = with_machine(plan, shares=(), data_directory=anywhere, seed=None, runs_on=_runs_on(plan, Path()))
    bare = replace(machine, name="seed", start=StartKind.BOOT_TO_SNAPSHOT, seed="")
    return {
        "kata-dind": str(FORMAT),
        "QEMU": _qemu_identity(cache),
        "machine": content_key(machine_argv(machine_shape(bare, anywhere), Wiring(0, 0, anywhere))),
        "processor": _processor(Accelerator(plan.accelerator)),
    }


def _runs_on(plan: VmPlan, directory: Path) -> RunsOn:
    """Return what a plan's machine runs on, as it lies in a seed's directory."""
    return RunsOn(**{field: getattr(plan.own.runs_on, field) and directory / name for field, name in _RUNS_ON.items()})


def internal_key(plan: VmPlan, *, cache: Path) -> str:
    """Return the key of the internal seed for a plan: of the host's parts, and of all that runs in the machine.

    The cache names the files that the machine runs on by a key of their content, so their names stand for them.
    """
    machine, wanted = plan.own, seed_machine(plan)
    runs_on = [machine.runs_on.guest_os.stem, machine.runs_on.initramfs.stem, file_mark(machine.runs_on.vmlinuz),
               plan.image.image_id]  # fmt: skip
    told = tuple(word for word in machine.environment if not word.startswith(f"{SIZE_VARIABLE}="))
    asked = replace(machine.asked, host_ports=())  # which a clone is told when it is renewed
    bare = replace(with_machine(plan, shares=(), environment=told, asked=asked), name="seed", cpus=wanted.cpus,
                   memory_mib=wanted.memory_mib)  # fmt: skip
    request = container_request(bare, check=False)
    return content_key(host_parts(bare, cache=cache), runs_on, request, machine.asked.filesystem, wanted.data_root_mib)


def seed_machine(plan: VmPlan) -> WantedSeed:
    """Return the machine of the internal seed for a plan, without its key: a clone gets more while it runs."""
    return WantedSeed("", seed_cpus(plan), seed_memory_mib(plan), seed_root_mib(plan))


def seed_cpus(plan: VmPlan) -> int:
    """Return how many processors the internal seed for a plan has: a clone gets more of them while it runs."""
    return DEFAULT_CPUS if _plugs(plan) and can_plug_cpus(DEFAULT_CPUS, to=plan.cpus) else plan.cpus


def seed_memory_mib(plan: VmPlan) -> int:
    """Return how much memory the internal seed for a plan has: a clone gets more of it while it runs."""
    default_mib = parse_size(DEFAULT_MEMORY) >> 20
    return default_mib if _plugs(plan) and can_plug_memory(default_mib, to_mib=plan.memory_mib) else plan.memory_mib


def _plugs(plan: VmPlan) -> bool:
    # A kernel without modules is the user's, and may not support processors and memory that are plugged in. A data root
    # in memory would not grow with the memory.
    return plan.own.data_disk and plan.own.runs_on.modules is not None


def seed_root_mib(plan: VmPlan) -> int:
    """Return how large the data root of the internal seed for a plan is: a clone's ext4 grows on its own disk."""
    default_mib = parse_size(DEFAULT_SIZE) >> 20
    smaller = replace(plan, data_root_mib=min(default_mib, plan.data_root_mib))
    return smaller.data_root_mib if can_grow(smaller, to_mib=plan.data_root_mib) else plan.data_root_mib


def can_grow(plan: VmPlan, *, to_mib: int) -> bool:
    """Tell whether the data root of a clone of this plan's machine can grow to this size."""
    on_disk = plan.own.data_disk and plan.own.asked.filesystem is Filesystem.EXT4
    return on_disk and plan.data_root_mib <= to_mib <= _GROWS_TO_MIB


def require_fit(seed: Seed, *, cache: Path) -> None:
    """Raise SeedUnfit, with the reason, when a seed does not fit this host."""
    parts = host_parts(plan_of_seed(seed), cache=cache)
    if other := _other_parts(seed, parts):
        raise SeedUnfit(
            f"the seed '{seed.seed_id}' does not fit this host: it was made with another {', '.join(other)}",
            id="seed.other-host",
            details="\n".join(f"{name}: {seed.parts.get(name, 'none')}; here {parts[name]}" for name in other),
            hint=f"kata-dind seed rm {seed.seed_id}, then kata-dind seed build {seed.seed_id}",
        )


def plan_of_seed(seed: Seed) -> VmPlan:
    """Return the plan of the machine that became a seed. Raises SeedUnfit for a seed of another version."""
    try:
        return vm_plan(plan_from_json(seed.facts.get("plan") or {}))
    except PlanOutdated as error:
        raise SeedUnfit(
            f"the seed '{seed.seed_id}' was made by another version of kata-dind",
            id="seed.other-version", details=error.details,
            hint=f"kata-dind seed rm {seed.seed_id}, then kata-dind seed build {seed.seed_id}",
        ) from error  # fmt: skip


def _other_parts(seed: Seed, parts: Mapping[str, str]) -> list[str]:
    return [name for name in parts if seed.parts.get(name) != parts[name]]


def why_not_resumed(plan: VmPlan, state: SavedState, *, cache: Path) -> str:
    """Return why a sandbox, whose last plan this is, can't resume from its saved state; empty when it can."""
    if why := state.why_unusable():
        return why
    # The machine is that of its seed; only what is on its disks and in its memory is its own.
    seed = load_seed(plan.seed)
    other = _other_parts(seed, host_parts(plan_of_seed(seed), cache=cache)) if seed else ["seed"]
    return f"it was made with another {', '.join(other)}" if other else ""


def resumed_plan(before: VmPlan, shares: list[tuple[Path, str, bool]]) -> VmPlan:
    """Return the plan of a sandbox that resumes from its saved state: its machine is the same, but for its shares."""
    machine = with_machine(before, shares=kept_shares(before.own.shares, shares))
    return replace(machine, start=StartKind.RESUME, start_reason="its state was saved when it was stopped", warnings=())


def restored_plan(plan: VmPlan, seed: Seed, reason: str) -> VmPlan:
    """Return the plan of a clone: it is restored from a seed's memory, on the files that the seed's machine ran on."""
    made = plan_of_seed(seed)
    machine = SeedMachine(seed.directory, made.cpus, made.memory_mib, made.data_root_mib)
    return replace(with_machine(plan, seed=machine, runs_on=_runs_on(plan, seed.directory)), start=StartKind.RESTORE,
                   start_reason=reason, seed=seed.seed_id)  # fmt: skip


def booted_clone_plan(plan: VmPlan, before: VmPlan) -> VmPlan:
    """Return the plan of a clone's later start: it boots, since its disks don't match the seed's memory any more."""
    return replace(
        with_machine(plan, seed=before.own.seed),
        seed=before.seed,
        data_root_mib=max(plan.data_root_mib, before.data_root_mib),
        start_reason="its disks don't match the seed's memory any more",
    )


def pack_machine(plan: VmPlan, directory: Path, target: Path) -> tuple[list[str], list[str]]:
    """Move the files of a snapshot from a sandbox's directory into that of a seed, and make its children.

    Returns the names of the machine's files, and those of the children.
    """
    for name in (MEMORY, STATE, *_disk_names(plan)):
        (directory / name).rename(target / name)
    for field, name in _RUNS_ON.items():
        if (source := getattr(plan.own.runs_on, field)) is not None:
            link_or_copy(source, target / name)
    return machine_files(plan), make_children(plan, target)


def machine_files(plan: VmPlan) -> list[str]:
    """Return the names of the files that make up a seed's machine."""
    runs_on = [name for field, name in _RUNS_ON.items() if getattr(plan.own.runs_on, field) is not None]
    return [MEMORY, STATE, *_disk_names(plan), *runs_on]


def adopt_machine(plan: VmPlan, image: dict[str, Any], directory: Path) -> list[str]:
    """Register the image of an imported seed, and make its children; return their names."""
    adopt_image(directory / _RUNS_ON["image_disk"], image)
    return make_children(plan, directory)


def copy_disks(plan: VmPlan, directory: Path, target: Path) -> None:
    """Copy the disks of a stopped sandbox as whole, raw disks, also those that lie over a seed's. Raises NoSpace."""
    for disk in (layer_disk(directory), *([data_disk(plan.own.data_directory)] if plan.own.data_disk else [])):
        try:
            if plan.own.seed is None:
                copy_sparse(disk, target / disk.name)
            else:
                _flatten(disk.with_suffix(CHILD_SUFFIX), plan.own.seed.directory / disk.name, target / disk.name)
        except (OSError, CommandFailed) as error:
            details = error.details if isinstance(error, CommandFailed) else str(error)
            if "No space left" not in details:
                raise
            raise NoSpace(f"there is no space for a copy of {disk}", id="host.no-space", details=details) from error


def _flatten(child: Path, backing: Path, target: Path) -> None:
    # Named here, so that the name in the qcow2's header is never followed.
    source = {"driver": "qcow2", "file": {"driver": "file", "filename": str(child)},
              "backing": {"driver": "raw", "file": {"driver": "file", "filename": str(backing)}}}  # fmt: skip
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    run([qemu_img, "convert", "-O", "raw", f"json:{json.dumps(source)}", target], timeout_seconds=_COPY_SECONDS)


def _disk_names(plan: VmPlan) -> list[str]:
    anywhere = Path()
    return [layer_disk(anywhere).name, *([data_disk(anywhere).name] if plan.own.data_disk else [])]


def make_children(plan: VmPlan, directory: Path) -> list[str]:
    """Make the empty disks over a seed's own, of which each clone gets a copy; return their names."""
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    children = []
    for disk in _disk_names(plan):
        child = Path(disk).with_suffix(CHILD_SUFFIX).name
        # The size is given since the disk of an imported seed need not lie where the header says.
        size = (directory / disk).stat().st_size
        run(
            [qemu_img, "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", directory / disk, directory / child,
             str(size)],
            timeout_seconds=30,
        )  # fmt: skip
        children.append(child)
    return children


def clone_plan_of(before: AnyPlan | None) -> VmPlan | None:
    """Return the earlier plan of a sandbox whose disks lie over a seed's; None for all other sandboxes."""
    return vm_plan(before) if before is not None and before.seed else None


def _qemu_identity(cache: Path) -> str:
    """Return QEMU's version and a digest of its program, which are kept until the program changes."""
    program = require_tool(qemu_binary(), package="qemu-system-x86").resolve()
    known = file_mark(program)
    file = cache / "qemu.json"
    found = read_json(file)
    if found.get("program") != known:
        version = run([program, "--version"], timeout_seconds=30).stdout.partition("\n")[0]
        with program.open("rb") as binary:
            digest = hashlib.file_digest(binary, "sha256").hexdigest()[:16]
        found = {"program": known, "identity": f"{version.removeprefix('QEMU emulator version ')} {digest}"}
        write_passing_json(file, found)
    return str(found["identity"])


def _processor(accelerator: Accelerator) -> str:
    """Return the facts of the host's processor that a guest's state depends on: none for an emulated one."""
    if accelerator is Accelerator.TCG:
        return f"emulated {os.uname().machine}"
    facts = processor_facts()
    told = {key: facts.get(key) for key in ("model name", "stepping", "microcode", "flags", "Features")}
    return f"{facts.get('model name', os.uname().machine)} {content_key(told, os.uname().release)}"


def choose_start(
    plan: VmPlan, *, before: VmPlan | None, stored: bool, cold: bool, to_snapshot: bool, cache: Path
) -> VmPlan:
    """Return a plan that says how its guest comes up, and why."""
    if before is not None:
        return booted_clone_plan(plan, before)
    if to_snapshot:
        if why := why_not_seedable(plan, stored=stored):
            raise SpecError(f"--data-root: {why}", id="seed.data-root-unfit")
        return replace(plan, start=StartKind.BOOT_TO_SNAPSHOT, start_reason="to become a seed")
    if cold:
        return replace(plan, start_reason="as asked")
    if why := why_not_seedable(plan, stored=stored):
        return replace(plan, start_reason=why)
    wanted = replace(seed_machine(plan), key=internal_key(plan, cache=cache))
    seed = load_seed(internal_id(wanted.key))
    if seed is None or changed_file(seed.directory, seed.facts["files"]) is not None:
        return replace(plan, start_reason="there is no seed of such a machine", wanted_seed=wanted)
    return restored_plan(plan, seed, "there is a seed of such a machine")


def named_seed_plan(seed: Seed, spec: SandboxSpec, *, data_directory: Path, shares: tuple[PlannedShare, ...]) -> VmPlan:
    """Return the plan of a clone of a named seed, from a spec that has the seed's machine already."""
    mixed = replace(
        with_machine(plan_of_seed(seed), data_directory=data_directory, shares=shares, asked=asked_of(spec)),
        name=spec.name,
        cpus=spec.cpus,
        memory_mib=spec.memory_bytes >> 20,
        data_root_mib=spec.size_bytes >> 20,
        timeout_seconds=spec.timeout_seconds,
    )
    return restored_plan(mixed, seed, f"as asked, from the seed '{seed.name}'")
