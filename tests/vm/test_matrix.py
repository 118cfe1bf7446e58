"""Every Docker on every kind of data root: `make test-matrix` runs it all and writes docs/test-matrix.md.

Ready means proven, so what is added here is a container that runs. Docker 29's own engine is tried where the image
`dind:29` was built (scripts/build_dind29.py); 28.5 with containerd's store has 29's default way of storing images. The
image with the programs of the official ones is made by tests/alpine_image.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata_dind.errors import ImageError, OverlayRefused
from kata_dind.image.dind import require_dind_image
from kata_dind.image.source import PackageSource
from kata_dind.image.store import DindImage, require_image
from kata_dind.progress import silent
from kata_dind.sandbox.api import open_sandbox
from kata_dind.spec import parse_spec
from tests import alpine_image
from tests.vm.driver import SandboxDriver

pytestmark = pytest.mark.requires("qemu", "virtiofsd", "root")

CONTAINERD = ["--feature=containerd-snapshotter=true"]
DOCKERS: dict[str, tuple[str, list[str]]] = {
    "20.10": ("bookworm", []),
    "26.1": ("trixie", []),
    "28.5, storage driver": ("forky", []),
    "28.5, containerd store": ("forky", CONTAINERD),
    "29": ("dind:29", []),
    "26.1 in an Alpine-like root": (alpine_image.REFERENCE, []),
}
KINDS: dict[str, dict[str, Any]] = {
    "memory": {"data_root": "memory", "size": "768M"},
    "loop": {"data_root": "loop"},
    "block": {"data_root": "block"},
    "virtiofs": {"data_root": "virtiofs"},
    "virtiofs without xattr": {"data_root": "virtiofs", "virtiofs_xattr": False},
}
SMOKE = {("28.5, containerd store", "loop")}
"""What runs before the others; other files have Docker 20.10 on every kind."""

CELLS = [
    pytest.param(
        docker,
        kind,
        marks=pytest.mark.thorough if (docker, kind) in SMOKE else pytest.mark.slow(minutes=5),
        id=f"{docker}-{kind}",
    )
    for docker in DOCKERS
    for kind in KINDS
]
_RUN = "docker load --quiet --input /usr/share/kata-dind/hello.tar && docker run --rm kata-dind/hello echo ran"


@functools.cache
def image_of(docker: str) -> DindImage:
    """Return a Docker's image, built when absent; skips where nobody has built the one of Docker 29."""
    suite, _ = DOCKERS[docker]
    if suite == alpine_image.REFERENCE:
        return alpine_image.require_alpine_image(report=silent)
    if ":" in suite:
        try:
            return require_image(suite)
        except ImageError as error:
            pytest.skip(error.summary)
    # A release that is not out yet may have a Release file that is past its date.
    source = PackageSource(suite, apt_options=('Acquire::Check-Valid-Until "false";',))
    return require_dind_image("", source, report=silent)


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], str]]:
    """What each cell came to; written as a page at the end when `--matrix-page` names one."""
    outcomes: dict[tuple[str, str], str] = {}
    yield outcomes
    page = request.config.getoption("--matrix-page")
    if page:
        Path(page).write_text(page_of(outcomes))


@pytest.mark.parametrize(("docker", "kind"), CELLS)
def test_docker_works_on_a_data_root(
    table: dict[tuple[str, str], str], private_directories: Path, docker: str, kind: str
) -> None:
    image = image_of(docker)
    table[docker, kind] = "**failed**"
    _, arguments = DOCKERS[docker]
    spec = parse_spec(name="matrix", image=image.reference, dockerd_args=arguments, timeout_seconds=600, **KINDS[kind])
    if kind == "virtiofs without xattr":
        with pytest.raises(OverlayRefused) as refused, open_sandbox(spec):
            pass
        assert refused.value.summary.startswith("overlay does not work on virtiofs at /var/lib/docker: ")
        table[docker, kind] = "refused, before dockerd starts"
        return
    with open_sandbox(spec) as sandbox:
        inspected = sandbox.inspect()
        assert SandboxDriver(sandbox.name).succeed(_RUN).splitlines()[-1] == "ran"
        assert set(inspected["data_root"]["proof"].values()) == {"passed"}
        assert inspected["data_root"]["direct_io"] is (True if kind == "loop" else None)
        table[docker, kind] = f"{inspected['docker']['storage']}"


def page_of(outcomes: dict[tuple[str, str], str]) -> str:
    """Render the table as Markdown."""
    dockers = [docker for docker in DOCKERS if any((docker, kind) in outcomes for kind in KINDS)]
    rows = [
        "| " + " | ".join([kind, *(outcomes.get((docker, kind), "not tried") for docker in dockers)]) + " |"
        for kind in KINDS
    ]
    return "\n".join(
        [
            "# Every Docker on every kind of data root",
            "",
            "Written by `make test-matrix` (tests/vm/test_matrix.py). A cell names the storage with which a sandbox",
            "was proven (load, create and export of an image with a whiteout, an opaque directory and a file",
            "capability) and then ran a container. Without extended attributes, as Kata's virtiofsd is started by",
            "default, the guest entrypoint refuses the share before dockerd touches it. Docker 29 is tried where",
            "its image was built (scripts/build_dind29.py). The Alpine-like root has the programs of the official",
            "images, which are busybox and no util-linux, with Debian's Docker (tests/alpine_image.py).",
            "",
            "| data root | " + " | ".join(f"Docker {docker}" for docker in dockers) + " |",
            "|---" * (len(dockers) + 1) + "|",
            *rows,
            "",
        ]
    )
