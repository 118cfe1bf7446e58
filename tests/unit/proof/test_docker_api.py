from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kata_dind.errors import DockerdFailed
from kata_dind.image.archive import Layer, docker_archive
from kata_dind.proof.docker_api import DockerApi
from tests.contract.fake_dockerd import FakeDockerd, Faults, serve_dockerd


@contextlib.contextmanager
def serve(tmp_path: Path, dockerd: FakeDockerd) -> Iterator[DockerApi]:
    endpoint = tmp_path / "docker.sock"
    with serve_dockerd(dockerd, endpoint):
        yield DockerApi(endpoint, timeout_seconds=5)


def test_a_round_trip_through_every_call(tmp_path: Path) -> None:
    dockerd = FakeDockerd()
    with serve(tmp_path, dockerd) as api:
        assert api.version()["Version"] == "99.1"
        assert api.info()["Driver"] == "overlay2"
        archive = docker_archive("kata-dind/x:latest", [Layer(files={"a": b"b"})])
        assert api.load_image(archive) == "Loaded image: kata-dind/x:latest"
        container = api.create_container("kata-dind/x:latest", ["/none"])
        assert b"etc/hosts" in api.export_container(container)
        api.remove_container(container)
        api.remove_image("kata-dind/x:latest")
    assert dockerd.calls == [
        "GET /version",
        "GET /info",
        "POST /images/load",
        "POST /containers/create",
        f"GET /containers/{container}/export",
        f"DELETE /containers/{container}",
        "DELETE /images/kata-dind/x:latest",
    ]
    assert not dockerd.containers
    assert not dockerd.images


def test_a_refusal_carries_the_daemons_own_words(tmp_path: Path) -> None:
    with serve(tmp_path, FakeDockerd()) as api, pytest.raises(DockerdFailed) as caught:
        api.create_container("absent", [])
    assert caught.value.summary == "dockerd refused POST /containers/create: No such image: absent"


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"plain words\n", "plain words"), (b'{"error":"x"}', '{"error":"x"}'), (b"[1]", "[1]"), (b"\xff", "\ufffd")],
)
def test_a_refusal_without_a_message_carries_its_body(tmp_path: Path, body: bytes, words: str) -> None:
    dockerd = FakeDockerd(Faults(answers={"GET /info": (500, body)}))
    with serve(tmp_path, dockerd) as api, pytest.raises(DockerdFailed) as caught:
        api.info()
    assert caught.value.summary == f"dockerd refused GET /info: {words}"


def test_an_error_in_the_stream_of_a_load_is_an_error(tmp_path: Path) -> None:
    dockerd = FakeDockerd(Faults(load_error="failed to convert whiteout file: operation not supported"))
    with serve(tmp_path, dockerd) as api, pytest.raises(DockerdFailed) as caught:
        api.load_image(docker_archive("x:y", []))
    assert caught.value.summary == (
        "dockerd cannot load an image: failed to convert whiteout file: operation not supported"
    )


Call = Callable[[DockerApi], object]


@pytest.mark.parametrize("body", [b"<html>", b"null", b"[1]", b'"text"', b"\xff"])
@pytest.mark.parametrize(
    ("called", "call"),
    [
        ("GET /info", DockerApi.info),
        ("POST /images/load", lambda api: api.load_image(b"x")),
        ("POST /containers/create", lambda api: api.create_container("x", [])),
    ],
    ids=["info", "load", "create"],
)
def test_an_answer_that_makes_no_sense_is_the_daemons_failure(
    tmp_path: Path, called: str, call: Call, body: bytes
) -> None:
    dockerd = FakeDockerd(Faults(answers={called: (200, body)}))
    with serve(tmp_path, dockerd) as api, pytest.raises(DockerdFailed, match=f"^dockerd's answer .*{called}") as caught:
        call(api)
    assert caught.value.id == "dockerd.answer-unreadable"


def test_a_socket_without_a_listener_is_the_daemons_failure(tmp_path: Path) -> None:
    with pytest.raises(DockerdFailed, match=r"dockerd does not answer GET /info: .*No such file"):
        DockerApi(tmp_path / "absent.sock", timeout_seconds=1).info()


def test_a_daemon_that_is_silent_is_given_up_in_time(tmp_path: Path) -> None:
    endpoint = tmp_path / "docker.sock"
    with serve_dockerd(FakeDockerd(Faults(silent_on=frozenset({"GET /info"}))), endpoint):
        began = time.monotonic()
        with pytest.raises(DockerdFailed, match="does not answer GET /info: timed out"):
            DockerApi(endpoint, timeout_seconds=0.2).info()
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", b"no HTTP\r\n\r\n"],
    ids=["nothing", "half", "no HTTP"],
)
def test_a_connection_that_breaks_is_the_daemons_failure(tmp_path: Path, answer: bytes) -> None:
    endpoint = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(endpoint))
        listener.listen(1)

        def serve_once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve_once)
        thread.start()
        with pytest.raises(DockerdFailed, match="dockerd does not answer GET /info"):
            DockerApi(endpoint, timeout_seconds=5).info()
        thread.join()


@contextlib.contextmanager
def listening(tmp_path: Path, answer: Callable[[socket.socket], None]) -> Iterator[DockerApi]:
    """A daemon that takes one connection."""
    endpoint = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(endpoint))
        server.listen()

        def serve_one() -> None:
            with server.accept()[0] as connection:
                answer(connection)

        thread = threading.Thread(target=serve_one)
        thread.start()
        yield DockerApi(endpoint, timeout_seconds=20)
        thread.join()


def test_an_archive_is_sent_a_piece_at_a_time(tmp_path: Path) -> None:
    size_bytes = 128 << 20
    archive = tmp_path / "archive.tar"
    with archive.open("wb") as file:
        os.truncate(file.fileno(), size_bytes)
    received: list[int] = []

    def take_all(connection: socket.socket) -> None:
        buffer = bytearray(1 << 16)
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1)
        assert f"Content-Length: {size_bytes}\r\n".encode() in head
        total = 0
        while total < size_bytes:
            total += connection.recv_into(buffer)
        received.append(total)
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"stream":"it"}')

    tracemalloc.start()
    try:
        with listening(tmp_path, take_all) as api, archive.open("rb") as sent:
            assert api.load_image(sent) == "it"
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert received == [size_bytes]
    assert peak_bytes < 4 << 20


def test_a_refusal_before_the_end_of_an_archive_is_heard(tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    archive.write_bytes(bytes(8 << 20))

    def refuse(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b'HTTP/1.1 400 Bad Request\r\nContent-Length: 21\r\n\r\n{"message":"no room"}')

    refusal = pytest.raises(DockerdFailed, match="dockerd refused POST /images/load: no room")
    with listening(tmp_path, refuse) as api, archive.open("rb") as file, refusal:
        api.load_image(file)
