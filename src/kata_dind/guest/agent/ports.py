"""Published ports: dockerd's questions, which published_port.sh brings, and the host's answers.

A question is a line in a FIFO: the script's pid, the protocol, the address and the port to publish, the container's
address and port, and whether dockerd tries another number after a refusal. The answer goes to the FIFO that is named by
the pid; when no process reads that any more, the port is not published any more.
"""

from __future__ import annotations

import json
import os

from .loop import READ
from .protocol import load_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .loop import Loop
    from .protocol import Mux

_ASKED = "asked"
_LONGEST_LINE = 4096  # PIPE_BUF: what is written at once up to this length arrives in one piece
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


class Port:
    """A port that dockerd publishes, or wants to publish."""

    def __init__(self, fd: int, facts: dict[str, Any]) -> None:
        self.fd = fd
        """The other end of the script's FIFO."""
        self.facts = facts
        self.granted = False


class Ports:
    """The questions of one container's dockerd. Without a host that answers they wait, as dockerd does for 16 s."""

    def __init__(self, loop: Loop, mux: Mux, directory: str, address: str) -> None:
        """Make the FIFO for questions. `address` is the guest's own; empty for a guest without a network."""
        self._loop, self._mux = loop, mux
        self._directory, self._address = directory, address
        self._ports: dict[int, Port] = {}
        self._next = 1
        self._rest = b""
        self._stream = 0
        """The stream to the host; 0 for none."""
        self._unsent = self._received = b""
        os.makedirs(directory, exist_ok=True)
        place = f"{directory}/{_ASKED}"
        if not os.path.exists(place):
            os.mkfifo(place, 0o600)
        self._fd = os.open(place, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # ours too, so that it never ends
        loop.watch(self._fd, READ, self._asked)

    # --- dockerd

    def _asked(self, _events: int) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_LONGEST_LINE:]
        for line in lines:
            try:
                self._ask(line.decode().split(" "))
            except (OSError, ValueError):  # the script has ended, or another program has written the line
                continue

    def _ask(self, words: list[str]) -> None:
        pid, protocol, host_address, host_port, address, port, retried = words
        place = f"{self._directory}/{int(pid)}"
        facts = {
            "protocol": protocol,
            "host_address": host_address,
            "port": int(host_port),
            "container_address": address,
            "container_port": int(port),
            "retried": retried == "yes",
        }
        fd = os.open(place, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.unlink(place)
        number, self._next = self._next, self._next + 1
        self._ports[number] = Port(fd, facts)
        self._loop.watch(fd, READ, lambda _events: self._ended(number))  # a pipe reports the end of its readers always
        if not self._address:
            return self._answer(number, "kata-dind: ports can't be published without a network (--network none)")
        return self._tell({"id": number, "open": facts})

    def _ended(self, number: int) -> None:
        self._forget(number)
        self._tell({"id": number, "close": True})

    def _forget(self, number: int) -> None:
        port = self._ports.pop(number)
        self._loop.unwatch(port.fd)
        os.close(port.fd)

    def _answer(self, number: int, error: str) -> None:
        port = self._ports.get(number)
        if port is None or port.granted:
            return
        answer = f"no {error}" if error else f"also {self._address}" if self._needs_proxy(port) else "yes"
        try:
            os.write(port.fd, f"{' '.join(answer.split())}\n".encode()[:_LONGEST_LINE])
        except OSError:
            return  # the script has ended, which is reported in a moment
        port.granted = not error
        if error:
            self._forget(number)

    def _needs_proxy(self, port: Port) -> bool:
        """Tell whether nothing listens for a port on the guest's own address, where the host's connections arrive."""
        if port.facts["host_address"] in ("0.0.0.0", self._address):
            return False
        # What is published on IPv6 is mostly published on IPv4 as well, a moment earlier.
        same = ("protocol", "port", "container_port")
        others = (other.facts for other in self._ports.values() if other.granted)
        is_v6 = ":" in port.facts["host_address"]
        return not (is_v6 and any(all(other[name] == port.facts[name] for name in same) for other in others))

    # --- the host

    @property
    def published(self) -> int:
        """How many ports are published, counting those on IPv6 as well."""
        return sum(port.granted for port in self._ports.values())

    def connect(self, stream: int) -> Ports:
        """Tell the host, on a new stream, of all ports that are published now, then of each change."""
        if self._stream:
            raise ValueError("the ports have a stream already")
        self._stream = stream
        self._unsent = self._received = b""
        for number, port in self._ports.items():
            self._tell({"id": number, "open": port.facts, "published": port.granted})
        self._tell({"all": len(self._ports)})
        return self

    def _tell(self, message: dict[str, Any]) -> None:
        if self._stream:
            self._unsent += _ENCODE(message).encode() + b"\n"
            self.may_send()

    def may_send(self) -> None:
        """Send as much as the host takes."""
        count = min(self._mux.credit(self._stream), len(self._unsent))
        if count:
            self._mux.send(self._stream, self._unsent[:count])
            self._unsent = self._unsent[count:]

    def data(self, data: bytes) -> None:
        """The host has answered."""
        self._mux.consumed(self._stream, len(data))
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            message = load_message(line)
            self._answer(int(message["id"]), str(message.get("error", "")))

    def control(self, message: dict[str, Any]) -> None:
        """The host sends no messages beside its answers."""

    def end(self) -> None:
        """The host ends by closing the stream."""

    def close(self) -> None:
        """The host has closed the stream, or is gone; the ports stay, for the next one."""
        self._stream = 0
