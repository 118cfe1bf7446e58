"""docs/walkthrough-kubernetes.md, from its first command to its last: what it shows is what a reader sees.

The page tells at its end what is stood in for here: a scheduler, the controllers of Deployments and Jobs, and those of
ARC and GitLab Runner, whose pods are made as those make them (tests/kube/docker_pods.py).
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import build_kube
from tests.kube.docker_pods import SIZE_MIB, gitlab_job, runner
from tests.kube.needs import needs
from tests.kube.node import NAME, Node
from tests.kube.pod_images import NodeImages
from tests.kube.running import END_SECONDS, wait_until_nothing_is_left
from tests.kube.webhook import started_webhook
from tests.vm.driver import KATA_DIND

pytestmark = [*needs("kubectl", "kubelet"), pytest.mark.slow(minutes=5)]

PAGE = (Path(__file__).parents[2] / "docs" / "walkthrough-kubernetes.md").read_text(encoding="utf-8")
DOCKER = "28.5"
_DEPLOYMENT = {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2, "observedGeneration": 1}


def steps() -> list[tuple[str, str]]:
    """Return the page's commands, and what it shows of their answers."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL):
        for command in re.split(r"(?m)^\$ ", block)[1:]:
            line, _, shown = command.partition("\n")
            found.append((line, shown))
    return found


def words_of(text: str) -> list[list[str]]:
    """Return an answer in lines and words: how wide a column is depends on what else is in it."""
    return [line.split() for line in text.splitlines()]


@contextlib.contextmanager
def deployed(node: Node, directory: Path) -> Iterator[None]:
    """Be the controllers of what has been applied: run the webhook, and say that its Deployment runs."""
    policy = directory / "policy.yaml"
    policy.write_text("{}", encoding="utf-8")
    with started_webhook(node, directory, namespace="kata-dind", policy_file=policy):
        with node.server.client() as client:
            path = "/apis/apps/v1/namespaces/kata-dind/deployments/kata-dind/status"
            answer = client.request("PATCH", path, {"status": _DEPLOYMENT}, kind="application/merge-patch+json")
            assert answer.accepted, answer.message
        yield


@contextlib.contextmanager
def creating(node: Node) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Create pods as a controller would, and delete them at the end."""
    pods: list[Mapping[str, Any]] = []
    with node.server.client() as client:

        def create(manifest: Mapping[str, Any]) -> None:
            answer = client.create(manifest)
            assert answer.accepted, answer.message
            pods.append(manifest)

        try:
            yield create
        finally:
            for pod in pods:
                client.delete(pod)


def schedule(node: Node) -> None:
    """Be the scheduler: give the node every pod that waits for one."""
    with node.server.client() as client:
        for pod in client.request("GET", "/api/v1/namespaces/ci/pods").body["items"]:
            if "nodeName" not in pod["spec"]:
                name = pod["metadata"]["name"]
                target = {"apiVersion": "v1", "kind": "Node", "name": NAME}
                binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
                answer = client.request("POST", f"/api/v1/namespaces/ci/pods/{name}/binding", binding)
                assert answer.accepted, answer.message


def test_a_reader_sees_what_the_page_shows(node: Node, images: NodeImages, tmp_path: Path) -> None:
    manifest = re.search(r"`pod.yaml`.*?```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert manifest is not None
    (tmp_path / "pod.yaml").write_text(manifest[1])
    assert yaml.safe_load(manifest[1])["spec"]["containers"][0]["image"] == images.dind(DOCKER)
    before = node.traces()
    arc = {**runner(images.dind(DOCKER), images.client(DOCKER), size=f"{SIZE_MIB}Mi")}
    gitlab = gitlab_job(images.dind(DOCKER), images.client(DOCKER), size=f"{SIZE_MIB}Mi")
    programs = {"kubectl": str(build_kube.require_program("kubectl")), "kata-dind": shlex.join(KATA_DIND)}
    functions = "; ".join(f'{name}() {{ {argv} "$@"; }}' for name, argv in programs.items())
    with contextlib.ExitStack() as stack:
        create = stack.enter_context(creating(node))
        for line, shown in steps():
            if "rollout status" in line:
                stack.enter_context(deployed(node, tmp_path))
            for pod in (arc, gitlab):
                if f"pod/{pod['metadata']['name']} " in line and " wait " in line:
                    create(pod)
            schedule(node)
            script = f"cd {tmp_path}; {functions}; {line}"
            done = node.run("bash", "-uo", "pipefail", "-c", script, timeout_seconds=300)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            if shown:
                assert words_of(done.stdout or done.stderr) == words_of(shown), line
    wait_until_nothing_is_left(
        lambda: frozenset(each for each in node.traces() if "webhook" not in each), before, timeout_seconds=END_SECONDS
    )


def test_the_page_has_commands_with_answers() -> None:
    assert len(steps()) > 15
    assert sum(bool(shown) for _, shown in steps()) > 12
