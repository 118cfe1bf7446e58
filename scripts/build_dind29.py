#!/usr/bin/env python3
"""Make the image dind:29: a dockerd 29 built from the Go module proxy, in the root file system of dind:forky.

No distribution that we build from has Docker 29 yet, and not every machine reaches a registry. Needs Go 1.26.3 and
network; ten minutes on two cores, and seconds when Go's build cache is warm. The same Go gives the same image.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from kata_dind.errors import KataDindError
from kata_dind.host.directories import cache_directory
from kata_dind.host.process import require_tool, run
from kata_dind.image import rootfs, store
from kata_dind.image.store import DindImage
from kata_dind.image.workspace import Goal, Workspace, open_workspace

_BASE = "dind:forky"
_REFERENCE = "dind:29"

# The proxy has no docker-v29.*, only the module's own versions, of which this is the newest. Its releases/versions.yaml
# names 29.8.0 as the last release.
_MODULE_VERSION = "v2.0.0-beta.24"
_DOCKER_VERSION = "29.8.0+beta.24"


def main() -> int:
    try:
        image = _build()
    except KataDindError as error:
        print("\n".join(filter(None, (error.summary, error.details, error.hint))), file=sys.stderr)
        return 1
    print(f"{image.reference} is {image.image_id}, Docker {image.docker_version}")
    return 0


def _build() -> DindImage:
    base = store.require_image(_BASE)
    cache = cache_directory()
    with open_workspace(cache, Goal(f"build {_REFERENCE}", needs_mib=2048)) as workspace:
        dockerd = _build_dockerd(workspace)
        tree = workspace.directory / "tree"
        workspace.run_rootlike("fsck.erofs", f"--extract={tree}", "--preserve", base.disk)
        workspace.run_rootlike("install", "--mode=755", dockerd, tree / "usr/sbin/dockerd")
        finished = workspace.directory / "image"
        finished.mkdir(mode=0o700)
        rootfs.pack_disk(tree, finished / "disk.erofs", workspace=workspace)
        image = dataclasses.replace(
            base,
            reference=_REFERENCE,
            docker_version=_DOCKER_VERSION,
            created=store.now_as_text(),
            origin=f"github.com/moby/moby/v2 {_MODULE_VERSION} in {_BASE}",
            recipe="",
        )
        return store.add_image(finished, image, cache=cache)


def _build_dockerd(workspace: Workspace) -> Path:
    require_tool("go", package="golang-go")
    module = "github.com/moby/moby/v2"
    flags = f"-s -w -X {module}/dockerversion.Version={_DOCKER_VERSION}"
    # Without C it is static; the parts that it then lacks, such as the journald log driver, don't matter here.
    environment = {"GOBIN": str(workspace.directory), "CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local"}
    install = ["go", "install", "-trimpath", f"-ldflags={flags}", f"{module}/cmd/dockerd@{_MODULE_VERSION}"]
    run(install, timeout_seconds=3600, log=workspace.log, environment=environment)
    return workspace.directory / "dockerd"


if __name__ == "__main__":
    sys.exit(main())
