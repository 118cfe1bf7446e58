"""What a program with a data root does on what the root lies on, and what follows.

Source: moby's `daemon/image_store_choice.go` and graphdriver packages; measurements with 20.10, 26.1 and 28.5 on
virtio-fs; BuildKit's `--oci-worker-snapshotter=auto`.
"""

from __future__ import annotations

from kata_dind.drivers import FALLBACK_DRIVERS, FIRST_WITHOUT, STORAGE_DRIVERS, UNFIT_DRIVERS
from kata_dind.pod.handlers import Runtime, Vmm
from kata_dind.pod.model import Backing, Outcome, Program, version_text
from kata_dind.pod.sentences import plain
from kata_dind.vocabulary import Fallback

Answer = tuple[Outcome, str]

_COPYING_DRIVERS = FALLBACK_DRIVERS[Fallback.VFS]
_GRAPHDRIVERS = STORAGE_DRIVERS.difference(UNFIT_DRIVERS)
"""dockerd's drivers that need overlay, or a file system or a Docker of their own."""

_COPIES = "which copies each layer as a whole: slow, and several times as large"


def outcome_of(
    program: Program,
    version: tuple[int, ...],
    backing: Backing,
    runtime: Runtime | None,
    *,
    rootless: bool = False,
    driver: str = "",
) -> Answer:
    """Return what becomes of a program on its data root, and why, as a clause.

    `version` is the program's, as far as it is known; `driver` the storage driver or snapshotter that the pod names.
    """
    name, driver = _named(program, version), plain(driver)
    match backing:
        case Backing.UNKNOWN:
            return Outcome.UNKNOWN, f"what {name} does there is not known"
        case Backing.UNFIT:
            return Outcome.FAILS, f"{name} can't keep its data there"
        case Backing.RAW:
            return Outcome.FAILS, f"{name} needs a directory, so the device has to be formatted and mounted first"
        case Backing.DISK | Backing.MEMORY:
            return _on_good(program, version, backing, runtime, rootless=rootless, driver=driver)
        case Backing.VIRTIOFS | Backing.HOST if runtime is not None and runtime.virtiofs_fit:
            return _on_fit_share(program, version, driver)
        case _:
            outcome, because = _on_share(program, version, runtime, rootless=rootless, driver=driver)
            if backing is Backing.GUEST_ROOT:
                because = f"unless the snapshotter is devmapper, {because}"
            if backing is Backing.HOST:
                because += "; and a second daemon on the same directory would destroy the data of both"
            return outcome, because


def with_layers_on(layers: Backing, version: tuple[int, ...], driver: str) -> Answer | None:
    """Return what becomes of dockerd on a bad data root if the directory of overlay2 in it lies on `layers`.

    None if that doesn't help: overlay2 needs no more than its own directory, but from 29 on it is used only where it is
    named, and vfs has a directory of its own.
    """
    if layers not in (Backing.DISK, Backing.MEMORY) or driver not in ("", "overlay2"):
        return None
    name = _named(Program.DOCKERD, version)
    if driver or (version and version[0] < 29):
        return (
            Outcome.WORKS,
            f"overlay works in its directory `overlay2`, a volume of its own, and {name} needs no more",
        )
    if not version:
        return Outcome.FAILS, (
            "Docker 29 and later, whose images are not in the directory `overlay2`, start, look healthy, and fail at "
            "the first pull or run; earlier ones work, since that directory is a volume on which overlay works"
        )
    return None


def _named(program: Program, version: tuple[int, ...]) -> str:
    name = program.product
    if not version:
        return name
    # Docker is known by one number since 23.
    shown = version[:1] if program is Program.DOCKERD and version[0] > 20 else version[:2]
    return f"{name} {version_text(program, shown)}"


def _on_good(
    program: Program,
    version: tuple[int, ...],
    backing: Backing,
    runtime: Runtime | None,
    *,
    rootless: bool,
    driver: str,
) -> Answer:
    name = _named(program, version)
    if driver in _COPYING_DRIVERS:
        return Outcome.SLOW, f"overlay works there, but {name} is told to use {driver}, {_COPIES}"
    if driver == "fuse-overlayfs":
        return (
            Outcome.FAILS,
            f"overlay works there, but {name} is told to use fuse-overlayfs, and a Kata container has no /dev/fuse",
        )
    if refusal := _refused_driver(program, version, driver):
        return Outcome.FAILS, f"overlay works there, but {refusal}"
    if rootless and runtime is not None and runtime.is_before(3, 0):
        return Outcome.UNKNOWN, (
            f"overlay works there for root, but for {name} without root only from Linux 5.11 on, "
            f"which {runtime.version_text} may not have"
        )
    because = f"overlay works there, so {name} does"
    if backing is Backing.MEMORY:
        because += ", and all that it stores takes memory of the guest"
        if runtime is not None and runtime.is_before(3, 18):
            user = ", and rootless ones may fail" if rootless else ""
            because += (
                "; the tmpfs of the kernels before Kata 3.18 has no extended attributes, "
                f"so images with file capabilities fail{user}"
            )
    return Outcome.WORKS, because


