"""Requests that are none: each gets a status of its own, nothing gets a 500, and the log has no traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.unit.pod.checks import dind, pod
from tests.unit.webhook.reviews import review
from tests.webhook.client import post
from tests.webhook.process import Webhook

pytestmark = pytest.mark.requires("openssl")

GOOD = json.dumps(review(pod(dind()))).encode()


@pytest.fixture(autouse=True)
def still_well(webhook: Webhook) -> Iterator[None]:
    """Whatever was sent: no bug was met, and the next review is answered."""
    yield
    assert webhook.events("bug") == []
    assert "Traceback" not in webhook.log.read_text()
    assert webhook.ask(GOOD).response["allowed"] is True


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join([line, "Host: a", *headers, "", ""]).encode("latin-1")


JSON = "Content-Type: application/json"
NOT_HTTP = [
    b"\r\n\r\n\r\nhello there\r\n\r\n",
    b"\0" * 100,
    bytes(range(256)),
    b"POST /mutate HTTP/9.9\r\nHost: a\r\n\r\n",
    b"GARBAGE /mutate HTTP/1.1\r\nHost: a\r\n\r\n",
    head("POST /mutate HTTP/1.1", "Content-Length: 5", "Content-Length: 6"),
    head("POST /mutate HTTP/1.1", "Content-Length: 5", "Transfer-Encoding: chunked"),
    head("POST /mutate HTTP/1.1", "Transfer-Encoding: gzip, identity"),
    head("POST /mutate HTTP/1.1", "Bad Header: x"),
    head("POST /mutate HTTP/1.1", "Nul: a\0b"),
    head("POST /mutate HTTP/1.1", JSON, "Transfer-Encoding: chunked") + b"zz\r\n",
    head("PRI * HTTP/2.0") + b"SM\r\n\r\n",
]


@pytest.mark.parametrize("content", NOT_HTTP)
def test_what_is_not_http_is_400_and_closed(webhook: Webhook, content: bytes) -> None:
    with webhook.connect() as connection:
        connection.send(content)
        answer = connection.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        connection.rest()


@pytest.mark.parametrize("length", ["-1", "+5", "5x", "0x5", "", "99999999999999999999999999"])
def test_a_length_that_is_none_is_refused(webhook: Webhook, length: str) -> None:
    with webhook.connect() as connection:
        connection.send(head("POST /mutate HTTP/1.1", JSON, f"Content-Length: {length}"))
        assert connection.answer().status in {400, 413}
        connection.rest()


def test_a_body_without_a_length_is_an_empty_one(webhook: Webhook) -> None:
    with webhook.connect() as connection:
        connection.send(head("POST /mutate HTTP/1.1", JSON))
        answer = connection.answer()
        assert (answer.status, answer.body[:20]) == (400, b"the body is not JSON")


@pytest.mark.parametrize(
    ("line", "content_type", "status"),
    [
        ("POST /", "application/json", 404),
        ("POST /mutate/", "application/json", 404),
        ("POST /validate", "application/json", 404),
        ("POST /metrics", "application/json", 404),
        ("POST /%6dutate", "application/json", 404),
        ("POST /../mutate", "application/json", 404),
        ("POST " + "/a" * 4000, "application/json", 404),
        ("PUT /mutate", "application/json", 405),
        ("DELETE /mutate", "application/json", 405),
        ("OPTIONS /mutate", "application/json", 405),
        ("POST /healthz", "application/json", 405),
        ("POST /mutate", "text/plain", 415),
        ("POST /mutate", "application/yaml", 415),
        ("POST /mutate", "", 415),
        ("POST /mutate", "application/jsonx", 415),
        ("POST /mutate", "Application/JSON; charset=utf-8", 200),
        ("POST /mutate?timeout=10s", "application/json", 200),
        ("POST /mutate?a=b?c#d", "application/json", 200),
    ],
)
def test_the_connection_survives_a_wrong_path_method_or_type(
    webhook: Webhook, line: str, content_type: str, status: int
) -> None:
    with webhook.connect() as connection:
        for _ in range(2):
            kind = f"Content-Type: {content_type}"
            connection.send(head(f"{line} HTTP/1.1", kind, f"Content-Length: {len(GOOD)}") + GOOD)
            answer = connection.answer()
            assert (answer.status, "connection" in answer.headers) == (status, False)
            assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_another_protocol_is_not_spoken(webhook: Webhook, protocol: str) -> None:
    with webhook.connect() as connection:
        connection.send(head("GET /healthz HTTP/1.1", "Connection: Upgrade", f"Upgrade: {protocol}") + b"\0" * 20)
        answer = connection.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert connection.rest() == b""


def deep(opening: bytes, closing: bytes, depth: int) -> bytes:
    return GOOD.replace(b'"hostUsers"', b'"x"').replace(
        b'"metadata": {', b'"deep": ' + opening * depth + b"1" + closing * depth + b', "metadata": {', 1
    )


NOT_REVIEWS = [
    b"",
    b"{}",
    b"null",
    b"\0",
    b"\xff\xfe",
    GOOD[:-1],
    GOOD + b"}",
    GOOD + GOOD,
    GOOD.replace(b"docker:27-dind", b"docker:\xff-dind"),
    GOOD.replace(b"docker:27-dind", b"docker:\\ud800"),
    GOOD.replace(b"docker:27-dind", b"docker:\0"),
    GOOD.replace(b'"CREATE"', b"NaN"),
    GOOD.replace(b'"CREATE"', b"1e400"),
    GOOD.replace(b'"uid": "', b'"uid": 7, "x": "'),
    GOOD.decode().encode("utf-16"),
    b"\xef\xbb\xbf" + GOOD,
    deep(b"[", b"]", 100_000),
    deep(b'{"a":', b"}", 100_000),
    b"[" * 4_000_000,
]


@pytest.mark.parametrize("number", range(len(NOT_REVIEWS)))
def test_what_is_not_a_review_is_400_with_a_reason(webhook: Webhook, number: int) -> None:
    with webhook.connect() as connection:
        before = len(webhook.events("bad-request"))
        answer = connection.ask(NOT_REVIEWS[number])
        assert (answer.status, "connection" in answer.headers) == (400, False)
        assert answer.body.rstrip().isascii() and answer.body.endswith(b"\n")
        assert webhook.wait_for_event("bad-request", count=before + 1)["reason"].startswith("review.")
        assert connection.ask(GOOD).response["allowed"] is True


@pytest.mark.parametrize(
    "body",
    [
        GOOD.replace(b'"image"', b'"image": "nginx", "image"'),
        GOOD.replace(b"docker:27-dind", b"docker:\\u0000-dind"),
        GOOD.replace(b'"metadata": {', b'"metadata": {"\\u0000": "\\u0000", '),
        deep(b"[", b"]", 500),
        deep(b'{"a":', b"}", 500),
        GOOD.replace(b'"name": "dind"', b'"name": 1e300'),
        GOOD.replace(b'"dryRun": false', b'"dryRun": true, "unknown": [1, 2.5, null]'),
    ],
)
def test_what_is_strange_and_yet_a_review_is_answered(webhook: Webhook, body: bytes) -> None:
    assert webhook.ask(body).response["allowed"] is True


@pytest.mark.parametrize("size", [(8 << 20) + 1, 10_000_000])
def test_a_body_that_is_too_large_is_refused_by_its_length(webhook: Webhook, size: int) -> None:
    with webhook.connect() as connection:
        connection.send(head("POST /mutate HTTP/1.1", JSON, f"Content-Length: {size}"))
        answer = connection.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")


def test_a_body_that_grows_too_large_is_refused_on_its_way(webhook: Webhook) -> None:
    chunk = b"%x\r\n%b\r\n" % (1 << 16, b" " * (1 << 16))
    with webhook.connect() as connection:
        connection.send(head("POST /mutate HTTP/1.1", JSON, "Transfer-Encoding: chunked") + chunk * 128)
        connection.send(chunk)
        assert connection.answer().status == 413
        assert connection.rest() == b""


def test_ten_megabytes_are_read_to_the_refusal(webhook: Webhook) -> None:
    """A client that sends first and reads then gets the answer, too, and not a broken connection alone."""
    with webhook.connect() as connection:
        connection.send(post(b" " * 10_000_000))
        assert connection.answer().status == 413


def test_a_review_of_megabytes_is_answered(webhook: Webhook) -> None:
    large = pod(dind(env=[{"name": "A", "value": "x" * 7_000_000}]))
    response = webhook.ask(review(large)).response
    assert response["allowed"] is True
    assert "patch" not in response


@pytest.mark.parametrize("extra", ["X: " + "y" * 17_000, "\r\n".join(f"X{n}: {'y' * 100}" for n in range(170))])
@pytest.mark.parametrize("cut", [0, 2])
def test_a_head_that_is_too_large_is_431(webhook: Webhook, extra: str, cut: int) -> None:
    content = head("POST /mutate HTTP/1.1", JSON, f"Content-Length: {len(GOOD)}", extra)
    with webhook.connect() as connection:
        connection.send(content[: len(content) - cut] + (b"" if cut else GOOD))
        answer = connection.answer()
        assert (answer.status, answer.headers["connection"]) == (431, "close")
        assert connection.rest() == b""
