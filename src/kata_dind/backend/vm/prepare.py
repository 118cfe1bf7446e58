"""From a spec to a plan on this host: the checks that need the host, the images, the accelerator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kata_dind.backend import StoredRoot
from kata_dind.backend.vm.plan import (
    Capabilities,
    Plan,
    can_plug_cpus,
    can_plug_memory,
    data_disk,
    make_plan,
    plan_from_json,
    plan_shares,
)
from kata_dind.backend.vm.saved import find_saved
from kata_dind.backend.vm.seeds import (
    can_grow,
    choose_start,
    named_seed_plan,
    require_fit,
    resumed_plan,
    why_not_resumed,
)
from kata_dind.dataroot.choose import choose_data_root
from kata_dind.dataroot.compatibility import asked_driver, asked_store, why_incompatible
from kata_dind.dataroot.kinds import KINDS
from kata_dind.errors import ImageError, PermissionMissing, SpecError
from kata_dind.host.directories import cache_directory
from kata_dind.host.disks import XFS_LEAST_MIB
from kata_dind.host.namespaces import find_unshare, require_network_namespaces
from kata_dind.host.process import require_tool
from kata_dind.image.dind import require_dind_image
from kata_dind.image.guestos import require_guest_os
from kata_dind.image.kernel import read_kernel_version, require_guest_kernel
from kata_dind.image.source import PackageSource
from kata_dind.image.store import DindImage, require_image
from kata_dind.machine.accelerator import ProbeSettings, choose_accelerator
from kata_dind.machine.argv import qemu_binary
from kata_dind.machine.virtiofsd import require_virtiofsd
from kata_dind.progress import Event, Report
from kata_dind.spec import (
    DEFAULT_CPUS,
    DEFAULT_MEMORY,
    DEFAULT_SIZE,
    DataRootKind,
    Filesystem,
    NetworkMode,
    SandboxSpec,
    parse_spec,
)
from kata_dind.store.seeds import Seed, require_seed
from kata_dind.vocabulary import Fallback

SEED_FIELDS = ("data_root", "filesystem", "fallback", "image", "kernel", "accelerator",
               "network", "dockerd_args")  # fmt: skip
"""What of a spec a saved machine has for good."""


def prepare(
    spec: SandboxSpec,
    directory: Path,
    source: PackageSource,
    *,
    stored: StoredRoot | None,
    before: Plan | None,
    to_save: bool,
    report: Report,
) -> Plan:
    """Check what was asked against this host, make what is missing (guest OS, kernel, image), and plan.

    `before` is the plan of the sandbox's earlier start when its disks lie over a seed's. Nothing of the
    sandbox is created. Raises SpecError, HostError, KvmUnavailable or ImageError.
    """
    if spec.seed and before is not None:
        spec = with_seeds_machine(spec, require_seed(spec.seed), before)
    check_against_host(spec)
    if before is not None and (resumed := _plan_of_saved(before, directory, report=report)):
        return resumed
    needs, reason = choose_data_root(spec.data_root)
    if needs.xattr and spec.virtiofs_xattr:
        _require_trusted_attributes()
    if stored:
        directory, reason = stored.directory, f"the volume '{stored.volume}' is of this kind"
    if spec.seed and before is None:
        return _plan_from_named(spec, directory, stored=stored)
    formats = needs.disk and not data_disk(directory).exists()
    require_host_tools(shares=bool(spec.shares or needs.share), xfs=formats and spec.filesystem is Filesystem.XFS)
    image = _asked_image(spec.image) if spec.image else require_dind_image("", source, report=report)
    if stored:
        require_compatible(stored, image, spec.dockerd_args, fallback=spec.fallback)
    guest_os = require_guest_os(source, report=report)
    kernel = require_guest_kernel(spec.kernel, source, report=report)
    accelerator, accelerator_reason = choose_accelerator(
        spec.accelerator,
        kernel=kernel.vmlinuz,
        initramfs=kernel.initramfs,
        settings=ProbeSettings(cache_directory()),
        timeout_seconds=spec.timeout_seconds,
        report=report,
    )
    shares = [(share.host_path.absolute(), str(share.guest_path), share.read_only) for share in spec.shares]
    plan = make_plan(
        name=spec.name,
        cpus=spec.cpus,
        memory_mib=spec.memory_bytes >> 20,
        needs=needs,
        data_root_reason=reason,
        data_root_mib=spec.size_bytes >> 20,
        filesystem=spec.filesystem,
        fallback=spec.fallback,
        dockerd_args=spec.dockerd_args,
        data_directory=directory,
        network=spec.network is NetworkMode.NAT,
        allow_link_local=spec.allow_link_local,
        shares=plan_shares(shares, needs, directory),
        virtiofs_xattr=spec.virtiofs_xattr,
        timeout_seconds=spec.timeout_seconds,
        capabilities=Capabilities(accelerator, accelerator_reason, guest_os, kernel, image),
    )
    return choose_start(
        plan, before=before, stored=stored is not None, cold=spec.cold, to_save=to_save, cache=cache_directory()
    )


def _plan_of_saved(before: Plan, directory: Path, *, report: Report) -> Plan | None:
    """Plan to go on from the saved state of a clone; None where there is none, or none that is any use."""
    saved = find_saved(directory)
    if saved is None:
        return None
    if why := why_not_resumed(before, saved, cache=cache_directory()):
        report(Event("warning", f"the saved state is lost, so the guest boots: {why}"))
        return None
    require_host_tools(shares=False)
    return resumed_plan(before)


def _plan_from_named(spec: SandboxSpec, directory: Path, *, stored: StoredRoot | None) -> Plan:
    """Plan a clone of a seed with a name, whose machine is as the seed's; what was asked for may not differ from it."""
    seed = require_seed(spec.seed)
    if stored:
        raise SpecError("--volume: a seed has its own data root; leave out --volume or --seed")
    made_of, defaults = seed.facts["spec"], SandboxSpec(name=spec.name)
    for field in SEED_FIELDS:
        asked = spec.model_dump(mode="json")[field]
        if asked not in (made_of.get(field), defaults.model_dump(mode="json")[field]):
            option = "--" + field.replace("_", "-")
            raise SpecError(f"{option}: {asked!r} is not what the seed '{spec.seed}' has ({made_of.get(field)!r})")
    require_fit(seed, cache=cache_directory())
    shares = [(share.host_path.absolute(), str(share.guest_path), share.read_only) for share in spec.shares]
    require_host_tools(shares=bool(shares))
    return named_seed_plan(
        seed,
        name=spec.name,
        cpus=_cpus_on_named(spec, seed),
        memory_mib=_memory_on_named(spec, seed),
        data_root_mib=_size_on_named(spec, seed),
        data_directory=directory,
        allow_link_local=spec.allow_link_local,
        shares=plan_shares(shares, KINDS[DataRootKind.BLOCK], directory),
        timeout_seconds=spec.timeout_seconds,
    )


