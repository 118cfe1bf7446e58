"""Services of the host's loopback, for a guest whose connections come from this host as well."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, cast

import pytest

from kata_dind.backend import Guest
from kata_dind.host.descriptors import list_descriptors
from kata_dind.life.host_services import serving_host_ports
from tests.ipv6 import has_ipv6


class Ports:
    """Instead of the guest's network, a port that is free on this host."""

    def __init__(self, host_ports: Sequence[int]) -> None:
        self.host_ports = host_ports
        self.listening: dict[int, tuple[str, int]] = {}

    async def listen(self, port: int) -> socket.socket:
        made = socket.create_server(("127.0.0.1", 0), backlog=200)
        made.setblocking(False)
        self.listening[port] = made.getsockname()
        return made


class PortGuest:
    def __init__(self, *host_ports: int) -> None:
        self.ports = Ports(host_ports)


@contextlib.contextmanager
def service(family: socket.AddressFamily, address: str) -> Iterator[socket.socket]:
    with socket.create_server((address, 0), family=family, backlog=200) as listening:
        listening.setblocking(False)
        yield listening


@contextlib.asynccontextmanager
async def served(*ports: int) -> AsyncIterator[dict[int, tuple[str, int]]]:
    guest = PortGuest(*ports)
    async with serving_host_ports(cast(Guest, guest)):
        yield guest.ports.listening


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    before = list_descriptors(os.getpid())
    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert list_descriptors(os.getpid()) == before


async def asked(address: tuple[str, int]) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(b"?")
        return await reader.read()
    finally:
        writer.close()


async def answer(listening: socket.socket, word: bytes) -> None:
    while True:
        connected, _ = await asyncio.get_running_loop().sock_accept(listening)
        with connected:
            await asyncio.get_running_loop().sock_recv(connected, 1)
            await asyncio.get_running_loop().sock_sendall(connected, word)


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_guest_reaches_the_service_that_listens_at_a_port(family: socket.AddressFamily, address: str) -> None:
    async def scenario() -> None:
        with service(family, address) as listening:
            port = listening.getsockname()[1]
            answering = asyncio.ensure_future(answer(listening, b"database"))
            async with served(port) as places:
                assert await asyncio.gather(*(asked(places[port]) for _ in range(100))) == [b"database"] * 100
            answering.cancel()

    if family == socket.AF_INET6 and not has_ipv6():
        pytest.skip("this host has no IPv6")
    run(scenario)


def test_where_the_service_is_not_up_a_connection_is_reset() -> None:
    async def scenario() -> None:
        with service(socket.AF_INET, "127.0.0.1") as listening:
            port = listening.getsockname()[1]
        async with served(port) as places:
            with pytest.raises(ConnectionResetError):
                await asked(places[port])

    run(scenario)


def test_connections_end_with_the_block() -> None:
    async def scenario() -> None:
        with service(socket.AF_INET, "127.0.0.1") as listening:
            port = listening.getsockname()[1]
            async with served(port) as places:
                asking = asyncio.ensure_future(asked(places[port]))
                connected, _ = await asyncio.get_running_loop().sock_accept(listening)
            with connected, pytest.raises(ConnectionResetError):
                await asking

    run(scenario)
