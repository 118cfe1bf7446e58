"""What becomes of a pod that is to be admitted: repaired, left as it is with a warning, or refused. Pure.

Only the creation of pods is acted upon. An answer is the same however often it is asked for: a pod that was repaired
and then changed by other webhooks is found intact, or is repaired again.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import orjson

from kata_dind.errors import WebhookError
from kata_dind.pod.detect import detect
from kata_dind.pod.guard import guard
from kata_dind.pod.lookups import Found, unread_findings
from kata_dind.pod.model import Detection, Finding, PodDict, Repair, Severity
from kata_dind.pod.policy import Answer, Delivery, Policy
from kata_dind.pod.reading import items, mapping, text
from kata_dind.pod.repair import Script, repair
from kata_dind.pod.wishes import read_wanted
from kata_dind.webhook.remarks import message_of, refusal, warnings
from kata_dind.webhook.reviews import AdmissionRequest, AdmissionResponse, admitted, refused

MOST_POD_BYTES = (1536 - 48) * 1024
"""How large a repaired pod may be as JSON. etcd takes 1.5 MiB, in a format that is tighter than JSON; the rest is for
what the API server adds after us: defaults, managed fields, the volume with the service account's token."""


NOTHING_FOUND = Found()

_LONG_TEXT, _LONGEST_TEXT = 8 << 10, 64 << 10
"""In characters: these are kept as JSON, since they are guest entrypoints, which are the same in most patches."""


class Decision(StrEnum):
    """What was done about a review; a label of the metrics and a field of the log."""

    REPAIRED = "repaired"
    UNCHANGED = "unchanged"
    UNREPAIRED = "unrepaired"
    """Something stays broken, even if a part of the pod was repaired."""
    DENIED = "denied"
    BAD_REQUEST = "bad-request"
    """The review could not be used, and was answered by HTTP 400."""


@dataclass(frozen=True, slots=True)
class Decided:
    """An answer, and what is counted and logged of it."""

    decision: Decision
    reason: str
    """One word of a closed set: the id of a finding, or why nothing was done."""
    response: AdmissionResponse
    kind: str = ""
    """The data root's kind that a repair chose."""
    runtime_class: str = ""


@dataclass(frozen=True, slots=True)
class _Examined:
    """A pod with all that was found in it."""

    pod: PodDict
    policy: Policy
    detection: Detection
    mended: Repair
    patch: bytes
    """The repair as JSON; empty if there is none."""
    guarded: tuple[tuple[Answer, Finding], ...]
    unread: tuple[Finding, ...]
    """About containers of whose images no registry told what they run."""


def new_pod(request: AdmissionRequest) -> PodDict | None:
    """Return the pod that is to be created; None for any other request."""
    return request["object"] if _what(request) == ("CREATE", "") else None


def _what(request: AdmissionRequest) -> tuple[str, str]:
    resource = request["resource"]
    is_pods = resource["resource"] == "pods" and resource["group"] == ""
    return request["operation"] if is_pods else "", request["subResource"]


def decide(
    request: AdmissionRequest,
    policy: Policy,
    *,
    script: Script,
    request_bytes: int = 0,
    found: Found = NOTHING_FOUND,
) -> Decided:
    """Return the answer to a request. `request_bytes` is the size of its review: the pod in it is not larger.

    `found` is what registries have told. Raises WebhookError for a request to create a pod that has no pod in it.
    """
    match _what(request):
        case "CREATE", "":
            examined = _examine(_pod_of(request), policy, script=script, request_bytes=request_bytes, told=found)
            return _decide_pod(request, examined)
        case "UPDATE", "ephemeralcontainers":
            return _decide_ephemeral(request, policy, script=script)
        case _:
            return _left(request, "not-a-new-pod", [_misdirected(request)])


def _left(request: AdmissionRequest, reason: str, said: Sequence[str] = (), runtime_class: str = "") -> Decided:
    """Admit an object as it is."""
    response = admitted(request["uid"], warnings=warnings(said))
    return Decided(Decision.UNCHANGED, reason, response, runtime_class=runtime_class)


