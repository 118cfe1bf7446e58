"""Connections of Docker's clients, followed: whatever is not held passes unchanged, however its bytes are cut."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.wire.http_messages import (
    MOST_HEAD_BYTES,
    Conversation,
    Held,
    Invitation,
    Step,
    TooLong,
    answer,
    path_of,
)

MOST_HELD_BYTES = 64 * 1024

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"
SWITCHED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


def holds(method: str, path: str) -> bool:
    return method == "POST" and path.endswith("/create")


def conversation() -> Conversation:
    return Conversation(holds, most_held_bytes=MOST_HELD_BYTES)


def request(method: str = "GET", target: str = "/_ping", body: bytes = b"", *fields: str, chunks: int = 0) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: docker", *fields]
    if chunks:
        lines.append("Transfer-Encoding: chunked")
        pieces = [body[start : start + chunks] for start in range(0, len(body), chunks)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    elif body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def steps(followed: Conversation, *pieces: bytes, refuses: bool = False) -> list[Step]:
    """Carry out all steps; what is passed on is joined."""
    taken: list[Step] = []
    for piece in pieces:
        for step in followed.from_client(piece):
            if isinstance(step, Held):
                step.refused = refuses
            if isinstance(step, bytes) and taken and isinstance(taken[-1], bytes):
                taken[-1] += step
            else:
                taken.append(step)
    return taken


def passed(taken: list[Step]) -> bytes:
    return b"".join(step for step in taken if isinstance(step, bytes))


BODIES = st.binary(max_size=300)
REQUESTS = st.builds(
    request,
    st.sampled_from(("GET", "POST", "PUT", "DELETE", "HEAD")),
    st.sampled_from(("/_ping", "/v1.47/images/load?quiet=1", "/containers/create", "http://docker/volumes/create")),
    BODIES,
    chunks=st.integers(0, 40),
)


@given(st.lists(REQUESTS, min_size=1, max_size=4), st.lists(st.integers(0, 5000), max_size=12))
def test_however_the_bytes_are_cut_the_same_bytes_come_out(messages: list[bytes], places: list[int]) -> None:
    data = b"".join(messages)
    assert passed(steps(conversation(), *cut(data, places))) == data


@given(st.lists(REQUESTS, min_size=1, max_size=4), st.lists(st.integers(0, 5000), max_size=12))
def test_nothing_of_a_refused_request_is_passed_on(messages: list[bytes], places: list[int]) -> None:
    innocent = [message for message in messages if not (message.startswith(b"POST") and b"/create" in message[:40])]
    taken = steps(conversation(), *cut(b"".join(messages), places), refuses=True)
    assert passed(taken) == b"".join(innocent)
    assert sum(isinstance(step, Held) for step in taken) == len(messages) - len(innocent)


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_what_is_not_http_passes_unchanged(data: bytes, places: list[int]) -> None:
    followed = conversation()
    assert passed(steps(followed, *cut(data, places), refuses=True)) + followed.at_end() == data


PARTS = (b"POST /x HTTP/1.1\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n", b"5\r\n", b"abcde", b"zz\r\n",
         b"Content-Length: 3\r\n", b"0\r\n\r\n", b": \r\n")  # fmt: skip


@given(st.lists(st.sampled_from(PARTS), max_size=12), st.lists(st.integers(0, 300), max_size=8))
def test_nearly_http_passes_unchanged(parts: list[bytes], places: list[int]) -> None:
    followed, data = conversation(), b"".join(parts)
    assert passed(steps(followed, *cut(data, places))) + followed.at_end() == data


def test_a_held_request_may_have_a_length_that_does_not_count() -> None:
    asked = request("POST", "/containers/create", b"{}", "Content-Length: x", chunks=9)
    (held, _) = steps(conversation(), asked)
    assert isinstance(held, Held)
    assert held.body == b"{}"


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from((OK, SWITCHED, b"HTTP/1.1 200 OK\r\n", b"\r\n"))),
                max_size=8))  # fmt: skip
def test_whatever_the_server_says_is_watched_in_peace(parts: list[bytes]) -> None:
    followed = conversation()
    steps(followed, request() * 3)
    for part in parts:
        followed.from_server(part)
    assert passed(steps(followed, request())) == request()


@pytest.mark.parametrize("chunks", [0, 7])
def test_a_held_request_tells_its_body(chunks: int) -> None:
    body = json.dumps({"Image": "x" * 50}).encode()
    (held, _) = steps(conversation(), request("POST", "/v1.47/containers/create?name=a", body, chunks=chunks))
    assert isinstance(held, Held)
    assert (held.body, held.request.method, path_of(held.request.target)) == (body, "POST", "/v1.47/containers/create")


def test_an_answer_of_ours_waits_for_those_before_it() -> None:
    followed = conversation()
    assert followed.is_idle
    steps(followed, request() + request(), request("POST", "/containers/create", b"{}"), refuses=True)
    assert not followed.is_idle
    followed.from_server(OK[:30])
    followed.from_server(OK[30:] + b"HTTP/1.1 204 No Content\r\n")
    assert not followed.is_idle
    followed.from_server(b"\r\n")
    assert followed.is_idle


@pytest.mark.parametrize(
    "said",
    [
        OK,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n",
    ],
)
@given(places=st.lists(st.integers(0, 100), max_size=6))
def test_the_end_of_an_answer_is_found(said: bytes, places: list[int]) -> None:
    followed = conversation()
    steps(followed, request())
    for piece in cut(said, places):
        assert not followed.is_idle
        followed.from_server(piece)
    assert followed.is_idle
    assert not followed.is_raw


def test_the_answer_to_head_has_no_body() -> None:
    followed = conversation()
    steps(followed, request("HEAD"))
    followed.from_server(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
    assert followed.is_idle


UPGRADE = ("Connection: Upgrade", "Upgrade: tcp")
ATTACH = request("POST", "/v1.47/containers/c/attach?stream=1", b"", *UPGRADE)
CREATE = request("POST", "/containers/create", b"{}")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (ATTACH, SWITCHED),
        (request("POST", "/exec/e/start", b"{}", *UPGRADE), SWITCHED),
        (request("POST", "/session", b"", "Connection: Upgrade", "Upgrade: h2c"), SWITCHED),
        (request("POST", "/grpc", b"", "Connection: Upgrade", "Upgrade: h2c"), SWITCHED),
        (
            request("POST", "/containers/c/attach?stream=1"),
            b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n",
        ),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b""),
    ],
)
def test_a_connection_that_leaves_http_is_raw(asked: bytes, said: bytes) -> None:
    followed = conversation()
    steps(followed, asked)
    followed.from_server(said + b"anything")
    assert followed.is_raw
    assert steps(followed, CREATE, refuses=True) == [CREATE]


def test_bytes_before_the_answer_to_an_upgrade_pass() -> None:
    followed = conversation()
    assert steps(followed, ATTACH + CREATE, refuses=True) == [ATTACH + CREATE]


@pytest.mark.parametrize(
    "asked",
    [ATTACH, request("POST", "/exec/e/start", b'{"Detach":true}'), request("POST", "/exec/e/start", b"{}", *UPGRADE)],
)
def test_after_a_refused_upgrade_the_connection_is_followed_again(asked: bytes) -> None:
    followed = conversation()
    steps(followed, asked)
    followed.from_server(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")
    assert [type(step) for step in steps(followed, CREATE, refuses=True)] == [Held]


def test_a_client_that_waits_to_be_invited_is_invited_once() -> None:
    body = b'{"Image": "x"}'
    asked = request("POST", "/containers/create", body, "Expect: 100-continue")
    invitation, held, through = steps(conversation(), asked)
    assert isinstance(invitation, Invitation)
    assert isinstance(held, Held)
    # Else dockerd would invite it again.
    assert through == request("POST", "/containers/create", body)
    other = request("POST", "/images/load", body, "Expect: 100-continue")
    assert steps(conversation(), other) == [other]


@pytest.mark.parametrize("chunks", [0, 1000])
def test_a_body_that_is_too_long_to_be_held_is_told(chunks: int) -> None:
    asked = request("POST", "/containers/create", bytes(MOST_HELD_BYTES + 1), chunks=chunks)
    taken = steps(conversation(), *cut(asked, range(0, len(asked), 5000)))
    assert isinstance(taken[0], TooLong)


def test_a_request_of_any_size_passes_that_is_not_held() -> None:
    followed = conversation()
    begin = b"POST /images/load HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (1 << 30)
    piece = bytes(1 << 20)
    assert steps(followed, begin) == [begin]
    for _ in range(1 << 10):
        assert [*followed.from_client(piece)] == [piece]
    assert [type(step) for step in steps(followed, CREATE, refuses=True)] == [Held]


def test_a_head_without_an_end_passes() -> None:
    followed, data = conversation(), b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * (MOST_HEAD_BYTES // 6 + 1)
    assert passed(steps(followed, *cut(data, range(0, len(data), 70_000)))) == data
    assert followed.is_raw


def test_a_request_that_waits_and_is_not_whole_is_dropped_at_the_end() -> None:
    followed = conversation()
    whole = request("POST", "/containers/create", b'{"Image":"x"}', chunks=100)
    assert steps(followed, whole[:-3]) == []
    assert followed.at_end() == b""


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/v1.47/containers/create?name=x", "/v1.47/containers/create"),
        ("http://docker/containers/create", "/containers/create"),
        ("/containers/cre%61te", "/containers/create"),
        ("//containers/create", "/containers/create"),
        ("http://[/x", "/x"),
        ("*", "*"),
    ],
)
def test_the_path_is_found_as_a_server_finds_it(target: str, path: str) -> None:
    assert path_of(target) == path


def test_an_answer_of_ours() -> None:
    assert answer("403 Forbidden", b"{}", close=True).split(b"\r\n") == [
        b"HTTP/1.1 403 Forbidden", b"Content-Type: application/json", b"Content-Length: 2", b"Connection: close", b"",
        b"{}",
    ]  # fmt: skip
