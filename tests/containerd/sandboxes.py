"""Sandboxes on the tests' containerd."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kata_dind.backend.containerd.client import connected
from kata_dind.backend.containerd.pods import FoundPod, find_pods
from kata_dind.progress import Report, silent
from kata_dind.sandbox.api import Sandbox, up
from kata_dind.spec import SandboxSpec, parse_spec
from tests.kube.node import Host

HANDLER = "kata-qemu"


@dataclass(frozen=True)
class Sandboxes:
    """What a test starts sandboxes with."""

    host: Host
    image: str

    def spec(self, name: str = "demo", **fields: Any) -> SandboxSpec:
        wanted = {
            "backend": "containerd",
            "handler": HANDLER,
            "allow_shared_kernel": True,
            "containerd_address": str(self.host.address),
            "image": self.image,
            "size": "1G",
            "data_root": "loop",
        }
        return parse_spec(name=name, **{**wanted, **fields})

    def up(self, name: str = "demo", *, report: Report = silent, **fields: Any) -> Sandbox:
        return up(self.spec(name, **fields), report=report)

    def pod_of(self, sandbox: Sandbox) -> FoundPod:
        """Return a sandbox's pod."""
        own = json.loads((sandbox.directory / "plan.json").read_text())["own"]
        with connected(self.host.address) as containerd:
            (pod,) = find_pods(containerd, own["identity"])
        return pod

    def kill_pod(self, sandbox: Sandbox) -> None:
        """Let all of a pod's processes die, as when a virtual machine does."""
        pod = self.pod_of(sandbox)
        for task in (*(container for container, _ in pod.containers), pod.pod_id):
            self.host.succeed(*self.host.ctr("tasks", "kill", "--signal=KILL", "--all", task))

    def succeed_in_pod(self, sandbox: Sandbox, *argv: str) -> None:
        """Run a command in a pod's container without anybody who serves the sandbox."""
        with connected(self.host.address) as containerd:
            answer = containerd.call("RuntimeService/ExecSync", failing="no", timeout_seconds=60, timeout=60,
                                     container_id=self.pod_of(sandbox).container_id, cmd=list(argv))  # fmt: skip
        assert answer.exit_code == 0, answer.stderr

    def address_of(self, sandbox: Sandbox) -> str:
        """Return a pod's address in the network of all pods."""
        with connected(self.host.address) as containerd:
            answer = containerd.call("RuntimeService/PodSandboxStatus", failing="no",
                                     pod_sandbox_id=self.pod_of(sandbox).pod_id)  # fmt: skip
        return str(answer.status.network.ip)

    def listed(self, what: str = "containers") -> str:
        """Return what containerd has."""
        return self.host.succeed(*self.host.ctr(what, "list"))


def supervisor_of(sandbox: Sandbox) -> int:
    return int(json.loads((sandbox.directory / "status.json").read_text())["pid"])


def kill_supervisor(sandbox: Sandbox) -> None:
    os.kill(supervisor_of(sandbox), signal.SIGKILL)
    wait_until(lambda: sandbox.summary().problem is not None)


def wait_until(holds: Callable[[], bool], *, timeout_seconds: float = 30) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not holds():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.05)