def _misdirected(request: AdmissionRequest) -> str:
    resource = "/".join(filter(None, (request["resource"]["resource"], request["subResource"])))
    return (
        f"{request['operation']} of {resource} is not for this webhook, which repairs pods when they are created. "
        "Correct the rules of its MutatingWebhookConfiguration."
    )


def _decide_pod(request: AdmissionRequest, found: _Examined) -> Decided:
    denied = [finding for answer, finding in found.guarded if answer is Answer.DENY]
    unrepaired = found.mended.unrepaired
    if not denied and unrepaired and found.policy.unrepaired is Answer.DENY:
        denied = list(found.mended.gave_up)
    said = _said(found)
    runtime_class = found.detection.runtime_class
    if denied:
        return _denied(request, denied, said, runtime_class)
    if not found.patch and not unrepaired:
        return _left(request, _why_left(found), said, runtime_class)
    decision = Decision.UNREPAIRED if unrepaired else Decision.REPAIRED
    reason = found.mended.gave_up[0].id if unrepaired else _why_repaired(found.mended)
    kind = found.mended.kind
    response = admitted(
        request["uid"], patch=found.patch, warnings=warnings(said), audit=_audit(decision, reason, kind)
    )
    return Decided(decision, reason, response, kind, runtime_class)


def _pod_of(request: AdmissionRequest) -> dict[str, Any]:
    pod = request["object"]
    if pod is None:
        raise WebhookError("request.object of the review is missing", id="review.no-object")
    return pod


def _denied(request: AdmissionRequest, denied: Sequence[Finding], said: Sequence[str], runtime_class: str) -> Decided:
    reason = denied[0].id
    message = refusal(denied)
    others = [each for each in said if not any(message_of(finding) in each for finding in denied)]
    response = refused(request["uid"], message, warnings=warnings(others), audit=_audit(Decision.DENIED, reason))
    return Decided(Decision.DENIED, reason, response, runtime_class=runtime_class)


def _audit(decision: Decision, reason: str, kind: str = "") -> dict[str, str]:
    # The API server puts the webhook's name in front of each.
    return {"decision": decision, "reason": reason, **({"kind": kind} if kind else {})}


def _examine(pod: PodDict, policy: Policy, *, script: Script, request_bytes: int, told: Found) -> _Examined:
    detection = detect(pod, policy, images=told.configs)
    mended = repair(pod, policy, script=script, detection=detection)
    patch = _as_json(mended)
    if patch and _is_too_large(pod, patch, request_bytes):
        if policy.delivery is Delivery.INLINE and policy.delivery_image:
            # What brings the guest entrypoint from an image takes some hundred bytes of the pod, and not 40 KiB.
            smaller = policy.model_copy(update={"delivery": Delivery.INIT})
            mended = repair(pod, smaller, script=script, detection=detection)
            patch = _as_json(mended)
        if _is_too_large(pod, patch, request_bytes):
            mended, patch = _given_up(mended, policy), b""
    unread = tuple(unread_findings(pod, policy, told.unread))
    return _Examined(pod, policy, detection, mended, patch, guard(pod, policy, detection), unread)


def _as_json(mended: Repair) -> bytes:
    if not mended.patch:
        return b""
    return orjson.dumps(
        [
            {**operation, "value": _ready(operation["value"])} if "value" in operation else operation
            for operation in mended.patch
        ]
    )


def _ready(value: Any) -> Any:
    """Return a value with its long texts as JSON; orjson would make room for eight times their size each time."""
    if isinstance(value, str):
        return _ready_text(value) if _LONG_TEXT <= len(value) <= _LONGEST_TEXT else value
    if isinstance(value, dict):
        return {key: _ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_ready(item) for item in value]
    return value


@functools.lru_cache(maxsize=16)
def _ready_text(text: str) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps(text))


def _is_too_large(pod: PodDict, patch: bytes, request_bytes: int) -> bool:
    if request_bytes + len(patch) <= MOST_POD_BYTES:
        return False
    return len(orjson.dumps(pod)) + len(patch) > MOST_POD_BYTES


