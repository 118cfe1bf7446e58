"""A webhook that asks a registry what images run, and what becomes of its other reviews meanwhile."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.image.registries import (
    Reply,
    Request,
    SmallServer,
    config_body,
    make_layout,
    push,
    running_registry,
    small_server,
)
from tests.unit.pod.checks import dind, pod
from tests.unit.webhook.reviews import UID, review
from tests.webhook.client import post
from tests.webhook.pairs import Mounted, Pair
from tests.webhook.process import Webhook, start_webhook, wait_until

pytestmark = [pytest.mark.requires("openssl"), pytest.mark.timeout(120)]

KNOWN = json.dumps(review(pod(dind()))).encode()
TIMEOUT_SECONDS = 3.0


@dataclass
class Gate:
    """A registry's answer waits until a test opens it."""

    answer: Callable[[Request], Reply]
    opened: threading.Event = field(default_factory=threading.Event)

    def __call__(self, request: Request) -> Reply:
        assert self.opened.wait(timeout=60)
        return self.answer(request)


@dataclass
class Asking:
    """A webhook with a registry of its own."""

    webhook: Webhook
    registry: SmallServer
    policy: Mounted

    @property
    def kata_dind_logs(self) -> list[Path]:
        return self.webhook.kata_dind_logs

    def serve(self, name: str = "team/ci") -> bytes:
        """Serve an image whose name doesn't tell that it runs Docker; returns a review of a pod with it."""
        return self.review_of(self.registry.serve_image(name, config_body("dockerd-entrypoint.sh")))

    def review_of(self, image: str) -> bytes:
        return json.dumps(review(pod(dind(image=image)))).encode()

    @contextlib.contextmanager
    def gate(self) -> Iterator[Gate]:
        gate = self.registry.answering = Gate(self.registry.answering)
        try:
            yield gate
        finally:
            gate.opened.set()

    def wait_for_waiting(self, count: int) -> None:
        wait_until(lambda: self.webhook.metrics()["lookups_waiting"] == count, f"{count} reviews to wait")

    def last_review(self) -> dict[str, Any]:
        return self.webhook.events("review")[-1]


def policy_text(host: str, **registry: Any) -> bytes:
    fields = {"lookup": True, "allowed": [host], "timeoutSeconds": TIMEOUT_SECONDS, **registry}
    return json.dumps({"registry": fields}).encode()


@pytest.fixture
def asking(pairs: list[Pair], tmp_path: Path) -> Iterator[Asking]:
    with small_server() as registry:
        policy = Mounted(tmp_path / "policy", {"policy.yaml": policy_text(registry.host)})
        options = ("--policy", str(policy / "policy.yaml"), "--grace", "6")
        with start_webhook(tmp_path, pairs[0], *options) as webhook:
            yield Asking(webhook, registry, policy)


def wrapped(response: dict[str, Any]) -> bool:
    """Tell whether the container got the guest entrypoint, which needs its own."""
    return response["allowed"] and "patch" in response and bool(_commands(response))


def _commands(response: dict[str, Any]) -> list[Any]:
    operations = json.loads(base64.b64decode(response["patch"]))
    return [each for each in operations if each["path"].endswith("/command")]


def test_the_first_review_asks_and_the_second_knows(asking: Asking) -> None:
    body = asking.serve()
    assert wrapped(asking.webhook.ask(body).response)
    first = asking.last_review()
    assert (first["decision"], first["lookup"], "unread" in first) == ("repaired", "found", False)
    assert 0 < first["lookup_seconds"] <= first["seconds"]
    assert wrapped(asking.webhook.ask(body).response)
    second = asking.last_review()
    assert (second["lookup"], "lookup_seconds" in second) == ("remembered", False)
    assert len(asking.registry.asked) == 2, "a manifest and a configuration"
    metrics = asking.webhook.metrics()
    assert metrics['lookups_total{result="found"}'] == metrics['lookups_total{result="remembered"}'] == 1
    assert (metrics["lookup_seconds_count"], metrics["lookups_waiting"]) == (1, 0)


@pytest.mark.requires("registry")
def test_a_real_registry_is_asked(asking: Asking, tmp_path: Path) -> None:
    layout = make_layout(tmp_path, "entrypoint=dockerd-entrypoint.sh")
    with running_registry(tmp_path) as host:
        push(layout, f"{host}/team/ci:1")
        asking.policy.swap({"policy.yaml": policy_text(host)})
        asking.webhook.wait_for_event("policy-reloaded")
        asking.webhook.ask(asking.review_of(f"{host}/team/ci:1"))
        line = asking.last_review()
        assert (line["lookup"], line["reason"]) == ("found", "root.on-share")


