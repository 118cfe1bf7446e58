"""The guest kernel: the user's, Kata's, or the distribution's cloud kernel, unpacked and never installed on the host.

With it come an initramfs that reaches the disks, and a disk with the modules that a Docker guest may need.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kata_dind.errors import ImageError
from kata_dind.host.directories import cache_directory
from kata_dind.image import cpio, rootfs
from kata_dind.image.busybox import find_busybox, require_busybox, unpack
from kata_dind.image.cache import content_key, require_built
from kata_dind.image.guestos import GUEST_CODE
from kata_dind.image.kernelfile import read_kernel_version
from kata_dind.image.modules import BOOT_MODULES, KEPT_MODULES, make_module_root, prune_modules
from kata_dind.image.rootfs import Recipe
from kata_dind.image.source import PackageSource, debian_architecture
from kata_dind.image.workspace import Goal, Workspace
from kata_dind.progress import Event, Report

__all__ = ["GuestKernel", "initramfs_entries", "kernel_package", "read_kernel_version", "require_guest_kernel"]

_KATA_KERNELS = tuple(
    Path("/opt/kata/share/kata-containers") / name for name in ("vmlinuz.container", "vmlinux.container")
)


@dataclass(frozen=True)
class GuestKernel:
    """A kernel and its files; `modules` is a disk with VERSION/ in it, to be mounted at /lib/modules."""

    version: str
    vmlinuz: Path
    initramfs: Path
    modules: Path | None
    origin: str


@dataclass(frozen=True)
class _Packaged:
    """A kernel in the cache: the files of one directory."""

    directory: Path

    @property
    def version(self) -> str:
        return str(json.loads((self.directory / "kernel.json").read_text())["version"])

    @property
    def modules(self) -> Path | None:
        disk = self.directory / "modules.erofs"
        return disk if disk.exists() else None

    @property
    def boot_modules(self) -> tuple[str, ...]:
        return tuple(json.loads((self.directory / "kernel.json").read_text())["boot_modules"])


def require_guest_kernel(path: Path | None, source: PackageSource, *, report: Report) -> GuestKernel:
    """Return the kernel at `path`; without one Kata's, if installed, or the distribution's, fetched when absent.

    Raises SpecError when the file at `path` is not a kernel.
    """
    chosen = path or next(filter(Path.is_file, _KATA_KERNELS), None)
    cache = cache_directory()
    if chosen is None:
        return _distribution_kernel(source, cache=cache, report=report)
    return _own_kernel(chosen.absolute(), source, cache=cache, origin="given" if path else "Kata")


def kernel_package(source: PackageSource, *, machine: str) -> str:
    """Name the distribution's package that depends on its newest kernel for virtual machines."""
    if source.is_ubuntu:
        return "linux-image-virtual"
    return f"linux-image-cloud-{debian_architecture(machine)}"


def _distribution_kernel(source: PackageSource, *, cache: Path, report: Report) -> GuestKernel:
    package = kernel_package(source, machine=platform.machine())
    recipe = Recipe("extract", (package, "busybox-static"))
    directory = cache / "kernels" / f"{source.suite}-{content_key(rootfs.recipe_key(recipe, source), _format_key())}"
    if not directory.exists():
        report(Event("build", f"fetching the guest kernel, {package} of {source.suite}"))
        started = time.monotonic()

        def build(workspace: Workspace, product: Path) -> None:
            archive = workspace.directory / "packages.tar"
            rootfs.build_archive(recipe, source, workspace=workspace, output=archive)
            product.mkdir()
            _unpack_kernel(unpack(archive, workspace=workspace), product, workspace=workspace)

        goal = Goal(f"fetch the kernel {package} of {source.suite}", needs_mib=512)
        require_built(directory, build, cache=cache, goal=goal)
        report(Event("built", "the guest kernel is ready", time.monotonic() - started))
    packaged = _Packaged(directory)
    initramfs = _require_initramfs(packaged, directory / "busybox", cache=cache)
    return GuestKernel(
        packaged.version, directory / "vmlinuz", initramfs, packaged.modules, f"{package} {source.suite}"
    )


def _unpack_kernel(tree: Path, product: Path, *, workspace: Workspace) -> None:
    version, vmlinuz = find_packaged_kernel(tree)
    # Without a base-files package beside it, Debian 13's kernel has no /lib.
    modules = next(path for path in (tree / "usr/lib/modules", tree / "lib/modules") if (path / version).is_dir())
    shutil.copyfile(vmlinuz, product / "vmlinuz")
    shutil.copyfile(find_busybox(tree), product / "busybox")
    whole = workspace.directory / "whole"
    (modules / version).rename(make_module_root(whole) / version)
    boot = _pack_modules(whole, product, version=version, workspace=workspace)
    _describe(product, version=version, boot_modules=boot)


