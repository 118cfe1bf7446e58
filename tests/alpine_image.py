"""The image dind:alpine-like: Debian's Docker, and of other programs what tests/guest/alpine.py lists.

    .venv/bin/python -m tests.alpine_image

builds it from dind:trixie when it is absent or stale. Libraries stay Debian's, and so does the shell, which is busybox.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from kata_dind.errors import KataDindError
from kata_dind.host.directories import cache_directory
from kata_dind.host.process import run
from kata_dind.image import rootfs, store
from kata_dind.image.busybox import find_busybox
from kata_dind.image.cache import content_key
from kata_dind.image.dind import require_dind_image
from kata_dind.image.source import PackageSource
from kata_dind.image.store import DindImage
from kata_dind.image.workspace import Goal, Workspace, open_workspace
from kata_dind.progress import Report, silent
from tests.guest.alpine import APPLETS, BLKID, FLOCK, PACKAGED

REFERENCE = "dind:alpine-like"

_BINS = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin")
_STAND_INS = "usr/lib/kata-dind-stand-ins"
_STRIP = f"""
set -eu
cd "$1"
mkdir -p {_STAND_INS}
cp -L usr/*bin/blkid usr/*bin/flock {_STAND_INS}/
xargs rm -f -- <"$2"
while read -r applet; do [ -e "usr/bin/$applet" ] || ln -s busybox "usr/bin/$applet"; done <"$3"
cp "$4" usr/bin/blkid
cp "$5" usr/bin/flock
chmod 755 usr/bin/blkid usr/bin/flock
"""


def require_alpine_image(*, report: Report) -> DindImage:
    """Return the image, built when it is absent, or when it is not made from today's base with today's programs."""
    base = require_dind_image("", PackageSource("trixie"), report=report)
    recipe = content_key(base.image_id, sorted(APPLETS), PACKAGED, BLKID, FLOCK, _STRIP)
    image = store.find_image(REFERENCE)
    return image if image is not None and image.recipe == recipe else _build(base, recipe)


def _build(base: DindImage, recipe: str) -> DindImage:
    cache = cache_directory()
    with open_workspace(cache, Goal(f"build {REFERENCE}", needs_mib=1024)) as workspace:
        tree = workspace.directory / "tree"
        workspace.run_rootlike("fsck.erofs", f"--extract={tree}", "--preserve", base.disk)
        _strip(tree, workspace)
        finished = workspace.directory / "image"
        finished.mkdir(mode=0o700)
        rootfs.pack_disk(tree, finished / "disk.erofs", workspace=workspace)
        origin = f"{base.reference} with busybox for its programs"
        image = dataclasses.replace(
            base, reference=REFERENCE, created=store.now_as_text(), origin=origin, recipe=recipe
        )
        return store.add_image(finished, image, cache=cache)


def _strip(tree: Path, workspace: Workspace) -> None:
    kept = {"usr/bin/busybox", *_kept(tree)}
    programs = {str(path.relative_to(tree)) for place in _BINS for path in (tree / place).iterdir()}
    applets = set(run([find_busybox(tree), "--list"], timeout_seconds=10).stdout.split()) & APPLETS
    files = {
        "removed": "\n".join(sorted(programs - kept)),
        "applets": "\n".join(sorted(applets - {"blkid", "flock"})) + "\n",
        "blkid": BLKID.format(interpreter="/bin/sh", program=f"/{_STAND_INS}/blkid"),
        "flock": FLOCK.format(interpreter="/bin/sh", program=f"/{_STAND_INS}/flock"),
    }
    for name, text in files.items():
        (workspace.directory / name).write_text(text)
    workspace.run_rootlike("sh", "-c", _STRIP, "sh", tree, *(workspace.directory / name for name in files))


def _kept(tree: Path) -> Iterator[str]:
    """Yield the packaged programs, and what their links lead to."""
    for path in (tree / place / name for name in PACKAGED for place in _BINS):
        step = path
        while step.is_symlink():
            yield str(step.relative_to(tree))
            target = step.readlink()
            step = tree / target.relative_to("/") if target.is_absolute() else step.parent / target
            step = Path(os.path.normpath(step))
        if step.exists():
            yield str(step.relative_to(tree))


def main() -> int:
    """Build the image, and say which it is."""
    try:
        image = require_alpine_image(report=silent)
    except KataDindError as error:
        sys.stderr.write("\n".join(filter(None, (error.summary, error.details, error.hint, "\n"))))
        return 1
    sys.stdout.write(f"{image.reference} is {image.image_id}, Docker {image.docker_version}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
