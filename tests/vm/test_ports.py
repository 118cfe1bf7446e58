"""Ports of a guest, reached from the host through QEMU's network namespace; the server is in the guest OS."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kata_dind.backend import Forward
from kata_dind.errors import SandboxError
from kata_dind.host.descriptors import list_descriptors
from kata_dind.life.connections import Connections
from kata_dind.life.datagrams import carry_datagrams
from kata_dind.vocabulary import Transport
from tests.vm.own_guest import OwnGuest, own_guest

# test_published_ports.py shows in short that it works.
pytestmark = [pytest.mark.requires("qemu", "netns"), pytest.mark.thorough]

TCP_PORT, UDP_PORT, UNUSED_PORT = 7000, 7001, 7002

# The first byte says what to do with a connection.
_SERVER = """
import asyncio, hashlib, os, socket, struct, sys
async def serve(reader, writer):
    order = await reader.read(1)
    if order == b"e":                                   # echo, and end when the client has
        while part := await reader.read(1 << 16):
            writer.write(part)
            await writer.drain()
    elif order == b"h":                                 # hear all, then answer
        digest = hashlib.sha256()
        while part := await reader.read(1 << 16):
            digest.update(part)
        writer.write(digest.hexdigest().encode())
    elif order == b"s":                                 # send some MiB
        for _ in range(int(await reader.readexactly(4))):
            writer.write(bytes(1 << 20))
            await writer.drain()
    elif order == b"w":                                 # wait, and tell how the client ended
        try:
            writer.write(b"+")
            await reader.read()
            seen = b"end"
        except ConnectionResetError:
            seen = b"reset"
        with open("/run/seen", "ab") as file:
            file.write(seen + b"\\n")
    elif order == b"r":                                 # reset
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, address):
        self.transport.sendto(data, address)
async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", int(sys.argv[1]), backlog=4096)
    await asyncio.get_running_loop().create_datagram_endpoint(Echo, ("0.0.0.0", int(sys.argv[2])))
    os.write(told, b"x")
    await server.serve_forever()
ready, told = os.pipe()
if os.fork():
    os.read(ready, 1)
    os._exit(0)
os.setsid()
for fd in (0, 1, 2):
    os.close(fd)
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def own(private_directories: Path) -> Iterator[OwnGuest]:
    directory = private_directories / "own"
    directory.mkdir()
    with own_guest(directory) as guest:
        guest.python(_SERVER, str(TCP_PORT), str(UDP_PORT))
        guest.run(connect_once(guest))  # so that the program that makes sockets is no leak of the first test
        yield guest


@pytest.fixture(autouse=True)
def sockets_ahead(own: OwnGuest, shared_guest_opens: None) -> Iterator[None]:
    """Let the sockets come that lie ready for the next test."""
    yield
    own.run(asyncio.sleep(0.3))


async def connect_once(own: OwnGuest) -> None:
    async with forwarded(own) as forward:
        (await forward.connect()).close()


@contextlib.asynccontextmanager
async def forwarded(
    own: OwnGuest, port: int = TCP_PORT, transport: Transport = Transport.TCP
) -> AsyncIterator[Forward]:
    forward = await own.ports.forward(transport, port)
    try:
        yield forward
    finally:
        await forward.close()


@contextlib.asynccontextmanager
async def published(own: OwnGuest) -> AsyncIterator[tuple[str, int]]:
    """The server's port, published as the owner does it; all is over at the block's end."""
    loop, connections = asyncio.get_running_loop(), Connections()
    tasks: set[asyncio.Task[None]] = set()
    async with forwarded(own) as forward:
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
            listening.setblocking(False)

            async def carry(client: socket.socket) -> None:
                await connections.carry(client, await forward.connect())

            async def accept() -> None:
                while True:
                    client, _ = await loop.sock_accept(listening)
                    tasks.add(task := asyncio.ensure_future(carry(client)))
                    task.add_done_callback(tasks.discard)

            accepting = asyncio.ensure_future(accept())
            try:
                yield listening.getsockname()
            finally:
                accepting.cancel()
                async with asyncio.timeout(20):
                    while tasks:
                        await asyncio.wait(tasks)


