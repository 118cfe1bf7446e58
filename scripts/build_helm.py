"""Build Helm from the Go module proxy, for the tests of the chart and for scripts/generate_chart.py.

    .venv/bin/python -m scripts.build_helm

The program stays in the cache, and is built again only when its version changes, which is that of helm/go.mod. A helm
on PATH is not taken: what it renders, and which values it refuses, depends on its version.
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

VERSIONS = Path(__file__).parent / "helm"
MODULE = "helm.sh/helm/v4"
PACKAGE = f"{MODULE}/cmd/helm"


def main() -> int:
    try:
        print(require_helm())
    except KataDindError as error:
        print("\n".join(filter(None, (error.summary, error.details, error.hint))), file=sys.stderr)
        return 1
    return 0


def find_helm() -> Path | None:
    """Return the helm of the cache, None when it has to be built."""
    program = _place() / "helm"
    return program if os.access(program, os.X_OK) else None


def require_helm() -> Path:
    """Return the helm of the cache, built when there is none."""
    goal = Goal("build helm from Go modules", needs_mib=2048)
    return require_built(_place(), _build, cache=cache_directory(), goal=goal) / "helm"


def version() -> str:
    """Return the version that is built."""
    return go_modules.version_of(MODULE, versions=VERSIONS)


def _place() -> Path:
    return cache_directory() / "helm" / content_key(go_modules.texts(VERSIONS), _flags(), platform.machine())


def _flags() -> str:
    return f"-ldflags=-s -w -X {MODULE}/internal/version.version={version()}"


def _build(workspace: Workspace, product: Path) -> None:
    print(f"building helm {version()} from Go modules; this takes some minutes", file=sys.stderr)
    began = time.monotonic()
    product.mkdir()
    go_modules.go_build([PACKAGE], _flags(), versions=VERSIONS, workspace=workspace, product=product)
    print(f"built after {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
