"""Certificates that change while reviews come in: by kubelet's swap of `..data`, by rewriting, and half-way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kata_dind.host.process import run
from tests.unit.pod.checks import dind, pod
from tests.unit.webhook.reviews import review
from tests.webhook.client import connect, trusting
from tests.webhook.load import Load
from tests.webhook.pairs import Pair, expired
from tests.webhook.process import Webhook, serve_argv, start_webhook, wait_until

pytestmark = pytest.mark.requires("openssl")

BODIES = [
    json.dumps(review(each)).encode() for each in (pod(dind()), pod({"name": "web", "image": "nginx"}), pod(dind()))
]


@pytest.fixture
def own(pairs: list[Pair], tmp_path: Path) -> Iterator[Webhook]:
    """A webhook with the first of the certificates."""
    with start_webhook(tmp_path, pairs[0]) as started:
        yield started


def load(webhook: Webhook, pairs: list[Pair], rate: float = 100) -> Load:
    context = trusting(*(pair.certificate for pair in pairs))
    return Load(rate, BODIES, lambda _: webhook.port, context, reviews_per_connection=10)


def served(webhook: Webhook, pairs: list[Pair]) -> str:
    """Return the name of the certificate that a new connection gets."""
    with connect(webhook.port, trusting(*(pair.certificate for pair in pairs))) as connection:
        return connection.certificate


def test_a_certificate_is_rotated_under_load(own: Webhook, pairs: list[Pair]) -> None:
    with load(own, pairs) as running, own.connect() as kept:
        running.wait_for(50)
        own.tls.swap(pairs[1].files)
        own.wait_for_event("certificate-reloaded")
        running.wait_for(150)
        assert kept.ask(BODIES[0]).response["allowed"] is True, "an open connection stays"
        own.tls.swap(pairs[2].files)
        own.wait_for_event("certificate-reloaded", count=2)
        running.wait_for(150)
    assert running.failures == []
    assert {*running.certificates} == {pair.name for pair in pairs}
    assert served(own, pairs) == pairs[2].name
    metrics = own.metrics()
    assert metrics['certificate_reloads_total{result="success"}'] == 2
    assert metrics["certificate_error"] == 0


@pytest.mark.thorough
def test_files_that_are_replaced_one_after_the_other_are_served_when_they_fit(own: Webhook, pairs: list[Pair]) -> None:
    with load(own, pairs) as running:
        for name in ("tls.crt", "tls.key"):
            path = own.tls / name
            path.unlink()
            path.write_bytes(pairs[1].files[name])
            if name == "tls.crt":
                kept = own.wait_for_event("certificate-kept")
                assert kept["message"] == "the certificate can't be served: the key belongs to another certificate"
                assert own.metrics()["certificate_error"] == 1
                assert own.readiness()["certificate"]["error"] == kept["message"]
                assert own.get("/readyz")[0] == 200
                running.wait_for(100)
        own.wait_for_event("certificate-reloaded")
        running.wait_for(100)
    assert running.failures == []
    assert {*running.certificates} == {pairs[0].name, pairs[1].name}
    assert own.readiness()["certificate"]["error"] == ""
    assert own.metrics()["certificate_error"] == 0


NOT_WHOLE = "the certificate can't be served: one of the files is not in PEM, or not whole"
UNFIT: dict[str, Callable[[Pair], bytes]] = {
    "empty": lambda pair: b"",
    "half": lambda pair: pair.certificate[: len(pair.certificate) // 2],
    "bytes": lambda pair: b"\xff" * 100,
    "a key": lambda pair: pair.key,
}


@pytest.mark.thorough
@pytest.mark.parametrize("how", UNFIT)
def test_what_is_not_a_certificate_is_not_served(own: Webhook, pairs: list[Pair], how: str) -> None:
    own.tls.swap({**pairs[1].files, "tls.crt": UNFIT[how](pairs[1])})
    assert own.wait_for_event("certificate-kept")["message"] == NOT_WHOLE
    assert served(own, pairs) == pairs[0].name
    own.tls.swap(pairs[1].files)
    own.wait_for_event("certificate-reloaded")
    assert served(own, pairs) == pairs[1].name
    assert len(own.events("certificate-kept")) == 1


@pytest.mark.thorough
def test_files_that_are_gone_for_a_moment_do_no_harm(own: Webhook, pairs: list[Pair]) -> None:
    (own.tls / "..data").unlink()
    own.wait_for_event("certificate-kept")
    assert served(own, pairs) == pairs[0].name
    own.tls.swap(pairs[1].files)
    own.wait_for_event("certificate-reloaded")


@pytest.mark.thorough
def test_the_same_files_back_again_are_no_error_any_more(own: Webhook, pairs: list[Pair]) -> None:
    own.tls.swap({**pairs[0].files, "tls.key": pairs[1].key})
    own.wait_for_event("certificate-kept")
    own.tls.swap(pairs[0].files)
    wait_until(lambda: own.readiness()["certificate"]["error"] == "", "the error to go")
    assert own.metrics()["certificate_error"] == 0


@pytest.mark.thorough
def test_a_certificate_that_has_expired_is_not_served(own: Webhook, pairs: list[Pair], tmp_path: Path) -> None:
    own.tls.swap(expired(pairs[0], tmp_path).files)
    kept = own.wait_for_event("certificate-kept")
    assert (
        kept["message"] == "the certificate can't be served: the certificate is not accepted: certificate has expired"
    )


def test_at_the_start_a_wrong_pair_ends_the_process_with_one_sentence(pairs: list[Pair], tmp_path: Path) -> None:
    for name, content in {**pairs[0].files, "tls.key": pairs[1].key}.items():
        (tmp_path / name).write_bytes(content)
    done = run(serve_argv(tmp_path / "tls.crt", tmp_path / "tls.key"), timeout_seconds=60, allowed_codes=(3,))
    assert done.stderr.startswith(
        "kata-dind: the certificate can't be served: the key belongs to another certificate\n"
    )
    assert "Traceback" not in done.stderr