def with_seeds_machine(spec: SandboxSpec, seed: Seed, before: Plan) -> SandboxSpec:
    """Return the spec of a clone of a seed with a name as it would have to be written out, for a later boot.

    What was left to the seed is the seed's; processors, memory and room are those of the clone's last start.
    """
    own = spec.model_dump(
        mode="json", include={"name", "image", "shares", "allow_link_local", "timeout_seconds", "seed"}
    )
    sizes = {"cpus": before.cpus, "memory": f"{before.memory_mib}M", "size": f"{before.data_root_mib}M"}
    return parse_spec(**{**seed.facts["spec"], **own, **sizes})


def _cpus_on_named(spec: SandboxSpec, seed: Seed) -> int:
    saved = int(seed.plan["cpus"])
    if spec.cpus in (DEFAULT_CPUS, saved):
        return saved
    if not can_plug_cpus(saved, to=spec.cpus):
        raise SpecError(
            f"--cpus: {spec.cpus} can't be had from the seed '{spec.seed}', which has {saved}; leave it out"
        )
    return spec.cpus


def _memory_on_named(spec: SandboxSpec, seed: Seed) -> int:
    saved_mib, asked_mib = int(seed.plan["memory_mib"]), spec.memory_bytes >> 20
    if spec.memory == DEFAULT_MEMORY:
        return saved_mib
    if not can_plug_memory(saved_mib, to_mib=asked_mib):
        raise SpecError(
            f"--memory: '{spec.memory}' can't be had from the seed '{spec.seed}', which has {saved_mib}M; leave it out"
        )
    return asked_mib


