"""One containerd for all tests, in namespaces of its own, with a handler that is named like Kata's and runs runc."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_dind.image.dind import require_dind_image
from kata_dind.image.source import default_source
from kata_dind.progress import silent
from kata_dind.sandbox.api import list_sandboxes, require_sandbox
from kata_dind.store.sandboxes import sandboxes_directory
from scripts import build_dind29
from tests import requirements
from tests.containerd.sandboxes import Sandboxes
from tests.guest.daemons import wait_until_no_loop_lies_in
from tests.kube.node import Host, start_host
from tests.kube.running import wait_until_nothing_is_left

_QUICK = (
    "test_a_life",
    "test_each_kind_is_proven_and_a_disk_keeps_its_data[block",
    "test_the_endpoint_is_dockers_api",
    "test_what_can_not_be_is_refused",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to `make test-all` what takes pods three minutes, but for a whole life of one and a few more."""
    for item in items:
        starts = {"sandboxes", "newer_sandboxes"} & {*getattr(item, "fixturenames", ())}
        if item.path.parent == Path(__file__).parent and starts and not item.name.startswith(_QUICK):
            item.add_marker(pytest.mark.thorough)


@pytest.fixture(scope="session")
def host(private_directories: Path) -> Iterator[Host]:
    directory = private_directories / "host"
    directory.mkdir(mode=0o711)
    with start_host(directory) as host:
        yield host


@pytest.fixture(scope="session")
def newer_host(request: pytest.FixtureRequest, private_directories: Path) -> Iterator[Host]:
    """A host with the containerd that Docker 29 brings."""
    programs = build_dind29.find_programs()
    if programs is None:
        requirements.refuse(request.config, "docker29", "it has not been built (python -m scripts.build_dind29)")
    directory = private_directories / "newer"
    directory.mkdir(mode=0o711)
    with start_host(directory, programs=programs) as host:
        yield host


@pytest.fixture(scope="session")
def dind() -> str:
    """The name of our own image of Docker."""
    return require_dind_image("", default_source(), report=silent).reference


@pytest.fixture
def sandboxes(host: Host, dind: str) -> Iterator[Sandboxes]:
    """What starts sandboxes on the host; we are in its network meanwhile, and nothing may be left there."""
    with _sandboxes_on(host, dind) as sandboxes:
        yield sandboxes


@pytest.fixture
def newer_sandboxes(newer_host: Host, dind: str) -> Iterator[Sandboxes]:
    """The same on a containerd 2."""
    with _sandboxes_on(newer_host, dind) as sandboxes:
        yield sandboxes


@contextlib.contextmanager
def _sandboxes_on(host: Host, dind: str) -> Iterator[Sandboxes]:
    before = host.traces() | {"group: k8s.io"}  # the parent of all groups, which containerd keeps
    with host.namespaces.entered_network():
        yield Sandboxes(host, dind)
        for summary in list_sandboxes():
            require_sandbox(summary.name).remove(force=True)
        assert [*sandboxes_directory().iterdir()] == []
    wait_until_nothing_is_left(host.traces, before)
    # Of the loop kind, whose loop device is the kernel's that we share; a busy one unmounts slowly.
    wait_until_no_loop_lies_in(sandboxes_directory())