def test_a_dry_run_asks_as_well(asking: Asking) -> None:
    image = asking.registry.serve_image("team/ci", config_body("dockerd-entrypoint.sh"))
    dry = json.dumps(review(pod(dind(image=image)), dryRun=True)).encode()
    assert wrapped(asking.webhook.ask(dry).response)


def test_without_lookups_nothing_is_asked(asking: Asking) -> None:
    asking.policy.swap({"policy.yaml": policy_text(asking.registry.host, lookup=False)})
    asking.webhook.wait_for_event("policy-reloaded")
    assert not wrapped(asking.webhook.ask(asking.serve()).response)
    assert asking.registry.asked == []
    assert "lookup" not in asking.last_review()


def test_a_slow_registry_costs_no_more_than_its_time(asking: Asking) -> None:
    asking.policy.swap({"policy.yaml": policy_text(asking.registry.host, timeoutSeconds=0.5)})
    asking.webhook.wait_for_event("policy-reloaded")
    image = asking.registry.serve_image("team/dind", config_body("dockerd-entrypoint.sh"))
    annotations = {"kata-dind.io/data-root": "memory", "kata-dind.io/size": "1Gi"}
    body = json.dumps(review(pod(dind(image=image), annotations=annotations))).encode()
    with asking.gate():
        begun = time.monotonic()
        response = asking.webhook.ask(body).response
        assert 0.5 <= time.monotonic() - begun < 2
    assert response["allowed"] and "patch" in response, "its storage is repaired"
    assert not wrapped(response)
    line = asking.last_review()
    assert (line["lookup"], line["decision"]) == ("unread", "repaired")
    assert line["unread"].endswith("did not answer in full in 0.5 s")
    assert asking.webhook.metrics()['lookups_total{result="unread"}'] == 1


def test_fifty_reviews_of_one_image_ask_once_and_others_do_not_wait(asking: Asking) -> None:
    body = asking.serve()
    with ThreadPoolExecutor(50) as pool, asking.gate() as gate:
        answers = [pool.submit(asking.webhook.ask, body) for _ in range(50)]
        asking.wait_for_waiting(50)
        with asking.webhook.connect() as connection:
            connection.ask(KNOWN)
            seconds = []
            for _ in range(20):
                begun = time.monotonic()
                assert wrapped(connection.ask(KNOWN).response)
                seconds.append(time.monotonic() - begun)
        assert sorted(seconds)[10] < 0.1
        gate.opened.set()
        assert all(wrapped(answer.result(timeout=30).response) for answer in answers)
    assert len(asking.registry.asked) == 2
    assert asking.webhook.metrics()['lookups_total{result="found"}'] == 50


def test_answers_keep_the_order_of_their_requests(asking: Asking) -> None:
    body = asking.serve()
    with asking.webhook.connect() as connection, asking.gate() as gate:
        waits, another = body.replace(UID.encode(), b"waits"), body.replace(UID.encode(), b"another")
        head = b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
        connection.send(post(waits) + post(KNOWN) + head + post(another) + post(KNOWN)[:50])
        asking.wait_for_waiting(2)
        gate.opened.set()
        assert [connection.answer().response["uid"] for _ in range(2)] == ["waits", UID]
        assert connection.answer(with_body=False).headers["content-type"].startswith("text/plain")
        connection.send(post(KNOWN)[50:])
        assert [connection.answer().response["uid"] for _ in range(2)] == ["another", UID]


def test_what_is_no_request_is_refused_behind_the_answer_that_is_due(asking: Asking) -> None:
    body = asking.serve()
    with asking.webhook.connect() as connection, asking.gate() as gate:
        connection.send(post(body) + b"nonsense\r\n\r\n")
        asking.wait_for_waiting(1)
        gate.opened.set()
        assert wrapped(connection.answer().response)
        refused = connection.answer()
        assert (refused.status, refused.headers["connection"]) == (400, "close")
        assert connection.rest() == b""


def test_a_client_that_has_gone_is_not_waited_for(asking: Asking) -> None:
    body = asking.serve()
    with asking.gate() as gate:
        with asking.webhook.connect() as connection:
            connection.send(post(body))
            asking.wait_for_waiting(1)
        with asking.webhook.connect() as reset:
            reset.send(post(body, headers="Connection: close\r\n"))
            asking.wait_for_waiting(2)
        gate.opened.set()
        asking.wait_for_waiting(0)
    wait_until(lambda: asking.webhook.metrics()['connections{port="https"}'] == 0, "the connections to end")
    assert wrapped(asking.webhook.ask(body).response)
    assert asking.webhook.events("bug") == []


