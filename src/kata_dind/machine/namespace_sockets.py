"""Sockets in the network namespace of another process: a small program in there makes them and sends them to us.

A process can't enter the user namespace of an ordinary user's QEMU while it has threads, so a program of its own has
to. Some sockets are always made ahead, so that a new connection waits for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from kata_dind.host.namespaces import inside_network_argv
from kata_dind.host.process import daemon
from kata_dind.machine import socket_maker

_AHEAD = 16
"""How many sockets of a kind lie ready once one was taken."""

_AT_ONCE = 64
"""How many sockets of a kind are asked for at once, so that neither side ever waits for room in the channel."""


class NamespaceSockets:
    """Gets sockets from the program, for an event loop."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._supplies = {
            socket_maker.TCP: _Supply(_AHEAD), socket_maker.UDP: _Supply(_AHEAD), socket_maker.DIAGNOSIS: _Supply(0)
        }  # fmt: skip
        self.lost = False
        """Whether the program has ended, so that no more sockets come."""
        asyncio.get_running_loop().add_reader(channel, self._receive)

    async def take(self, kind: int) -> socket.socket:
        """Return a new non-blocking socket of a kind of `socket_maker`; it is the caller's to close. Raises OSError."""
        supply = self._supplies[kind]
        if supply.ready:
            taken = supply.ready.popleft()
            self._ask(kind, supply)
            return taken
        if self.lost:
            raise _no_maker()
        waiter: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        supply.waiters.append(waiter)
        self._ask(kind, supply)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                supply.ready.append(waiter.result())
            raise

    def close(self) -> None:
        """Close the channel, at which the program ends, and the sockets that nobody has taken."""
        if not self.lost:
            asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()
        self._lose()
        for supply in self._supplies.values():
            while supply.ready:
                supply.ready.popleft().close()

    def _ask(self, kind: int, supply: _Supply) -> None:
        lacking = min(_AT_ONCE, len(supply.waiters) + supply.ahead - len(supply.ready)) - supply.asked
        # One message for several sockets: many are taken in a row.
        if self.lost or lacking < (1 if supply.waiters else _AHEAD // 2):
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `_receive` hears of it, too
            self._channel.send(bytes((kind,)) * lacking)
            supply.asked += lacking

    def _receive(self) -> None:
        try:
            answer, descriptors, _, _ = socket.recv_fds(self._channel, 2, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except ConnectionResetError:
            answer, descriptors = b"", []
        if not answer:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._lose()
            return
        kind, number = answer
        supply = self._supplies[kind]
        supply.asked -= 1
        if descriptors:
            supply.give(socket.socket(fileno=descriptors[0]))
        else:
            supply.fail(OSError(number or errno.EMFILE, os.strerror(number or errno.EMFILE)))
        self._ask(kind, supply)

    def _lose(self) -> None:
        self.lost = True
        for supply in self._supplies.values():
            while supply.waiters:
                supply.fail(_no_maker())


class _Supply:
    """The sockets of a kind."""

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self.asked = 0
        self.ready: deque[socket.socket] = deque()
        self.waiters: deque[asyncio.Future[socket.socket]] = deque()

    def give(self, made: socket.socket) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(made)
                return
        self.ready.append(made)

    def fail(self, error: OSError) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_exception(error)
                return


@contextlib.contextmanager
def open_namespace_sockets(pid: int, *, as_root: bool, log: Path) -> Iterator[NamespaceSockets]:
    """Start the program in the network namespace of a process that runs, for the length of the block."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as stack:
        stack.callback(ours.close)
        with its:
            program = [sys.executable, "-I", "-S", socket_maker.__file__, str(its.fileno())]
            stack.enter_context(
                daemon(
                    inside_network_argv(program, pid=pid, as_root=as_root),
                    name="the maker of sockets", log=log, pass_fds=[its.fileno()],
                )
            )  # fmt: skip
        ours.setblocking(False)
        sockets = NamespaceSockets(ours)
        stack.callback(sockets.close)
        yield sockets


def _no_maker() -> OSError:
    return ConnectionError("the program that makes sockets in the guest's network has ended")
