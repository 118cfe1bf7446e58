"""A network that only the tests see: a network namespace with servers in it, and no way out.

What a sandbox inside it sends can reach these servers and nothing else, so a test that finds a hole harms nobody.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class NetworkNamespace:
    """A named network namespace; a program that `prefix` starts in it has `resolv_conf` as its /etc/resolv.conf."""

    name: str

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    @property
    def resolv_conf(self) -> Path:
        return Path("/etc/netns") / self.name / "resolv.conf"

    def run(self, *argv: str) -> str:
        return subprocess.run([*self.prefix, *argv], check=True, capture_output=True, text=True).stdout

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Let this thread make its sockets in the namespace; they stay there."""
        return entered_network(Path("/run/netns") / self.name)

    def resolve_with(self, nameserver: str) -> None:
        # In place: programs in the namespace have this very file mounted.
        self.resolv_conf.write_text(f"nameserver {nameserver}\n")

    def listening_sockets(self) -> set[str]:
        """Return the addresses of all listening TCP sockets, as the kernel writes them."""
        rows = self.run("cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()
        return {row.split()[1] for row in rows if row.split()[3] == "0A"}


@contextlib.contextmanager
def entered_network(network: Path) -> Iterator[None]:
    """Let this thread make its sockets in a network namespace; they stay there."""
    with Path("/proc/thread-self/ns/net").open("rb") as ours, network.open("rb") as theirs:
        _set_network(theirs.fileno())
        try:
            yield
        finally:
            _set_network(ours.fileno())


@contextlib.contextmanager
def make_network_namespace(addresses: Sequence[str]) -> Iterator[NetworkNamespace]:
    """Make a namespace whose loopback has these addresses, too; there is no other interface."""
    namespace = NetworkNamespace(f"kata-dind-test-{secrets.token_hex(3)}")
    _ip("netns", "add", namespace.name)
    try:
        _ip("-n", namespace.name, "link", "set", "lo", "up")
        for address in addresses:
            _ip("-n", namespace.name, "address", "add", f"{address}/32", "dev", "lo")
        namespace.resolv_conf.parent.mkdir(parents=True)
        namespace.resolve_with("127.0.0.1")
        yield namespace
    finally:
        _ip("netns", "delete", namespace.name)
        namespace.resolv_conf.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others may have theirs there
            namespace.resolv_conf.parent.rmdir()
            namespace.resolv_conf.parent.parent.rmdir()


@dataclass
class Server:
    """A server that answers everybody with its greeting, and remembers whom."""

    address: str
    port: int
    greeting: bytes
    clients: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serve_tcp(namespace: NetworkNamespace, address: str, port: int, *, greeting: bytes) -> Iterator[Server]:
    """Greet, over HTTP, whoever connects."""
    server = Server(address, port, greeting)
    answer = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(greeting), greeting)

    def greet(listening: socket.socket) -> None:
        connected, (client, *_) = listening.accept()
        server.clients.append(client)
        with connected:
            connected.settimeout(10)
            with contextlib.suppress(OSError):  # a client that only knocks
                connected.recv(65536)
                connected.sendall(answer)

    with _bound(namespace, socket.SOCK_STREAM, address, port) as listening:
        listening.listen()
        with _served(listening, greet):
            yield server


@contextlib.contextmanager
def serve_udp(namespace: NetworkNamespace, address: str, port: int, *, greeting: bytes) -> Iterator[Server]:
    """Greet whoever sends a datagram."""
    server = Server(address, port, greeting)

    def greet(listening: socket.socket) -> None:
        _, client = listening.recvfrom(65536)
        server.clients.append(client[0])
        listening.sendto(greeting, client)

    with _bound(namespace, socket.SOCK_DGRAM, address, port) as listening, _served(listening, greet):
        yield server


@contextlib.contextmanager
def serve_dns(namespace: NetworkNamespace, address: str, *, names: dict[str, str]) -> Iterator[Server]:
    """Answer questions for A records on port 53. Source: RFC 1035, section 4.1."""
    server = Server(address, 53, b"")

    def answer(listening: socket.socket) -> None:
        question, client = listening.recvfrom(65536)
        server.clients.append(client[0])
        listening.sendto(_dns_answer(question, names), client)

    with _bound(namespace, socket.SOCK_DGRAM, address, 53) as listening, _served(listening, answer):
        yield server


def _dns_answer(question: bytes, names: dict[str, str]) -> bytes:
    position, labels = 12, []
    while length := question[position]:
        labels.append(question[position + 1 : position + 1 + length].decode())
        position += 1 + length
    asked = question[12 : position + 5]
    found = names.get(".".join(labels).lower())
    is_address = struct.unpack_from(">H", question, position + 1) == (1,)
    code, count = (0, int(is_address)) if found else (3, 0)
    head = question[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, count, 0, 0)
    record = struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(found or "0.0.0.0") if count else b""
    return head + asked + record


@contextlib.contextmanager
def _bound(namespace: NetworkNamespace, kind: socket.SocketKind, address: str, port: int) -> Iterator[socket.socket]:
    with namespace.entered():
        listening = socket.socket(socket.AF_INET, kind)
    with listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        yield listening


@contextlib.contextmanager
def _served(listening: socket.socket, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    stopping = threading.Event()
    listening.settimeout(0.1)

    def serve() -> None:
        while not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                answer(listening)

    thread = threading.Thread(target=serve, name=f"server on {listening.getsockname()}")
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _set_network(fd: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*arguments: str) -> None:
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    subprocess.run(["ip", *arguments], check=True, capture_output=True, env=environment)
