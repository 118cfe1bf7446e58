"""The guest OS: a small read-only root of our own, with our agent as its one service.

The packages are a base that is built once per release; our code is added to it, so that a change of the code costs
seconds.
"""

from __future__ import annotations

import time
from pathlib import Path

from kata_dind.host.directories import cache_directory
from kata_dind.image import rootfs
from kata_dind.image.cache import content_key, files_key, require_built
from kata_dind.image.entrypoint import entrypoint_script
from kata_dind.image.rootfs import Recipe
from kata_dind.image.source import PackageSource
from kata_dind.image.workspace import Goal, Workspace
from kata_dind.progress import Event, Report

GUEST_CODE = Path(__file__).parents[1] / "guest"
"""The files that run in the guest; here they are only data."""

CODE_DIRECTORY = "usr/lib/kata-dind"

_PACKAGES = ("python3", "kmod", "util-linux", "mount", "e2fsprogs", "iproute2")

# Bytecode that is never checked against its source saves a slow guest the time to look at each source file.
_HOOKS = (
    'chroot "$1" sh -c "exec python3 -m compileall -q -f --invalidation-mode unchecked-hash /usr/lib/python3*"',
    'cd "$1" && rm -rf usr/share/doc usr/share/man usr/share/info usr/share/locale usr/share/zoneinfo usr/share/perl5 '
    "usr/share/bash-completion usr/share/lintian usr/share/bug usr/share/pixmaps usr/share/common-licenses "
    "var/lib/apt/lists var/cache/debconf var/cache/apt var/log/apt var/log/dpkg.log var/lib/dpkg/info "
    "usr/lib/python3*/test usr/lib/python3*/lib2to3 usr/lib/python3*/pydoc_data usr/lib/python3*/idlelib "
    "usr/lib/*-linux-gnu/gconv usr/lib/*-linux-gnu/perl* usr/share/perl usr/bin/perl*",
)
_RECIPE = Recipe("essential", _PACKAGES, _HOOKS)

_MOUNT_POINTS = ("proc", "sys", "dev", "run", "tmp", "mnt", "lib/modules", CODE_DIRECTORY)


def require_guest_os(source: PackageSource, *, report: Report) -> Path:
    """Return the guest OS's read-only disk with our agent in it, built when absent."""
    cache = cache_directory()
    base = _require_base(source, cache=cache, report=report)
    key = content_key(base.stem, base.stat().st_mtime_ns, files_key(guest_code()), _MOUNT_POINTS)
    disk = cache / "guest-os" / f"{key}.erofs"
    if disk.exists():
        return disk
    report(Event("build", "putting the agent into the guest OS"))
    started = time.monotonic()

    def build(workspace: Workspace, product: Path) -> None:
        tree = rootfs.extract_archive(base, workspace=workspace)
        _install_code(tree)
        _fill_in(tree)
        workspace.run_rootlike(
            "chroot",
            tree,
            "python3",
            "-m",
            "compileall",
            "-q",
            "--invalidation-mode",
            "unchecked-hash",
            f"/{CODE_DIRECTORY}",
        )
        rootfs.pack_disk(tree, product, workspace=workspace)

    require_built(disk, build, cache=cache, goal=Goal("build the guest OS", needs_mib=256))
    report(Event("built", "the guest OS is ready", time.monotonic() - started))
    return disk


def guest_code() -> dict[str, bytes]:
    """Return the files of our code that go into the guest OS, by their names below CODE_DIRECTORY."""
    agent = {f"agent/{path.name}": path.read_bytes() for path in sorted((GUEST_CODE / "agent").glob("*.py"))}
    published_port = (GUEST_CODE / "published_port.sh").read_bytes()
    return {**agent, "entrypoint.sh": entrypoint_script().encode(), "published_port.sh": published_port}


def _require_base(source: PackageSource, *, cache: Path, report: Report) -> Path:
    base = cache / "bases" / f"guest-{source.suite}-{rootfs.recipe_key(_RECIPE, source)}.tar"
    if base.exists():
        return base
    report(
        Event("build", f"building the guest OS from packages of {source.suite}, once; this takes half a minute or so")
    )

    def build(workspace: Workspace, product: Path) -> None:
        rootfs.build_archive(_RECIPE, source, workspace=workspace, output=product)

    goal = Goal(f"build a guest OS from packages of {source.suite}", needs_mib=384)
    return require_built(base, build, cache=cache, goal=goal)


def _install_code(tree: Path) -> None:
    for name, content in guest_code().items():
        mode = 0o755 if name.endswith(".sh") else 0o644
        rootfs.write_file(tree / CODE_DIRECTORY / name, content, mode=mode)


def _fill_in(tree: Path) -> None:
    rootfs.make_mount_points(tree, _MOUNT_POINTS)
    rootfs.replace_with_symlink(tree / "etc/resolv.conf", "/run/resolv.conf")
    rootfs.replace_with_symlink(tree / "etc/machine-id", "/run/machine-id")
    rootfs.write_file(tree / "etc/hostname", b"")
