"""Root file systems from distribution packages, built by mmdebstrap, and read-only disks made of them."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kata_dind.errors import CommandFailed
from kata_dind.host.process import require_tool
from kata_dind.host.rootlike import require_rootlike
from kata_dind.image.cache import content_key
from kata_dind.image.source import PackageSource
from kata_dind.image.workspace import FIXED_TIME, Workspace

_DISK_UUID = "6b617461-6469-6e64-8000-000000000000"

# Without this hook init-system-helpers pulls in usrmerge, which pulls in a whole perl: 50 MB in Debian 12. The hook
# fails on Ubuntu, where usr-is-merged does not replace the hook's own package.
_MERGED_USR_HOOK = "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr"

_HINTS = {
    "does not have a Release file": "name a release that the mirror has: --suite trixie",
    "NO_PUBKEY|is not signed": "sudo apt-get install debian-archive-keyring, or the release's own keyring",
    "Release file .* is expired": """mend this host's clock, or --apt-option 'Acquire::Check-Valid-Until "false";'""",
    "Could not resolve|Could not connect|Unable to connect|Temporary failure|Connection (failed|timed out)": (
        "name a mirror that this host reaches: --mirror URL"
    ),
}


@dataclass(frozen=True)
class Recipe:
    """The packages of a root file system, and the commands that change it before it is packed."""

    variant: str
    """One of mmdebstrap's variants: `extract` only unpacks, `essential` has no apt, `minbase` has it."""
    packages: tuple[str, ...]
    hooks: tuple[str, ...] = ()
    """Shell commands that run at the end with the root file system's path as `$1`."""


def rootfs_argv(recipe: Recipe, source: PackageSource, *, output: Path, form: str = "tar") -> list[str]:
    """Return the mmdebstrap call that builds a recipe's root file system; `form` is `tar` or `directory`."""
    return [
        "mmdebstrap",
        # Under our own namespace this makes no further user namespace, only mounts and processes of its own.
        "--mode=unshare",
        f"--format={form}",
        f"--variant={recipe.variant}",
        f"--include={','.join(recipe.packages)}",
        "--skip=output/dev",
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--aptopt={option}" for option in source.apt_options),
        *(["--components=main,universe"] if source.is_ubuntu else []),
        *_install_options(recipe, source),
        *(f"--customize-hook={hook}" for hook in recipe.hooks),
        source.suite,
        str(output),
        *([source.mirror] if source.mirror else []),
    ]


def _install_options(recipe: Recipe, source: PackageSource) -> list[str]:
    if recipe.variant == "extract":
        return []
    return ["--dpkgopt=force-unsafe-io", *([] if source.is_ubuntu else [_MERGED_USR_HOOK])]


def recipe_key(recipe: Recipe, source: PackageSource) -> str:
    """Return a key of everything that a root file system depends on, except the packages' versions."""
    return content_key(rootfs_argv(recipe, source, output=Path("rootfs.tar")), platform.machine())


def build_archive(recipe: Recipe, source: PackageSource, *, workspace: Workspace, output: Path) -> None:
    """Build a recipe's root file system into a tar file, as root or as an ordinary user with subordinate ids."""
    _install(rootfs_argv(recipe, source, output=output), workspace=workspace)


def build_tree(recipe: Recipe, source: PackageSource, *, workspace: Workspace) -> Path:
    """Build a recipe's root file system into a directory of the workspace, with owners as in `extract_archive`."""
    tree = workspace.directory / "tree"
    _install(rootfs_argv(recipe, source, output=tree, form="directory"), workspace=workspace)
    workspace.run_rootlike("find", tree / "dev", "-mindepth", "1", "-delete")
    return tree


def _install(argv: Sequence[str], *, workspace: Workspace) -> None:
    require_tool("mmdebstrap", package="mmdebstrap")
    require_tool("mkfs.erofs", package="erofs-utils")
    require_rootlike()
    try:
        workspace.run_rootlike(*argv, timeout_seconds=1800)
    except CommandFailed as error:
        error.hint = apt_hint(workspace.output())
        raise


def apt_hint(output: str) -> str:
    """Say what to change when apt could not fetch packages, by apt's own words; empty for any other failure."""
    return next((hint for pattern, hint in _HINTS.items() if re.search(pattern, output)), "")


def extract_argv(archive: Path, tree: Path) -> list[str]:
    """Return the tar call that unpacks a root file system with owners and extended attributes, without devices."""
    return [
        "tar",
        "--extract",
        f"--file={archive}",
        f"--directory={tree}",
        "--numeric-owner",
        "--same-owner",
        "--preserve-permissions",
        "--xattrs",
        "--xattrs-include=*",
        "--exclude=./dev/*",
    ]


def disk_argv(tree: Path, disk: Path, *, options: Sequence[str] = (f"-T{FIXED_TIME}",)) -> list[str]:
    """Return the mkfs.erofs call that packs a directory, uncompressed, into a read-only disk.

    By default all times are fixed, so that equal trees give equal disks.
    """
    return ["mkfs.erofs", "--quiet", f"-U{_DISK_UUID}", *options, str(disk), str(tree)]


def extract_archive(archive: Path, *, workspace: Workspace) -> Path:
    """Unpack a root file system's tar into the workspace; root's files become ours, others our subordinate ids'."""
    require_rootlike()
    tree = workspace.directory / "tree"
    tree.mkdir(mode=0o755)
    workspace.run_rootlike(*extract_argv(archive, tree))
    return tree


def pack_disk(tree: Path, disk: Path, *, workspace: Workspace) -> None:
    """Pack a built tree into a read-only disk."""
    workspace.run_rootlike(*disk_argv(tree, disk))


def pack_foreign_disk(tree: Path, disk: Path, *, workspace: Workspace) -> None:
    """Pack a tree that we have not built, and keep the files' times, since programs in it may look at them."""
    require_tool("mkfs.erofs", package="erofs-utils")
    workspace.run_rootlike(*disk_argv(tree, disk, options=()))


def replace_with_symlink(path: Path, target: str) -> None:
    """Put a symbolic link in the place of a file, if there is one."""
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def make_mount_points(tree: Path, names: Sequence[str]) -> None:
    """Make directories for mounts in a tree. The tree must be trusted: symbolic links in it are followed."""
    for name in names:
        (tree / name).mkdir(mode=0o755, parents=True, exist_ok=True)


def write_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file of a tree, with this mode whatever the umask."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
