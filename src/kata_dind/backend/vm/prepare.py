"""From a spec to a plan on this host: the checks that need the host, the images, the accelerator."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from kata_dind.backend import Wish
from kata_dind.backend.host_checks import check_against_host, require_compatible
from kata_dind.backend.vm.plan import (
    Capabilities,
    DataRootChoice,
    PlannedShare,
    VmPlan,
    can_plug_cpus,
    can_plug_memory,
    data_disk,
    make_plan,
    plan_shares,
    why_no_ports,
)
from kata_dind.backend.vm.saved import find_saved
from kata_dind.backend.vm.seeds import (
    can_grow,
    choose_start,
    clone_plan_of,
    named_seed_plan,
    plan_of_seed,
    require_fit,
    resumed_plan,
    why_not_resumed,
)
from kata_dind.dataroot.choose import choose_data_root
from kata_dind.dataroot.kinds import KINDS, DataRootNeeds
from kata_dind.errors import ImageError, PermissionMissing, SpecError
from kata_dind.host.directories import cache_directory
from kata_dind.host.namespaces import find_unshare, require_network_namespaces
from kata_dind.host.process import require_tool
from kata_dind.image.dind import require_dind_image
from kata_dind.image.guestos import require_guest_os
from kata_dind.image.kernel import require_guest_kernel
from kata_dind.image.source import default_source
from kata_dind.image.store import DindImage, require_image
from kata_dind.machine.accelerator import ProbeSettings, choose_accelerator
from kata_dind.machine.argv import qemu_binary
from kata_dind.machine.network import require_tun_device
from kata_dind.machine.virtiofsd import require_virtiofsd
from kata_dind.progress import Report
from kata_dind.spec import (
    DataRootKind,
    Filesystem,
    SandboxSpec,
    require_same,
    spec_from_json,
)
from kata_dind.store.seeds import Seed, require_seed
from kata_dind.vocabulary import NetworkMode

SEED_FIELDS = ("data_root", "filesystem", "fallback", "virtiofs_xattr", "image", "kernel", "accelerator",
               "network", "dockerd_args")  # fmt: skip
"""The fields of a spec in which a clone can't differ from its seed."""


def prepare(wish: Wish, *, report: Report) -> VmPlan:
    """Check a wish against this host, make what is missing (guest OS, kernel, image), and plan.

    Nothing is created for the sandbox itself. Raises SpecError, HostError, KvmUnavailable or ImageError.
    """
    plan = _prepared(wish, report=report)
    why = why_no_ports(plan)
    return replace(plan, warnings=(*plan.warnings, why)) if why else plan


def _prepared(wish: Wish, *, report: Report) -> VmPlan:
    spec, stored, before = wish.spec, wish.stored, clone_plan_of(wish.before)
    if spec.seed:
        spec = with_seeds_machine(spec, require_seed(spec.seed), before)
    check_against_host(spec)
    lost = ""
    if before is not None and (state := find_saved(wish.directory)):
        lost = why_not_resumed(before, state, cache=cache_directory())
        if not lost:
            require_host_tools(network=spec.network, shares=bool(spec.shares))
            return resumed_plan(before, _asked_shares(spec))
    if spec.seed and before is None:
        return _plan_from_named(spec, wish)
    plan = _plan_of_machine(spec, wish, report=report)
    plan = choose_start(plan, before=before, stored=stored is not None, cold=spec.cold, to_snapshot=wish.to_snapshot,
                        cache=cache_directory())  # fmt: skip
    return replace(plan, warnings=(f"the saved state is lost, so the guest boots: {lost}",)) if lost else plan


def _plan_of_machine(spec: SandboxSpec, wish: Wish, *, report: Report) -> VmPlan:
    """Plan a machine from the guest OS, kernel and image of this host; missing ones are made."""
    stored, packages = wish.stored, wish.packages or default_source()
    needs, reason = choose_data_root(spec.data_root)
    if needs.xattr and spec.virtiofs_xattr:
        _require_trusted_attributes()
    directory = stored.directory if stored else wish.directory
    if stored:
        reason = f"the volume '{stored.volume}' has a data root of this kind"
    formats = needs.disk and not data_disk(directory).exists()
    require_host_tools(
        network=spec.network,
        shares=bool(spec.shares or needs.share),
        xfs=formats and spec.filesystem is Filesystem.XFS,
    )
    image = _asked_image(spec.image) if spec.image else require_dind_image("", packages, report=report)
    if stored:
        require_compatible(stored, image.docker_version, spec.dockerd_args, fallback=spec.fallback)
    guest_os = require_guest_os(packages, report=report)
    kernel = require_guest_kernel(spec.kernel, packages, report=report)
    accelerator, accelerator_reason = choose_accelerator(
        spec.accelerator,
        kernel=kernel.vmlinuz,
        initramfs=kernel.initramfs,
        settings=ProbeSettings(cache_directory()),
        timeout_seconds=spec.timeout_seconds,
        report=report,
    )
    plan = make_plan(
        spec,
        DataRootChoice(needs, reason, directory),
        _shares(spec, needs, directory),
        Capabilities(accelerator, accelerator_reason, guest_os, kernel, image),
    )
    return replace(plan, volume=stored.volume) if stored else plan


def _shares(spec: SandboxSpec, needs: DataRootNeeds, directory: Path) -> tuple[PlannedShare, ...]:
    return plan_shares(_asked_shares(spec), needs, directory)


