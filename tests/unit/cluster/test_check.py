"""Clusters as they are found: what is right in them, and what is said of what is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kata_dind.cluster.check import Check, ClusterFacts, Result, check_cluster, kata_version
from kata_dind.pod.policy import Policy, parse_policy

LABEL = {"katacontainers.io/kata-runtime": "true"}
DROP_IN = '[runtime]\nemptydir_mode = "block-plain"\n'


def node(name: str, *, ready: bool = True, **labels: str) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"metadata": {"name": name, "labels": labels or LABEL}, "status": {"conditions": conditions}}


def runtime_class(name: str, handler: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name}, "handler": handler or name, "scheduling": {"nodeSelector": LABEL}}


def daemon_set(image: str = "quay.io/kata-containers/kata-deploy:4.1.0", ready: int = 2) -> dict[str, Any]:
    return {
        "metadata": {"name": "kata-deploy", "namespace": "kube-system"},
        "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
        "status": {"desiredNumberScheduled": 2, "numberReady": ready},
    }


def webhook(**client: Any) -> dict[str, Any]:
    service = {"service": {"name": "kata-dind", "namespace": "ci"}, "caBundle": "Yg=="}
    hook = {"name": "pods.kata-dind.io", "clientConfig": client or service, "failurePolicy": "Ignore"}
    return {"metadata": {"name": "kata-dind"}, "webhooks": [{"name": "other"}, hook]}


FACTS = ClusterFacts(
    server_version="1.37.2",
    nodes=[node("a"), node("b"), node("c", zone="x")],
    runtime_classes=[runtime_class("kata-dind"), runtime_class("kata-qemu"), runtime_class("gvisor", "runsc")],
    daemon_sets=[daemon_set()],
    custom_runtimes=[{"data": {"dropin-kata-dind.toml": DROP_IN}}],
    webhooks=[webhook()],
    ready_addresses={("ci", "kata-dind"): 2},
)
POLICY = parse_policy(
    {
        "runtimeClasses": [
            {"match": "kata-dind", "handler": "kata-qemu-runtime-rs", "version": "4.1.0", "emptyDir": "block-plain"},
            {"match": "kata-*"},
        ]
    }
)


def rows(policy: Policy = POLICY, **changes: Any) -> dict[str, Check]:
    return {each.name: each for each in check_cluster(replace(FACTS, **changes), policy)}


def test_a_cluster_that_is_as_planned() -> None:
    found = rows()
    assert {name: each.result for name, each in found.items()} == dict.fromkeys(
        ("api server", "nodes", "kata-deploy", "class kata-dind", "class kata-qemu", "webhook kata-dind"), Result.OK
    )
    assert [each.found for each in found.values()] == [
        "Kubernetes 1.37.2",
        "2 of 3 nodes have Kata",
        "Kata 4.1.0, by kube-system/kata-deploy: ready on 2 of 2 nodes",
        "emptyDirs are disks, the best data root, on 2 nodes",
        "a repaired pod gets a disk in a file, or a block volume where the policy has one, on 2 nodes",
        "2 replicas ready; failurePolicy Ignore",
    ]
    assert [each.hint for each in found.values()] == [""] * 6


@pytest.mark.parametrize(
    ("changes", "row", "result", "said"),
    [
        ({"server_version": "1.29.3"}, "api server", Result.WARNING, "matchConditions came with 1.30"),
        ({"nodes": None}, "nodes", Result.UNKNOWN, "not allowed to list nodes"),
        ({"nodes": [node("a", zone="x")]}, "nodes", Result.WRONG, "0 of 1 node has Kata"),
        ({"nodes": [node("a"), node("b", ready=False)]}, "nodes", Result.WARNING, "of which 1 are ready"),
        ({"nodes": [node("a", zone="x")]}, "class kata-dind", Result.WRONG, "no node has its labels"),
        ({"daemon_sets": None}, "kata-deploy", Result.UNKNOWN, "not allowed to list DaemonSets"),
        ({"daemon_sets": []}, "kata-deploy", Result.OK, "may be installed by its Jobs"),
        ({"daemon_sets": [], "custom_runtimes": []}, "kata-deploy", Result.WARNING, "or by other means"),
        ({"daemon_sets": [daemon_set(ready=1)]}, "kata-deploy", Result.WRONG, "ready on 1 of 2 nodes"),
        (
            {"daemon_sets": [daemon_set("quay.io/kata-containers/kata-deploy@sha256:00")]},
            "kata-deploy",
            Result.OK,
            "Kata of an unknown version",
        ),
        (
            {"daemon_sets": [daemon_set("quay.io/kata-containers/kata-deploy:3.30.0")]},
            "class kata-dind",
            Result.WRONG,
            "the policy says Kata 4.1.0, and kata-deploy installs 3.30.0",
        ),
        (
            {"daemon_sets": [daemon_set("quay.io/kata-containers/kata-deploy:3.30.0")]},
            "kata 3.30.0",
            Result.WARNING,
            "",
        ),
        ({"runtime_classes": None}, "classes", Result.UNKNOWN, "not allowed to list RuntimeClasses"),
        ({"runtime_classes": [runtime_class("gvisor", "runsc")]}, "classes", Result.WRONG, "none is Kata's"),
        ({"runtime_classes": []}, "class kata-dind", Result.WRONG, "the cluster does not have it"),
        (
            {"custom_runtimes": [{"data": {"dropin-kata-dind.toml": '[runtime]\nemptydir_mode = "shared-fs"'}}]},
            "class kata-dind",
            Result.WRONG,
            "its handler has emptydir_mode shared-fs, and the policy says block-plain",
        ),
        (
            {"custom_runtimes": [{"data": {"dropin-kata-dind.toml": "not [TOML"}}]},
            "class kata-dind",
            Result.WRONG,
            "kata-deploy has no such setting for its handler",
        ),
        ({"custom_runtimes": None}, "class kata-dind", Result.OK, "emptyDirs are disks"),
        (
            {"custom_runtimes": [{"data": {"dropin-kata-qemu.toml": DROP_IN}}]},
            "class kata-qemu",
            Result.WRONG,
            "its handler has emptydir_mode block-plain, and the policy says shared-fs",
        ),
        ({"webhooks": None}, "webhook", Result.UNKNOWN, "not allowed to list webhook configurations"),
        ({"webhooks": []}, "webhook", Result.WARNING, "not installed"),
        (
            {"webhooks": [webhook(service={"name": "kata-dind", "namespace": "ci"})]},
            "webhook kata-dind",
            Result.WRONG,
            "no caBundle",
        ),
        ({"webhooks": [webhook(url="https://here/")]}, "webhook kata-dind", Result.OK, "called at https://here/"),
        ({"ready_addresses": {("ci", "kata-dind"): 0}}, "webhook kata-dind", Result.WRONG, "no replica is ready"),
        ({"ready_addresses": {("ci", "kata-dind"): 1}}, "webhook kata-dind", Result.WARNING, "1 replica ready"),
        ({"ready_addresses": {}}, "webhook kata-dind", Result.UNKNOWN, "not allowed to see who is ready"),
    ],
)
def test_what_is_found(changes: dict[str, Any], row: str, result: Result, said: str) -> None:
    found = rows(**changes)[row]
    assert (found.result, said in found.found) == (result, True), found


def test_what_is_wrong_has_a_hint() -> None:
    wrong = [
        *rows(nodes=[node("a", zone="x")]).values(),
        *rows(runtime_classes=[]).values(),
        *rows(daemon_sets=[daemon_set(ready=0)], ready_addresses={("ci", "kata-dind"): 0}).values(),
        *rows(webhooks=[webhook(service={"name": "kata-dind", "namespace": "ci"})]).values(),
    ]
    assert [each for each in wrong if each.result in (Result.WRONG, Result.UNKNOWN) and not each.hint] == []


def test_a_class_of_another_name_with_a_handler_of_kata_s_is_kata_s() -> None:
    found = rows(Policy(), runtime_classes=[runtime_class("sandboxed", "kata-qemu")])
    assert "class sandboxed" in found


def test_a_confidential_class_is_left_alone() -> None:
    found = rows(runtime_classes=[runtime_class("kata-qemu-snp")])["class kata-qemu-snp"]
    assert found.result == Result.OK
    assert "confidential" in found.found


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("quay.io/kata-containers/kata-deploy:4.1.0", (4, 1, 0)),
        ("registry:5000/kata-deploy:4.0.0@sha256:00", (4, 0, 0)),
        ("registry:5000/kata-deploy", None),
        ("quay.io/kata-containers/kata-deploy:latest", None),
    ],
)
def test_the_version_is_that_of_the_image(image: str, version: object) -> None:
    assert kata_version(replace(FACTS, daemon_sets=[daemon_set(image)])) == version


def test_objects_that_are_broken_are_no_bug() -> None:
    broken: list[Any] = [
        {},
        {"metadata": None, "spec": 1, "status": [], "webhooks": [None, {"name": "pods.kata-dind.io"}]},
    ]
    everything = ("nodes", "runtime_classes", "daemon_sets", "custom_runtimes", "webhooks")
    assert check_cluster(ClusterFacts("", **dict.fromkeys(everything, broken)), Policy())  # type: ignore[arg-type]
