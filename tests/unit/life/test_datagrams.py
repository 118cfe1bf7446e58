"""Real datagrams on the loopback, between clients and an echo server that are plain sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from kata_dind.host.descriptors import list_descriptors
from kata_dind.life import datagrams
from kata_dind.life.datagrams import carry_datagrams

SECONDS = 20


class Service(NamedTuple):
    """Where clients send to, and who has asked the server."""

    address: tuple[str, int]
    askers: list[tuple[str, int]]


def udp_socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.bind(("127.0.0.1", 0))
    return made


@contextlib.asynccontextmanager
async def service(*, idle_seconds: float = 60.0, refusals: int = 0) -> AsyncIterator[Service]:
    """An echo server behind a carried port; the first attempts to reach it may be refused."""
    loop = asyncio.get_running_loop()
    askers: list[tuple[str, int]] = []
    with udp_socket() as server, udp_socket() as listening:

        async def echo() -> None:
            while True:
                data, asker = await loop.sock_recvfrom(server, 65535)
                askers.append(asker)
                await loop.sock_sendto(server, data, asker)

        async def connect() -> socket.socket:
            nonlocal refusals
            await asyncio.sleep(0.01)
            if refusals:
                refusals -= 1
                raise OSError("refused")
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.setblocking(False)
            made.connect(server.getsockname())
            return made

        tasks = [
            asyncio.ensure_future(echo()),
            asyncio.ensure_future(carry_datagrams(listening, connect, idle_seconds=idle_seconds)),
        ]
        await asyncio.sleep(0)
        try:
            yield Service(listening.getsockname(), askers)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def ask(client: socket.socket, address: tuple[str, int], data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendto(client, data, address)
    async with asyncio.timeout(5):
        return await loop.sock_recv(client, 65535)


def open_descriptors() -> int:
    return list_descriptors(os.getpid())


def test_each_client_hears_the_answers_to_itself() -> None:
    async def scenario() -> None:
        async with service() as served:
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(udp_socket()) for _ in range(50)]
                answers = await asyncio.gather(
                    *(ask(client, served.address, b"%d" % number) for number, client in enumerate(clients))
                )
                assert answers == [b"%d" % number for number in range(50)]
                assert len({*served.askers}) == 50
                assert await ask(clients[0], served.address, b"again") == b"again"
                assert len({*served.askers}) == 50, "a client that is known keeps its socket"

    before = open_descriptors()
    asyncio.run(scenario())
    assert open_descriptors() == before


def test_what_a_client_sends_at_first_is_kept_in_its_order() -> None:
    async def scenario() -> None:
        async with service() as served:
            with udp_socket() as client:
                sent = [b"%d" % number for number in range(20)]
                for data in sent:
                    client.sendto(data, served.address)
                loop = asyncio.get_running_loop()
                assert [await loop.sock_recv(client, 100) for _ in sent] == sent

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


@pytest.mark.parametrize("size", [0, 1, 65000])
def test_a_datagram_of_any_size_is_one_datagram(size: int) -> None:
    async def scenario() -> None:
        async with service() as served:
            with udp_socket() as client:
                payload = os.urandom(size)
                assert await ask(client, served.address, payload) == payload

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_a_silent_client_is_forgotten() -> None:
    async def scenario() -> None:
        async with service(idle_seconds=0.2) as served:
            before = open_descriptors()
            with udp_socket() as client:
                await ask(client, served.address, b"x")
                assert open_descriptors() == before + 2
                async with asyncio.timeout(5):
                    while open_descriptors() > before + 1:  # noqa: ASYNC110 - the kernel tells nobody
                        await asyncio.sleep(0.02)
                assert await ask(client, served.address, b"y") == b"y"
                assert len({*served.askers}) == 2, "it has a new socket now"

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_the_most_silent_client_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "_MOST_CLIENTS", 3)

    async def scenario() -> None:
        async with service() as served:
            before = open_descriptors()
            for _ in range(10):
                with udp_socket() as client:
                    assert await ask(client, served.address, b"x") == b"x"
            assert open_descriptors() == before + 3

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_a_guest_that_is_not_reached_loses_datagrams_and_no_more() -> None:
    async def scenario() -> None:
        async with service(refusals=1) as served:
            with udp_socket() as client:
                client.sendto(b"lost", served.address)
                await asyncio.sleep(0.1)
                assert await ask(client, served.address, b"x") == b"x"

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))
