"""What listens on this host for the ports of one sandbox, and which addresses of the host it gets.

Every port has the sandbox's own loopback address. The addresses that all sandboxes share (127.0.0.1, ::1 and those of
--publish-address) go to the first sandbox that publishes a number there; the others are told. A number that another
program of this host has is refused, as Docker would.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kata_dind.backend import Forward, Ports
from kata_dind.errors import KataDindError
from kata_dind.host.descriptors import raise_descriptor_limit
from kata_dind.life.connections import Connections, reset
from kata_dind.life.datagrams import carry_datagrams
from kata_dind.store.claims import ANY, LOCALHOST, SandboxClaims, sandbox_with_port
from kata_dind.vocabulary import Transport
from kata_dind.wire.ports import PublishedPort

logger = logging.getLogger(__name__)

_BACKLOG = 1024
_AT_ONCE = 16
"""How many connections of a listener are accepted before others have their turn."""
_EXHAUSTED_SECONDS = 0.2
"""How long a listener waits when this process has no descriptor left."""
_KINDS = {Transport.TCP: socket.SOCK_STREAM, Transport.UDP: socket.SOCK_DGRAM}
_EPHEMERAL = range(32768, 61000)
"""The numbers that dockerd draws where a user names none: ip_local_port_range of the guest's kernel."""

_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENODEV)


class PortRefused(Exception):
    """A port can't be published; the sentence says why, and ends up in what `docker run` prints."""


@dataclass
class _Number:
    """One number of one protocol, whoever has published it."""

    transport: Transport
    port: int
    own: str
    extra: tuple[str, ...]
    asked: dict[int, PublishedPort] = field(default_factory=dict)
    """By the numbers of the questions."""
    forward: Forward | None = None
    claimed: set[str] = field(default_factory=set)
    """The addresses of which this sandbox has the number."""
    listeners: dict[str, _Listener] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)
    """By address."""

    @property
    def wanted(self) -> list[str]:
        """The addresses that it should have, those that all sandboxes share first."""
        found = [shared_addresses(port.host_address, self.extra) for port in self.asked.values()]
        return [*dict.fromkeys(address for addresses in found for address in addresses), self.own]


def shared_addresses(published_on: str, extra: Sequence[str]) -> list[str]:
    """Return the addresses, beside the sandbox's own, of a port that a user has published on an address.

    What is published on a loopback address only is not for others, so the addresses of --publish-address don't count.
    """
    if published_on == "::1" or (":" not in published_on and published_on.startswith("127.")):
        return [published_on if published_on in LOCALHOST else LOCALHOST[0]]
    covered = [version for version in (4, 6) if ANY[version == 6] in extra]
    localhost = [address for address in LOCALHOST if ipaddress.ip_address(address).version not in covered]
    return [*extra, *localhost]