async def order(connected: socket.socket, words: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(connected, words)


async def received(connected: socket.socket) -> bytes:
    parts = []
    while part := await asyncio.get_running_loop().sock_recv(connected, 1 << 20):
        parts.append(part)
    return b"".join(parts)


async def connect(address: tuple[str, int]) -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    await asyncio.get_running_loop().sock_connect(made, address)
    return made


def reset(connected: socket.socket) -> None:
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connected.close()


def test_a_connection_is_carried_with_its_half_close(own: OwnGuest) -> None:
    payload = os.urandom(3 << 20)

    async def scenario() -> None:
        async with published(own) as address:
            with await connect(address) as client:
                await order(client, b"h")
                await order(client, payload)
                client.shutdown(socket.SHUT_WR)
                assert await received(client) == hashlib.sha256(payload).hexdigest().encode()

    own.run(scenario())


def test_the_guest_may_end_its_half_first(own: OwnGuest) -> None:
    async def scenario() -> None:
        async with published(own) as address:
            with await connect(address) as client:
                await order(client, b"s0003")
                assert len(await received(client)) == 3 << 20

    own.run(scenario())


@pytest.mark.parametrize(("how", "seen"), [("close", "end"), ("reset", "reset")])
def test_the_guest_sees_how_a_client_ends(own: OwnGuest, how: str, seen: str) -> None:
    async def scenario() -> str:
        await own.execute("rm", "-f", "/run/seen")
        async with published(own) as address:
            client = await connect(address)
            await order(client, b"w")
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b"+"
            reset(client) if how == "reset" else client.close()
            return await own.execute("sh", "-c", "until [ -s /run/seen ]; do sleep 0.1; done; cat /run/seen")

    assert own.run(scenario()) == f"{seen}\n"


def test_a_client_sees_that_the_guest_has_reset(own: OwnGuest) -> None:
    async def scenario() -> None:
        async with published(own) as address:
            with await connect(address) as client:
                await order(client, b"r")
                with pytest.raises(ConnectionResetError):
                    await received(client)

    own.run(scenario())


def test_where_nothing_listens_a_connection_is_reset(own: OwnGuest) -> None:
    async def scenario() -> None:
        async with forwarded(own, UNUSED_PORT) as forward:
            with await forward.connect() as guest, contextlib.suppress(ConnectionResetError):
                assert await received(guest) == b""

    own.run(scenario())


def test_a_port_is_forwarded_until_its_last_user_has_let_go(own: OwnGuest) -> None:
    async def scenario() -> None:
        async with forwarded(own) as one:
            async with forwarded(own) as other:
                (await other.connect()).close()
            await other.close()  # once more, which does nothing
            with await one.connect() as still:
                await order(still, b"e")
        with pytest.raises(ConnectionRefusedError):
            await one.connect()

    own.run(scenario())


def test_datagrams_are_carried(own: OwnGuest) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with forwarded(own, UDP_PORT, Transport.UDP) as forward:
            with contextlib.ExitStack() as stack:
                listening, *clients = (stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(11))
                listening.bind(("127.0.0.1", 0))
                for each in (listening, *clients):
                    each.setblocking(False)
                carrying = asyncio.ensure_future(carry_datagrams(listening, forward.connect))
                await asyncio.sleep(0)
                payloads = [os.urandom(size) for size in (1, 10, 1400, 4000, 9000, 1, 1, 1, 1, 1)]
                for client, payload in zip(clients, payloads, strict=True):
                    await loop.sock_sendto(client, payload, listening.getsockname())
                async with asyncio.timeout(20):
                    assert [await loop.sock_recv(client, 65535) for client in clients] == payloads
                carrying.cancel()
                await asyncio.gather(carrying, return_exceptions=True)

    own.run(scenario())


def test_a_thousand_at_once_and_as_many_in_turn_leave_nothing(own: OwnGuest) -> None:
    qemu = own.process_id

    async def one(address: tuple[str, int]) -> None:
        with await connect(address) as client:
            await order(client, b"e+")
            client.shutdown(socket.SHUT_WR)
            assert await received(client) == b"+"

    async def scenario() -> None:
        async with published(own) as address:
            await one(address)
            before, qemus = list_descriptors(os.getpid()), list_descriptors(qemu)
            clients = await asyncio.gather(*(connect(address) for _ in range(1000)))
            for client in clients:
                await order(client, b"e+")
            assert {await asyncio.get_running_loop().sock_recv(client, 2) for client in clients} == {b"+"}
            for client in clients:
                client.close()
            for _ in range(1000):
                await one(address)
            async with asyncio.timeout(90):  # a guest on a busy host ends a thousand processes
                while list_descriptors(os.getpid()) > before or list_descriptors(qemu) > qemus:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)

    own.run(scenario(), timeout_seconds=250)


def test_the_guest_reaches_a_port_that_is_opened_to_it_and_no_other(own: OwnGuest) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        ask = (
            "import socket, sys\nwith socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as connected:"
            "\n    print(connected.recv(100).decode(), end='')"
        )
        with await own.ports.listen(5432) as listening:
            asking = asyncio.ensure_future(own.execute("python3", "-c", ask, "198.18.1.2", "5432"))
            connected, _ = await loop.sock_accept(listening)
            with connected:
                await order(connected, b"here")
            assert await asking == "here"
            for address, port in (("198.18.1.2", 5433), ("198.18.0.100", 5432), ("127.77.0.1", 5432)):
                with pytest.raises(AssertionError, match=r"refused|unreachable|timed out"):
                    await own.execute("python3", "-c", f"{ask}", address, str(port))
            with pytest.raises(SandboxError, match=r"5432 can't be opened to the guest: .*in use"):
                await own.ports.listen(5432)

    own.run(scenario())
