"""The distribution's static busybox, unpacked into the cache: the userland of the initramfs and of the hello image."""

from __future__ import annotations

import shutil
from pathlib import Path

from kata_dind.image import rootfs
from kata_dind.image.cache import require_built
from kata_dind.image.rootfs import Recipe
from kata_dind.image.source import PackageSource
from kata_dind.image.workspace import Goal, Workspace

_RECIPE = Recipe("extract", ("busybox-static",))

APPLETS = (
    "[", "awk", "basename", "cat", "chmod", "chroot", "cp", "cut", "date", "dd", "dirname", "dmesg", "echo", "env",
    "expr", "false", "grep", "head", "hostname", "id", "insmod", "kill", "ln", "ls", "mkdir", "mknod", "mount", "mv",
    "poweroff", "printf", "ps", "pwd", "readlink", "reboot", "rm", "sed", "seq", "sh", "sleep", "sort", "stat",
    "switch_root", "sync", "tail", "test", "touch", "tr", "true", "umount", "uname", "wc",
)  # fmt: skip
"""The names under which the hello image has busybox; the other applets are run as `busybox NAME`."""


def require_busybox(source: PackageSource, *, cache: Path) -> Path:
    """Return a static busybox for this machine, fetched when absent."""

    def build(workspace: Workspace, product: Path) -> None:
        archive = workspace.directory / "packages.tar"
        rootfs.build_archive(_RECIPE, source, workspace=workspace, output=archive)
        shutil.copyfile(find_busybox(unpack(archive, workspace=workspace)), product)
        product.chmod(0o755)

    key = rootfs.recipe_key(_RECIPE, source)
    return require_built(
        cache / "busybox" / key, build, cache=cache, goal=Goal(f"fetch busybox from {source.suite}", needs_mib=256)
    )


def unpack(archive: Path, *, workspace: Workspace) -> Path:
    """Unpack packages into the workspace as this user, where the files' owners don't matter."""
    tree = workspace.directory / "packages"
    tree.mkdir()
    workspace.run(
        "tar", "--extract", f"--file={archive}", f"--directory={tree}", "--no-same-owner", "--exclude=./dev/*"
    )
    return tree


def find_busybox(tree: Path) -> Path:
    """Return the static busybox in a tree with that package: in /bin, or in /usr/bin since Debian 13."""
    return next(path for path in (tree / "usr/bin/busybox", tree / "bin/busybox") if path.is_file())
