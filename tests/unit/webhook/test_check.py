"""`kata-dind webhook check`: what counts as an answer. tests/kube asks a webhook that runs."""

from __future__ import annotations

import base64
import json
import socket
import ssl
from typing import Any

import pytest

from kata_dind.errors import KubernetesError, SpecError
from kata_dind.pod.model import Copy
from kata_dind.pod.policy import Policy, parse_policy
from kata_dind.pod.repair import repair
from kata_dind.webhook.check import Checked, check_webhook, checked, review

URL = "https://kata-dind.ci.svc"
UID = review("kata")["request"]["uid"]


def answer(**response: Any) -> str:
    return json.dumps({"response": {"uid": UID, "allowed": True, **response}})


def encoded(patch: object) -> str:
    return base64.b64encode(json.dumps(patch).encode()).decode()


def script(copy: Copy) -> str:
    return "#!/bin/sh\n"


@pytest.mark.parametrize("policy", [{}, {"repair": False}, {"dataRoot": {"kind": "memory", "size": "4Gi"}}])
def test_the_pod_in_the_review_is_one_that_needs_a_repair(policy: dict[str, Any]) -> None:
    assert repair(review("kata-qemu")["request"]["object"], parse_policy(policy), script=script).patch


def test_a_patch_is_a_repair() -> None:
    text = answer(patchType="JSONPatch", patch=encoded([{"op": "add", "path": "/metadata/labels", "value": {}}]))
    assert checked(text, url=URL, runtime_class="kata") == Checked("kata", repaired=True, refused="")


def test_a_refusal_is_an_answer() -> None:
    text = answer(allowed=False, status={"message": "No."})
    assert checked(text, url=URL, runtime_class="kata") == Checked("kata", repaired=False, refused="No.")


def test_no_patch_is_right_where_the_policy_repairs_nothing() -> None:
    assert checked(answer(), url=URL, runtime_class="") == Checked("", repaired=False, refused="")


@pytest.mark.parametrize("patch", [{}, {"patch": encoded([])}])
def test_no_patch_is_wrong_where_the_policy_repairs(patch: dict[str, Any]) -> None:
    with pytest.raises(KubernetesError, match="leaves a pod as it is") as caught:
        checked(answer(warnings=["why"], **patch), url=URL, runtime_class="kata")
    assert (caught.value.id, caught.value.details) == ("webhook.does-not-repair", "why")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        "[]",
        "{}",
        '{"response": null}',
        '{"response": {"uid": 1}}',
        answer(uid="another"),
        answer(allowed=False),
        answer(patch="%"),
        answer(patch="bm8="),
    ],
)
def test_anything_else_is_no_answer(text: str) -> None:
    with pytest.raises(KubernetesError) as caught:
        checked(text, url=URL, runtime_class="kata")
    assert caught.value.id == "webhook.wrong-answer"


@pytest.mark.parametrize(
    "url",
    [
        *("", "kata-dind", "http://a", "https://", "https://a/mutate", "https://a:x", "https://[", "https://a b"),
        *(
            "https://user:word@a",
            "https://a?x",
            "https://a#x",
            "https://a..svc",
            f"https://{'a' * 64}.svc",
            "https://ü",
        ),
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(SpecError, match="is not the address of a webhook"):
        check_webhook(url, authority="", policy=Policy())


def test_what_is_no_certificate_is_refused() -> None:
    with pytest.raises(SpecError, match="--ca"):
        check_webhook(URL, authority="no", policy=Policy())


def test_nobody_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # A context without certificates trusts nobody, and nobody is there.
    monkeypatch.setattr(ssl, "create_default_context", lambda **_: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(KubernetesError, match="does not answer") as caught:
            check_webhook(f"https://127.0.0.1:{kept.getsockname()[1]}", authority="", policy=Policy())
    assert caught.value.id == "webhook.no-answer"
