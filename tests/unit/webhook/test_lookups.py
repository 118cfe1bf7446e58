"""Which reviews wait for registries, and with which pull secrets these are asked."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from kata_dind.errors import KubernetesError
from kata_dind.pod.policy import parse_policy
from kata_dind.registry.remote import remote_image
from kata_dind.webhook.decide import Decision, decide
from kata_dind.webhook.lookups import Looked, Lookups, Result, Search
from kata_dind.webhook.metrics import Metrics
from kata_dind.webhook.pull_secrets import KEPT_SECONDS, PullSecrets
from tests.unit.pod.checks import Json, dind, pod, script
from tests.unit.webhook.reviews import request

IMAGE = "127.0.0.1:9/team/ci:1"
"""Nobody listens there."""
UNKNOWN = pod(dind(image=IMAGE))


@pytest.fixture
def silent_host() -> Iterator[str]:
    """A server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def policy_with(**registry: Any) -> Any:
    return parse_policy({"registry": {"lookup": True, "allowed": ["127.0.0.1:9"], "timeoutSeconds": 5, **registry}})


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"kata_dind_webhook_{name}", labels)


def test_nothing_is_to_be_asked_of_a_pod_whose_images_are_known() -> None:
    looked = Lookups(Metrics()).begin(pod(dind()), "ci", policy_with())
    assert isinstance(looked, Looked)
    assert (looked.result, dict(looked.fields())) == (None, {"lookup": None, "lookup_seconds": None, "unread": ""})


def test_a_refusal_by_the_policy_needs_no_wait() -> None:
    looked = Lookups(Metrics()).begin(UNKNOWN, "ci", policy_with(allowed=["quay.io"]))
    assert isinstance(looked, Looked)
    assert looked.result is Result.UNREAD
    assert "does not allow to ask" in looked.found.unread[IMAGE]


def test_a_failure_is_waited_for_once(silent_host: str) -> None:
    metrics = Metrics()
    lookups = Lookups(metrics)
    policy, given = policy_with(allowed=[silent_host], timeoutSeconds=0.2), pod(dind(image=f"{silent_host}/ci"))
    search = lookups.begin(given, "ci", policy)
    assert isinstance(search, Search)
    looked = asyncio.run(lookups.wait(search))
    assert looked.result is Result.UNREAD
    assert looked.found.unread[f"{silent_host}/ci"].endswith("did not answer in full in 0.2 s")
    assert search._asked is not None
    concurrent.futures.wait(search._asked.pending(), timeout=10)  # it ends at the same moment
    again = lookups.begin(given, "ci", policy)
    assert isinstance(again, Looked)
    assert again.result is Result.UNREAD
    assert value(metrics, "lookups_total", result="unread") == 2
    assert value(metrics, "lookup_seconds_count") == 1
    assert value(metrics, "lookups_waiting") == 0


def test_an_answer_that_comes_at_once_was_asked_for_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class AtOnce(threading.Thread):
        start = threading.Thread.run

    monkeypatch.setattr("kata_dind.registry.once.threading.Thread", AtOnce)
    metrics = Metrics()
    lookups = Lookups(metrics)
    search = lookups.begin(UNKNOWN, "ci", policy_with())
    assert isinstance(search, Search)
    asyncio.run(lookups.wait(search))
    assert value(metrics, "lookup_seconds_count") == 1
    assert isinstance(lookups.begin(UNKNOWN, "ci", policy_with()), Looked)


def test_above_the_limit_nobody_waits(silent_host: str) -> None:
    metrics = Metrics()
    lookups, image = Lookups(metrics, most_waiting=0), f"{silent_host}/ci"
    looked = lookups.begin(pod(dind(image=image)), "ci", policy_with(allowed=[silent_host], timeoutSeconds=0.2))
    assert isinstance(looked, Looked)
    assert looked.result is Result.SKIPPED
    assert dict(looked.found.unread) == {image: "too many pods are waiting for registries"}
    assert value(metrics, "lookups_total", result="skipped") == 1


def test_why_an_image_is_unknown_is_said_where_its_container_stays_broken() -> None:
    image = "127.0.0.1:9/team/dind:1"
    broken = request(pod(dind(image=image), hostUsers=False))
    looked = Lookups(Metrics()).begin(broken["object"] or {}, "ci", policy_with(allowed=["quay.io"]))
    assert isinstance(looked, Looked)
    decided = decide(broken, policy_with(), script=script, found=looked.found)
    assert decided.decision is Decision.UNREPAIRED
    said = decided.response["warnings"]
    assert "does not allow to ask the registry 127.0.0.1:9 (registry.allowed). Write its entrypoint" in said[-1]


# ---- Pull secrets


@dataclass
class Api:
    """As much of an API client as is used, which gives what it has."""

    secrets: dict[str, Json | KubernetesError] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    opened: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.opened.set()

    @contextlib.contextmanager
    def open(self) -> Iterator[Any]:
        yield self

    def find(self, resource: Any, name: str, *, namespace: str) -> Json | None:
        assert resource.plural == "secrets"
        self.asked.append((namespace, name))
        assert self.opened.wait(timeout=10)
        found = self.secrets.get(name)
        if isinstance(found, KubernetesError):
            raise found
        return found


