"""Reviews and their answers, by the real process over real HTTPS."""

from __future__ import annotations

import json
import ssl

import pytest

from kata_dind.errors import KubernetesError
from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
from kata_dind.pod.policy import Policy
from kata_dind.pod.repair import repair
from kata_dind.webhook.check import check_webhook
from tests.unit.pod.checks import dind, faults_of, pod
from tests.unit.pod.test_corpus import patched as applied
from tests.unit.webhook.reviews import UID, patched, review
from tests.webhook.client import Connection, connect, post
from tests.webhook.pairs import Pair
from tests.webhook.process import Webhook

pytestmark = pytest.mark.requires("openssl")

BROKEN = pod(dind(env=[{"name": "TOKEN", "value": "hunter2"}]))


def body_of(number: int = 0) -> bytes:
    return json.dumps(review(BROKEN, uid=f"uid-{number}")).encode()


def test_a_pod_is_repaired_as_by_fix(webhook: Webhook) -> None:
    response = webhook.ask(review(BROKEN)).response
    assert (response["uid"], response["allowed"]) == (UID, True)
    after = patched(BROKEN, response)
    assert after == applied(BROKEN, repair(BROKEN, Policy(), script=entrypoint_for_pods).patch)
    assert faults_of(after) == []


def test_many_reviews_go_over_one_connection(webhook: Webhook) -> None:
    with webhook.connect() as connection:
        for number in range(20):
            answer = connection.ask(body_of(number))
            assert answer.response["uid"] == f"uid-{number}"
            assert "connection" not in answer.headers


def test_pipelined_reviews_are_answered_in_order(webhook: Webhook) -> None:
    with webhook.connect() as connection:
        connection.send(b"".join(post(body_of(number)) for number in range(30)))
        assert [connection.answer().response["uid"] for _ in range(30)] == [f"uid-{number}" for number in range(30)]


def test_a_review_may_come_byte_by_byte(webhook: Webhook) -> None:
    with webhook.connect() as connection:
        for byte in post(body_of()):
            connection.send(bytes([byte]))
        assert connection.answer().response["allowed"] is True


def in_chunks(body: bytes, size: int) -> bytes:
    head = b"POST /mutate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])


@pytest.mark.parametrize("size", [1, 100, 100_000])
def test_a_body_may_come_in_chunks(webhook: Webhook, size: int) -> None:
    with webhook.connect() as connection:
        connection.send(in_chunks(body_of(), size))
        assert connection.answer().response["allowed"] is True
        assert connection.ask(body_of(1)).response["uid"] == "uid-1"


def test_http_1_0_gets_an_answer_and_a_close(webhook: Webhook) -> None:
    with webhook.connect() as connection:
        connection.send(post(body_of(), version="1.0"))
        answer = connection.answer()
        assert answer.response["allowed"] is True
        assert answer.headers["connection"] == "close"
        assert connection.rest() == b""


def test_who_wants_to_close_is_closed(webhook: Webhook) -> None:
    with webhook.connect() as connection:
        assert connection.ask(body_of(), headers="Connection: close\r\n").headers["connection"] == "close"
        assert connection.rest() == b""


def test_who_asks_whether_to_go_on_is_told_so(webhook: Webhook) -> None:
    body = body_of()
    head = post(body, headers="Expect: 100-continue\r\n").removesuffix(body)
    with webhook.connect() as connection:
        connection.send(head)
        assert connection.answer(with_body=False).status == 100
        connection.send(body)
        assert connection.answer().response["allowed"] is True


def get(connection: Connection, path: str, method: str = "GET") -> int:
    connection.send(f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return connection.answer(with_body=method != "HEAD").status


def test_probes_are_answered_on_both_ports(webhook: Webhook) -> None:
    for context, port in ((webhook.context, webhook.port), (None, webhook.http_port)):
        with connect(port, context) as connection:
            assert [get(connection, path) for path in ("/healthz", "/readyz", "/healthz?verbose")] == [200, 200, 200]
            assert get(connection, "/healthz", "HEAD") == 200
            assert get(connection, "/metrics") == (404 if context else 200)
            assert get(connection, "/mutate") == (405 if context else 404)


def test_readiness_tells_what_is_in_use(webhook: Webhook) -> None:
    told = webhook.readiness()
    assert (told["ready"], told["stopping"]) == (True, False)
    assert told["certificate"]["files"] == [str(webhook.tls / "tls.crt"), str(webhook.tls / "tls.key")]
    assert (told["certificate"]["error"], told["policy"]["error"], told["policy"]["files"]) == ("", "", [])


def test_reviews_are_counted_and_logged_without_what_may_be_secret(webhook: Webhook) -> None:
    before = webhook.metrics()
    name = 'reviews_total{decision="repaired",reason="root.on-share"}'
    webhook.ask(review(BROKEN, uid="counted"))
    after = webhook.metrics()
    assert after[name] == before.get(name, 0) + 1
    assert after["review_seconds_count"] == before["review_seconds_count"] + 1
    (line,) = (each for each in webhook.events("review") if each["uid"] == "counted")
    assert line["level"] == "info"
    assert {name: line.get(name) for name in ("decision", "reason", "namespace", "name", "runtime_class", "kind")} == {
        "decision": "repaired",
        "reason": "root.on-share",
        "namespace": "ci",
        "name": "ci",
        "runtime_class": "kata-qemu",
        "kind": "loop",
    }
    assert "hunter2" not in webhook.log.read_text()
    assert "TOKEN" not in webhook.log.read_text()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_of_tls_that_are_in_use_are_spoken(webhook: Webhook, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cadata=webhook.tls.directory.joinpath("tls.crt").read_text())
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with connect(webhook.port, context) as connection:
        assert connection.ask(body_of()).response["allowed"] is True


def test_older_versions_of_tls_are_refused(webhook: Webhook) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError), connect(webhook.port, context):
        pass


def test_why_a_check_has_failed_is_said(webhook: Webhook, pairs: list[Pair]) -> None:
    def failed(url: str, authority: bytes) -> KubernetesError:
        with pytest.raises(KubernetesError) as caught:
            check_webhook(url, authority=authority.decode(), policy=Policy())
        return caught.value

    url = f"https://localhost:{webhook.port}"
    foreign = failed(url, pairs[1].certificate)
    assert (foreign.id, foreign.summary) == (
        "webhook.not-trusted",
        f"the certificate of {url} is not good for localhost, or is of another authority",
    )
    plain = failed(f"https://localhost:{webhook.http_port}", pairs[0].certificate)
    assert (plain.id, plain.summary.endswith("does not speak TLS as a webhook does")) == ("webhook.no-answer", True)
    assert check_webhook(url, authority=pairs[0].certificate.decode(), policy=Policy()).repaired