def _asked_shares(spec: SandboxSpec) -> list[tuple[Path, str, bool]]:
    return [(share.host_path.absolute(), str(share.guest_path), share.read_only) for share in spec.shares]


def _plan_from_named(spec: SandboxSpec, wish: Wish) -> VmPlan:
    """Plan a clone of a named seed, from a spec that has the seed's machine already."""
    seed = require_seed(spec.seed)
    if wish.stored:
        raise SpecError(
            "--volume: a clone has its data root from its seed; leave out --volume or --seed",
            id="spec.seed-with-volume",
        )
    require_fit(seed, cache=cache_directory())
    require_host_tools(network=spec.network, shares=bool(spec.shares))
    return named_seed_plan(seed, spec, data_directory=wish.directory,
                           shares=_shares(spec, KINDS[DataRootKind.BLOCK], wish.directory))  # fmt: skip


def with_seeds_machine(spec: SandboxSpec, seed: Seed, before: VmPlan | None) -> SandboxSpec:
    """Return the spec of a clone of a named seed, with the values of its machine filled in.

    A field that was not given has the seed's value. For a later boot, processors, memory and size are those of the
    clone's last start, `before`. For a new clone they are the given ones. Raises SpecError for a given value that the
    clone can't have, since the seed's is another.
    """
    made_of = spec_from_json(seed.facts["spec"])
    own = {"image", "kernel"} if before is None else {"image"}
    settled = {field: getattr(made_of, field) for field in SEED_FIELDS if field not in own}
    if before is None:
        _require_seeds(spec, seed, made_of)
        sizes = _cpus_on_named(spec, seed), _memory_on_named(spec, seed), _size_on_named(spec, seed)
    else:
        sizes = before.cpus, before.memory_mib, before.data_root_mib
    cpus, memory_mib, root_mib = sizes
    return spec.settled(**settled, cpus=cpus, memory=f"{memory_mib}M", size=f"{root_mib}M")


def _require_seeds(spec: SandboxSpec, seed: Seed, made_of: SandboxSpec) -> None:
    """Raise SpecError when a value was given that differs from the seed's and can't."""
    made = plan_of_seed(seed)
    had: dict[str, tuple[object, ...]] = {field: (getattr(made_of, field),) for field in SEED_FIELDS}
    had["data_root"] = (made.data_root,)
    had["accelerator"] = (made.accelerator,)
    had["image"] = (made.image.reference, made_of.image, made.image.image_id)
    require_same(spec, had, of=f"the seed '{spec.seed}'")
    if spec.host_ports and made_of.network is NetworkMode.NONE:
        raise SpecError(
            f"--host-port: {spec.host_ports[0]} can't be reached without a network, "
            f"and the seed '{spec.seed}' has none; leave it out",
            id="spec.host-port-without-network",
        )


def _cpus_on_named(spec: SandboxSpec, seed: Seed) -> int:
    made = plan_of_seed(seed).cpus
    if "cpus" not in spec.given:
        return made
    if not can_plug_cpus(made, to=spec.cpus):
        raise SpecError(
            f"--cpus: a clone of the seed '{spec.seed}', which has {made}, can't have {spec.cpus}; leave out --cpus",
            id="spec.cpus-not-on-seed",
        )
    return spec.cpus


def _memory_on_named(spec: SandboxSpec, seed: Seed) -> int:
    made_mib, asked_mib = plan_of_seed(seed).memory_mib, spec.memory_bytes >> 20
    if "memory" not in spec.given:
        return made_mib
    if not can_plug_memory(made_mib, to_mib=asked_mib):
        raise SpecError(
            f"--memory: a clone of the seed '{spec.seed}', which has {made_mib}M, can't have '{spec.memory}'; "
            "leave out --memory",
            id="spec.memory-not-on-seed",
        )
    return asked_mib


def _size_on_named(spec: SandboxSpec, seed: Seed) -> int:
    made = plan_of_seed(seed)
    asked_mib = spec.size_bytes >> 20 if "size" in spec.given else made.data_root_mib
    if asked_mib != made.data_root_mib and not can_grow(made, to_mib=asked_mib):
        raise SpecError(
            f"--size: a clone of the seed '{spec.seed}', which has {made.data_root_mib}M, can't have '{spec.size}'; "
            "leave out --size",
            id="spec.size-not-on-seed",
        )
    return asked_mib


def _require_trusted_attributes() -> None:
    if os.geteuid() != 0:
        raise PermissionMissing(
            "--data-root: 'virtiofs' needs root: overlay's marks are trusted.* attributes, which only root may write",
            id="dataroot.virtiofs-needs-root",
            hint="use --data-root block or loop, or run kata-dind as root",
        )


def require_host_tools(*, network: NetworkMode, shares: bool, xfs: bool = False) -> None:
    """Raise ToolMissing or PermissionMissing before anything slow is begun."""
    require_tool(qemu_binary(), package="qemu-system-x86")
    require_tool("slirp4netns", package="slirp4netns")
    require_tool("mke2fs", package="e2fsprogs")
    if xfs:
        require_tool("mkfs.xfs", package="xfsprogs")
    require_network_namespaces(find_unshare(), as_root=os.geteuid() == 0, cache=cache_directory())
    if network is NetworkMode.NAT:
        require_tun_device()
    if shares:
        require_virtiofsd()


def _asked_image(reference: str) -> DindImage:
    try:
        return require_image(reference)
    except ImageError as error:
        raise SpecError(f"--image: {error.summary}", id=error.id, hint=error.hint) from error
