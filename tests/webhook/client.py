"""A client that speaks HTTPS as an API server does, and any other bytes that a test wants to send."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SECONDS = 20.0
"""For anything that a client waits for."""


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def response(self) -> dict[str, Any]:
        """The answer in a review."""
        assert self.status == 200, (self.status, self.body)
        review = json.loads(self.body)
        assert (review["apiVersion"], review["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
        return dict(review["response"])


class Connection:
    """An open connection."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._file = connected.makefile("rb")

    def send(self, content: bytes) -> None:
        """Send bytes."""
        self._socket.sendall(content)

    def ask(self, body: bytes, *, path: str = "/mutate?timeout=10s", headers: str = "") -> Answer:
        """Send a review, and return its answer."""
        self.send(post(body, path=path, headers=headers))
        return self.answer()

    def answer(self, *, with_body: bool = True) -> Answer:
        """Return the next answer."""
        line = self._file.readline()
        assert line.startswith(b"HTTP/1.1 "), line
        headers = http.client.parse_headers(self._file)
        body = self._file.read(int(headers["Content-Length"])) if with_body else b""
        return Answer(int(line.split()[1]), {name.lower(): value for name, value in headers.items()}, body)

    def rest(self) -> bytes:
        """Return all that comes until the other side closes the connection."""
        with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
            return self._file.read()
        return b""

    @property
    def certificate(self) -> str:
        """The common name of the server's certificate."""
        assert isinstance(self._socket, ssl.SSLSocket)
        return common_name(self._socket.getpeercert())

    def close(self) -> None:
        """Close it."""
        self._file.close()
        self._socket.close()


def common_name(certificate: Any) -> str:
    """Return the common name of a certificate, as `getpeercert` gives it."""
    return str(dict(pair for part in certificate["subject"] for pair in part)["commonName"])


def post(body: bytes, *, path: str = "/mutate", headers: str = "", version: str = "1.1") -> bytes:
    """Return a request as an API server sends it."""
    head = (
        f"POST {path} HTTP/{version}\r\nHost: webhook.kata-dind.svc\r\nUser-Agent: kube-apiserver-admission\r\n"
        f"Content-Length: {len(body)}\r\nAccept: application/json, */*\r\nContent-Type: application/json\r\n"
        f"Accept-Encoding: gzip\r\n{headers}\r\n"
    )
    return head.encode() + body


def trusting(*certificates: bytes) -> ssl.SSLContext:
    """Return a client's context that trusts these certificates."""
    context = ssl.create_default_context()
    for certificate in certificates:
        context.load_verify_locations(cadata=certificate.decode())
    return context


@contextlib.contextmanager
def connect(port: int, context: ssl.SSLContext | None = None) -> Iterator[Connection]:
    """Connect to a port on loopback."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as plain:
        connected = plain if context is None else context.wrap_socket(plain, server_hostname="127.0.0.1")
        connection = Connection(connected)
        try:
            yield connection
        finally:
            connection.close()
