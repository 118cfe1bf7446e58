"""What a Service does, without nodes: each connection goes to one of several ports, and stays there."""

from __future__ import annotations

import contextlib
import itertools
import random
import select
import socket
import threading
from collections.abc import Iterator, Sequence

_BYTES = 1 << 16


class Balancer:
    """Carries connections to ports on loopback, in turn or by chance."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self._turn = itertools.count()
        self._is_by_chance = False
        self._threads: list[threading.Thread] = []
        self._ends = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]

    def remove(self, port: int) -> None:
        """Take a port out, as of an endpoint that is not ready: what is connected stays."""
        self._ports.remove(port)

    def choose_by_chance(self) -> None:
        """Choose as kube-proxy does from now on, which does not know who is dead."""
        self._is_by_chance = True

    def _choose(self) -> int:
        ports = self._ports
        return random.choice(ports) if self._is_by_chance else ports[next(self._turn) % len(ports)]

    def run(self) -> None:
        """Take connections until the end."""
        self._listening.settimeout(0.1)
        while not self._ends.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listening.accept()
                port = self._choose()
                thread = threading.Thread(target=self._carry, args=(client, port))
                thread.start()
                self._threads.append(thread)

    def _carry(self, client: socket.socket, port: int) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as server:
            carry(client, server, until=self._ends)

    def end(self) -> None:
        """Close everything."""
        self._ends.set()
        for thread in self._threads:
            thread.join()
        self._listening.close()


@contextlib.contextmanager
def start_balancer(ports: Sequence[int]) -> Iterator[Balancer]:
    """Balance between ports until the end of the block."""
    balancer = Balancer(ports)
    thread = threading.Thread(target=balancer.run)
    thread.start()
    try:
        yield balancer
    finally:
        balancer._ends.set()
        thread.join()
        balancer.end()


def carry(client: socket.socket, server: socket.socket, *, until: threading.Event) -> None:
    """Pass on what each of two connections says to the other, until one ends. Raises OSError."""
    other = {client: server, server: client}
    while not until.is_set():
        for readable in select.select([client, server], [], [], 0.1)[0]:
            data = readable.recv(_BYTES)
            if not data:
                return
            other[readable].sendall(data)
