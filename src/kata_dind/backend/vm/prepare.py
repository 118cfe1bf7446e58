"""From a spec to a plan on this host: the checks that need the host, the images, the accelerator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kata_dind.backend import StoredRoot, Wish
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
from kata_dind.dataroot.compatibility import asked_driver, asked_store, why_incompatible
from kata_dind.dataroot.kinds import KINDS, DataRootNeeds
from kata_dind.errors import ImageError, PermissionMissing, SpecError
from kata_dind.host.directories import cache_directory
from kata_dind.host.disks import XFS_LEAST_MIB
from kata_dind.host.namespaces import find_unshare, require_network_namespaces
from kata_dind.host.process import require_tool
from kata_dind.image.dind import require_dind_image
from kata_dind.image.guestos import require_guest_os
from kata_dind.image.kernel import read_kernel_version, require_guest_kernel
from kata_dind.image.source import default_source
from kata_dind.image.store import DindImage, require_image
from kata_dind.machine.accelerator import ProbeSettings, choose_accelerator
from kata_dind.machine.argv import qemu_binary
from kata_dind.machine.virtiofsd import require_virtiofsd
from kata_dind.progress import Report
from kata_dind.spec import (
    DEFAULT_SIZE,
    DataRootKind,
    Filesystem,
    SandboxSpec,
    require_same,
    spec_from_json,
)
from kata_dind.store.seeds import Seed, require_seed
from kata_dind.vocabulary import Fallback

SEED_FIELDS = ("data_root", "filesystem", "fallback", "virtiofs_xattr", "image", "kernel", "accelerator",
               "network", "dockerd_args")  # fmt: skip
"""The fields of a spec in which a clone can't differ from its seed."""


def prepare(wish: Wish, *, report: Report) -> VmPlan:
    """Check a wish against this host, make what is missing (guest OS, kernel, image), and plan.

    Nothing is created for the sandbox itself. Raises SpecError, HostError, KvmUnavailable or ImageError.
    """
    spec, stored, before = wish.spec, wish.stored, clone_plan_of(wish.before)
    if spec.seed:
        spec = with_seeds_machine(spec, require_seed(spec.seed), before)
    check_against_host(spec)
    lost = ""
    if before is not None and (state := find_saved(wish.directory)):
        lost = why_not_resumed(before, state, cache=cache_directory())
        if not lost:
            require_host_tools(shares=False)
            return resumed_plan(before)
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
    require_host_tools(shares=bool(spec.shares or needs.share), xfs=formats and spec.filesystem is Filesystem.XFS)
    image = _asked_image(spec.image) if spec.image else require_dind_image("", packages, report=report)
    if stored:
        require_compatible(stored, image, spec.dockerd_args, fallback=spec.fallback)
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
    shares = [(share.host_path.absolute(), str(share.guest_path), share.read_only) for share in spec.shares]
    return plan_shares(shares, needs, directory)


def _plan_from_named(spec: SandboxSpec, wish: Wish) -> VmPlan:
    """Plan a clone of a named seed, from a spec that has the seed's machine already."""
    seed = require_seed(spec.seed)
    if wish.stored:
        raise SpecError(
            "--volume: a clone has its data root from its seed; leave out --volume or --seed",
            id="spec.seed-with-volume",
        )
    require_fit(seed, cache=cache_directory())
    require_host_tools(shares=bool(spec.shares))
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


def check_against_host(spec: SandboxSpec) -> None:
    """Raise SpecError for what this host can't do: more memory than it has, shares that don't exist, a bad kernel."""
    if spec.memory_bytes > (total := _memory_bytes()):
        raise SpecError(
            f"--memory: '{spec.memory}' is more than this host has ({total >> 20}M)", id="spec.memory-beyond-host"
        )
    if spec.data_root is DataRootKind.MEMORY and spec.size_bytes > spec.memory_bytes:
        raise SpecError(
            f"--size: a memory data root of '{spec.size or DEFAULT_SIZE}' is larger than the guest's memory "
            f"({spec.memory}); use a smaller --size or a larger --memory",
            id="spec.size-beyond-memory",
        )
    _check_filesystem(spec)
    for share in spec.shares:
        named = f"--share: '{share.host_path}'"
        try:
            share.host_path.stat()
        except FileNotFoundError as error:
            raise SpecError(f"{named} does not exist on this host", id="share.missing") from error
        except OSError as error:
            raise SpecError(f"{named} cannot be read: {error.strerror}", id="share.unreadable") from error
        if not os.access(share.host_path, os.R_OK):
            raise SpecError(f"{named} may not be read by this user", id="share.unreadable")
    if spec.kernel is not None:
        read_kernel_version(spec.kernel)


def _check_filesystem(spec: SandboxSpec) -> None:
    if spec.filesystem is not Filesystem.XFS:
        return
    if spec.data_root in (DataRootKind.MEMORY, DataRootKind.VIRTIOFS):
        raise SpecError(
            f"--filesystem: 'xfs' needs a data root of the kind loop or block; a {spec.data_root} one "
            "has its own file system",
            id="spec.xfs-on-other-kind",
        )
    if spec.size_bytes < XFS_LEAST_MIB << 20:
        raise SpecError(
            f"--size: '{spec.size}' is too small for xfs; it must be at least {XFS_LEAST_MIB}M",
            id="spec.size-too-small-for-xfs",
        )


def _require_trusted_attributes() -> None:
    if os.geteuid() != 0:
        raise PermissionMissing(
            "--data-root: 'virtiofs' needs root: overlay's marks are trusted.* attributes, which only root may write",
            id="dataroot.virtiofs-needs-root",
            hint="use --data-root block or loop, or run kata-dind as root",
        )


def require_compatible(
    stored: StoredRoot, image: DindImage, dockerd_args: Sequence[str], *, fallback: Fallback = Fallback.NONE
) -> None:
    """Raise SpecError for a volume that the image's Docker can't open, before dockerd touches it."""
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
            id="volume.docker-incompatible",
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
        raise SpecError(f"--image: {error.summary}", id=error.id, hint=error.hint) from error


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
