"""Places for the clients: each Docker, as root and as an ordinary user.

The seeds are made by root; the ordinary user imports them, as from another host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts import build_compose
from tests.users import OrdinaryUser
from tests.vm.clients import images, places
from tests.vm.clients.places import Place
from tests.vm.driver import succeed
from tests.vm.test_matrix import image_of

DOCKERS = {"20.10": "20.10", "26.1": "26.1", "28.5": "28.5, storage driver"}
"""By the names of tests/vm/test_matrix.py."""


@pytest.fixture(scope="session")
def seed_of(private_directories: Path) -> Iterator[Callable[[str], str]]:
    """A function that returns the name of a Docker's seed, which is made with its first use."""
    made: list[str] = []

    def require(docker: str) -> str:
        name = f"clients-{docker.replace('.', '-')}"
        if name not in made:
            archives = [word for archive in images.require_archives() for word in ("--from-archive", str(archive))]
            reference = image_of(DOCKERS[docker]).reference
            succeed("seed", "build", name, "kata-dind/hello", "--image", reference, "--memory", "1G", *archives)
            made.append(name)
        return name

    yield require
    for name in made:
        succeed("seed", "rm", name)


@pytest.fixture(scope="session")
def plugins(private_directories: Path) -> Path:
    """The plugins of Docker's CLI, where every user may read them."""
    return places.readable(build_compose.require_plugins(), private_directories / "plugins")


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(
            (docker, who), id=f"{docker}-{who}", marks=[pytest.mark.slow(minutes=20), pytest.mark.timeout(3600)]
        )
        for docker in DOCKERS
        for who in ("root", "user")
    ],
)
def place(
    request: pytest.FixtureRequest, private_directories: Path, plugins: Path, seed_of: Callable[[str], str]
) -> Place:
    docker, who = request.param
    seed = seed_of(docker)
    if who == "root":
        home = private_directories / f"root-{docker}"
        return places.make_place(
            home, docker=docker, seed=seed, plugins=plugins, state=private_directories / "state"
        )  # fmt: skip
    user: OrdinaryUser = request.getfixturevalue("ordinary_user")
    home = user.cache.parent / docker
    state = user.cache.parent / "state"
    made = places.make_place(home, docker=docker, seed=seed, plugins=plugins, state=state, user=user)
    file = private_directories / f"{seed}.seed"
    succeed("seed", "export", seed, str(file))
    file.chmod(0o644)
    made.succeed("kata-dind", "seed", "import", str(file))
    file.unlink()
    return made


@pytest.fixture(scope="session")
def node_modules(private_directories: Path) -> Path:
    """A directory with testcontainers for Node, where every user may read it."""
    return places.readable(places.require_node_modules(), private_directories / "node")