def find_packaged_kernel(tree: Path) -> tuple[str, Path]:
    """Return the version and file of the one kernel in a tree: in /boot, or beside the modules since Debian 14."""
    kernels = {path.name.removeprefix("vmlinuz-"): path for path in (tree / "boot").glob("vmlinuz-*")}
    kernels |= {path.parent.name: path for path in (tree / "usr/lib/modules").glob("*/vmlinuz")}
    if len(kernels) != 1:
        raise ImageError(
            f"the kernel package has {len(kernels)} kernels; 1 was expected", id="kernel.package-unexpected"
        )
    ((version, vmlinuz),) = kernels.items()
    return version, vmlinuz


def _own_kernel(path: Path, source: PackageSource, *, cache: Path, origin: str) -> GuestKernel:
    version = read_kernel_version(path)
    installed = Path("/lib/modules") / version
    index = installed / "modules.dep"
    key = content_key(version, index.read_text() if index.is_file() else "", _format_key())
    directory = cache / "kernels" / f"own-{key}"

    def build(workspace: Workspace, product: Path) -> None:
        product.mkdir()
        boot: list[str] = []
        if index.is_file():
            whole = workspace.directory / "whole"
            shutil.copytree(
                installed, make_module_root(whole) / version, ignore=shutil.ignore_patterns("build", "source")
            )
            boot = _pack_modules(whole, product, version=version, workspace=workspace)
        _describe(product, version=version, boot_modules=boot)

    goal = Goal(f"prepare the kernel {path}", needs_mib=512 if index.is_file() else 16)
    packaged = _Packaged(require_built(directory, build, cache=cache, goal=goal))
    initramfs = _require_initramfs(packaged, require_busybox(source, cache=cache), cache=cache)
    return GuestKernel(version, path, initramfs, packaged.modules, f"{origin}: {path}")


def _pack_modules(whole: Path, product: Path, *, version: str, workspace: Workspace) -> list[str]:
    """Put a disk of modules and copies of the boot modules into a kernel's directory; return those modules' paths."""
    pruned = workspace.directory / "pruned"
    modules = make_module_root(pruned)
    boot = prune_modules(whole, pruned, version=version, workspace=workspace)
    rootfs.pack_disk(modules, product / "modules.erofs", workspace=workspace)
    for path in boot:
        target = product / "boot" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(modules / version / path, target)
    return boot


def _describe(product: Path, *, version: str, boot_modules: list[str]) -> None:
    (product / "kernel.json").write_text(json.dumps({"version": version, "boot_modules": boot_modules}))


def _require_initramfs(kernel: _Packaged, busybox: Path, *, cache: Path) -> Path:
    script = (GUEST_CODE / "initramfs.sh").read_bytes()

    def build(workspace: Workspace, product: Path) -> None:
        product.write_bytes(
            cpio.encode_cpio(
                initramfs_entries(
                    kernel.directory / "boot",
                    kernel.version,
                    boot_modules=kernel.boot_modules,
                    busybox=busybox.read_bytes(),
                    script=script,
                )
            )
        )

    key = content_key(kernel.directory.name, script.decode(), str(busybox.parent.name), _format_key())
    return require_built(cache / "initramfs" / f"{key}.cpio", build, cache=cache, goal=Goal("write the initramfs", 16))


def initramfs_entries(
    modules: Path, version: str, *, boot_modules: Iterable[str], busybox: bytes, script: bytes
) -> list[cpio.Entry]:
    """Return the files of an initramfs: our /init, busybox under its names, and the boot modules with their order."""
    paths = list(boot_modules)
    home = f"lib/modules/{version}"
    return [
        cpio.regular("init", script, mode=0o755),
        *(cpio.directory(name) for name in ("dev", "proc", "sys", "run", "root", "tmp", "bin")),
        cpio.character_device("dev/console", (5, 1)),
        cpio.character_device("dev/null", (1, 3)),
        cpio.regular("bin/busybox", busybox, mode=0o755),
        cpio.symlink("bin/sh", "busybox"),
        *(cpio.regular(f"{home}/{path}", (modules / path).read_bytes()) for path in paths),
        cpio.regular(f"{home}/boot-modules", "".join(f"/{home}/{path}\n" for path in paths).encode()),
    ]


def _format_key() -> str:
    """Return a key of our part in a kernel's directory and initramfs, so that a change of it rebuilds them."""
    return content_key(KEPT_MODULES, BOOT_MODULES, 2)
