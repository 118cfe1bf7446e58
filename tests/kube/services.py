"""What a node's pods expect of a cluster's network: addresses of Services that lead to pods, and their names by DNS.

It stands in for kube-proxy, which needs a kernel with its tables, and for CoreDNS, which answers the same for these
names.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.kube.balancer import carry
from tests.kube.client import Client
from tests.kube.node import Node

DNS_ADDRESS = "10.0.0.10"
DOMAIN = "cluster.local"
"""What kubelet tells pods."""

_BYTES = 1 << 16
_LOOK_SECONDS = 0.3
_A, _NO_NAME = 1, 3

Place = tuple[str, int]
"""An address and a port."""


@dataclass(frozen=True)
class _Port:
    """A port of a Service."""

    namespace: str
    service: str
    name: str
    address: str
    number: int

    @property
    def place(self) -> Place:
        return self.address, self.number


class Services:
    """Looks at the Services of a node's API server until the end."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._ends = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listening: dict[_Port, socket.socket] = {}
        self._addresses: dict[str, str] = {}

    def start(self) -> None:
        """Answer from now on."""
        self._add_address(DNS_ADDRESS)
        with self._node.namespaces.entered_network():
            names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            names.bind((DNS_ADDRESS, 53))
        for run in (self._carry_connections, lambda: self._answer_names(names)):
            self._start(run)

    def end(self) -> None:
        """Close everything."""
        self._ends.set()
        while self._threads:
            self._threads.pop().join()
        for each in self._listening.values():
            each.close()

    def _start(self, run: Any) -> None:
        thread = threading.Thread(target=run)
        thread.start()
        self._threads.append(thread)

    def _add_address(self, address: str) -> None:
        self._node.succeed("ip", "address", "replace", f"{address}/32", "dev", "lo")

    def _carry_connections(self) -> None:
        with self._node.server.client() as client:
            while not self._ends.is_set():
                self._look(client)
                for listening in select.select([*self._listening.values()], [], [], _LOOK_SECONDS)[0]:
                    self._take(client, listening)

    def _look(self, client: Client) -> None:
        ports = set()
        for item in client.request("GET", "/api/v1/services").body["items"]:
            place = item["metadata"]
            address = item["spec"].get("clusterIP", "None")
            if address == "None":
                continue
            self._addresses[f"{place['name']}.{place['namespace']}.svc.{DOMAIN}"] = address
            for port in item["spec"]["ports"]:
                ports.add(_Port(place["namespace"], place["name"], port.get("name", ""), address, port["port"]))
        for gone in self._listening.keys() - ports:
            self._listening.pop(gone).close()
        for new in ports - self._listening.keys():
            self._add_address(new.address)
            with self._node.namespaces.entered_network():
                self._listening[new] = socket.create_server(new.place)

    def _take(self, client: Client, listening: socket.socket) -> None:
        port = next(port for port, each in self._listening.items() if each is listening)
        connection, _ = listening.accept()
        places = self._places(client, port)
        if not places:
            connection.close()
            return
        place = random.choice(places)
        self._start(lambda: self._carry(connection, place))

    def _places(self, client: Client, port: _Port) -> list[Place]:
        """Return who is ready behind a port."""
        if (port.namespace, port.service) == ("default", "kubernetes"):
            return [("127.0.0.1", self._node.server.port)]
        path = f"/apis/discovery.k8s.io/v1/namespaces/{port.namespace}/endpointslices"
        slices = client.request("GET", path, labelSelector=f"kubernetes.io/service-name={port.service}").body["items"]
        return [
            (address, number["port"])
            for each in slices
            for number in each["ports"] or ()
            for endpoint in each["endpoints"] or ()
            for address in endpoint["addresses"]
            if number.get("name", "") == port.name and endpoint["conditions"].get("ready")
        ]

    def _carry(self, client: socket.socket, place: Place) -> None:
        with client, contextlib.suppress(OSError):
            with self._node.namespaces.entered_network():
                server = socket.create_connection(place, timeout=5)
            with server:
                carry(client, server, until=self._ends)

    def _answer_names(self, names: socket.socket) -> None:
        names.settimeout(0.1)
        with names:
            while not self._ends.is_set():
                with contextlib.suppress(TimeoutError):
                    question, client = names.recvfrom(_BYTES)
                    names.sendto(self._answer(question), client)

    def _answer(self, query: bytes) -> bytes:
        """Return the answer to a query of one name: an address, no address of this type, or no such name."""
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode())
            at += 1 + length
        question = query[12 : at + 5]
        (kind,) = struct.unpack_from("!H", query, at + 1)
        address = self._addresses.get(".".join(labels))
        found = bool(address and kind == _A)
        flags = 0x8580 | (0 if address else _NO_NAME)
        answer = query[:2] + struct.pack("!HHHHH", flags, 1, int(found), 0, 0) + question
        if found and address:
            answer += struct.pack("!HHHIH", 0xC00C, _A, 1, 5, 4) + socket.inet_aton(address)
        return answer


@contextlib.contextmanager
def start_services(node: Node) -> Iterator[None]:
    """Lead the node's pods to Services until the end of the block."""
    services = Services(node)
    try:
        services.start()
        yield
    finally:
        services.end()