def test_what_waits_is_answered_before_the_end(asking: Asking) -> None:
    body = asking.serve()
    webhook = asking.webhook
    with webhook.connect() as connection, asking.gate() as gate:
        connection.send(post(body))
        asking.wait_for_waiting(1)
        os.kill(webhook.process.pid, signal.SIGTERM)
        webhook.wait_for_event("stopping")
        gate.opened.set()
        answer = connection.answer()
        assert (wrapped(answer.response), answer.headers["connection"]) == (True, "close")
    assert webhook.process.ended(within_seconds=15)
    assert webhook.process.returncode() == 0
    assert webhook.events("bug") == []


@pytest.mark.thorough
def test_a_registry_that_never_answers_does_not_keep_the_process(asking: Asking) -> None:
    asking.policy.swap({"policy.yaml": policy_text(asking.registry.host, timeoutSeconds=20)})
    webhook = asking.webhook
    webhook.wait_for_event("policy-reloaded")
    body = asking.serve()
    with webhook.connect() as connection, asking.gate():
        connection.send(post(body))
        asking.wait_for_waiting(1)
        begun = time.monotonic()
        os.kill(webhook.process.pid, signal.SIGTERM)
        assert connection.rest() == b""
        assert webhook.process.ended(within_seconds=15), "grace is 6 s"
        assert time.monotonic() - begun < 10
    assert webhook.process.returncode() == 0
    assert "Traceback" not in webhook.log.read_text()


def test_what_is_known_outlives_a_new_policy_with_the_same_registries(asking: Asking) -> None:
    webhook, host = asking.webhook, asking.registry.host
    body = asking.serve()
    assert wrapped(webhook.ask(body).response)
    same = {**json.loads(policy_text(host)), "unrepaired": "deny"}
    asking.policy.swap({"policy.yaml": json.dumps(same).encode()})
    webhook.wait_for_event("policy-reloaded")
    assert wrapped(webhook.ask(body).response)
    assert asking.last_review()["lookup"] == "remembered"
    asking.policy.swap({"policy.yaml": policy_text(host, architecture="amd64")})
    webhook.wait_for_event("policy-reloaded", count=2)
    assert wrapped(webhook.ask(body).response)
    assert asking.last_review()["lookup"] == "found"


def kubeconfig_for(server: SmallServer, path: Path) -> Path:
    cluster = {"name": "c", "cluster": {"server": f"http://{server.host}"}}
    context = {"name": "c", "context": {"cluster": "c"}}
    path.write_text(json.dumps({"current-context": "c", "clusters": [cluster], "contexts": [context]}))
    return path


def test_a_pull_secret_is_read_and_shown_to_the_registry(pairs: list[Pair], tmp_path: Path) -> None:
    with small_server() as registry, small_server() as api:
        image = registry.serve_image("team/ci", config_body("dockerd-entrypoint.sh"))
        open_to_all = registry.answering
        basic = "Basic " + base64.b64encode(b"u:p").decode()
        registry.answering = lambda request: (
            open_to_all(request)
            if request.headers.get("authorization") == basic
            else Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        )
        config = {"auths": {registry.host: {"username": "u", "password": "p"}}}
        data = {".dockerconfigjson": base64.b64encode(json.dumps(config).encode()).decode()}
        secret = json.dumps({"kind": "Secret", "type": "kubernetes.io/dockerconfigjson", "data": data}).encode()
        api.answering = lambda request: Reply(body=secret)
        policy = tmp_path / "policy.yaml"
        policy.write_bytes(policy_text(registry.host, pullSecrets=True))
        wrapper = ("env", f"KUBECONFIG={kubeconfig_for(api, tmp_path / 'kubeconfig')}")
        body = json.dumps(review(pod(dind(image=image), imagePullSecrets=[{"name": "pull"}]))).encode()
        with start_webhook(tmp_path, pairs[0], "--policy", str(policy), wrapper=wrapper) as webhook:
            assert wrapped(webhook.ask(body).response)
            assert wrapped(webhook.ask(body).response)
            assert [line["lookup"] for line in webhook.events("review")] == ["found", "remembered"]
            assert [request.path for request in api.asked] == ["/api/v1/namespaces/ci/secrets/pull"]
            assert basic not in webhook.log.read_text()


def test_pull_secrets_without_a_cluster_are_a_note(asking: Asking) -> None:
    asking.policy.swap({"policy.yaml": policy_text(asking.registry.host, pullSecrets=True)})
    asking.webhook.wait_for_event("policy-reloaded")
    given = pod(dind(image=f"{asking.registry.host}/team/none:1"), imagePullSecrets=[{"name": "pull"}])
    assert asking.webhook.ask(review(given)).response["allowed"]
    line = asking.last_review()
    assert line["lookup"] == "unread"
    assert line["unread"].startswith(f"{asking.registry.host} does not have it, and there is no cluster to talk to")
    assert asking.webhook.metrics()['pull_secrets_total{result="failed"}'] == 1
    assert asking.webhook.wait_for_event("pull-secret-unread")["reason"] == "kubernetes.no-kubeconfig"