def secret(host: str, user: str) -> Json:
    config = {"auths": {host: {"username": user, "password": "hunter2"}}}
    data = base64.b64encode(json.dumps(config).encode()).decode()
    return {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": data}}


def settled(secrets: PullSecrets, *names: str) -> tuple[list[str], list[str]]:
    """Return the users in Secrets, and what is said of those that can't be read."""
    asked = secrets.ask("ci", names)
    for future in asked.pending():
        future.result(timeout=10)
    image = remote_image(IMAGE)
    assert image is not None
    return [each.user for each in asked.keyring().credentials_for(image)], asked.unread()


def test_secrets_are_read_once_a_minute() -> None:
    now, api, metrics = [0.0], Api({"one": secret("127.0.0.1:9", "u"), "two": secret("quay.io", "v")}), Metrics()
    secrets = PullSecrets(metrics, open_api=api.open, clock=lambda: now[0])
    assert settled(secrets, "one", "two", "one") == (["u"], [])
    assert settled(secrets, "one") == (["u"], [])
    assert sorted(api.asked) == [("ci", "one"), ("ci", "two")]
    now[0] = KEPT_SECONDS
    api.secrets["one"] = secret("127.0.0.1:9", "w")
    assert settled(secrets, "one") == (["w"], [])
    assert value(metrics, "pull_secrets_total", result="read") == 3


def test_what_may_not_be_read_is_a_clause(caplog: pytest.LogCaptureFixture) -> None:
    forbidden = KubernetesError("not allowed to get the Secret 'one'", id="kubernetes.forbidden", details="hunter2")
    metrics = Metrics()
    secrets = PullSecrets(metrics, open_api=Api({"one": forbidden}).open)
    assert settled(secrets, "one", "two") == (
        [],
        ["not allowed to get the Secret 'one'", "there is no Secret 'two' in the namespace 'ci'"],
    )
    assert value(metrics, "pull_secrets_total", result="forbidden") == 1
    assert value(metrics, "pull_secrets_total", result="absent") == 1


def test_nothing_of_a_secret_is_shown() -> None:
    asked = PullSecrets(Metrics(), open_api=Api({"one": secret("127.0.0.1:9", "u")}).open).ask("ci", ["one"])
    for future in asked.pending():
        future.result(timeout=10)
    assert "hunter2" not in repr(asked)
    assert "hunter2" not in repr([future.result() for future in asked._answers.values()])


def test_an_api_server_that_hangs_leaves_time_for_the_registry() -> None:
    api = Api({"pull": secret("127.0.0.1:9", "u")})
    api.opened.clear()
    metrics = Metrics()
    lookups = Lookups(metrics, PullSecrets(metrics, open_api=api.open))
    given = pod(dind(image=IMAGE), imagePullSecrets=[{"name": "pull"}])
    search = lookups.begin(given, "ci", policy_with(pullSecrets=True, timeoutSeconds=0.4))
    assert isinstance(search, Search)
    looked = asyncio.run(lookups.wait(search))
    api.opened.set()
    said = looked.found.unread[IMAGE]
    assert "Connection refused" in said
    assert said.endswith(", and the API server did not give the Secret 'pull' in time")
    assert 0.2 <= looked.waited_seconds < 2


@contextlib.contextmanager
def slow_host(seconds: float) -> Iterator[str]:
    """A registry that answers after a while, each time that there is no such image."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(seconds)
            with contextlib.suppress(OSError):  # whoever has asked may be gone
                self.send_error(404)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_registry_is_not_blamed_for_the_time_that_the_api_server_took() -> None:
    with slow_host(0.7) as host:
        api, image = Api({"pull": secret("127.0.0.1:9", "u")}), f"{host}/ci"
        api.opened.clear()
        metrics = Metrics()
        lookups = Lookups(metrics, PullSecrets(metrics, open_api=api.open))
        policy = policy_with(allowed=[host], pullSecrets=True, timeoutSeconds=1)
        given = pod(dind(image=image), imagePullSecrets=[{"name": "pull"}])
        late = lookups.begin(given, "ci", policy)
        assert isinstance(late, Search)
        assert "did not answer in full" in asyncio.run(lookups.wait(late)).found.unread[image]
        assert late._asked is not None
        concurrent.futures.wait(late._asked.pending(), timeout=10)
        api.opened.set()
        concurrent.futures.wait(late.secrets.pending(), timeout=10)
        search = lookups.begin(given, "ci", policy)
        assert isinstance(search, Search), "it is asked again"
        assert asyncio.run(lookups.wait(search)).found.unread[image] == f"{host} does not have it"


@pytest.mark.parametrize("count", [0, 20])
def test_a_pod_has_no_more_secrets_read_than_a_few(count: int) -> None:
    api = Api()
    settled(PullSecrets(Metrics(), open_api=api.open), *map(str, range(count)))
    assert len(api.asked) == min(count, 8)
