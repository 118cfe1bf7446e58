"""The border where a bug of ours becomes an answer, and where decisions are counted and logged."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from kata_dind.errors import WebhookError
from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
from kata_dind.pod.lookups import Found
from kata_dind.pod.policy import Policy
from kata_dind.webhook.answering import Answering
from kata_dind.webhook.connections import Connections, Reply, Request
from kata_dind.webhook.decide import Decided, Decision, decide
from kata_dind.webhook.logs import log_to, logger
from kata_dind.webhook.metrics import Metrics
from kata_dind.webhook.reviews import AdmissionRequest, admitted
from tests.unit.pod.checks import dind, pod
from tests.unit.webhook.reviews import UID, review

SECRET = "hunter2"
GIVEN = pod(dind(env=[{"name": "TOKEN", "value": SECRET}], args=["dockerd", f"--label=a={SECRET}"]))
BODY = json.dumps(review(GIVEN)).encode()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    log_to(stream)
    yield stream
    logger.handlers.clear()


def raising(_: Any) -> str:
    raise KeyError(SECRET)


def decide_by_a_broken_script(request: AdmissionRequest, policy: Policy, request_bytes: int, found: Found) -> Decided:
    return decide(request, policy, script=raising, request_bytes=request_bytes, found=found)


def answering(**fields: Any) -> tuple[Answering, Metrics]:
    metrics = Metrics()
    return Answering(Policy, metrics, **fields), metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"kata_dind_webhook_{name}", labels)


def test_a_bug_admits_the_pod_as_it_is_and_is_told(log: io.StringIO) -> None:
    broken, metrics = answering(decide=decide_by_a_broken_script)
    answer = broken.answer(BODY)
    assert isinstance(answer, bytes)
    response = json.loads(answer)["response"]
    assert (response["uid"], response["allowed"], "patch" in response) == (UID, True, False)
    (warning,) = response["warnings"]
    assert warning.startswith("kata-dind: a bug in it (KeyError) keeps it from examining this pod")
    assert value(metrics, "bugs_total") == 1
    assert value(metrics, "reviews_total", decision="unchanged", reason="bug") == 1
    bug, line = map(json.loads, log.getvalue().splitlines())
    assert (bug["event"], bug["level"], bug["uid"]) == ("bug", "error", UID)
    assert "in raising" in bug["traceback"] and bug["traceback"].endswith("KeyError")
    assert (line["event"], line["decision"], line["reason"]) == ("review", "unchanged", "bug")
    assert SECRET not in log.getvalue()
    assert SECRET not in warning


def decide_what_can_not_be_sent(request: AdmissionRequest, policy: Policy, size: int, found: Found) -> Decided:
    return Decided(Decision.REPAIRED, "root.on-share", admitted(request["uid"], warnings=["half a letter: \ud800"]))


def decide_what_can_not_be_logged(request: AdmissionRequest, policy: Policy, size: int, found: Found) -> Decided:
    decided = decide(request, policy, script=entrypoint_for_pods, request_bytes=size, found=found)
    return replace(decided, decision="repaired")  # type: ignore[arg-type]  # as a bug would have it


def test_a_bug_in_writing_the_answer_admits_the_pod_as_it_is(log: io.StringIO) -> None:
    broken, metrics = answering(decide=decide_what_can_not_be_sent)
    answer = broken.answer(BODY)
    assert isinstance(answer, bytes)
    response = json.loads(answer)["response"]
    assert (response["uid"], response["allowed"], "patch" in response) == (UID, True, False)
    assert response["warnings"][0].startswith("kata-dind: a bug in it (TypeError) keeps it from examining this pod")
    assert (value(metrics, "bugs_total"), value(metrics, "review_seconds_count")) == (1, 1)
    assert value(metrics, "reviews_total", decision="unchanged", reason="bug") == 1


def test_a_bug_in_counting_or_logging_leaves_the_answer(log: io.StringIO) -> None:
    broken, metrics = answering(decide=decide_what_can_not_be_logged)
    answer = broken.answer(BODY)
    assert isinstance(answer, bytes)
    assert json.loads(answer)["response"]["patchType"] == "JSONPatch"
    assert value(metrics, "bugs_total") == 1
    (bug,) = map(json.loads, log.getvalue().splitlines())
    assert (bug["event"], "in _fields" in bug["traceback"], bug["uid"]) == ("bug", True, UID)


def test_an_unusable_review_is_counted_and_raised(log: io.StringIO) -> None:
    sound, metrics = answering()
    with pytest.raises(WebhookError):
        sound.answer(BODY[:-1])
    assert value(metrics, "reviews_total", decision="bad-request", reason="review.not-json") == 1
    (line,) = map(json.loads, log.getvalue().splitlines())
    assert (line["event"], line["level"], line["bytes"]) == ("bad-request", "warning", len(BODY) - 1)


def test_a_decision_is_logged_without_what_may_be_secret(log: io.StringIO) -> None:
    sound, metrics = answering()
    sound.answer(BODY)
    (line,) = map(json.loads, log.getvalue().splitlines())
    assert (line["decision"], line["kind"], line["namespace"]) == ("repaired", "loop", "ci")
    assert SECRET not in log.getvalue()
    assert "TOKEN" not in log.getvalue()
    assert value(metrics, "review_seconds_count") == 1


def test_a_line_for_people_is_one_line(log: io.StringIO) -> None:
    log_to(log, as_json=False)
    given = pod(dind())
    given["metadata"] = {
        "generateName": "a b\n",
        "ownerReferences": [{"controller": True, "kind": "Job", "name": "\x1b[31mred"}],
    }
    answering()[0].answer(json.dumps(review(given, name="")).encode())
    (line,) = log.getvalue().splitlines()
    assert " review decision=repaired reason=root.on-share " in line
    assert r'name="a b\n*" owner="Job/\u001b[31mred"' in line


def test_a_bug_in_a_route_is_a_500_and_no_fault_of_the_client(log: io.StringIO) -> None:
    def handle(_: Request) -> Reply:
        raise RuntimeError(SECRET)

    async def answer() -> bytes:
        server_side, client_side = socket.socketpair()
        with client_side:
            client_side.settimeout(10)
            connected = asyncio.get_running_loop().connect_accepted_socket
            await connected(Connections("http", handle, Metrics()), server_side)
            client_side.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            return await asyncio.to_thread(client_side.recv, 4096)

    assert asyncio.run(answer()).startswith(b"HTTP/1.1 500 ")
    (line,) = map(json.loads, log.getvalue().splitlines())
    assert (line["event"], "in handle" in line["traceback"], SECRET in log.getvalue()) == ("bug", True, False)
