"""Real connections on the loopback, carried between a client and a server that are plain sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kata_dind.host.descriptors import list_descriptors, raise_descriptor_limit
from kata_dind.life.connections import Connections

SECONDS = 20


class Ends(NamedTuple):
    """The two ends of a carried connection, and the task between them."""

    client: socket.socket
    server: socket.socket
    carrying: asyncio.Task[None]


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """A connection on the loopback; socket.socketpair makes Unix sockets, which know no reset."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = socket.create_connection(listening.getsockname())
        other, _ = listening.accept()
    one.setblocking(False)
    other.setblocking(False)
    return one, other


@contextlib.asynccontextmanager
async def carried(connections: Connections | None = None) -> AsyncIterator[Ends]:
    client, near = tcp_pair()
    far, server = tcp_pair()
    carrying = asyncio.ensure_future((connections or Connections()).carry(near, far))
    try:
        yield Ends(client, server, carrying)
    finally:
        carrying.cancel()
        await asyncio.gather(carrying, return_exceptions=True)
        client.close()
        server.close()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    before = list_descriptors(os.getpid())
    asyncio.run(asyncio.wait_for(scenario(), SECONDS))
    assert list_descriptors(os.getpid()) == before


async def send(end: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(end, data)


async def receive(end: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(end, 1 << 20)


async def receive_all(end: socket.socket) -> bytes:
    parts = []
    while part := await receive(end):
        parts.append(part)
    return b"".join(parts)


def reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def test_bytes_pass_both_ways() -> None:
    async def scenario() -> None:
        payload = os.urandom(5 << 20)
        async with carried() as ends:

            async def echo() -> None:
                while part := await receive(ends.server):
                    await send(ends.server, part)
                ends.server.shutdown(socket.SHUT_WR)

            async def ask() -> None:
                await send(ends.client, payload)
                ends.client.shutdown(socket.SHUT_WR)

            answer, *_ = await asyncio.gather(receive_all(ends.client), echo(), ask())
            assert answer == payload
            await ends.carrying

    run(scenario)


def test_one_that_has_ended_its_half_still_receives() -> None:
    async def scenario() -> None:
        async with carried() as ends:
            ends.client.shutdown(socket.SHUT_WR)
            assert await receive(ends.server) == b""
            await send(ends.server, b"late")
            assert await receive(ends.client) == b"late"
            assert not ends.carrying.done()
            ends.server.shutdown(socket.SHUT_WR)
            assert await receive(ends.client) == b""
            await ends.carrying

    run(scenario)


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_of_one_resets_the_other(who: str) -> None:
    async def scenario() -> None:
        async with carried() as ends:
            resetting, other = (ends.client, ends.server) if who == "client" else (ends.server, ends.client)
            await send(resetting, b"x")
            assert await receive(other) == b"x"
            reset(resetting)
            with pytest.raises(ConnectionResetError):
                await receive(other)
            await ends.carrying

    run(scenario)


def test_a_reset_is_seen_while_the_other_half_has_ended() -> None:
    async def scenario() -> None:
        async with carried() as ends:
            ends.server.shutdown(socket.SHUT_WR)
            assert await receive(ends.client) == b""
            reset(ends.client)
            with pytest.raises(ConnectionResetError):
                await receive(ends.server)

    run(scenario)


def test_a_cancelled_connection_is_reset_at_both_ends() -> None:
    async def scenario() -> None:
        async with carried() as ends:
            await send(ends.client, b"x")
            assert await receive(ends.server) == b"x"
            ends.carrying.cancel()
            for end in (ends.client, ends.server):
                with pytest.raises(ConnectionResetError):
                    await receive(end)

    run(scenario)


def test_a_slow_reader_slows_the_sender_down() -> None:
    async def scenario() -> None:
        async with carried() as ends:
            sent = 0
            with contextlib.suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(0.5):
                        await send(ends.client, bytes(1 << 20))
                        sent += 1
            assert sent < 64, "nobody reads, so only the sockets' buffers and ours take it"
            held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            received = 0
            while received < sent << 20:
                received += len(await receive(ends.server))
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 8 << 10

    run(scenario)


def test_a_thousand_in_turn_leave_nothing() -> None:
    async def scenario() -> None:
        connections = Connections()
        for number in range(1000):
            async with carried(connections) as ends:
                await send(ends.client, b"x")
                assert await receive(ends.server) == b"x"
                (reset if number % 2 else socket.socket.close)(ends.client)
                if number % 2:
                    with pytest.raises(ConnectionResetError):
                        await receive(ends.server)
                else:
                    assert await receive(ends.server) == b""

    run(scenario)


def test_a_thousand_idle_ones_take_little_memory() -> None:
    raise_descriptor_limit()

    async def scenario() -> None:
        connections = Connections()
        async with contextlib.AsyncExitStack() as stack:
            pairs = [(tcp_pair(), tcp_pair()) for _ in range(1000)]
            for (client, _), (_, server) in pairs:
                stack.callback(client.close)
                stack.callback(server.close)
            await asyncio.sleep(0)
            before = resident_bytes()
            carrying = [asyncio.ensure_future(connections.carry(near, far)) for (_, near), (far, _) in pairs]
            await asyncio.sleep(0.1)
            assert resident_bytes() - before < 10 << 20
            for task in carrying:
                task.cancel()
            await asyncio.gather(*carrying, return_exceptions=True)

    run(scenario)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
