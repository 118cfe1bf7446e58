"""What every backend that runs guests on this host checks of a spec: memory, sizes, shares, the kernel, a volume."""

from __future__ import annotations

import os
from collections.abc import Sequence

from kata_dind.backend import StoredRoot
from kata_dind.dataroot.compatibility import asked_driver, asked_store, why_incompatible
from kata_dind.errors import SpecError
from kata_dind.host.disks import XFS_LEAST_MIB
from kata_dind.host.shareable import require_shareable
from kata_dind.image.kernel import read_kernel_version
from kata_dind.spec import DEFAULT_SIZE, SandboxSpec
from kata_dind.vocabulary import DataRootKind, Fallback, Filesystem


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
        require_shareable(share.host_path)
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


def require_compatible(
    stored: StoredRoot, docker_version: str, dockerd_args: Sequence[str], *, fallback: Fallback = Fallback.NONE
) -> None:
    """Raise SpecError for a volume that the image's Docker can't open, before dockerd touches it."""
    why = why_incompatible(
        written_by=stored.docker_version,
        storage=stored.storage,
        docker_version=docker_version,
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


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
