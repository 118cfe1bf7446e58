"""Pods that run on a node: started through its API server, waited for, and deleted again."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.kube.client import Client, condition
from tests.kube.node import NAME, Node

START_SECONDS = 120
END_SECONDS = 60
RECORDS_SECONDS = 150
"""Kubelet removes its records of ended pods once a minute, and not in the first minute."""


@dataclass(frozen=True)
class RunningPod:
    """A pod that the node has been given."""

    node: Node
    client: Client
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"]["namespace"])

    def read(self) -> dict[str, Any]:
        """Return the pod as it is now."""
        return self.client.read(self.manifest)

    def succeed(self, script: str, *, container: str = "dind", timeout_seconds: float = 120) -> str:
        """Run a script in a container, and return what it prints."""
        done = self.run(script, container=container, timeout_seconds=timeout_seconds)
        assert done[0] == 0, f"{script}\n{done[1]}\n{self.describe()}"
        return done[1]

    def run(self, script: str, *, container: str = "dind", timeout_seconds: float = 120) -> tuple[int, str]:
        """Run a script in a container; return its exit code, and what it prints on both outputs."""
        command = ["exec", f"--namespace={self.namespace}", self.name, f"--container={container}", "--"]
        done = self.node.kubectl(*command, "sh", "-c", f"exec 2>&1; {script}", timeout_seconds=timeout_seconds)
        # What kubectl itself says of a connection is no word of the container's.
        return done.returncode, done.stdout + (done.stderr if done.returncode else "")

    def logs(self, container: str = "dind") -> str:
        """Return what a container has printed."""
        command = ["logs", f"--namespace={self.namespace}", self.name, f"--container={container}"]
        return self.node.kubectl(*command).stdout

    def wait_until_ready(self, *, timeout_seconds: float = START_SECONDS) -> None:
        """Wait until its readiness probes succeed."""
        self.wait_until(lambda pod: condition(pod, "Ready") == "True", timeout_seconds=timeout_seconds)

    def wait_until(self, holds: Callable[[Mapping[str, Any]], bool], *, timeout_seconds: float = START_SECONDS) -> None:
        """Wait until something holds of the pod."""
        deadline = time.monotonic() + timeout_seconds
        while not holds(pod := self.read()):
            assert time.monotonic() < deadline, self.describe()
            assert pod["status"]["phase"] != "Failed", self.describe()
            time.sleep(0.2)

    def wait_until_ended(self, *, timeout_seconds: float = START_SECONDS) -> None:
        """Wait until its containers have ended by themselves, and successfully."""
        self.wait_until(lambda pod: pod["status"]["phase"] == "Succeeded", timeout_seconds=timeout_seconds)

    def delete(self, *, grace_seconds: int | None = None) -> float:
        """Delete it, wait until the server has forgotten it, and return how long that took."""
        began = time.monotonic()
        self.client.delete(self.manifest, grace_seconds=grace_seconds)
        while self.client.find(self.manifest) is not None:
            assert time.monotonic() < began + END_SECONDS, self.describe()
            time.sleep(0.1)
        return time.monotonic() - began

    def describe(self) -> str:
        """Say what is known of it."""
        pod = self.client.find(self.manifest) or {}
        events = self.client.request("GET", f"/api/v1/namespaces/{self.namespace}/events").body.get("items", [])
        said = [
            f"{each['reason']}: {each['message']}" for each in events if each["involvedObject"]["name"] == self.name
        ]
        containers = [
            each["name"] for list_ in ("initContainers", "containers") for each in self.manifest["spec"].get(list_, [])
        ]
        logs = [f"--- {name}\n{self.logs(name)[-4000:]}" for name in containers]
        return "\n".join([json.dumps(pod.get("status"), indent=1), *said, *logs])


@contextlib.contextmanager
def started(node: Node, manifest: Mapping[str, Any]) -> Iterator[RunningPod]:
    """Give the node a pod for the length of the block, after which nothing of it may be left."""
    before = node.traces()
    bound = {**manifest, "spec": {**manifest["spec"], "nodeName": NAME}}
    with node.server.client() as client:
        answer = client.create(bound)
        assert answer.accepted, answer.message
        pod = RunningPod(node, client, bound)
        try:
            yield pod
        finally:
            if client.find(bound) is not None:
                pod.delete()
        wait_until_nothing_is_left(node.traces, before)


def wait_until_nothing_is_left(
    listed: Callable[[], frozenset[str]], before: frozenset[str], *, timeout_seconds: float = END_SECONDS
) -> None:
    """Wait until a node has no more than before."""
    deadline = time.monotonic() + timeout_seconds
    while left := sorted(listed() - before):
        assert time.monotonic() < deadline, "left on the node:\n" + "\n".join(left)
        time.sleep(0.2)
