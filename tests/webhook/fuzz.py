"""Reviews that are damaged at random: in their pod, in what is around it, or in their bytes; and what must hold then.

Whatever comes, the answer is 200 or 400, a patch in it can be applied, and a pod that was valid stays valid.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import jsonpatch

from kata_dind.pod.places import find_pods
from tests.unit.pod import test_fuzz
from tests.unit.pod.checks import faults_of
from tests.unit.pod.test_corpus import without_aliases
from tests.unit.webhook.reviews import review
from tests.webhook.client import Answer, post

PODS = [dict(place.pod) for document in test_fuzz.DOCUMENTS for place in find_pods(document)]
_BYTES = (b"\0", b"\xff", b'"', b"{", b"}", b"[", b"\\u0000", b"\\ud800", b"1e999", b"null", b"\r\n", b" " * 5000)
VALIDATED = 0.05
"""The share of answers whose pod is validated: to do so takes longer than the answer."""


def damaged_review(random: Random) -> bytes:
    """Return the body of a review."""
    made = without_aliases(review(random.choice(PODS), uid=f"uid-{random.random()}"))
    request = made["request"]
    if random.random() < 0.15:
        old: dict[str, Any] = {"metadata": {}, "spec": {"containers": []}}
        request |= {"operation": "UPDATE", "subResource": "ephemeralcontainers", "oldObject": old}
    match random.randrange(5):
        case 0:
            test_fuzz.damage(made, random)
        case 1:
            test_fuzz.damage(request, random)
        case _:
            test_fuzz.damage(request["object"], random)
    body = json.dumps(made).encode("utf-8")
    return _damaged_bytes(body, random) if random.random() < 0.1 else body


def _damaged_bytes(body: bytes, random: Random) -> bytes:
    for _ in range(random.randint(1, 3)):
        start = random.randrange(len(body) + 1)
        body = body[:start] + random.choice(_BYTES) + body[start + random.choice((0, 1, 10)) :]
    return body


def request_with(body: bytes, random: Random) -> bytes:
    """Return a request that has a body, now and then in chunks."""
    if random.random() < 0.9:
        return post(body)
    head = b"POST /mutate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*_parts(body, random), b""))


def _parts(body: bytes, random: Random) -> Iterator[bytes]:
    while body:
        size = random.choice((1, 100, 100_000))
        yield body[:size]
        body = body[size:]


def check(body: bytes, answer: Answer, random: Random) -> str:
    """Check an answer, and return what it was. Raises AssertionError."""
    assert answer.status in {200, 400}, answer.status
    if answer.status == 400:
        assert answer.body.endswith(b"\n") and b"Traceback" not in answer.body, answer.body
        return "400"
    asked, response = json.loads(body)["request"], answer.response
    assert response["uid"] == asked["uid"]
    assert (response["allowed"] is True) or response["status"]["message"], response
    assert all(len(each) <= 256 and each.isprintable() for each in response.get("warnings", ()))
    if "patch" not in response:
        return "allowed" if response["allowed"] else "denied"
    _check_patch(asked["object"], json.loads(base64.b64decode(response["patch"])), random)
    return "patched"


def _check_patch(pod: Mapping[str, Any], patch: list[dict[str, Any]], random: Random) -> None:
    after = jsonpatch.apply_patch(without_aliases(pod), patch)
    if random.random() < VALIDATED and _is_valid(pod):
        faults = faults_of(after)
        assert faults == [], faults


def _is_valid(pod: Mapping[str, Any]) -> bool:
    try:
        return not faults_of(dict(pod))
    except Exception:  # noqa: BLE001 the validator has its limits, too
        return False
