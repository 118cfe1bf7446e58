"""Pods on a real node through the webhook: every kind of data root that can be had there, every Docker, every shape.

Not here: emptyDirs that Kata makes disks of (`block-plain`). It is Kata's agent that formats and mounts these, and the
runtime of this node is runc. So Docker without root has only memory here: it can't mount a disk itself. Nor is a memory
limit of its containers looked at: without root that takes control groups of the second version and a systemd.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.kube.disks import DISKS_CLASS, disk_of
from tests.kube.docker_pods import (
    RUN,
    SIZE_MIB,
    buildkit,
    check_buildkit,
    check_docker,
    check_full,
    dind,
    keep_writing,
    rootless,
    runner,
)
from tests.kube.needs import needs
from tests.kube.node import Node
from tests.kube.pod_images import BUILDKIT_ROOT, ROOT, ROOTLESS, NodeImages
from tests.kube.running import RECORDS_SECONDS, RunningPod, started, wait_until_nothing_is_left
from tests.kube.webhook import Webhook
from tests.vm.driver import KATA_DIND

# Measured on two busy cores: a case takes 20 to 130 s, and all of them half an hour.
pytestmark = [*needs("kubectl", "kubelet"), pytest.mark.usefixtures("webhook"), pytest.mark.slow(minutes=30)]

KINDS = ("loop", "memory", "block")
DOCKERS = ("20.10", "26.1", "28.5")
Start = Callable[[Mapping[str, Any]], AbstractContextManager[RunningPod]]


def wishes(kind: str) -> dict[str, str]:
    """Return the arguments that ask for a kind; a disk is what the class gives, as the policy says."""
    asked = {"runtime_class": DISKS_CLASS} if kind == "block" else {"data_root": kind}
    return {**asked, "size": f"{SIZE_MIB}Mi"}


@pytest.fixture
def start(node: Node, tmp_path: Path) -> Start:
    """Starts a pod; one whose volume is a block device gets it."""

    @contextlib.contextmanager
    def start(manifest: Mapping[str, Any]) -> Iterator[RunningPod]:
        with contextlib.ExitStack() as stack:
            disk = None
            if manifest["spec"]["runtimeClassName"] == DISKS_CLASS:
                disk = stack.enter_context(disk_of(node, tmp_path, size_mib=SIZE_MIB))
            pod = stack.enter_context(started(node, manifest))
            if disk:
                disk.bind(pod)
            yield pod

    return start


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("docker", [*DOCKERS, "26.1-alpine3.20"])
def test_a_pod_works(start: Start, images: NodeImages, webhook: Webhook, docker: str, kind: str) -> None:
    manifest = dind(images.dind(docker), **wishes(kind))
    with start(manifest) as pod:
        assert webhook.decisions()[-1]["kind"] == kind
        pod.wait_until_ready()
        assert pod.succeed("docker info --format '{{.Driver}}'").strip() == "overlay2"
        check_docker(pod)
        check_full(pod, ROOT)
    with start(manifest) as pod:
        pod.wait_until_ready()
        keep_writing(pod)
        pod.delete(grace_seconds=0)


@pytest.mark.parametrize("docker", DOCKERS)
def test_a_rootless_pod_works(start: Start, images: NodeImages, webhook: Webhook, docker: str) -> None:
    manifest = rootless(images.dind(f"{docker}-rootless"), **wishes("memory"))
    with start(manifest) as pod:
        assert webhook.decisions()[-1]["kind"] == "memory"
        pod.wait_until_ready()
        assert pod.succeed("docker info --format '{{.Driver}}'").strip() == "overlay2"
        check_docker(pod, limits=False)
        check_full(pod, ROOTLESS)
    with start(manifest) as pod:
        pod.wait_until_ready()
        keep_writing(pod)
        pod.delete(grace_seconds=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("docker", DOCKERS)
def test_a_job_with_docker_as_its_sidecar_completes(
    start: Start, images: NodeImages, webhook: Webhook, docker: str, kind: str
) -> None:
    with start(runner(images.dind(docker), images.client(docker), **wishes(kind))) as pod:
        assert webhook.decisions()[-1]["kind"] == kind
        pod.wait_until_ended()
        assert pod.logs("runner").splitlines()[-1] == "built"


def repaired(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what `kata-dind fix` makes of a manifest."""
    done = subprocess.run(
        [*KATA_DIND, "fix", "-f", "-"], input=json.dumps(manifest), capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


def test_a_pod_works_with_a_repair_by_fix(node: Node, images: NodeImages) -> None:
    """It is repaired before it is created. Of this one even kubelet's records are waited for."""
    records = node.records()
    with started(node, repaired(dind(images.dind("20.10"), size=f"{SIZE_MIB}Mi"))) as pod:
        pod.wait_until_ready()
        check_docker(pod)
    wait_until_nothing_is_left(node.records, records, timeout_seconds=RECORDS_SECONDS)


@pytest.mark.requires("buildkit-modules")
@pytest.mark.parametrize("kind", KINDS)
def test_buildkit_without_docker_works(start: Start, images: NodeImages, webhook: Webhook, kind: str) -> None:
    """It has no images to load, and no containers but those of its builds."""
    manifest = buildkit(images.buildkit(), **wishes(kind))
    with start(manifest) as pod:
        assert webhook.decisions()[-1]["kind"] == kind
        pod.wait_until_ready()
        assert "worker.snapshotter: overlayfs" in pod.succeed(
            "buildctl debug workers --verbose | tr -s '[:blank:]' ' '"
        )
        check_buildkit(pod)
        check_full(pod, BUILDKIT_ROOT)
    with start(manifest) as pod:
        pod.wait_until_ready()
        pod.delete(grace_seconds=0)


@pytest.mark.parametrize(
    ("docker", "driver", "fault"),
    [
        ("20.10", "vfs", "operation not supported"),
        ("26.1", "vfs", ""),
        ("28.5", "vfs", ""),
    ],
)
def test_the_fault_shows_without_a_repair(
    start: Start, images: NodeImages, docker: str, driver: str, fault: str
) -> None:
    with start(dind(images.dind(docker), repair="false")) as pod:
        pod.wait_until_ready()
        assert pod.succeed("docker info --format '{{.Driver}}'").strip() == driver
        code, said = pod.run(RUN)
        assert (code == 0) is not bool(fault)
        assert fault in said
