"""The wire format of admission.k8s.io/v1: a review is parsed from bytes, and an answer is put into bytes. Pure.

Of a request only that is typed which a decision needs. The pod in it stays as it came, and is never trusted.
Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, cast

import orjson

from kata_dind.errors import WebhookError

API_VERSION = "admission.k8s.io/v1"
KIND = "AdmissionReview"

_LONGEST_UID = 256


class GroupVersionResource(TypedDict):
    """What kind of object a request is about, by its name in URLs."""

    group: str
    version: str
    resource: str


class AdmissionRequest(TypedDict, total=False):
    """What is to be admitted."""

    uid: str
    resource: GroupVersionResource
    subResource: str
    name: str
    """Empty for a pod whose name the API server makes of `generateName`."""
    namespace: str
    """The pod's own metadata may not name it."""
    operation: str
    dryRun: bool
    object: dict[str, Any] | None
    oldObject: dict[str, Any] | None


class Status(TypedDict, total=False):
    """Why an object is refused."""

    code: int
    reason: str
    message: str


class AdmissionResponse(TypedDict, total=False):
    """The answer."""

    uid: str
    allowed: bool
    status: Status
    patchType: Literal["JSONPatch"]
    patch: str
    """A JSON patch in base64."""
    warnings: list[str]
    auditAnnotations: dict[str, str]


class AdmissionReview(TypedDict, total=False):
    """The envelope of both."""

    apiVersion: str
    kind: str
    request: AdmissionRequest
    response: AdmissionResponse


def parse_review(body: bytes) -> AdmissionRequest:
    """Return the request in a review. Raises WebhookError for anything that an API server would not send.

    Its `uid`, `operation` and `resource` are what they are typed as, and so are the others where they are present.
    """
    try:
        review = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise WebhookError(f"the body is not JSON: {error}", id="review.not-json") from error
    if not isinstance(review, dict) or review.get("kind") != KIND:
        raise WebhookError(f"the body is not an {KIND}", id="review.not-a-review")
    if review.get("apiVersion") != API_VERSION:
        raise WebhookError(
            f"the review has another version than {API_VERSION}",
            id="review.wrong-version",
            hint='In the MutatingWebhookConfiguration, write `admissionReviewVersions: ["v1"]`.',
        )
    request = review.get("request")
    if not isinstance(request, dict):
        raise WebhookError("the review has no request", id="review.no-request")
    _check(request)
    return cast("AdmissionRequest", request)


def _check(request: dict[str, Any]) -> None:
    uid = request.get("uid")
    if not isinstance(uid, str) or not uid or len(uid) > _LONGEST_UID:
        raise _wrong("uid", "a text")
    for name in ("operation", "subResource", "name", "namespace"):
        if not isinstance(request.setdefault(name, ""), str):
            raise _wrong(name, "a text")
    resource = request.get("resource")
    if not isinstance(resource, dict) or not all(
        isinstance(resource.setdefault(name, ""), str) for name in ("group", "version", "resource")
    ):
        raise _wrong("resource", "an object with group, version and resource")
    for name in ("object", "oldObject"):
        if not isinstance(request.setdefault(name, None), dict | None):
            raise _wrong(name, "an object")
    if not isinstance(request.setdefault("dryRun", False), bool):
        raise _wrong("dryRun", "true or false")


def _wrong(field: str, allowed: str) -> WebhookError:
    return WebhookError(f"request.{field} of the review is not {allowed}", id="review.wrong-field")


def admitted(
    uid: str,
    *,
    patch: bytes = b"",
    warnings: Sequence[str] = (),
    audit: Mapping[str, str] | None = None,
) -> AdmissionResponse:
    """Return the answer that admits an object, changed by a JSON patch."""
    response: AdmissionResponse = {"uid": uid, "allowed": True}
    if patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(patch).decode()
    return _with_remarks(response, warnings, audit)


def refused(
    uid: str, message: str, *, warnings: Sequence[str] = (), audit: Mapping[str, str] | None = None
) -> AdmissionResponse:
    """Return the answer that refuses an object; users see the message."""
    status: Status = {"code": 403, "reason": "Forbidden", "message": message}
    return _with_remarks({"uid": uid, "allowed": False, "status": status}, warnings, audit)


def _with_remarks(
    response: AdmissionResponse, warnings: Sequence[str], audit: Mapping[str, str] | None
) -> AdmissionResponse:
    if warnings:
        response["warnings"] = list(warnings)
    if audit:
        response["auditAnnotations"] = dict(audit)
    return response


def review_text(response: AdmissionResponse) -> bytes:
    """Return an answer as it is sent."""
    patch = response.get("patch", "")
    if patch:  # orjson would make room for eight times its size, as if base64 had anything to escape
        response = {**response, "patch": ""}
    review: AdmissionReview = {"apiVersion": API_VERSION, "kind": KIND, "response": response}
    before, key, after = orjson.dumps(review).partition(b'"patch":"')
    return b"".join((before, key, patch.encode(), after))
