"""The wire format: what is taken for a review, and what is not."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from kata_dind.errors import WebhookError
from kata_dind.webhook.reviews import admitted, parse_review, refused, review_text
from tests.unit.pod.checks import dind, pod
from tests.unit.webhook.reviews import PODS, UID, review


def text_of(**request: Any) -> bytes:
    return json.dumps(review(pod(dind()), **request)).encode()


def test_a_review_of_an_api_server_is_parsed() -> None:
    request = parse_review(text_of())
    assert (request["uid"], request["operation"], request["namespace"]) == (UID, "CREATE", "ci")
    assert request["object"] == pod(dind())
    assert (request["name"], request["subResource"], request["dryRun"]) == ("", "", False)


@pytest.mark.parametrize(
    ("body", "id"),
    [
        (b"", "review.not-json"),
        (b"\0", "review.not-json"),
        (b'{"kind": "AdmissionReview"', "review.not-json"),
        (b'{"kind": "\xff"}', "review.not-json"),
        (b'{"kind": "\\ud800"}', "review.not-json"),
        (b'{"kind": NaN}', "review.not-json"),
        (b"[" * 100_000, "review.not-json"),
        (b'{"a":' * 100_000, "review.not-json"),
        (b"[]", "review.not-a-review"),
        (b"null", "review.not-a-review"),
        (b"7", "review.not-a-review"),
        (b"{}", "review.not-a-review"),
        (b'{"kind": "Pod"}', "review.not-a-review"),
        (b'{"kind": "AdmissionReview"}', "review.wrong-version"),
        (b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1"}', "review.wrong-version"),
        (b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"}', "review.no-request"),
        (b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": []}', "review.no-request"),
        (text_of(uid=""), "review.wrong-field"),
        (text_of(uid=7), "review.wrong-field"),
        (text_of(uid="x" * 1000), "review.wrong-field"),
        (text_of(operation=None), "review.wrong-field"),
        (text_of(namespace=["ci"]), "review.wrong-field"),
        (text_of(resource="pods"), "review.wrong-field"),
        (text_of(resource={**PODS, "group": None}), "review.wrong-field"),
        (text_of(object="pod"), "review.wrong-field"),
        (text_of(oldObject=[]), "review.wrong-field"),
        (text_of(dryRun="true"), "review.wrong-field"),
    ],
)
def test_anything_else_is_refused_with_an_id(body: bytes, id: str) -> None:
    with pytest.raises(WebhookError) as caught:
        parse_review(body)
    assert caught.value.id == id


def test_of_two_keys_of_one_name_the_last_counts_as_for_the_api_server() -> None:
    body = text_of().replace(b'"operation": "CREATE"', b'"operation": "CREATE", "operation": "DELETE"')
    assert parse_review(body)["operation"] == "DELETE"


def test_an_answer_is_what_the_api_server_verifies() -> None:
    answer = json.loads(review_text(admitted(UID, patch=b"[1]", warnings=["w"], audit={"decision": "repaired"})))
    assert answer == {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {
            "uid": UID,
            "allowed": True,
            "patchType": "JSONPatch",
            "patch": base64.b64encode(b"[1]").decode(),
            "warnings": ["w"],
            "auditAnnotations": {"decision": "repaired"},
        },
    }


@pytest.mark.parametrize("patch", [b"", b"[1]", b"[" + b'"patch":"",' * 1000 + b"1]"])
def test_an_answer_is_put_together_as_it_would_be_written_in_one_piece(patch: bytes) -> None:
    """Also where the name of the field stands in texts before it and behind it."""
    response = admitted('"patch":"', patch=patch, warnings=['"patch":"', "é"], audit={"patch": '"'})
    whole = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
    assert review_text(response) == json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()


def test_without_a_patch_there_is_no_type_of_a_patch() -> None:
    assert admitted(UID) == {"uid": UID, "allowed": True}


def test_a_refusal_has_a_code_and_a_message() -> None:
    status = {"code": 403, "reason": "Forbidden", "message": "no"}
    assert refused(UID, "no") == {"uid": UID, "allowed": False, "status": status}
