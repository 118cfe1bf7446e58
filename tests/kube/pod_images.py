"""Images for pods, from the distribution's packages alone, in the shape of the official ones."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kata_dind.host.process import require_tool, run
from kata_dind.image import rootfs
from kata_dind.image.archive import Layer, docker_archive
from kata_dind.image.dind import require_dind_image
from kata_dind.image.source import PackageSource
from kata_dind.image.store import DindImage
from kata_dind.progress import silent
from scripts import build_buildkit, build_rootless
from tests import alpine_image

if TYPE_CHECKING:
    from tests.kube.node import Node

_SUITES = {"20.10": "bookworm", "26.1": "trixie", "28.5": "forky"}
PAUSE = "kata-dind.io/pause:1"
DISK_IMAGE = "docker:26.1-dind"
"""What the policy names for disks that the image of a pod can't make itself."""
ROOT = "/var/lib/docker"
ROOTLESS = "/home/rootless/.local/share/docker"
BUILDKIT_ROOT = "/var/lib/buildkit"
_PROGRAMS_FOR_EXT4 = ("mke2fs", "mkfs.ext?", "e2fsck", "fsck.ext?", "tune2fs", "resize2fs", "dumpe2fs")
_HERE = Path(__file__).parent
_LIBRARY = "docker.io/library/"


@dataclass(frozen=True)
class NodeImages:
    """The images of a node, under the names that Docker's own have."""

    node: Node
    directory: Path
    _known: set[str] = field(default_factory=set)

    def dind(self, docker: str) -> str:
        """Return the name of an image that runs Docker: `20.10`, `26.1-rootless`, `26.1-alpine3.20`."""
        version, _, form = docker.partition("-")
        return self._require(f"docker:{version}-dind{form and f'-{form}'}", docker)

    def client(self, docker: str) -> str:
        """Return the name of an image with Docker's client, which is the same image as the daemon's."""
        daemon, name = self.dind(docker), f"docker:{docker}-cli"
        if name not in self._known:
            self.node.succeed(*self.node.ctr("images", "tag", _LIBRARY + daemon, _LIBRARY + name))
            self._known.add(name)
        return name

    def buildkit(self) -> str:
        """Return the name of an image that runs BuildKit; the one that makes its disk is there as well."""
        name = f"moby/buildkit:{build_buildkit.version()}"
        if name not in self._known:
            self._require(DISK_IMAGE, DISK_IMAGE.removeprefix("docker:").removesuffix("-dind"))
            self._load(buildkit_archive(_image_of("26.1"), f"docker.io/{name}", directory=self.directory), name)
        return name

    def _require(self, name: str, docker: str) -> str:
        if name not in self._known:
            self._load(dind_archive(_image_of(docker), _LIBRARY + name, directory=self.directory), name)
        return name

    def _load(self, archive: Path, name: str) -> None:
        self.node.load_image(archive)
        archive.unlink()
        self._known.add(name)


def _image_of(docker: str) -> DindImage:
    version, _, form = docker.partition("-")
    if form == "rootless":
        return build_rootless.require_rootless(version)
    if form.startswith("alpine"):
        return alpine_image.require_alpine_image(report=silent)
    # A release that is not out yet may have a Release file that is past its date.
    source = PackageSource(_SUITES[version], apt_options=('Acquire::Check-Valid-Until "false";',))
    return require_dind_image("", source, report=silent)


def pause_archive(path: Path) -> Path:
    """Write the image of the container that holds a pod's namespaces."""
    busybox = require_tool("busybox", package="busybox-static").read_bytes()
    layer = Layer(files={}, executables={"bin/busybox": busybox})
    path.write_bytes(docker_archive(PAUSE, [layer], {"Entrypoint": ["/bin/busybox", "sleep", "2147483647"]}))
    return path


def dind_archive(image: DindImage, reference: str, *, directory: Path) -> Path:
    """Write a dind image as an archive with one layer; it has the VOLUME and the ENTRYPOINT of `docker:dind`."""
    rootless = reference.endswith("-rootless")
    script = _HERE / ("rootless-entrypoint.sh" if rootless else "dockerd-entrypoint.sh")
    config = {
        "Entrypoint": ["dockerd-entrypoint.sh"],
        "Env": list(image.environment),
        "Volumes": {ROOT: {}, **({ROOTLESS: {}} if rootless else {})},
        **({"User": "rootless"} if rootless else {}),
    }
    return _archive(image, reference, directory=directory, config=config, programs=[(script, "dockerd-entrypoint.sh")])


def buildkit_archive(base: DindImage, reference: str, *, directory: Path) -> Path:
    """Write an image with BuildKit in a root with runc; it has the VOLUME and the ENTRYPOINT of `moby/buildkit`."""
    built = build_buildkit.require_programs()
    programs = [(built / name, name) for name in build_buildkit.PROGRAMS]
    config = {"Entrypoint": ["buildkitd"], "Env": list(base.environment), "Volumes": {BUILDKIT_ROOT: {}}}
    return _archive(
        base, reference, directory=directory, config=config, programs=programs, leave_out=_PROGRAMS_FOR_EXT4
    )


def _archive(
    image: DindImage,
    reference: str,
    *,
    directory: Path,
    config: Mapping[str, object],
    programs: Sequence[tuple[Path, str]],
    leave_out: Sequence[str] = (),
) -> Path:
    added, layer, path = directory / "added", directory / "layer.tar", directory / "image.tar"
    for program, name in programs:
        rootfs.write_file(added / "usr/local/bin" / name, program.read_bytes(), mode=0o755)
    # As the official images without root have it.
    (added / "run/user").mkdir(parents=True)
    (added / "run/user").chmod(0o1777)
    tar = ["tar", f"--file={layer}", "--numeric-owner", "--xattrs"]
    with _mounted(image.disk, directory / "tree") as tree:
        excluded = [f"--exclude=./usr/sbin/{name}" for name in leave_out]
        run([*tar, "--create", f"--directory={tree}", *excluded, "."], timeout_seconds=300)
    names = [f"./usr/local/bin/{name}" for _program, name in programs]
    run([*tar, "--append", f"--directory={added}", "./run/user", *names], timeout_seconds=300)
    shutil.rmtree(added)
    write_archive(path, reference, layer=layer, config=config)
    layer.unlink()
    return path


@contextlib.contextmanager
def _mounted(disk: Path, place: Path) -> Iterator[Path]:
    """Mount an erofs. What fsck.erofs extracts has lost its setuid bits, since that changes the owner last."""
    place.mkdir()
    run(["mount", "-t", "erofs", "-o", "ro,loop", disk, place], timeout_seconds=60)
    try:
        yield place
    finally:
        run(["umount", place], timeout_seconds=60)
        place.rmdir()


def write_archive(path: Path, reference: str, *, layer: Path, config: Mapping[str, object]) -> None:
    """Write an image of one layer as an archive in Docker's form."""
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    text = json.dumps({"architecture": "amd64", "os": "linux", "config": config, "rootfs": rootfs}).encode()
    name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [reference], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(path, "w") as tar:
        tar.add(layer, "layer.tar")
        for member, content in ((name, text), ("manifest.json", manifest)):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
