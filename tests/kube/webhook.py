"""The webhook as a process beside a node's API server, installed by `kata-dind webhook manifest`.

What controllers would do is done here: no Deployment runs the webhook and no Job its certificates, and the address of
the Service is one of the node's own.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_dind.host.process import Daemon, daemon
from scripts import build_kube
from tests.kube.node import Node
from tests.vm.driver import KATA_DIND

NAMESPACE = "webhook-of-tests"
START_SECONDS = 60
_HTTP_PORT = 8080
_FILES = ("tls.crt", "tls.key")


@dataclass(frozen=True)
class Webhook:
    """A webhook that the API server asks about every new pod of Kata's."""

    log: Path
    kata_dind_logs: list[Path]

    def decisions(self) -> list[dict[str, Any]]:
        """Return what it has written about the reviews that it answered."""
        lines = map(json.loads, self.log.read_text().splitlines())
        return [line for line in lines if "decision" in line]


@contextlib.contextmanager
def installed_webhook(node: Node, directory: Path, *, policy: Mapping[str, Any]) -> Iterator[Webhook]:
    """Install and start it; the API server refuses every pod that it is to be asked about and doesn't answer for."""
    policy_file = directory / "policy.yaml"
    policy_file.write_text(json.dumps(policy), encoding="utf-8")
    wishes = (f"--policy={policy_file}", "--failure-policy=Fail")
    manifest = node.succeed(*KATA_DIND, "webhook", "manifest", f"--namespace={NAMESPACE}", *wishes)
    node.succeed(*kubectl("apply", "--filename=-"), text=manifest)
    try:
        with started_webhook(node, directory, namespace=NAMESPACE, policy_file=policy_file) as webhook:
            yield webhook
    finally:
        node.succeed(*kubectl("delete", "--filename=-"), text=manifest)


@contextlib.contextmanager
def started_webhook(node: Node, directory: Path, *, namespace: str, policy_file: Path) -> Iterator[Webhook]:
    """Run what the Job and the Deployment of an installed webhook would run."""
    names = ("--secret=kata-dind-tls", "--service=kata-dind", "--configuration=kata-dind")
    node.succeed(*KATA_DIND, "webhook", "certs", f"--namespace={namespace}", *names)
    _write_secret(node, namespace, directory)
    service = _read(node, "service", "kata-dind", namespace)["spec"]["clusterIP"]
    node.succeed("ip", "address", "add", f"{service}/32", "dev", "lo")
    log = directory / "webhook.log"
    argv = [
        *("nsenter", f"--net=/proc/{node.namespaces.pid}/ns/net", "--", *KATA_DIND, "webhook", "serve"),
        *(f"--listen={service}:443", f"--http-listen=127.0.0.1:{_HTTP_PORT}", f"--policy={policy_file}"),
        *(f"--cert={directory}/tls.crt", f"--key={directory}/tls.key"),
    ]
    try:
        with daemon(argv, name="kata-dind webhook serve", log=log) as process:
            _wait_until_ready(node, process)
            _wait_until_asked(node)
            yield Webhook(log, [log])
    finally:
        node.succeed("ip", "address", "del", f"{service}/32", "dev", "lo")


def kubectl(*arguments: str) -> list[str | os.PathLike[str]]:
    """Return the call of kubectl."""
    return [build_kube.require_program("kubectl"), *arguments]


def _read(node: Node, kind: str, name: str, namespace: str) -> dict[str, Any]:
    found = json.loads(node.succeed(*kubectl("get", kind, name, f"--namespace={namespace}", "--output=json")))
    assert isinstance(found, dict)
    return found


def _write_secret(node: Node, namespace: str, directory: Path) -> None:
    data = _read(node, "secret", "kata-dind-tls", namespace)["data"]
    for name in _FILES:
        (directory / name).write_bytes(base64.b64decode(data[name]))


def _wait_until_ready(node: Node, process: Daemon) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _is_ready(node):
        assert not process.ended() and time.monotonic() < deadline, process.describe_end()
        time.sleep(0.1)


def _is_ready(node: Node) -> bool:
    url = f"http://127.0.0.1:{_HTTP_PORT}/readyz"
    with (
        contextlib.suppress(OSError),
        node.namespaces.entered_network(),
        urllib.request.urlopen(url, timeout=5) as answer,
    ):
        return bool(answer.status == 200)
    return False


def _wait_until_asked(node: Node) -> None:
    """The API server learns of a configuration a moment after it has stored it."""
    container = {"name": "dind", "image": "docker:28-dind", "securityContext": {"privileged": True}}
    spec = {"runtimeClassName": "kata-qemu", "containers": [container]}
    probe = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": "ci"}, "spec": spec}
    deadline = time.monotonic() + START_SECONDS
    create = kubectl("create", "--dry-run=server", "--output=json", "--filename=-")
    while "kata-dind.io/repaired" not in (done := node.run(*create, text=json.dumps(probe))).stdout:
        assert time.monotonic() < deadline, f"the API server doesn't ask the webhook: {done.stderr}"
        time.sleep(0.2)
