#!/usr/bin/env python3
"""Make an image in the shape of docker:dind-rootless, in which dockerd runs as the user `rootless`.

    .venv/bin/python -m scripts.build_rootless 20.10|26.1|28.5|29

The official images have a user and no root at all. A sandbox of kata-dind starts its container as root, so here root
first does what a pod's volumes and devices would do, and then becomes that user: `rootless/as-rootless.sh`.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from kata_dind.errors import KataDindError
from kata_dind.host.directories import cache_directory
from kata_dind.image import dind, rootfs, store
from kata_dind.image.cache import build_lock, content_key
from kata_dind.image.source import PackageSource
from kata_dind.image.store import DindImage
from kata_dind.image.workspace import Goal, Workspace, open_workspace
from scripts import build_dind29

_SUITES = {"20.10": "bookworm", "26.1": "trixie", "28.5": "forky", "29": build_dind29.SUITE}
_PACKAGES = ("fuse-overlayfs", "rootlesskit", "slirp4netns", "uidmap")
_PROGRAMS = Path(__file__).parent / "rootless"
_ENVIRONMENT = ("KATA_DIND_CONTAINERD=none",)
"""One that root starts would be out of the user's reach, and its data not the user's."""
_ADD_USER = """
cd "$1"
echo rootless:x:1000:1000::/home/rootless:/bin/sh >>etc/passwd
echo rootless:x:1000: >>etc/group
for file in etc/subuid etc/subgid; do echo rootless:100000:65536 >>$file; done
mkdir -p home/rootless/.local/share/docker
chown -R 1000:1000 home/rootless
"""


def main(argv: list[str]) -> int:
    if len(argv) != 1 or argv[0] not in _SUITES:
        print(f"usage: python -m scripts.build_rootless {'|'.join(_SUITES)}", file=sys.stderr)
        return 2
    try:
        image = require_rootless(argv[0])
    except KataDindError as error:
        print("\n".join(filter(None, (error.summary, error.details, error.hint))), file=sys.stderr)
        return 1
    print(f"{image.reference} is {image.image_id}, Docker {image.docker_version}")
    return 0


def require_rootless(docker: str) -> DindImage:
    """Return the image `dind:DOCKER-rootless`, built when absent or stale."""
    # A release that is not out yet may have a Release file that is past its date.
    late = ('Acquire::Check-Valid-Until "false";',) if docker == "28.5" else ()
    source, reference = PackageSource(_SUITES[docker], apt_options=late), f"dind:{docker}-rootless"
    ours = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in _PROGRAMS.iterdir()}
    newest = build_dind29.programs_key() if docker == "29" else ""
    recipe = content_key(dind.recipe_key(source, more=_PACKAGES), ours, _ADD_USER, _ENVIRONMENT, newest)
    cache = cache_directory()
    with build_lock(f"rootless-{recipe}", cache=cache):
        image = store.find_image(reference)
        if image is not None and image.recipe == recipe:
            return image
        programs = build_dind29.require_programs() if docker == "29" else None
        with open_workspace(cache, Goal(f"build {reference}", needs_mib=2048)) as workspace:
            tree = dind.build_tree(source, workspace=workspace, more=_PACKAGES)
            if programs:
                build_dind29.install_programs(tree, workspace=workspace, programs=programs)
            _add_user(tree, workspace=workspace)
            version = build_dind29.docker_version() if programs else _version_of(tree)
            return build_dind29.add_image(
                tree,
                workspace=workspace,
                reference=reference,
                docker_version=version,
                origin=f"{build_dind29.MOBY if programs else 'dockerd'} in packages of {source.suite}, rootless",
                entrypoint=("/usr/local/bin/as-rootless.sh",),
                environment=_ENVIRONMENT,
                recipe=recipe,
            )


def _version_of(tree: Path) -> str:
    return dind.docker_version((tree / "var/lib/dpkg/status").read_text())


def _add_user(tree: Path, *, workspace: Workspace) -> None:
    for path in _PROGRAMS.iterdir():
        rootfs.write_file(tree / "usr/local/bin" / path.name, path.read_bytes(), mode=0o755)
    workspace.run_rootlike("sh", "-euc", _ADD_USER, "sh", tree)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
