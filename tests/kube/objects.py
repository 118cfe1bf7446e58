"""Objects that tests put into the API server."""

from __future__ import annotations

from typing import Any


def namespace_named(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def runtime_class(name: str, handler: str = "kata-qemu") -> dict[str, Any]:
    return {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": handler}


def priority_class(name: str) -> dict[str, Any]:
    return {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": 1}


def dind_spec(runtime_class_name: str = "kata-qemu", image: str = "docker:28-dind", **more: Any) -> dict[str, Any]:
    """Return the spec of a pod that is slow or fails on Kata."""
    container = {"name": "dind", "image": image, "securityContext": {"privileged": True}}
    return {"runtimeClassName": runtime_class_name, "containers": [container], **more}


def pod(name: str, namespace: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": spec,
    }


def deployment(name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    }
