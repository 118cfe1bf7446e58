"""Build docker-compose and docker-buildx, the CLI plugins of Docker, from the Go module proxy.

    .venv/bin/python -m scripts.build_compose

Debian 12 has a docker-compose of 2021, in Python, and no buildx. The programs stay in the cache, in a directory that
may be the `cli-plugins` of a $DOCKER_CONFIG. They are built again only when their versions change, which are those of
compose/go.mod. On two processors that were busy with other builds it took ten minutes.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path

from kata_dind.errors import KataDindError
from kata_dind.host.directories import cache_directory
from kata_dind.image.cache import content_key, require_built
from kata_dind.image.workspace import Goal, Workspace
from scripts import go_modules

VERSIONS = Path(__file__).parent / "compose"
COMPOSE = "github.com/docker/compose/v5"
BUILDX = "github.com/docker/buildx"
# A package's directory gives its program a name, by which the CLI would not find the plugin.
_PLUGINS = {f"{COMPOSE}/cmd": "docker-compose", f"{BUILDX}/cmd/buildx": "docker-buildx"}


def main() -> int:
    try:
        print(require_plugins())
    except KataDindError as error:
        print("\n".join(filter(None, (error.summary, error.details, error.hint))), file=sys.stderr)
        return 1
    return 0


def find_plugins() -> Path | None:
    """Return the directory of the plugins in the cache, None when they have to be built."""
    place = _place()
    return place if all(os.access(place / name, os.X_OK) for name in _PLUGINS.values()) else None


def require_plugins() -> Path:
    """Return the directory of the plugins, built when there are none."""
    goal = Goal("build docker-compose and docker-buildx from Go modules", needs_mib=4096)
    return require_built(_place(), _build, cache=cache_directory(), goal=goal)


def _place() -> Path:
    return cache_directory() / "compose" / content_key(go_modules.texts(VERSIONS), _flags(), platform.machine())


def _flags() -> str:
    compose, buildx = (go_modules.version_of(module, versions=VERSIONS) for module in (COMPOSE, BUILDX))
    return f"-ldflags=-s -w -X {COMPOSE}/internal.Version={compose} -X {BUILDX}/version.Version={buildx}"


def _build(workspace: Workspace, product: Path) -> None:
    print("building docker-compose and docker-buildx from Go modules; this takes some minutes", file=sys.stderr)
    began = time.monotonic()
    product.mkdir()
    go_modules.go_build([*_PLUGINS], _flags(), versions=VERSIONS, workspace=workspace, product=product)
    for package, name in _PLUGINS.items():
        (product / Path(package).name).rename(product / name)
    print(f"built after {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