def _size_on_named(spec: SandboxSpec, seed: Seed) -> int:
    saved = plan_from_json(seed.plan)
    asked_mib = spec.size_bytes >> 20 if spec.size else saved.data_root_mib
    if asked_mib != saved.data_root_mib and not can_grow(saved, to_mib=asked_mib):
        raise SpecError(
            f"--size: '{spec.size}' can't be had from the seed '{spec.seed}' ({saved.data_root_mib}M); leave it out"
        )
    return asked_mib


def check_against_host(spec: SandboxSpec) -> None:
    """Raise SpecError for what this host can't have been asked: its memory, paths that don't exist, a bad kernel."""
    if spec.memory_bytes > (total := _memory_bytes()):
        raise SpecError(f"--memory: '{spec.memory}' is more than this host has ({total >> 20}M)")
    if spec.data_root is DataRootKind.MEMORY and spec.size_bytes > spec.memory_bytes:
        raise SpecError(
            f"--size: '{spec.size or DEFAULT_SIZE}' of a memory data root is more than the guest's memory "
            f"({spec.memory}); use a smaller --size or a larger --memory"
        )
    _check_filesystem(spec)
    for share in spec.shares:
        try:
            share.host_path.stat()
        except OSError as error:
            absent = isinstance(error, FileNotFoundError)
            found = "does not exist on this host" if absent else f"cannot be read: {error.strerror}"
            raise SpecError(f"--share: '{share.host_path}' {found}") from error
        if not os.access(share.host_path, os.R_OK):
            raise SpecError(f"--share: '{share.host_path}' may not be read by this user")
    if spec.kernel is not None:
        read_kernel_version(spec.kernel)


def _check_filesystem(spec: SandboxSpec) -> None:
    if spec.filesystem is not Filesystem.XFS:
        return
    if spec.data_root in (DataRootKind.MEMORY, DataRootKind.VIRTIOFS):
        raise SpecError(
            f"--filesystem: 'xfs' is for the kinds loop and block; a {spec.data_root} data root has its own"
        )
    if spec.size_bytes < XFS_LEAST_MIB << 20:
        raise SpecError(f"--size: '{spec.size}' is too small for xfs; it must be at least {XFS_LEAST_MIB}M")


def _require_trusted_attributes() -> None:
    if os.geteuid() != 0:
        raise PermissionMissing(
            "--data-root: 'virtiofs' needs root: overlay's marks are trusted.* attributes, which only root may write",
            hint="use --data-root block or loop, or run kata-dind as root",
        )


def require_compatible(
    stored: StoredRoot, image: DindImage, dockerd_args: Sequence[str], *, fallback: Fallback = Fallback.NONE
) -> None:
    """Raise SpecError, before dockerd touches it, for a volume that the image's Docker can't open."""
    why = why_incompatible(
        written_by=stored.docker_version,
        storage=stored.storage,
        docker_version=image.docker_version,
        containerd_store=asked_store(dockerd_args),
        storage_driver=asked_driver(dockerd_args),
        fallback=fallback,
    )
    if why:
        raise SpecError(
            f"--volume: '{stored.volume}' was last written by Docker {stored.docker_version}: {why}",
            hint="choose an --image with a Docker that opens it, or another --volume",
        )


def require_host_tools(*, shares: bool, xfs: bool = False) -> None:
    """Raise ToolMissing or PermissionMissing before anything slow is begun."""
    require_tool(qemu_binary(), package="qemu-system-x86")
    require_tool("slirp4netns", package="slirp4netns")
    require_tool("mke2fs", package="e2fsprogs")
    if xfs:
        require_tool("mkfs.xfs", package="xfsprogs")
    require_network_namespaces(find_unshare(), as_root=os.geteuid() == 0, cache=cache_directory())
    if shares:
        require_virtiofsd()


def _asked_image(reference: str) -> DindImage:
    try:
        return require_image(reference)
    except ImageError as error:
        raise SpecError(f"--image: {error.summary}", hint=error.hint) from error


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
