"""Reviews for tests, and their answers as the API server reads them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import jsonpatch

from kata_dind.pod.policy import parse_policy
from kata_dind.webhook.decide import Decided, decide
from kata_dind.webhook.reviews import AdmissionRequest, AdmissionResponse, parse_review
from tests.unit.pod.checks import Json, script

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
PODS = {"group": "", "version": "v1", "resource": "pods"}


def review(pod: Any, **request: Any) -> Json:
    """Return a review of a pod that is to be created."""
    asked = {
        "uid": UID,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": PODS,
        "namespace": "ci",
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:arc:controller"},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        **request,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}


def request(pod: Any, **more: Any) -> AdmissionRequest:
    return parse_review(json.dumps(review(pod, **more)).encode())


def decided(pod: Any, policy: Json | None = None, *, request_bytes: int = 0, **more: Any) -> Decided:
    """Return the decision about a pod, by a short script."""
    return decide(request(pod, **more), parse_policy(policy or {}), script=script, request_bytes=request_bytes)


def patched(pod: Any, response: AdmissionResponse | Mapping[str, Any]) -> Any:
    """Return a pod as the API server would have it after an answer."""
    if "patch" not in response:
        assert "patchType" not in response
        return pod
    assert response["patchType"] == "JSONPatch"
    return jsonpatch.apply_patch(json.loads(json.dumps(pod)), json.loads(base64.b64decode(response["patch"])))
