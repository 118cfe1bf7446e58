"""Every Docker on every kind of data root: `make test-matrix` runs it all and writes docs/test-matrix.md.

Ready means proven, so what is added here is a container that runs. Docker 29 is built from Go modules, unless it is in
the cache (scripts/build_dind29.py). In the rootless columns root prepares the data root, as a kubelet would for a pod;
then the guest entrypoint and dockerd run as a user (scripts/build_rootless.py). The image with
the programs of the official ones is made by tests/alpine_image.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata_dind.errors import DataRootError
from kata_dind.image.dind import require_dind_image
from kata_dind.image.kernel import require_guest_kernel
from kata_dind.image.source import PackageSource, default_source
from kata_dind.image.store import DindImage
from kata_dind.progress import silent
from kata_dind.sandbox.api import open_sandbox
from kata_dind.spec import parse_spec
from scripts import build_dind29, build_rootless
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
    "20.10, rootless": ("dind:20.10-rootless", []),
    "29, rootless": ("dind:29-rootless", []),
    "26.1 in an Alpine-like root": (alpine_image.REFERENCE, []),
}
KINDS: dict[str, dict[str, Any]] = {
    "memory": {"data_root": "memory", "size": "768M"},
    "loop": {"data_root": "loop"},
    "block": {"data_root": "block"},
    "virtiofs": {"data_root": "virtiofs"},
    "virtiofs without xattr": {"data_root": "virtiofs", "virtiofs_xattr": False},
}
ROOTLESS_PATH = "/home/rootless/.local/share/docker"
SMOKE = {("28.5, containerd store", "loop")}
"""What runs before the others; other files have Docker 20.10 on every kind."""


def marks_of(docker: str, kind: str) -> list[pytest.MarkDecorator]:
    """Return the marks of a cell; the first of Docker 29 may have to build it."""
    needs = [pytest.mark.requires("docker29"), pytest.mark.timeout(3600)] if docker.startswith("29") else []
    if (docker, kind) in SMOKE:
        return [pytest.mark.thorough, *needs]
    return [pytest.mark.slow(minutes=20 if needs and not build_dind29.find_programs() else 5), *needs]


CELLS = [
    pytest.param(
        docker,
        kind,
        marks=marks_of(docker, kind),
        id=f"{docker}-{kind}",
    )
    for docker in DOCKERS
    for kind in KINDS
]
_RUN = "docker load --quiet --input /usr/share/kata-dind/hello.tar && docker run --rm kata-dind/hello echo ran"


@functools.cache
def image_of(docker: str) -> DindImage:
    """Return a Docker's image, built when absent."""
    suite, _ = DOCKERS[docker]
    if is_rootless(docker):
        return build_rootless.require_rootless(docker.partition(",")[0])
    if docker == "29":
        return build_dind29.require_dind29()
    if suite == alpine_image.REFERENCE:
        return alpine_image.require_alpine_image(report=silent)
    # A release that is not out yet may have a Release file that is past its date.
    source = PackageSource(suite, apt_options=('Acquire::Check-Valid-Until "false";',))
    return require_dind_image("", source, report=silent)


def is_rootless(docker: str) -> bool:
    """Tell whether dockerd runs as a user."""
    return docker.endswith("rootless")


def refusal_of(docker: str, kind: str) -> str:
    """Return what the guest entrypoint says where it refuses a data root; empty where it does not."""
    if kind == "virtiofs without xattr":
        return "overlay does not work on virtiofs at /var/lib/docker: "
    kernel = require_guest_kernel(None, default_source(), report=silent).version
    if is_rootless(docker) and kind == "virtiofs":
        return f"overlay does not work on virtiofs at {ROOTLESS_PATH} for user 1000: "
    if is_rootless(docker) and kind == "memory" and parse_kernel_version(kernel) < (6, 6):
        return f"overlay does not work on tmpfs at {ROOTLESS_PATH} for user 1000: whiteout failed"
    return ""


def parse_kernel_version(text: str) -> tuple[int, ...]:
    """Return the first two numbers of a kernel's version: (6, 1) for 6.1.0-57-cloud-amd64."""
    return tuple(int(number) for number in text.split(".")[:2])


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
    refusal = refusal_of(docker, kind)
    try:
        with open_sandbox(spec) as sandbox:
            inspected = sandbox.inspect()
            assert SandboxDriver(sandbox.name).succeed(_RUN).splitlines()[-1] == "ran"
            untested = {"untested"} if is_rootless(docker) else set()
            assert set(inspected["data_root"]["proof"].values()) <= {"passed", *untested}
            if kind == "loop" and not is_rootless(docker):
                assert inspected["data_root"]["direct_io"] is True
            table[docker, kind] = f"{inspected['docker']['storage']}"
    except DataRootError as error:
        assert refusal and refusal in error.summary
        table[docker, kind] = "refused, before dockerd starts"
    else:
        # Whether overlay works for a user on a share depends on virtiofsd; dockerd is proven in any case.
        assert not refusal or (is_rootless(docker) and kind == "virtiofs")


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
            "default, the guest entrypoint refuses the share before dockerd touches it. Docker 29 is built from Go",
            "modules (scripts/build_dind29.py). Rootless is dockerd as a user, in the shape of docker:dind-rootless",
            "(scripts/build_rootless.py): root prepares the data root, as a kubelet would, and the entrypoint proves",
            "it once more as that user, in a user namespace. A tmpfs has no user.* attributes before Linux 6.6.",
            "The Alpine-like root has the programs of the official images, which are busybox and no util-linux, with",
            "Debian's Docker (tests/alpine_image.py).",
            "",
            "| data root | " + " | ".join(f"Docker {docker}" for docker in dockers) + " |",
            "|---" * (len(dockers) + 1) + "|",
            *rows,
            "",
        ]
    )
