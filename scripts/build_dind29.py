"""Make the image dind:29: Docker 29's engine from the Go module proxy, in the root file system of dind:trixie.

    .venv/bin/python -m scripts.build_dind29

No distribution that we build from has Docker 29 yet, and not every machine reaches a registry. dockerd, docker-proxy,
containerd, its shim, runc and rootlesskit are built in the versions of docker29/go.mod, which are those that moby's own
Dockerfile names; the client is Debian's. Needs Go, a C compiler and libseccomp; docs/decisions/docker-versions.md tells
what it takes. The programs stay in the cache, and are built again only when their versions change.
"""

from __future__ import annotations

import functools
import platform
import sys
import time
from pathlib import Path

from kata_dind.errors import KataDindError
from kata_dind.host.directories import cache_directory
from kata_dind.host.process import require_tool
from kata_dind.image import dind, rootfs, store
from kata_dind.image.cache import build_lock, content_key, require_built
from kata_dind.image.source import PackageSource
from kata_dind.image.store import DindImage
from kata_dind.image.workspace import Goal, Workspace, open_workspace
from scripts import go_modules

REFERENCE = "dind:29"
SUITE = "trixie"
VERSIONS = Path(__file__).parent / "docker29"
MOBY = "github.com/moby/moby/v2"
_CONTAINERD = "github.com/containerd/containerd/v2"

# Without C they are static; dockerd then lacks what doesn't matter here, such as the journald log driver.
_STATIC = (
    f"{MOBY}/cmd/dockerd",
    f"{MOBY}/cmd/docker-proxy",
    f"{_CONTAINERD}/cmd/containerd",
    f"{_CONTAINERD}/cmd/containerd-shim-runc-v2",
    "github.com/rootless-containers/rootlesskit/v3/cmd/rootlesskit",
)
# What runc does before Go starts is written in C, and dockerd's default seccomp profile asks for seccomp.
_WITH_C = ("github.com/opencontainers/runc",)
PACKAGES = (*_STATIC, *_WITH_C)
_C_FLAGS = ("-tags=seccomp,netgo,osusergo", "-ldflags=-s -w -linkmode=external -extldflags=-static")


def main() -> int:
    try:
        image = require_dind29()
    except KataDindError as error:
        print("\n".join(filter(None, (error.summary, error.details, error.hint))), file=sys.stderr)
        return 1
    print(f"{image.reference} is {image.image_id}, Docker {image.docker_version}")
    return 0


def require_dind29() -> DindImage:
    """Return the image, built when absent or stale."""
    source = PackageSource(SUITE)
    recipe = content_key(dind.recipe_key(source), programs_key())
    cache = cache_directory()
    with build_lock(f"dind29-{recipe}", cache=cache):
        image = store.find_image(REFERENCE)
        if image is not None and image.recipe == recipe:
            return image
        programs = require_programs()
        with open_workspace(cache, Goal(f"build {REFERENCE}", needs_mib=2048)) as workspace:
            tree = dind.build_tree(source, workspace=workspace)
            install_programs(tree, workspace=workspace, programs=programs)
            return add_image(
                tree,
                workspace=workspace,
                reference=REFERENCE,
                docker_version=docker_version(),
                origin=f"{MOBY} in packages of {SUITE}",
                recipe=recipe,
            )


def add_image(
    tree: Path,
    *,
    workspace: Workspace,
    reference: str,
    docker_version: str,
    origin: str,
    recipe: str,
    entrypoint: tuple[str, ...] = (),
    environment: tuple[str, ...] = (),
) -> DindImage:
    """Pack a tree, and add it to the images."""
    finished = workspace.directory / "image"
    finished.mkdir(mode=0o700)
    rootfs.pack_disk(tree, finished / "disk.erofs", workspace=workspace)
    image = DindImage(
        reference=reference,
        image_id="",
        disk=finished,
        entrypoint=entrypoint,
        command=("dockerd",),
        environment=(*dind.ENVIRONMENT, *environment),
        docker_version=docker_version,
        created=store.now_as_text(),
        size_bytes=0,
        origin=origin,
        recipe=recipe,
    )
    return store.add_image(finished, image, cache=cache_directory())


def install_programs(tree: Path, *, workspace: Workspace, programs: Path) -> None:
    """Put the programs in the place of Debian's."""
    for program in sorted(programs.iterdir()):
        places = [tree / "usr" / name for name in ("sbin", "bin")]
        place = next((place for place in places if (place / program.name).exists()), tree / "usr/bin")
        workspace.run_rootlike("install", "--mode=755", program, place / program.name)


def find_programs() -> Path | None:
    """Return the directory in the cache with the programs, None when they have not been built."""
    directory = cache_directory() / "docker29" / programs_key()
    return directory if directory.exists() else None


def require_programs() -> Path:
    """Return the directory in the cache with the programs, built when absent."""
    cache = cache_directory()
    goal = Goal("build Docker 29 from Go modules", needs_mib=4096)
    return require_built(cache / "docker29" / programs_key(), _build_programs, cache=cache, goal=goal)


def version_of(module: str) -> str:
    """Return the version of a module in docker29/go.mod."""
    return go_modules.version_of(module, versions=VERSIONS)


def docker_version() -> str:
    """Return what dockerd says of itself.

    The proxy has no docker-v29.*, only the module's own versions: the releases/versions.yaml of v2.0.0-beta.24 names
    29.8.0 as the last release.
    """
    return f"29.8.0+{version_of(MOBY).partition('-')[2]}"


def programs_key() -> str:
    """Return a key of what the programs are built from."""
    return content_key(go_modules.texts(VERSIONS), _STATIC, _stamps(), _WITH_C, _C_FLAGS, platform.machine())


def _stamps() -> str:
    return (
        f"-s -w -X {MOBY}/dockerversion.Version={docker_version()} "
        f"-X {MOBY}/dockerversion.GitCommit={version_of(MOBY)} "
        f"-X {_CONTAINERD}/version.Version={version_of(_CONTAINERD)}"
    )


def _build_programs(workspace: Workspace, product: Path) -> None:
    require_tool("cc", package="gcc libc6-dev libseccomp-dev")
    print("building Docker 29 from Go modules; this takes seven minutes of processor time", file=sys.stderr)
    began = time.monotonic()
    product.mkdir()
    build = functools.partial(go_modules.go_build, versions=VERSIONS, workspace=workspace, product=product)
    build(_STATIC, f"-ldflags={_stamps()}")
    build(_WITH_C, *_C_FLAGS, cgo=True)
    print(f"built after {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
