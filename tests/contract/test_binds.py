"""What clients of the endpoint are told about files of the host, on guests of the fake backend."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata_dind.life.bind_guard import MOST_HELD_BYTES
from kata_dind.proof.docker_api import DockerApi
from kata_dind.sandbox.api import Sandbox, open_sandbox
from kata_dind.spec import Share, parse_spec

pytestmark = pytest.mark.usefixtures("fake_backend")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    shared = tmp_path / "shared"
    shared.mkdir()
    return shared


@pytest.fixture
def sandbox(shared: Path) -> Iterator[Sandbox]:
    share = Share(host_path=shared, guest_path=str(shared))  # type: ignore[arg-type]  # which pydantic makes a path
    with open_sandbox(parse_spec(name="demo", shares=(share,))) as opened:
        yield opened


class Client(http.client.HTTPConnection):
    """A client that keeps its connection."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__("docker", timeout=10)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(sandbox.endpoint))

    def ask(self, method: str, path: str, body: Any = None, **fields: str) -> tuple[int, str]:
        self.request(method, path, None if body is None else json.dumps(body), fields)
        answer = self.getresponse()
        said = answer.read().decode()
        return answer.status, json.loads(said)["message"] if said.startswith("{") else said


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[Client]:
    connected = Client(sandbox)
    yield connected
    connected.close()


def bind(source: object) -> dict[str, Any]:
    return {"Image": "none", "HostConfig": {"Binds": [f"{source}:/app"]}}


NO_IMAGE = (404, "No such image: none")
"""What dockerd says of a request that has reached it."""


def test_a_bind_that_is_not_shared_is_refused_and_the_connection_goes_on(client: Client, tmp_path: Path) -> None:
    assert client.ask("GET", "/_ping") == (200, "OK")
    other = tmp_path / "other"
    other.mkdir()
    assert client.ask("POST", "/v1.47/containers/create", bind(other)) == (
        403,
        f"bind source path is not shared with the sandbox 'demo': {other}; run: kata-dind share add demo {other}",
    )
    assert client.ask("GET", "/_ping") == (200, "OK")


def test_what_is_shared_reaches_dockerd(client: Client, shared: Path) -> None:
    assert client.ask("POST", "/containers/create", bind(shared)) == NO_IMAGE
    assert client.ask("POST", "/containers/create", bind(shared / "not there yet")) == NO_IMAGE
    assert client.ask("POST", "/containers/create", bind("/var/run/docker.sock")) == NO_IMAGE
    assert client.ask("POST", "/containers/create", bind("a-volume")) == NO_IMAGE


def test_what_exists_nowhere_is_refused(client: Client, tmp_path: Path) -> None:
    status, message = client.ask("POST", "/containers/create", bind(tmp_path / "typo"))
    assert (status, message.partition(":")[0]) == (400, "bind source path does not exist")
    assert not (tmp_path / "typo").exists()


def test_a_link_that_leads_out_of_its_share_is_refused(client: Client, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (shared / "link").symlink_to("../other")
    (shared / "loop").symlink_to("loop")
    assert client.ask("POST", "/containers/create", bind(shared / "link"))[1].endswith(
        f"run: kata-dind share add demo {tmp_path / 'other'}"
    )
    assert client.ask("POST", "/containers/create", bind(shared / "loop")) == NO_IMAGE  # dockerd says it better


def test_a_socket_of_the_host_is_refused(client: Client, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        status, message = client.ask("POST", "/containers/create", bind(tmp_path / "agent"))
    assert (status, message.partition(":")[0]) == (403, "bind source path is a socket")


def test_a_volume_that_is_a_bind_is_refused(client: Client) -> None:
    options = {"type": "none", "o": "bind", "device": os.fspath(Path.cwd())}
    assert client.ask("POST", "/volumes/create", {"Name": "v", "DriverOpts": options})[0] == 403


def test_pipelined_requests_are_answered_in_order(sandbox: Sandbox, tmp_path: Path) -> None:
    body = json.dumps(bind(tmp_path)).encode()
    ping = b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"
    create = b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    last = b"GET /version HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"
    client = Client(sandbox)
    client.sock.sendall(ping + create + ping + last)
    said = b""
    while part := client.sock.recv(65536):
        said += part
    client.close()
    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"200", b"403", b"200", b"200"]
    assert said.index(b"is not shared") < said.index(b"99.1")


def test_a_client_that_wants_no_further_answer_is_hung_up_on(sandbox: Sandbox, tmp_path: Path) -> None:
    client = Client(sandbox)
    assert client.ask("POST", "/containers/create", bind(tmp_path), Connection="close")[0] == 403
    client = Client(sandbox)
    body = json.dumps(bind(tmp_path)).encode()
    client.sock.sendall(b"POST /containers/create HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    said = b""
    while part := client.sock.recv(65536):
        said += part
    client.close()
    assert said.startswith(b"HTTP/1.1 403 ")


def test_a_request_of_gigabytes_is_refused_before_it_is_sent(sandbox: Sandbox) -> None:
    client = Client(sandbox)
    client.sock.sendall(b"POST /containers/create HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n")

    def send() -> None:
        piece = b"%x\r\n" % (1 << 20) + bytes(1 << 20) + b"\r\n"
        try:
            for _ in range(1 << 10):
                client.sock.sendall(piece)
        except OSError:
            pass  # it is hung up on, a while after its answer

    sender = threading.Thread(target=send)
    sender.start()
    said = client.sock.recv(65536)
    sender.join()
    client.close()
    assert said.startswith(b"HTTP/1.1 413 ")
    assert f"more than {MOST_HELD_BYTES >> 20} MiB".encode() in said
    assert DockerApi(sandbox.endpoint, timeout_seconds=10).version()


def test_curl_waits_to_be_invited(client: Client, shared: Path) -> None:
    body = json.dumps(bind(shared)).encode()
    head = "POST /containers/create HTTP/1.1\r\nHost: d\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n"
    client.sock.sendall(head.format(len(body)).encode())
    assert client.sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sock.sendall(body)
    assert client.sock.recv(65536).startswith(b"HTTP/1.1 404 ")
