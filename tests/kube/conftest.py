"""One API server for all tests, with nothing in it but what a test makes, in namespaces of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.client import Client
from tests.kube.objects import namespace_named, runtime_class
from tests.kube.server import ApiServer, start_api_server

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def api_server(private_directories: Path) -> Iterator[ApiServer]:
    directory = private_directories / "kube"
    directory.mkdir(mode=0o700)
    with start_api_server(directory) as server:
        yield server


@pytest.fixture
def api(api_server: ApiServer) -> Iterator[Client]:
    """The cluster's administrator."""
    with api_server.client() as client:
        yield client


@pytest.fixture
def namespace(api: Client) -> str:
    """A namespace that no other test has."""
    name = f"test-{next(_NUMBERS)}"
    api.make(namespace_named(name))
    return name


@pytest.fixture(scope="session")
def kata_class(api_server: ApiServer) -> str:
    """A RuntimeClass of Kata's."""
    with api_server.client() as client:
        client.make(runtime_class("kata-qemu"))
    return "kata-qemu"
