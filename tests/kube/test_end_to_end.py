"""A pod with Docker in it on a real node, repaired by the webhook beside its API server.

The node's share refuses overlay as Kata's virtio-fs does (tests/kube/node.py). The manifest is as people write it, and
nothing of the pod may be left on the node when it has been deleted. All kinds and versions, and the fault without a
repair: tests/kube/test_end_to_end_matrix.py.
"""

from __future__ import annotations

from tests.kube.docker_pods import SIZE_MIB, check_docker, check_full, dind, keep_writing
from tests.kube.needs import needs
from tests.kube.node import Node
from tests.kube.pod_images import NodeImages
from tests.kube.running import started
from tests.kube.webhook import Webhook

pytestmark = needs("kubectl", "kubelet")


def test_it_works_through_the_webhook(node: Node, images: NodeImages, webhook: Webhook) -> None:
    with started(node, dind(images.dind("20.10"), size=f"{SIZE_MIB}Mi")) as pod:
        assert [line["decision"] for line in webhook.decisions() if line.get("name") == "dind"] == ["repaired"]
        pod.wait_until_ready()
        assert pod.succeed("docker info --format '{{.Driver}}'").strip() == "overlay2"
        check_docker(pod)
        check_full(pod)


def test_nothing_is_left_after_a_forced_end(node: Node, images: NodeImages, webhook: Webhook) -> None:
    with started(node, dind(images.dind("20.10"), size=f"{SIZE_MIB}Mi")) as pod:
        pod.wait_until_ready()
        keep_writing(pod)
        pod.delete(grace_seconds=0)
