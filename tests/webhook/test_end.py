"""The end of a webhook: nothing that is on its way is lost."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.pod.checks import dind, pod
from tests.unit.webhook.reviews import review
from tests.webhook.client import post
from tests.webhook.load import Load
from tests.webhook.pairs import Pair
from tests.webhook.process import Webhook, start_webhook, wait_until

pytestmark = pytest.mark.requires("openssl")

GOOD = json.dumps(review(pod(dind()))).encode()


@pytest.fixture
def ending(pairs: list[Pair], tmp_path: Path) -> Iterator[Webhook]:
    """A webhook that is going to end."""
    with start_webhook(tmp_path, pairs[0], "--grace", "5") as started:
        yield started


def ended_well(webhook: Webhook) -> bool:
    assert webhook.process.ended(within_seconds=15), "the webhook does not end"
    assert webhook.events("stopped")
    assert webhook.events("bug") == []
    return webhook.process.returncode() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_flight_is_answered(ending: Webhook, number: signal.Signals) -> None:
    with ending.connect() as halfway, ending.connect() as idle:
        assert idle.ask(GOOD).status == 200
        halfway.send(post(GOOD)[:-10])
        os.kill(ending.process.pid, number)
        ending.wait_for_event("stopping")
        status, body = ending.get("/readyz")
        assert (status, json.loads(body)["ready"], json.loads(body)["stopping"]) == (503, False, True)
        assert ending.get("/healthz")[0] == 200
        halfway.send(GOOD[-10:])
        answer = halfway.answer()
        assert answer.response["allowed"] is True
        assert answer.headers["connection"] == "close"
        late = ending.ask(GOOD)
        assert (late.response["allowed"], late.headers["connection"]) == (True, "close"), "a cluster learns of it late"
        assert idle.ask(GOOD).headers["connection"] == "close", "an open connection may be used once more"
    assert ended_well(ending)


@pytest.mark.thorough
def test_a_client_that_stays_is_cut_off_when_the_grace_is_over(ending: Webhook) -> None:
    with ending.connect() as staying:
        started = time.monotonic()
        os.kill(ending.process.pid, signal.SIGTERM)
        assert ended_well(ending)
        assert 4 < time.monotonic() - started < 9
        assert staying.rest() == b""


@pytest.mark.thorough
def test_a_replica_that_ends_under_load_loses_no_review(ending: Webhook, pairs: list[Pair], tmp_path: Path) -> None:
    """A Service sends new connections elsewhere from when the replica is not ready, or a moment later."""
    other_directory = tmp_path / "other"
    other_directory.mkdir()
    with start_webhook(other_directory, pairs[0]) as other:
        told_at: list[float] = []

        def port(number: int) -> int:
            if told_at and time.monotonic() > told_at[0] + 1.0:
                return other.port
            return (ending, other)[number % 2].port

        with Load(150, [GOOD], port, ending.context, reviews_per_connection=20) as running:
            running.wait_for(150)
            os.kill(ending.process.pid, signal.SIGTERM)
            wait_until(lambda: bool(ending.events("stopping")), "the webhook to stop")
            told_at.append(time.monotonic())
            assert ended_well(ending)
            running.wait_for(150)
        assert running.failures == []
        assert min(running.ports.values()) > 1


@pytest.mark.thorough
def test_a_replica_that_is_killed_loses_what_it_was_answering_and_no_more(
    ending: Webhook, pairs: list[Pair], tmp_path: Path
) -> None:
    """An API server repeats no review: what was on its way is lost, and each connection to it until it is taken out."""
    other_directory = tmp_path / "other"
    other_directory.mkdir()
    with start_webhook(other_directory, pairs[0]) as other:
        taken_out = threading.Event()

        def port(number: int) -> int:
            return other.port if taken_out.is_set() else (ending, other)[number % 2].port

        with Load(200, [GOOD], port, ending.context, reviews_per_connection=20) as running:
            running.wait_for(200)
            assert running.failures == []
            os.kill(ending.process.pid, signal.SIGKILL)
            time.sleep(1)  # so long a cluster takes to learn of it
            taken_out.set()
            time.sleep(0.5)  # for what connects to it at this moment
            lost = list(running.failures)
            running.wait_for(400)
        in_flight = [each for each in lost if not each.startswith("no connection: ")]
        assert len(in_flight) <= running.connections
        assert running.failures == lost, "the other replica serves what comes later"
        assert running.ports[other.port] > running.connections
