"""dind images from the distribution's own packages; this needs no registry, and no network but the mirror."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from kata_dind.errors import ImageError
from kata_dind.host.directories import cache_directory
from kata_dind.image import rootfs, store
from kata_dind.image.busybox import find_busybox
from kata_dind.image.cache import build_lock, content_key
from kata_dind.image.guestos import GUEST_CODE
from kata_dind.image.hello import hello_archive
from kata_dind.image.rootfs import Recipe
from kata_dind.image.source import PackageSource
from kata_dind.image.store import DindImage
from kata_dind.image.workspace import Goal, Workspace, open_workspace
from kata_dind.progress import Event, Report

_PACKAGES = (
    "docker.io",
    # Debian 13 made the client a package of its own; a pattern may match nothing, but a name must exist.
    "?exact-name(docker-cli)",
    "containerd",
    "runc",
    "iptables",
    "e2fsprogs",
    "xfsprogs",
    "kmod",
    "mount",
    "util-linux",
    "iproute2",
    "procps",
    "pigz",
    "xz-utils",
    "ca-certificates",
    "busybox-static",
    "attr",  # the guest entrypoint's proof sets a file capability
)
_HOOKS = (
    'cd "$1" && rm -rf usr/share/doc usr/share/man usr/share/info usr/share/locale usr/share/bash-completion '
    "usr/share/lintian usr/share/bug var/lib/apt/lists/* var/cache/debconf/* var/cache/apt/* var/log/apt "
    "var/log/dpkg.log",
)
_RECIPE = Recipe("minbase", _PACKAGES, _HOOKS)

_MOUNT_POINTS = ("proc", "sys", "dev", "run", "tmp", "var/lib/docker")
_HELLO = "usr/share/kata-dind/hello.tar"
_CONTAINERD = "usr/local/bin/containerd"
ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
"""The variables of an image's container."""


def require_dind_image(reference: str, source: PackageSource, *, report: Report) -> DindImage:
    """Return the image of that name or id; "" means the one from the source's packages, built when absent or stale.

    Raises ImageError when there is no such image.
    """
    if reference:
        return store.require_image(reference)
    image = store.find_image(default_reference(source))
    if image is not None and image.recipe == recipe_key(source):
        return image
    return _build(source, report=report, since=0.0)


def build_dind_image(source: PackageSource, *, report: Report) -> DindImage:
    """Build the image from the packages as they are now, and give it the reference `dind:SUITE`.

    Equal packages give the same image. Another process's build that ends after this call began counts as ours.
    """
    return _build(source, report=report, since=time.time())


def default_reference(source: PackageSource) -> str:
    """Return the name of the image that is built from a source."""
    return f"dind:{source.suite}"


def _build(source: PackageSource, *, report: Report, since: float) -> DindImage:
    cache = cache_directory()
    recipe = recipe_key(source)
    with build_lock(f"dind-{recipe}", cache=cache):
        existing = store.image_since(default_reference(source), since=since)
        if existing is not None and existing.recipe == recipe:
            return existing
        report(
            Event(
                "build",
                f"building {default_reference(source)} from packages of {source.suite}; this takes half a minute or so",
            )
        )
        started = time.monotonic()
        goal = Goal(f"build a dind image from packages of {source.suite}", needs_mib=1024)
        with open_workspace(cache, goal) as workspace:
            image = _make_image(source, recipe=recipe, workspace=workspace, cache=cache)
    took = time.monotonic() - started
    report(Event("built", f"{image.reference} is ready, with Docker {image.docker_version}", took))
    return image


def _make_image(source: PackageSource, *, recipe: str, workspace: Workspace, cache: Path) -> DindImage:
    tree = build_tree(source, workspace=workspace)
    finished = workspace.directory / "image"
    finished.mkdir(mode=0o700)
    rootfs.pack_disk(tree, finished / "disk.erofs", workspace=workspace)
    return store.add_image(
        finished,
        DindImage(
            reference=default_reference(source),
            image_id="",
            disk=finished,
            entrypoint=(),
            command=("dockerd",),
            environment=ENVIRONMENT,
            docker_version=docker_version((tree / "var/lib/dpkg/status").read_text()),
            created=store.now_as_text(),
            size_bytes=0,
            origin=f"packages of {source.suite}",
            recipe=recipe,
        ),
        cache=cache,
    )


def build_tree(source: PackageSource, *, workspace: Workspace, more: Sequence[str] = ()) -> Path:
    """Build the root file system of an image, with `more` packages beside its own, in the workspace."""
    tree = rootfs.build_tree(_recipe(more), source, workspace=workspace)
    rootfs.make_mount_points(tree, _MOUNT_POINTS)
    for name in ("etc/resolv.conf", "etc/hostname", "etc/machine-id"):
        (tree / name).unlink(missing_ok=True)
        rootfs.write_file(tree / name, b"")
    rootfs.write_file(tree / _HELLO, _hello(find_busybox(tree).read_bytes()))
    rootfs.write_file(tree / _CONTAINERD, _containerd(), mode=0o755)
    return tree


def docker_version(status: str) -> str:
    """Return the upstream version of docker.io in a dpkg status file. Raises ImageError when it is not there."""
    for paragraph in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Package") == "docker.io":
            return fields["Version"].rpartition(":")[2].partition("+")[0].partition("-")[0]
    raise ImageError("docker.io is not among the packages", id="image.docker-missing")


def _hello(busybox: bytes) -> bytes:
    script = (GUEST_CODE / "hello.sh").read_bytes()
    return hello_archive(busybox=busybox, script=script)


def _containerd() -> bytes:
    return (GUEST_CODE / "containerd.sh").read_bytes()


def recipe_key(source: PackageSource, *, more: Sequence[str] = ()) -> str:
    """Return a key of everything that the tree of `build_tree` depends on, except the packages' versions."""
    # The hello image without its busybox, which the packages bring: so any change of ours shows.
    ours = [hashlib.sha256(content).hexdigest() for content in (_hello(b""), _containerd())]
    return content_key(rootfs.recipe_key(_recipe(more), source), *ours, _MOUNT_POINTS)


def _recipe(more: Sequence[str]) -> Recipe:
    return dataclasses.replace(_RECIPE, packages=(*_RECIPE.packages, *more))