def _refused_driver(program: Program, version: tuple[int, ...], driver: str) -> str:
    """Return why dockerd exits with a driver that is named, although overlay2 would work; empty if it doesn't."""
    if program is not Program.DOCKERD or driver not in _GRAPHDRIVERS - {"overlay2"}:
        return ""
    name = _named(program, version)
    removed = FIRST_WITHOUT.get(driver)
    if removed is None:
        return f"{name} exits, since the driver {driver} needs a file system of that kind"
    if not version or version[0] >= removed:
        return f"Docker {removed} and later exit, since they have the driver {driver} no more"
    return ""


def _on_fit_share(program: Program, version: tuple[int, ...], driver: str) -> Answer:
    name = _named(program, version)
    if driver in _COPYING_DRIVERS:
        return Outcome.SLOW, f"{name} is told to use {driver}, {_COPIES}"
    return Outcome.WORKS, (
        f"virtiofsd has the extended attributes that overlay needs, so {name} works, if slower than on a disk; "
        "builds have failed with input/output errors on such shares (kata#5818)"
    )


def _on_share(
    program: Program, version: tuple[int, ...], runtime: Runtime | None, *, rootless: bool, driver: str
) -> Answer:
    match program:
        case Program.DOCKERD:
            return _dockerd_on_share(version, runtime, rootless=rootless, driver=driver)
        case Program.CONTAINERD:
            return _containerd_on_share(version, driver)
        case _:
            return _buildkit_on_share(program, version, driver)


def _dockerd_on_share(version: tuple[int, ...], runtime: Runtime | None, *, rootless: bool, driver: str) -> Answer:
    name = _named(Program.DOCKERD, version)
    if driver == "vfs":
        return _vfs_on_share(version, f"{name} is told to use vfs")
    if driver == "native":
        return Outcome.SLOW, f"{name} is told to use the snapshotter native, {_COPIES}"
    if driver == "fuse-overlayfs":
        return (
            Outcome.FAILS,
            f"{name} is told to use fuse-overlayfs, and exits, since a Kata container has no /dev/fuse",
        )
    if driver in _GRAPHDRIVERS:
        return Outcome.FAILS, (
            f"overlay does not work there, and {name} is told to use {driver}, so it exits with "
            "`error initializing graphdriver: driver not supported`"
        )
    if rootless and runtime is not None and runtime.vmm is Vmm.DRAGONBALL:
        return Outcome.UNKNOWN, (
            f"overlay may work there for {name} without root, since the share of Dragonball has extended attributes"
        )
    if driver:
        return (
            Outcome.FAILS,
            f"overlay does not work there, so {name} with the snapshotter {driver} fails at the first pull",
        )
    return _chosen_on_share(version)


def _chosen_on_share(version: tuple[int, ...]) -> Answer:
    """Return what dockerd makes of a share when nobody names a driver."""
    name = _named(Program.DOCKERD, version)
    if not version:
        return Outcome.FAILS, (
            "overlay does not work there: Docker 29 and later start, look healthy, and fail at the first pull or run; "
            f"earlier ones silently use vfs, {_COPIES}"
        )
    if version[0] >= 29:
        return (
            Outcome.FAILS,
            f"overlay does not work there: {name} starts, looks healthy, and fails at the first pull or run",
        )
    return _vfs_on_share(version, f"overlay does not work there, and {name} silently uses vfs")


def _vfs_on_share(version: tuple[int, ...], beginning: str) -> Answer:
    if version and version[0] <= 20:
        return Outcome.FAILS, f"{beginning}, with which `docker run` fails: `operation not supported`"
    addition = "" if version else "; up to 20.10, `docker run` fails"
    return Outcome.SLOW, f"{beginning}, {_COPIES}{addition}"


def _containerd_on_share(version: tuple[int, ...], driver: str) -> Answer:
    name = _named(Program.CONTAINERD, version)
    if driver in _COPYING_DRIVERS:
        return Outcome.SLOW, f"{name} is told to use the snapshotter {driver}, {_COPIES}"
    return (
        Outcome.FAILS,
        f"overlay does not work there: {name} starts, looks healthy, and fails at the first pull or run",
    )


def _buildkit_on_share(program: Program, version: tuple[int, ...], driver: str) -> Answer:
    name = _named(program, version)
    if driver in _COPYING_DRIVERS:
        return Outcome.SLOW, f"{name} is told to use the snapshotter {driver}, {_COPIES}"
    if driver not in ("", "auto"):
        return (
            Outcome.FAILS,
            f"overlay does not work there, and {name} is told to use {driver}, so it fails at the first build",
        )
    return Outcome.SLOW, f"overlay does not work there, and {name} silently uses the snapshotter native, {_COPIES}"
