"""One sandbox, booted once, for all tests that leave it as it is; a test that hurts a sandbox makes its own.

The sandbox has what can be asked for together: the default data root, shares of every kind, outbound NAT.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.vm.driver import START_SECONDS, SandboxDriver, succeed

NAME = "shared"


@dataclass(frozen=True)
class SharedPaths:
    """What the host shares, and where the guest sees it: a directory, one that is read-only, a file, and a directory
    that has the same path on both sides.
    """

    writable: Path
    read_only: Path
    file: Path
    same: Path
    guest_writable: str = "/srv/writable"
    guest_read_only: str = "/srv/read-only"
    guest_file: str = "/srv/note, with comma.txt"

    @property
    def options(self) -> list[str]:
        shares = (
            f"{self.writable}:{self.guest_writable}",
            f"{self.read_only}:{self.guest_read_only}:ro",
            f"{self.file}:{self.guest_file}:ro",
            str(self.same),
        )
        return [word for share in shares for word in ("--share", share)]


@pytest.fixture(scope="session")
def shared_paths(tmp_path_factory: pytest.TempPathFactory) -> SharedPaths:
    directory = tmp_path_factory.mktemp("shares")
    paths = SharedPaths(
        directory / "writable", directory / "read only", directory / "note, with comma.txt", directory / "same"
    )
    paths.writable.mkdir()
    paths.same.mkdir()
    paths.read_only.mkdir()
    (paths.read_only / "given").write_text("from the host\n")
    paths.file.write_text("a note\n")
    return paths


@pytest.fixture(scope="session")
def answer_of_up(shared_paths: SharedPaths, private_directories: Path) -> Iterator[dict[str, Any]]:
    """What `up --json` says of the shared sandbox, which runs until the session ends."""
    answer = succeed("up", NAME, "--json", *shared_paths.options)
    try:
        yield json.loads(answer)
    finally:
        succeed("rm", "--force", NAME)


@pytest.fixture(scope="session")
def sandbox(answer_of_up: dict[str, Any]) -> SandboxDriver:
    return SandboxDriver(NAME)


@pytest.fixture(scope="session")
def hello(sandbox: SandboxDriver) -> str:
    """An image to start from, which comes into a sandbox with the first use of its name."""
    succeed("docker", sandbox.name, "--", "image", "inspect", "kata-dind/hello")
    return "kata-dind/hello"


@pytest.fixture(scope="session")
def small_seed(private_directories: Path) -> Iterator[str]:
    """A small seed with a name, which holds an image."""
    succeed("seed", "build", "small", "kata-dind/hello", "--memory", "768M")
    yield "small"
    succeed("seed", "rm", "small")


@pytest.fixture
def client(sandbox: SandboxDriver, hello: str) -> Iterator[docker.DockerClient]:
    """An unmodified Docker client, connected to the shared sandbox."""
    connected = docker.DockerClient(base_url=sandbox.docker_host, timeout=int(START_SECONDS))
    try:
        yield connected
    finally:
        connected.close()
