"""One API server for all tests, with nothing in it but what a test makes, in namespaces of its own; and one node."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import requirements
from tests.kube.client import Client
from tests.kube.disks import DISKS_CLASS, STORAGE_CLASS
from tests.kube.node import Node, NodeNotReady, start_node
from tests.kube.objects import namespace_named, runtime_class
from tests.kube.pod_images import DISK_IMAGE, NodeImages
from tests.kube.server import ApiServer, start_api_server
from tests.kube.webhook import NAMESPACE, Webhook, installed_webhook

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


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest, private_directories: Path) -> Iterator[Node]:
    """A node with the class of Kata's, and an API server of its own."""
    directory = private_directories / "node"
    directory.mkdir(mode=0o711)
    with contextlib.ExitStack() as stack:
        try:
            node = stack.enter_context(start_node(directory))
        except NodeNotReady as error:
            requirements.refuse(request.config, "kubelet", str(error))
        yield node


@pytest.fixture(scope="session")
def images(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeImages]:
    """Images of Docker that the node has as soon as a test asks for them."""
    yield NodeImages(node, tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def webhook(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhook]:
    """The webhook beside the node's API server; of two classes of Kata's, one has block devices for its pods."""
    rules = [{"match": DISKS_CLASS, "handler": "kata-qemu", "blockStorageClass": STORAGE_CLASS}, {"match": "kata-*"}]
    directory = tmp_path_factory.mktemp("webhook")
    with node.server.client() as client:
        client.make(runtime_class(DISKS_CLASS), namespace_named(NAMESPACE))
    with installed_webhook(node, directory, policy={"runtimeClasses": rules, "diskImage": DISK_IMAGE}) as webhook:
        yield webhook
