"""Carrying UDP between a socket on the host and a port of a guest: each client has a socket of its own there.

A datagram has no connection that could end, so a client is forgotten when it has been silent for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

_IDLE_SECONDS = 90.0
"""As long as docker-proxy remembers a client. Source: UDPConnTrackTimeout, moby's udp_proxy_linux.go."""

_MOST_CLIENTS = 1024
"""For one port; beyond that, the one that was silent the longest is forgotten."""

_MOST_WAITING = 32
"""How many datagrams of a client wait until its socket is there."""

_IN_A_ROW = 64
"""How many datagrams are carried before others have their turn."""

_LARGEST_BYTES = 65535

Connect = Callable[[], Awaitable[socket.socket]]


async def carry_datagrams(listening: socket.socket, connect: Connect, *, idle_seconds: float = _IDLE_SECONDS) -> None:
    """Carry datagrams between a non-blocking socket, which stays the caller's, and a guest, until cancelled.

    `connect` makes a client's socket; what it raises as OSError loses that client's datagrams.
    """
    clients = _Clients(listening, connect)
    try:
        while True:
            await asyncio.sleep(idle_seconds / 4)
            clients.forget_those_before(asyncio.get_running_loop().time() - idle_seconds)
    finally:
        await clients.close()


class _Client:
    """A client, and its socket once it is there."""

    __slots__ = ("address", "connecting", "heard", "socket", "waiting")

    def __init__(self, address: Any) -> None:
        self.address = address
        self.heard = 0.0
        self.socket: socket.socket | None = None
        self.waiting: list[bytes] = []
        self.connecting: asyncio.Task[None] | None = None


class _Clients:
    """The clients of a port, by address, the one that was silent the longest first."""

    def __init__(self, listening: socket.socket, connect: Connect) -> None:
        self._listening = listening
        self._connect = connect
        self._clients: OrderedDict[Any, _Client] = OrderedDict()
        self._connecting: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listening, self._hear)

    def forget_those_before(self, moment: float) -> None:
        while self._clients and next(iter(self._clients.values())).heard < moment:
            self._forget(next(iter(self._clients.values())))

    async def close(self) -> None:
        self._loop.remove_reader(self._listening)
        connecting = [*self._connecting]
        for client in [*self._clients.values()]:
            self._forget(client)
        await asyncio.gather(*connecting, return_exceptions=True)

    def _hear(self) -> None:
        for _ in range(_IN_A_ROW):
            try:
                data, address = self._listening.recvfrom(_LARGEST_BYTES)
            except OSError:  # there is none, or an ICMP message came, which is not for us
                return
            client = self._clients.get(address) or self._meet(address)
            self._use(client)
            if client.socket is not None:
                _send(client.socket, data)
            elif len(client.waiting) < _MOST_WAITING:
                client.waiting.append(data)

    def _meet(self, address: Any) -> _Client:
        if len(self._clients) >= _MOST_CLIENTS:
            self._forget(next(iter(self._clients.values())))
        client = self._clients[address] = _Client(address)
        client.connecting = self._loop.create_task(self._connect_for(client))
        self._connecting.add(client.connecting)
        client.connecting.add_done_callback(self._connecting.discard)
        return client

    async def _connect_for(self, client: _Client) -> None:
        try:
            client.socket = await self._connect()
        except OSError:
            self._forget(client)
            return
        client.connecting = None
        for data in client.waiting:
            _send(client.socket, data)
        client.waiting.clear()
        self._loop.add_reader(client.socket, self._answer, client, client.socket)

    def _answer(self, client: _Client, connected: socket.socket) -> None:
        for _ in range(_IN_A_ROW):
            try:
                data = connected.recv(_LARGEST_BYTES)
            except OSError:
                return
            self._use(client)
            with contextlib.suppress(OSError):  # a datagram may be lost
                self._listening.sendto(data, client.address)

    def _use(self, client: _Client) -> None:
        client.heard = self._loop.time()
        self._clients.move_to_end(client.address)

    def _forget(self, client: _Client) -> None:
        self._clients.pop(client.address, None)
        if client.connecting is not None and client.connecting is not asyncio.current_task():
            client.connecting.cancel()
        if client.socket is not None:
            self._loop.remove_reader(client.socket)
            client.socket.close()


def _send(connected: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # a datagram may be lost
        connected.send(data)
