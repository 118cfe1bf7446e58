"""Clients that are slow, silent, broken or many: they are closed, and real reviews are answered all the while."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_dind.host.descriptors import list_descriptors
from kata_dind.host.process import process_status
from tests.unit.pod.checks import dind, pod
from tests.unit.webhook.reviews import review
from tests.webhook.client import SECONDS, connect, post
from tests.webhook.pairs import Pair
from tests.webhook.process import Webhook, start_webhook, wait_until

pytestmark = [pytest.mark.requires("openssl"), pytest.mark.thorough]

GOOD = json.dumps(review(pod(dind()))).encode()
SOON = 1.0
"""Within so many seconds a review must be answered, whatever others do."""


def assert_served(webhook: Webhook) -> None:
    started = time.monotonic()
    assert webhook.ask(GOOD).response["allowed"] is True
    assert time.monotonic() - started < SOON


def connections_of(webhook: Webhook) -> float:
    return webhook.metrics()['connections{port="https"}']


def test_a_slow_head_ends(impatient: Webhook) -> None:
    with impatient.connect() as connection:
        connection.send(b"POST /mutate HTTP/1.1\r\n")
        answer = connection.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert connection.rest() == b""


def test_a_head_that_drips_ends_as_soon(impatient: Webhook) -> None:
    with impatient.connect() as connection:
        started = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in b"POST /mutate HTTP/1.1\r\n" + b"X: y\r\n" * 1000:
                connection.send(bytes([byte]))
                time.sleep(0.05)
                if time.monotonic() - started > 20:
                    break
        assert time.monotonic() - started < 15


def test_a_slow_body_ends(impatient: Webhook) -> None:
    with impatient.connect() as connection:
        started = time.monotonic()
        connection.send(post(GOOD)[:-1])
        assert connection.answer().status == 408
        assert 0.7 < time.monotonic() - started < 10


def test_a_second_head_that_began_behind_the_first_ends(impatient: Webhook) -> None:
    with impatient.connect() as connection:
        connection.send(post(GOOD) + b"POST /mut")
        assert connection.answer().status == 200
        wait_until(lambda: connections_of(impatient) == 0, "a connection to be closed", timeout_seconds=5)


def test_who_says_nothing_is_closed(impatient: Webhook) -> None:
    with impatient.connect() as connection:
        started = time.monotonic()
        assert connection.rest() == b""
        assert 1.0 < time.monotonic() - started < 10
    with impatient.connect() as connection:
        assert connection.ask(GOOD).status == 200
        started = time.monotonic()
        assert connection.rest() == b""
        assert 1.0 < time.monotonic() - started < 10


def test_who_does_not_read_its_answers_is_not_read_either(webhook: Webhook) -> None:
    """Or else the answers would fill the memory."""
    with webhook.connect() as connection:
        connection._socket.settimeout(1.0)
        sent = 0
        with contextlib.suppress(TimeoutError, ssl.SSLWantWriteError):
            while sent < 20_000:
                connection.send(post(GOOD))
                sent += 1
        assert sent < 20_000
        assert_served(webhook)


@contextlib.contextmanager
def plain_connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=SECONDS)) for _ in range(count)
        ]


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
GARBAGE = (b"", b"GET / HTTP/1.1\r\n\r\n", HELLO + b"\0" * 600, os.urandom(5000))


def test_garbage_instead_of_tls_is_closed(webhook: Webhook) -> None:
    for content in GARBAGE[1:]:
        with plain_connections(webhook.port, 1) as (plain,):
            plain.sendall(content)
            with contextlib.suppress(ConnectionResetError):
                while plain.recv(4096):
                    pass
    assert_served(webhook)
    assert webhook.events("bug") == []


def test_who_goes_in_the_middle_leaves_nothing_behind(webhook: Webhook) -> None:
    before = descriptors_of(webhook)
    for content in GARBAGE:
        with plain_connections(webhook.port, 20) as all_plain:
            for plain in all_plain:
                plain.sendall(content)
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, and no goodbye
    for part in (post(GOOD)[:100], post(GOOD)[:-1], post(GOOD)):
        for _ in range(5):
            with webhook.connect() as connection:
                connection.send(part)
    wait_until(lambda: descriptors_of(webhook) <= before, "connections to be closed")
    assert_served(webhook)
    assert webhook.events("bug") == []


def descriptors_of(webhook: Webhook) -> int:
    return list_descriptors(webhook.process.pid)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 6000:
        pytest.skip("this user may not open 6000 files at once")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 6000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_a_thousand_connections_do_no_harm(webhook: Webhook) -> None:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(webhook.connect()) for _ in range(1000)]
        for connection in opened[::10]:
            connection.send(post(GOOD)[:200])
        assert_served(webhook)
        assert connections_of(webhook) >= 1000
        for connection in opened[1::100]:
            assert connection.ask(GOOD).status == 200
    wait_until(lambda: connections_of(webhook) == 0, "connections to be closed")


@pytest.mark.usefixtures("many_descriptors")
def test_connections_that_are_gone_take_no_memory(pairs: list[Pair], tmp_path: Path) -> None:
    """Neither as objects that wait for a collection, nor as holes between those that are open."""
    with start_webhook(tmp_path, pairs[0]) as webhook:
        webhook.ask(GOOD)
        before = resident_mib(webhook)
        for _ in range(3):
            with contextlib.ExitStack() as stack:
                for _ in range(500):
                    stack.enter_context(webhook.connect()).ask(GOOD)
                assert resident_mib(webhook) > before + 10, "or else nothing is shown"
            wait_until(lambda: resident_mib(webhook) < before + 7, "memory to be given back")


def resident_mib(webhook: Webhook) -> float:
    return int(process_status(webhook.process.pid).partition("VmRSS:")[2].split()[0]) / 1024


@pytest.mark.usefixtures("many_descriptors")
def test_a_thousand_half_open_connections_do_no_harm(webhook: Webhook) -> None:
    with plain_connections(webhook.port, 1000):
        assert_served(webhook)


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.parametrize("allowed", ["200:1000", "200:200"])
def test_a_process_that_may_open_few_files_serves_on(pairs: list[Pair], tmp_path: Path, allowed: str) -> None:
    most = int(allowed.partition(":")[2])
    with start_webhook(tmp_path, pairs[0], wrapper=["prlimit", f"--nofile={allowed}"]) as webhook:
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(webhook.connect()) for _ in range(most)]
            assert opened[-1].ask(GOOD).status == 200
            assert_served(webhook)
            assert most // 3 < connections_of(webhook) < most // 2
        with plain_connections(webhook.port, most + 100):
            pass
        wait_until(lambda: connections_of(webhook) == 0, "connections to be closed")
        assert_served(webhook)
        assert webhook.events("bug") == []


def test_above_the_limit_those_go_that_were_of_no_use(impatient: Webhook) -> None:
    with contextlib.ExitStack() as stack:
        useful = stack.enter_context(impatient.connect())
        assert useful.ask(GOOD).status == 200
        idle = [stack.enter_context(impatient.connect()) for _ in range(70)]
        # What makes room is closed a moment after the one that needed it was accepted.
        wait_until(lambda: connections_of(impatient) <= 64, "the connections are as few as they may be")
        assert idle[0].rest() == b""
        assert useful.ask(GOOD).status == 200
        assert idle[-1].ask(GOOD).status == 200
        assert_served(impatient)
        assert impatient.metrics()['connections_closed_total{reason="too-many"}'] >= 7


def test_the_plain_port_has_the_same_limits(impatient: Webhook) -> None:
    with connect(impatient.http_port) as connection:
        connection.send(b"GET /metr")
        assert connection.answer().status == 408
    with plain_connections(impatient.http_port, 100):
        assert impatient.get("/healthz")[0] == 200
