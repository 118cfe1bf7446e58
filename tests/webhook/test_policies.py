"""A policy that changes while reviews come in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.pod.checks import dind, pod
from tests.unit.webhook.reviews import review
from tests.webhook.load import Load
from tests.webhook.pairs import Mounted, Pair
from tests.webhook.process import Webhook, start_webhook

pytestmark = pytest.mark.requires("openssl")

UNREPAIRABLE = review(pod(dind(), hostUsers=False))
DENY, WARN = b"unrepaired: deny\n", b"unrepaired: warn\n"


@dataclass
class Guarded:
    """A webhook, and its policy in a directory as kubelet mounts it."""

    webhook: Webhook
    policy: Mounted

    @property
    def kata_dind_logs(self) -> list[Path]:
        return self.webhook.kata_dind_logs

    def allows(self) -> bool:
        return bool(self.webhook.ask(UNREPAIRABLE).response["allowed"])


@pytest.fixture
def guarded(pairs: list[Pair], tmp_path: Path) -> Iterator[Guarded]:
    policy = Mounted(tmp_path / "policy", {"policy.yaml": WARN})
    with start_webhook(tmp_path, pairs[0], "--policy", str(policy / "policy.yaml")) as webhook:
        yield Guarded(webhook, policy)


def test_a_new_policy_holds_for_the_next_review(guarded: Guarded) -> None:
    assert guarded.allows()
    before = guarded.webhook.metrics()["policy_loaded_timestamp_seconds"]
    guarded.policy.swap({"policy.yaml": DENY})
    guarded.webhook.wait_for_event("policy-reloaded")
    assert not guarded.allows()
    metrics = guarded.webhook.metrics()
    assert metrics["policy_loaded_timestamp_seconds"] > before
    assert metrics['policy_reloads_total{result="success"}'] == 1
    assert guarded.webhook.events("review")[-1]["decision"] == "denied"


@pytest.mark.thorough
def test_policies_change_under_load(guarded: Guarded) -> None:
    seen: set[bool] = set()

    def note(body: bytes) -> None:
        seen.add(json.loads(body)["response"]["allowed"])

    bodies = [json.dumps(UNREPAIRABLE).encode()]
    webhook = guarded.webhook
    with Load(100, bodies, lambda _: webhook.port, webhook.context, answers=note) as running:
        for number, content in enumerate((DENY, WARN, DENY), start=1):
            running.wait_for(40)
            guarded.policy.swap({"policy.yaml": content})
            webhook.wait_for_event("policy-reloaded", count=number)
        running.wait_for(40)
    assert running.failures == []
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("wrong", "id"),
    [
        (b"unrepaired: perhaps\n", "spec."),
        (b"unrepaired: [\n", ""),
        (b"\xff\xfe\0", ""),
        (b"[" * 5000, ""),
        (b"a: &a [*a]\nb: " + b"x" * 100, ""),
    ],
)
def test_a_wrong_policy_leaves_the_old_one_in_use(guarded: Guarded, wrong: bytes, id: str) -> None:
    webhook = guarded.webhook
    guarded.policy.swap({"policy.yaml": DENY})
    webhook.wait_for_event("policy-reloaded")
    guarded.policy.swap({"policy.yaml": wrong})
    kept = webhook.wait_for_event("policy-kept")
    assert kept["reason"].startswith(id)
    assert kept["level"] == "error"
    assert "traceback" not in kept
    assert not guarded.allows()
    metrics = webhook.metrics()
    assert (metrics["policy_error"], metrics['policy_reloads_total{result="failure"}']) == (1, 1)
    status, body = webhook.get("/readyz")
    assert (status, json.loads(body)["policy"]["error"]) == (200, kept["message"])
    guarded.policy.swap({"policy.yaml": WARN})
    webhook.wait_for_event("policy-reloaded", count=2)
    assert guarded.allows()
    assert (webhook.metrics()["policy_error"], webhook.readiness()["policy"]["error"]) == (0, "")
    assert len(webhook.events("policy-kept")) == 1, "an error is told once"


def test_a_guard_refuses_only_where_it_is_switched_on(guarded: Guarded) -> None:
    shared = review(pod(dind(), runtimeClassName="runc"))
    assert guarded.webhook.ask(shared).response["allowed"] is True
    guarded.policy.swap({"policy.yaml": b"guards:\n  sharedKernel: deny\n"})
    guarded.webhook.wait_for_event("policy-reloaded")
    response = guarded.webhook.ask(shared).response
    assert (response["allowed"], response["status"]["code"]) == (False, 403)
