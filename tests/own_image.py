"""The image of deploy/image, from distribution packages and without a registry.

Docker in a sandbox builds it from what `make_context` and `build_base` give (tests/vm), and `own_image_archive` does
what the Containerfile says by itself, for a node without Docker (tests/kube).
"""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from kata_dind.host.directories import cache_directory
from kata_dind.host.process import run
from kata_dind.image.rootfs import Recipe, build_archive, extract_argv
from kata_dind.image.source import PackageSource
from kata_dind.image.workspace import Goal, open_workspace
from scripts.build_wheels import REPOSITORY, build_wheels
from tests.kube.pod_images import write_archive

_SOURCES = REPOSITORY / "deploy" / "image"
_BASE = Recipe("minbase", ("ca-certificates", "python3", "python3-pip"))

# As `docker build --network none` runs it.
_INSIDE = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'


@dataclass(frozen=True)
class Containerfile:
    """What our Containerfile says: files and a command of its first stage, and what the second one keeps."""

    copied: tuple[tuple[str, ...], ...]
    """Files of the context, and last where they go, for each COPY of the first stage."""
    command: tuple[str, ...]
    kept: str
    """The directory of the first stage that is the image's root."""
    config: dict[str, object]


def parse_containerfile(text: str) -> Containerfile:
    """Parse it. Raises ValueError for what no test here would do as a builder does it."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    words = [line.split(maxsplit=1) for line in lines]
    match words:
        case [
            ["ARG", _],
            ["FROM", "${BASE} AS build"],
            *copies,
            ["RUN", command],
            ["FROM", "scratch"],
            ["COPY", copied],
            ["ENV", variables],
            ["USER", user],
            ["ENTRYPOINT", entrypoint],
        ] if all(name == "COPY" for name, _ in copies) and copied.startswith("--from=build ") and copied.endswith(" /"):
            config = {"Env": shlex.split(variables), "User": user, "Entrypoint": json.loads(entrypoint)}
            files = tuple(tuple(names.split()) for _, names in copies)
            return Containerfile(files, tuple(json.loads(command)), copied.split()[1], config)
    raise ValueError("the Containerfile has other instructions than those that are followed here")


def make_context(directory: Path) -> None:
    """Make the context of the build, with the wheels in it."""
    shutil.copytree(_SOURCES, directory, ignore=shutil.ignore_patterns("wheels"))
    build_wheels(directory / "wheels")


def build_base(output: Path) -> None:
    """Build what stands for the Containerfile's BASE into a tar file."""
    with open_workspace(cache_directory(), Goal("build the base of the webhook's image", 1024)) as workspace:
        build_archive(_BASE, PackageSource("trixie"), workspace=workspace, output=workspace.directory / "base.tar")
        shutil.copy(workspace.directory / "base.tar", output)


def own_image_archive(reference: str, *, directory: Path) -> Path:
    """Write the image as an archive for containerd, as root, in a directory that then has no more than that."""
    base, context, tree = directory / "base.tar", directory / "context", directory / "tree"
    make_context(context)
    build_base(base)
    file = parse_containerfile((context / "Containerfile").read_text(encoding="utf-8"))
    tree.mkdir()
    run(extract_argv(base, tree), timeout_seconds=300)
    (tree / "dev").mkdir(exist_ok=True)
    for *names, place in file.copied:
        for name in names:
            _copy(context / name, tree / place.lstrip("/"))
    alone = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    run([*alone, "sh", "-c", _INSIDE, tree, *file.command], timeout_seconds=1200, environment=environment)
    layer, path = directory / "layer.tar", directory / "image.tar"
    root = tree / file.kept.lstrip("/")
    run(["tar", f"--file={layer}", "--numeric-owner", "--create", f"--directory={root}", "."], timeout_seconds=300)
    write_archive(path, reference, layer=layer, config=file.config)
    shutil.rmtree(tree)
    shutil.rmtree(context)
    base.unlink()
    layer.unlink()
    return path


def _copy(source: Path, place: Path) -> None:
    """Copy as COPY does: of a directory, what is in it."""
    if source.is_dir():
        shutil.copytree(source, place, dirs_exist_ok=True)
    else:
        shutil.copy(source, place / source.name if place.is_dir() else place)
