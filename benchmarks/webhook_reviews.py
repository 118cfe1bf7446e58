"""AdmissionReviews as an API server sends them: with defaults, managed fields, and a service account's volume."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

from pods import ARC, CLIENT, NONE, repaired

_ACCOUNT = "kube-api-access-x7k2p"
_CONTAINER_DEFAULTS: dict[str, Any] = {
    "resources": {},
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "imagePullPolicy": "Always",
}
_SPEC_DEFAULTS: dict[str, Any] = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "serviceAccountName": "default",
    "serviceAccount": "default",
    "securityContext": {},
    "schedulerName": "default-scheduler",
    "enableServiceLinks": True,
    "preemptionPolicy": "PreemptLowerPriority",
    "priority": 0,
    "tolerations": [
        {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
        for what in ("not-ready", "unreachable")
    ],
}
_PROJECTED: dict[str, Any] = {
    "name": _ACCOUNT,
    "projected": {
        "defaultMode": 420,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ],
    },
}


def defaulted(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pod as it is when webhooks see it."""
    made = copy.deepcopy(dict(pod))
    spec = made["spec"]
    for container in [*spec["containers"], *spec.get("initContainers", ())]:
        for name, value in _CONTAINER_DEFAULTS.items():
            container.setdefault(name, value)
        mounts = container.setdefault("volumeMounts", [])
        mounts.append(
            {"name": _ACCOUNT, "readOnly": True, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
        )
    for name, value in _SPEC_DEFAULTS.items():
        spec.setdefault(name, value)
    spec.setdefault("volumes", []).append(_PROJECTED)
    metadata = made["metadata"]
    metadata |= {
        "namespace": "ci",
        "creationTimestamp": None,
        "ownerReferences": [
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "name": "runner-5d8c7b9f6d",
                "uid": "1f0c8a4e-2b7d-4c19-9a53-6f2f0f1c9b11",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    metadata["managedFields"] = [
        {
            "manager": "kube-controller-manager",
            "operation": "Update",
            "apiVersion": "v1",
            "time": "2026-11-30T03:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": _fields_of(spec), "f:metadata": {"f:labels": {".": {}, "f:app": {}}}},
        }
    ]
    return {"apiVersion": "v1", "kind": "Pod", **made, "status": {}}


def _fields_of(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {".": {}, **{f"f:{name}": _fields_of(each) for name, each in value.items()}}
    if isinstance(value, list) and value and isinstance(value[0], dict) and "name" in value[0]:
        return {f'k:{{"name":"{each["name"]}"}}': _fields_of(each) for each in value}
    return {}


def review_of(pod: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return the review of a pod's creation."""
    return {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": f"705ab4f5-6393-11e8-b7cc-{number:012d}",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "name": f"runner-{number}",
            "namespace": "ci",
            "operation": "CREATE",
            "userInfo": {
                "username": "system:serviceaccount:kube-system:replicaset-controller",
                "uid": "ad1c5a5e-6f8f-4a0b-8a4e-55d4f6a8b0c2",
                "groups": [
                    "system:serviceaccounts",
                    "system:serviceaccounts:kube-system",
                    "system:authenticated",
                ],
            },
            "object": defaulted(pod),
            "oldObject": None,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    }


def _reviews(*pods: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [review_of(pod, number) for number, pod in enumerate(pods)]


def mix() -> list[dict[str, Any]]:
    """Return what a cluster with Kata sends: of ten pods four to be repaired, of which two are asked about again."""
    again = repaired(ARC)
    return _reviews(ARC, NONE, again, CLIENT, ARC, NONE, ARC, again, NONE, ARC)


def repair() -> list[dict[str, Any]]:
    """Return the worst case: each pod is to be repaired."""
    return _reviews(ARC)


MIXES: Mapping[str, Callable[[], list[dict[str, Any]]]] = {"mix": mix, "repair": repair}


def request_of(review: Mapping[str, Any]) -> bytes:
    """Return a request as an API server writes it."""
    body = json.dumps(review, separators=(",", ":")).encode()
    head = (
        "POST /mutate?timeout=10s HTTP/1.1\r\nHost: kata-dind.kata-dind.svc:443\r\n"
        f"User-Agent: kube-apiserver-admission\r\nContent-Length: {len(body)}\r\n"
        "Accept: application/json, */*\r\nContent-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n"
    )
    return head.encode() + body