class Listeners:
    """The listeners of one sandbox."""

    def __init__(
        self, name: str, *, own: str, extra: Sequence[str], claims: SandboxClaims | None, ports: Ports
    ) -> None:
        self._name = name
        self._own = own
        self._extra = tuple(extra)
        self._claims = claims
        self._ports = ports
        self._numbers: dict[tuple[Transport, int], _Number] = {}
        self._connections = Connections()
        self._carried: set[asyncio.Task[None]] = set()
        raise_descriptor_limit()  # a connection takes two

    async def open(self, question: int, port: PublishedPort, *, must: bool) -> None:
        """Listen for a port. Raises PortRefused, unless the port `must` be listened for: then what fails is told."""
        if port.protocol not in set(Transport):
            raise PortRefused(f"a port of {port.protocol} can't be reached from this host; tcp and udp can")
        transport = Transport(port.protocol)
        number = self._numbers.setdefault((transport, port.port),
                                          _Number(transport, port.port, self._own, self._extra))  # fmt: skip
        number.asked[question] = port
        try:
            if number.forward is None:
                number.forward = await self._ports.forward(transport, port.port)
            self._listen(number, may_lack=must or (not port.retried and port.port in _EPHEMERAL), must=must)
        except BaseException as error:
            await self.close(question)
            if isinstance(error, KataDindError):
                raise PortRefused(error.summary) from error
            raise

    async def close(self, question: int) -> None:
        """Listen no more for what a question was about, unless another one was about it, too."""
        found = (number for number in self._numbers.values() if question in number.asked)
        if (number := next(found, None)) is None:
            return
        del number.asked[question]
        wanted = number.wanted if number.asked else []
        for address in [address for address in number.listeners if address not in wanted]:
            await number.listeners.pop(address).close()
        number.warnings = {address: why for address, why in number.warnings.items() if address in wanted}
        if not number.asked:
            del self._numbers[number.transport, number.port]
            if self._claims is not None:
                for address in number.claimed:
                    self._claims.release_port(number.transport, number.port, address)
            if number.forward is not None:
                await number.forward.close()

    async def close_all(self) -> None:
        """Listen for nothing any more, and end all connections."""
        for number in [*self._numbers.values()]:
            for question in [*number.asked]:
                await self.close(question)
        carried = [*self._carried]
        for task in carried:
            task.cancel()
        await asyncio.gather(*carried, return_exceptions=True)

    def described(self) -> list[dict[str, Any]]:
        """Return what can be reached where, as JSON values."""
        return [
            {
                "protocol": str(number.transport),
                "port": number.port,
                "container_port": next(iter(number.asked.values())).container_port,
                "addresses": sorted(number.listeners, key=_order),
                "shared": not number.claimed.isdisjoint((*LOCALHOST, *ANY)),
                "warnings": list(dict.fromkeys(number.warnings.values())),
            }
            for _, number in sorted(self._numbers.items(), key=lambda item: (item[0][1], item[0][0]))
        ]

    def _listen(self, number: _Number, *, may_lack: bool, must: bool) -> None:
        """Listen on each address that a port lacks; what can't be had is refused, or told where it may lack."""
        for address in number.wanted:
            if address in number.listeners:
                continue
            is_own = address == self._own
            number.warnings.pop(address, None)
            if not is_own and not self._claim(number, address):
                number.warnings[address] = self._whose(number, address, claimed=address)
                continue
            try:
                number.listeners[address] = self._listener(number, address)
            except OSError as error:
                if address == LOCALHOST[1] and error.errno in _ABSENT:
                    continue  # a host without IPv6
                if (
                    not is_own
                    and error.errno == errno.EADDRINUSE
                    and not self._claim(number, everywhere := LOCALHOST[0])
                ):
                    # It may have the number on all addresses of the host, with this one among them.
                    number.warnings[address] = self._whose(number, address, claimed=everywhere)
                    continue
                why = self._why_not(number, address, error)
                # An address that comes and goes with a network must not keep containers from starting.
                if not (must if is_own else may_lack or error.errno in _ABSENT):
                    raise PortRefused(why) from error
                number.warnings[address] = why

    def _claim(self, number: _Number, address: str) -> bool:
        if self._claims is None or self._claims.claim_port(number.transport, number.port, address):
            number.claimed.add(address)
        return address in number.claimed

    def _whose(self, number: _Number, address: str, *, claimed: str) -> str:
        other = sandbox_with_port(number.transport, number.port, claimed, except_for=self._name)
        whose = f"the sandbox '{other}'" if other else "another sandbox"
        return (
            f"port {number.port}/{number.transport} of {_shown(address)} belongs to {whose}; "
            f"here it is {self._own}:{number.port}"
        )

    def _why_not(self, number: _Number, address: str, error: OSError) -> str:
        place = f"{_shown(address)}:{number.port}"
        if error.errno == errno.EADDRINUSE:
            return f"Bind for {place} failed: port is already allocated"
        if error.errno == errno.EACCES:
            return (
                f"this user may not listen on {place}; "
                f"sudo sysctl net.ipv4.ip_unprivileged_port_start={number.port} allows it"
            )
        return f"cannot listen on {place}: {error.strerror}"

    def _listener(self, number: _Number, address: str) -> _Listener:
        assert number.forward is not None
        listening = _bound(number.transport, address, number.port,
                           beside_any=address == self._own or address in ANY)  # fmt: skip
        if number.transport is Transport.UDP:
            return _DatagramListener(listening, number.forward)
        return _StreamListener(listening, functools.partial(self._accepted, number.forward))

    def _accepted(self, forward: Forward, client: socket.socket) -> None:
        task = asyncio.ensure_future(self._carry(forward, client))
        self._carried.add(task)
        task.add_done_callback(self._carried.discard)

    async def _carry(self, forward: Forward, client: socket.socket) -> None:
        try:
            inside = await forward.connect()
        except BaseException as error:
            reset(client)
            if not isinstance(error, OSError):
                raise
            logger.info("a connection was not made: %s", error)  # as when the guest goes down
            return
        await self._connections.carry(client, inside)


class _StreamListener:
    """Accepts connections on one address."""

    def __init__(self, listening: socket.socket, accepted: Any) -> None:
        self._socket = listening
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._listen()

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                client, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.warning("a connection waits: %s", error)
                self._loop.remove_reader(self._socket)
                self._pause = self._loop.call_later(_EXHAUSTED_SECONDS, self._listen)
                return
            client.setblocking(False)
            self._accepted(client)

    async def close(self) -> None:
        """Accept no more; connections that were made stay."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()


class _DatagramListener:
    """Carries datagrams on one address."""

    def __init__(self, listening: socket.socket, forward: Forward) -> None:
        self._socket = listening
        self._task = asyncio.ensure_future(carry_datagrams(listening, forward.connect))

    async def close(self) -> None:
        """Carry no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()


_Listener = _StreamListener | _DatagramListener


def _bound(transport: Transport, address: str, port: int, *, beside_any: bool) -> socket.socket:
    """Return a non-blocking socket at an address. Raises OSError.

    `beside_any` lets the sandbox's own addresses and 0.0.0.0 have one number; all others exclude each other.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as unless_bound:
        made = socket.socket(family, _KINDS[transport])
        unless_bound.callback(made.close)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if transport is Transport.TCP:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if beside_any:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((address, port))
        if transport is Transport.TCP:
            made.listen(_BACKLOG)
        made.setblocking(False)
        unless_bound.pop_all()
    return made


def _shown(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _order(address: str) -> tuple[bool, bool, str]:
    """Sort 127.0.0.1 and ::1 before all others, and IPv4 before IPv6."""
    return (address not in LOCALHOST, ":" in address, address)
