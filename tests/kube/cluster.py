"""A node with all that makes a cluster of it: controllers, a scheduler, and Services that can be reached from pods.

So a Deployment becomes pods that run, and a Job ends. What is not there: another node, and a network that keeps to
NetworkPolicies.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kata_dind.host.process import Daemon, daemon
from scripts import build_kube
from tests.kube.client import Client
from tests.kube.node import Node, start_node
from tests.kube.services import DNS_ADDRESS, DOMAIN, start_services

PROGRAMS = ("kube-controller-manager", "kube-scheduler", "kubectl", "kubelet")
"""Those of Kubernetes' that it needs, beside the API server."""

_SECONDS = 120
# Webhooks are reached by the addresses of their pods, which API servers do where no kube-proxy runs beside them.
_SERVER = ("--enable-aggregator-routing",)


@contextlib.contextmanager
def start_cluster(directory: Path) -> Iterator[Node]:
    """Start everything in a directory, and wait until pods can be made. Raises NodeNotReady."""
    names = {"clusterDNS": [DNS_ADDRESS], "clusterDomain": DOMAIN}
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(start_node(directory, settings=names, server_flags=_SERVER))
        authority, key = node.server.authority, node.server.service_accounts_key
        controllers = stack.enter_context(
            _started(
                node,
                "kube-controller-manager",
                f"--root-ca-file={authority}",
                f"--service-account-private-key-file={key}",
            )
        )
        stack.enter_context(_started(node, "kube-scheduler"))
        stack.enter_context(start_services(node))
        with node.server.client() as client:
            account = {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": "default", "namespace": "ci"},
            }
            _wait_for(lambda: client.find(account) is not None, controllers)
        yield node


@contextlib.contextmanager
def _started(node: Node, name: str, *flags: str) -> Iterator[Daemon]:
    log = node.directory / f"{name}.log"
    argv: list[str | os.PathLike[str]] = [
        build_kube.require_program(name),
        f"--kubeconfig={node.directory / 'kubeconfig'}",
        "--leader-elect=false",
        # Nobody asks it anything.
        "--secure-port=0",
        *flags,
    ]
    node.kata_dind_logs.append(log)
    with daemon(node.namespaces.argv(*argv), name=name, log=log) as process:
        yield process


def _wait_for(holds: Callable[[], bool], process: Daemon) -> None:
    deadline = time.monotonic() + _SECONDS
    while not holds():
        assert not process.ended() and time.monotonic() < deadline, process.describe_end()
        time.sleep(0.2)


def wait_until(holds: Callable[[], bool], describe: Callable[[], str], *, timeout_seconds: float = _SECONDS) -> None:
    """Wait for what controllers and the node do."""
    deadline = time.monotonic() + timeout_seconds
    while not holds():
        assert time.monotonic() < deadline, describe()
        time.sleep(0.3)


__all__ = ["PROGRAMS", "Client", "start_cluster", "wait_until"]
