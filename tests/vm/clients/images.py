"""Images for the clients to run, as archives for `docker load`: a real Redis from packages, and a stand-in for Ryuk.

There is no registry here, so these take the names under which the real ones would be pulled. They stay in the cache.
"""

from __future__ import annotations

import os
import platform
import re
import tarfile
from pathlib import Path

from kata_dind.host.directories import cache_directory
from kata_dind.host.process import require_tool, run
from kata_dind.image import rootfs
from kata_dind.image.archive import Layer, docker_archive
from kata_dind.image.cache import content_key, require_built
from kata_dind.image.rootfs import Recipe
from kata_dind.image.source import default_source
from kata_dind.image.workspace import Goal, Workspace

REDIS = "redis:7"
RYUK = ("testcontainers/ryuk:0.8.1", "testcontainers/ryuk:0.14.0")
"""The names that testcontainers' libraries for Python and for Node ask for."""

_REAPER = Path(__file__).parent / "reaper"

_REDIS = Recipe("extract", ("redis-server", "busybox-static"))
# Of these packages, and of what they depend on, only this: the programs, and the libraries that are loaded with them.
_PROGRAMS = re.compile(r"(?:usr/)?bin/(busybox|redis-(?:check-rdb|cli|server))")
_LIBRARIES = re.compile(r"(?:usr/)?lib(?:64)?/(?:[^/]+-linux-gnu/)?(?:lib|ld)[^/]*\.so[^/]*")
_APPLETS = ("cat", "id", "ls", "sh", "sleep", "stat")


def require_archives() -> list[Path]:
    """Return the archives of all images, built when absent."""
    texts = [(_REAPER / name).read_text() for name in ("go.mod", "main.go")]
    recipe = rootfs.recipe_key(_REDIS, default_source())
    key = content_key(recipe, texts, RYUK, _APPLETS, platform.machine())
    goal = Goal("build images for the tests", needs_mib=512)
    place = require_built(cache_directory() / "test-images" / key, _build, cache=cache_directory(), goal=goal)
    return sorted(place.iterdir())


def _build(workspace: Workspace, product: Path) -> None:
    product.mkdir()
    archive = workspace.directory / "redis.tar"
    rootfs.build_archive(_REDIS, default_source(), workspace=workspace, output=archive)
    config = {"Cmd": ["redis-server"], "Env": ["PATH=/bin"], "WorkingDir": "/data", "ExposedPorts": {"6379/tcp": {}}}
    (product / "redis.tar").write_bytes(docker_archive(REDIS, [_layer(archive)], config))
    layer = Layer(files={}, executables={"bin/ryuk": _reaper(workspace)})
    for number, reference in enumerate(RYUK):
        image = docker_archive(reference, [layer], {"Cmd": ["/bin/ryuk"], "ExposedPorts": {"8080/tcp": {}}})
        (product / f"ryuk-{number}.tar").write_bytes(image)


def _layer(archive: Path) -> Layer:
    files, links = {}, {f"bin/{applet}": "busybox" for applet in _APPLETS}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = os.path.normpath(member.name)
            program = _PROGRAMS.fullmatch(name)
            if not program and not _LIBRARIES.fullmatch(name):
                continue
            name = f"bin/{program[1]}" if program else name
            if member.issym():
                links[name] = member.linkname
            elif (content := tar.extractfile(member)) is not None:
                files[name] = content.read()
    # Debian 13 has its loader in /usr, where a link of the root directory, which no package here has, leads to.
    if not any(name.startswith("lib64/") for name in (*files, *links)):
        links["lib64"] = "usr/lib64"
    return Layer(files={}, executables=files, links=links)


def _reaper(workspace: Workspace) -> bytes:
    require_tool("go", package="golang-go")
    program = workspace.directory / "ryuk"
    environment = {"CGO_ENABLED": "0", "GOFLAGS": "", "TMPDIR": str(workspace.directory)}
    run(
        ["go", "build", "-C", _REAPER, "-trimpath", "-ldflags=-s -w", "-o", program, "."],
        timeout_seconds=600,
        log=workspace.log,
        environment=environment,
    )
    return program.read_bytes()
