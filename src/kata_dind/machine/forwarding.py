"""Ports of a guest, reached from the host, and ports of the host, reached from the guest.

QEMU's user network forwards an address of its own network namespace to the guest. A connection needs a socket in that
namespace, and nobody else has one: neither other users of the host nor the guest, whose gateway is another loopback
address of the namespace. On that address listens what the guest may reach.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import select
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kata_dind.errors import SandboxError
from kata_dind.machine import socket_maker
from kata_dind.machine.argv import NETWORK_ID
from kata_dind.machine.guest_sockets import Diagnosis, GuestSocket
from kata_dind.machine.machine import Machine
from kata_dind.machine.namespace_sockets import NamespaceSockets, open_namespace_sockets
from kata_dind.vocabulary import Transport

FORWARDED = "127.77.0.1"
"""The guest reaches 127.0.0.1 of the namespace, by its gateway's address, and no other loopback address."""
GATEWAY = "127.0.0.1"

_NUMBERS = range(1024, 32768)
"""Below those that Linux and libslirp draw for connections that go out."""

_FIRST_TRY_SECONDS, _LAST_TRY_SECONDS = 0.01, 0.5
_CONNECT_SECONDS = 30.0

_BACKLOG = 1024


@dataclass
class _Rule:
    """A port that QEMU forwards, and how many use it."""

    number: int
    """Its port at `FORWARDED`."""
    users: int = 0


class GuestPorts:
    """The ports of one machine. The first one that is asked for starts the program that makes sockets."""

    def __init__(self, machine: Machine, log: Path, host_ports: Sequence[int], stack: contextlib.ExitStack) -> None:
        self.host_ports = host_ports
        self._machine = machine
        self.log = log
        """Where the program that makes sockets writes."""
        self._stack = stack
        self._sockets: NamespaceSockets | None = None
        self._diagnosis: Diagnosis | None = None
        self._rules: dict[tuple[Transport, int], _Rule] = {}
        self._numbers = itertools.cycle(_NUMBERS)
        self._changing = asyncio.Lock()

    async def forward(self, transport: Transport, port: int) -> GuestPort:
        """Let QEMU forward to a port at the guest's own address, unless it does already. Raises SandboxError."""
        self._require_sockets()  # it starts while QEMU is asked
        async with self._changing:
            rule = self._rules.get((transport, port))
            if rule is None:
                taken = {rule.number for rule in self._rules.values()}
                rule = _Rule(next(number for number in self._numbers if number not in taken))
                await self._command(f"hostfwd_add {NETWORK_ID} {transport}:{FORWARDED}:{rule.number}-:{port}")
                self._rules[transport, port] = rule
            rule.users += 1
        return GuestPort(self, transport, port, (FORWARDED, rule.number))

    async def listen(self, port: int, kind: int = socket_maker.TCP) -> socket.socket:
        """Return a socket that listens at a port of the guest's gateway. Raises SandboxError."""
        try:
            made = await self.take(kind)
            with contextlib.ExitStack() as stack:
                stack.callback(made.close)
                if kind == socket_maker.TCP:
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind((GATEWAY, port))
                if kind == socket_maker.TCP:
                    made.listen(_BACKLOG)
                stack.pop_all()
        except OSError as error:
            raise SandboxError(
                f"the port {port} can't be opened to the guest: {error}", id="vm.host-port-not-opened"
            ) from error
        return made

    async def take(self, kind: int) -> socket.socket:
        """Return a new socket in the network namespace of the machine, of a kind of `socket_maker`. Raises OSError."""
        return await self._require_sockets().take(kind)

    async def diagnosis(self, listening: tuple[str, int]) -> Diagnosis:
        """Return what tells how the guest ends connections; QEMU listens at an address. Raises OSError."""
        if self._diagnosis is None:
            found = Diagnosis(await self.take(socket_maker.DIAGNOSIS))
            self._stack.callback(found.close)
            found.find_out(listening)
            self._diagnosis = found
        return self._diagnosis

    async def release(self, transport: Transport, port: int) -> None:
        """Let go of a port, which QEMU forwards until its last user has."""
        async with self._changing:
            rule = self._rules[transport, port]
            rule.users -= 1
            if not rule.users:
                del self._rules[transport, port]
                with contextlib.suppress(SandboxError):  # QEMU has ended, and the forward with it
                    await self._command(f"hostfwd_remove {NETWORK_ID} {transport}:{FORWARDED}:{rule.number}")

    def _require_sockets(self) -> NamespaceSockets:
        if self._sockets is None or self._sockets.lost:
            pid, as_root = self._machine.process.pid, os.geteuid() == 0
            self._sockets = self._stack.enter_context(open_namespace_sockets(pid, as_root=as_root, log=self.log))
        return self._sockets

    async def _command(self, line: str) -> None:
        """Tell QEMU's human monitor something: QMP has no command for it. Raises SandboxError when it is refused."""
        from qemu.qmp import ExecuteError

        try:
            answer = await self._machine.ask("human-monitor-command", {"command-line": line})
        except ExecuteError as error:
            answer = str(error)
        # A rule that was removed is confirmed in words. Source: net/slirp.c.
        if answer.strip() and not line.startswith("hostfwd_remove"):
            raise SandboxError(
                f"QEMU can't forward the port: {answer.strip()}",
                id="vm.port-not-forwarded",
                details=self._machine.evidence(),
            )


