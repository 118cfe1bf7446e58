"""Bytes in, bytes out: each review is decided by the policy of the moment, counted, and logged in one line.

A bug of ours never stops a pod: it is admitted as it is, with a warning, and the traceback goes into the log.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from kata_dind.errors import WebhookError
from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
from kata_dind.pod.lookups import Found
from kata_dind.pod.policy import Policy
from kata_dind.pod.reading import items, mapping, text
from kata_dind.webhook.decide import Decided, Decision, decide, new_pod
from kata_dind.webhook.logs import event
from kata_dind.webhook.lookups import NOTHING_LOOKED_UP, Looked, Lookups, Search
from kata_dind.webhook.metrics import Metrics
from kata_dind.webhook.remarks import warnings
from kata_dind.webhook.reviews import API_VERSION, KIND, AdmissionRequest, admitted, parse_review, review_text

Decide = Callable[[AdmissionRequest, Policy, int, Found], Decided]


def _decide(request: AdmissionRequest, policy: Policy, request_bytes: int, found: Found) -> Decided:
    return decide(request, policy, script=entrypoint_for_pods, request_bytes=request_bytes, found=found)


def warm_up() -> None:
    """Repair a pod for nothing: the first takes twenty times as long, since what it needs is loaded then."""
    container = {"name": "dind", "image": "docker:dind", "securityContext": {"privileged": True}}
    pod = {"metadata": {"name": "warm-up"}, "spec": {"runtimeClassName": "kata", "containers": [container]}}
    resource = {"group": "", "version": "v1", "resource": "pods"}
    request = {"uid": "warm-up", "operation": "CREATE", "resource": resource, "object": pod}
    body = json.dumps({"kind": KIND, "apiVersion": API_VERSION, "request": request}).encode()
    review_text(_decide(parse_review(body), Policy(), len(body), Found()).response)


class Answering:
    """Answers reviews; `policy` gives the policy of the moment."""

    def __init__(self, policy: Callable[[], Policy], metrics: Metrics, *, decide: Decide = _decide) -> None:
        self._policy = policy
        self._metrics = metrics
        self._lookups = Lookups(metrics)
        self._decide = decide

    def answer(self, body: bytes) -> bytes | Awaitable[bytes]:
        """Return the answer to a review, or what waits for it where registries have to be asked.

        Raises WebhookError for what can't be used; what waits raises nothing.
        """
        started = time.perf_counter()
        policy = self._policy()
        try:
            request = parse_review(body)
            looked = self._begun(request, policy) if policy.registry.lookup else NOTHING_LOOKED_UP
            if isinstance(looked, Search):
                return self._answer_later(request, policy, len(body), looked, started)
            decided = self._decided(request, policy, len(body), looked.found)
        except WebhookError as error:
            self._metrics.reviews.labels(Decision.BAD_REQUEST, error.id).inc()
            event(logging.WARNING, "bad-request", reason=error.id, message=error.summary, bytes=len(body))
            raise
        return self._told(request, decided, looked, started)

    def _begun(self, request: AdmissionRequest, policy: Policy) -> Looked | Search:
        pod = new_pod(request)
        try:
            return self._lookups.begin(pod, request["namespace"], policy) if pod else NOTHING_LOOKED_UP
        except Exception as bug:  # noqa: BLE001 - as below
            self._count_bug(bug, request)
            return NOTHING_LOOKED_UP

    async def _answer_later(
        self, request: AdmissionRequest, policy: Policy, request_bytes: int, search: Search, started: float
    ) -> bytes:
        """Answer by the policy that held when the review came."""
        try:
            looked = await self._lookups.wait(search)
        except Exception as bug:  # noqa: BLE001 - as below
            self._count_bug(bug, request)
            looked = NOTHING_LOOKED_UP
        decided = self._decided(request, policy, request_bytes, looked.found)
        return self._told(request, decided, looked, started)

    def _decided(self, request: AdmissionRequest, policy: Policy, request_bytes: int, found: Found) -> Decided:
        try:
            return self._decide(request, policy, request_bytes, found)
        except WebhookError:
            raise
        except Exception as bug:  # noqa: BLE001 - no bug of ours may keep a pod from being created
            return self._left(request, bug)

    def _left(self, request: AdmissionRequest, bug: Exception) -> Decided:
        """Admit a pod as it is, because of a bug."""
        self._count_bug(bug, request)
        said = f"a bug in it ({type(bug).__name__}) keeps it from examining this pod, which stays as it is."
        return Decided(Decision.UNCHANGED, "bug", admitted(request["uid"], warnings=warnings([said])))

    def _count_bug(self, bug: Exception, request: AdmissionRequest) -> None:
        self._metrics.bugs.inc()
        event(logging.ERROR, "bug", error=bug, uid=request["uid"])

    def _told(self, request: AdmissionRequest, decided: Decided, looked: Looked, started: float) -> bytes:
        """Count and log a decision, and return it as it is sent."""
        try:
            answer = review_text(decided.response)
        except Exception as bug:  # noqa: BLE001 - as above
            decided = self._left(request, bug)
            answer = review_text(decided.response)
        try:
            self._count(request, decided, looked, started)
        except Exception as bug:  # noqa: BLE001 - the answer is there
            self._count_bug(bug, request)
        return answer

    def _count(self, request: AdmissionRequest, decided: Decided, looked: Looked, started: float) -> None:
        seconds = time.perf_counter() - started
        self._metrics.reviews.labels(decided.decision, decided.reason).inc()
        self._metrics.seconds.observe(seconds)
        event(_level(decided), "review", **_fields(request, decided), **looked.fields(), seconds=round(seconds, 6))


def _level(decided: Decided) -> int:
    calm = (Decision.UNCHANGED, Decision.REPAIRED)
    return logging.INFO if decided.decision in calm else logging.WARNING


def _fields(request: AdmissionRequest, decided: Decided) -> Mapping[str, Any]:
    metadata = mapping(mapping(request["object"]).get("metadata"))
    generated = text(metadata.get("generateName"))
    return {
        "decision": decided.decision.value,
        "reason": decided.reason,
        "uid": request["uid"],
        "namespace": request["namespace"],
        "name": request["name"] or text(metadata.get("name")) or (generated and f"{generated}*"),
        "owner": next(_owners(metadata), ""),
        "runtime_class": decided.runtime_class,
        "kind": decided.kind,
        "dry_run": request["dryRun"] or None,
    }


def _owners(metadata: Mapping[str, Any]) -> Iterator[str]:
    for reference in map(mapping, items(metadata.get("ownerReferences"))):
        if reference.get("controller") is True:
            yield f"{text(reference.get('kind'))}/{text(reference.get('name'))}"