def _given_up(mended: Repair, policy: Policy) -> Repair:
    finding = Finding(
        "pod.too-large",
        Severity.WARNING,
        "The pod is so large that, with the guest entrypoint in it, no API server would store it.",
        hint="Move what is large in it to a ConfigMap."
        if policy.delivery_image
        else "Name a deliveryImage in the policy; such a pod then gets the guest entrypoint from there.",
    )
    return replace(
        mended,
        patch=(),
        reasons=(),
        kind="",
        findings=(*mended.findings, finding),
        unrepaired=True,
        gave_up=(*mended.gave_up, finding),
    )


def _said(found: _Examined) -> list[str]:
    """Return what a user is told of an admitted pod; of what was repaired, nothing."""
    said = []
    gave_up = found.mended.gave_up if found.policy.unrepaired is not Answer.OFF else ()
    if gave_up:
        done = "repaired only a part of this pod" if found.patch else "did not repair this pod"
        said.append(f"{done}: {message_of(gave_up[0])}")
        said += map(message_of, gave_up[1:])
        containers = {finding.container for finding in gave_up}
        said += [
            message_of(each)
            for each in (*_serious(found.mended.findings), *found.unread)
            if each.container in containers
        ]
    said += map(message_of, _serious(found.detection.findings))
    said += [message_of(finding) for answer, finding in found.guarded if answer is Answer.WARN]
    first = {message_of(finding) for finding in gave_up[:1]}
    return [each for each in dict.fromkeys(said) if each not in first]


def _serious(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is not Severity.NOTE]


def _why_left(found: _Examined) -> str:
    if not found.detection.is_kata:
        return "not-kata"
    if not found.detection.engines:
        return "no-daemon"
    if any(finding.id == "class.left-alone" for finding in found.mended.findings):
        return "left-alone"
    if not read_wanted(found.pod, found.policy).repair:
        return "opted-out"
    if any(engine.wrapped for engine in found.detection.engines):
        return "intact"
    return "works"


def _why_repaired(mended: Repair) -> str:
    mendable = (finding.id for finding in mended.findings if finding.id.startswith("root."))
    return next(mendable, "root.storage-driver")


def _decide_ephemeral(request: AdmissionRequest, policy: Policy, *, script: Script) -> Decided:
    """Say what is to be said of the ephemeral containers that are added to a pod; they can't be repaired."""
    pod = _pod_of(request)
    detection = detect(pod, policy)
    added = _added(pod, request["oldObject"])
    gave_up = [
        finding
        for finding in repair(pod, policy, script=script, detection=detection).gave_up
        if finding.pointer[:3] in added and policy.unrepaired is not Answer.OFF
    ]
    guarded = [each for each in guard(pod, policy, detection) if each[1].pointer[:3] in added]
    denied = [finding for answer, finding in guarded if answer is Answer.DENY]
    said = [message_of(finding) for finding in gave_up]
    said += [message_of(finding) for answer, finding in guarded if answer is Answer.WARN]
    if denied:
        return _denied(request, denied, said, detection.runtime_class)
    if not gave_up:
        return _left(request, "ephemeral-container", said, detection.runtime_class)
    reason = gave_up[0].id
    audit = _audit(Decision.UNREPAIRED, reason)
    response = admitted(request["uid"], warnings=warnings(said), audit=audit)
    return Decided(Decision.UNREPAIRED, reason, response, runtime_class=detection.runtime_class)


def _added(pod: PodDict, before: Mapping[str, Any] | None) -> set[tuple[str | int, ...]]:
    """Return the pointers of the ephemeral containers that a pod did not have before."""
    old = {text(mapping(each).get("name")) for each in _ephemeral_containers(mapping(before))}
    return {
        ("spec", "ephemeralContainers", index)
        for index, each in enumerate(_ephemeral_containers(pod))
        if text(mapping(each).get("name")) not in old
    }


def _ephemeral_containers(pod: PodDict) -> Sequence[Any]:
    return items(mapping(pod.get("spec")).get("ephemeralContainers"))