class GuestPort:
    """One use of a port of the guest."""

    def __init__(self, ports: GuestPorts, transport: Transport, port: int, place: tuple[str, int]) -> None:
        self._ports = ports
        self._transport = transport
        self._port = port
        self._place = place
        self._turn = asyncio.Lock()
        self._closed = False

    async def connect(self) -> socket.socket:
        """Return a non-blocking socket that is connected to what QEMU forwards to the guest. Raises OSError."""
        if self._transport is Transport.UDP:
            made = await self._ports.take(socket_maker.UDP)
            made.connect(self._place)
            return made
        return GuestSocket(await self._connect(), await self._ports.diagnosis(self._place))

    async def _connect(self) -> socket.socket:
        # libslirp lets two connections wait, and Linux drops the attempts of all others for a second or longer. So
        # they take turns, and one that isn't connected at once tries again. Source: tcpx_listen, libslirp's socket.c.
        async with self._turn, asyncio.timeout(_CONNECT_SECONDS):
            seconds = _FIRST_TRY_SECONDS
            while True:
                made = await self._ports.take(socket_maker.TCP)
                try:
                    await _connected(made, self._place, timeout_seconds=seconds)
                except TimeoutError:
                    made.close()
                    seconds = min(2 * seconds, _LAST_TRY_SECONDS)
                except BaseException:
                    made.close()
                    raise
                else:
                    return made

    async def close(self) -> None:
        """Let go of the port; further calls do nothing."""
        if not self._closed:
            self._closed = True
            await self._ports.release(self._transport, self._port)


async def _connected(made: socket.socket, place: tuple[str, int], *, timeout_seconds: float) -> None:
    """Connect a socket, which on a loopback takes no time when it is not refused. Raises TimeoutError, OSError."""
    number = made.connect_ex(place)
    if number == errno.EINPROGRESS:
        if not _is_writable(made):
            async with asyncio.timeout(timeout_seconds):
                await asyncio.get_running_loop().sock_connect(made, place)
        number = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


def _is_writable(made: socket.socket) -> bool:
    waiting = select.poll()
    waiting.register(made, select.POLLOUT)
    return bool(waiting.poll(0))


@contextlib.asynccontextmanager
async def open_guest_ports(machine: Machine, *, log: Path, host_ports: Sequence[int]) -> AsyncIterator[GuestPorts]:
    """Serve the ports of a machine for the length of the block. Raises SandboxError."""
    async with contextlib.AsyncExitStack() as stack:
        ports = GuestPorts(machine, log, host_ports, stack.enter_context(contextlib.ExitStack()))
        if host_ports:
            from kata_dind.machine.names import serving_names  # which most starts need not load

            await stack.enter_async_context(serving_names(ports))
        yield ports
