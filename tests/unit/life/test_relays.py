"""What is carried between clients and guests, over real sockets; the guest's streams are the agent's."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kata_dind.backend.vm.streams import AgentStream
from kata_dind.guest.agent import protocol
from kata_dind.guest.agent.protocol import WINDOW_BYTES
from kata_dind.life.relays import relay_command, relay_connection
from kata_dind.wire.channel import Channel, ChannelStream, OnOpen
from tests.unit.wire.test_channel import collect, echo, open_pair, round_trip, run

# --- between a client of the control socket and a stream


@contextlib.asynccontextmanager
async def open_relay(on_open: OnOpen) -> AsyncIterator[Channel]:
    """A client's channel; its streams are carried to those of a guest."""
    async with open_pair(on_open) as (guest, _):

        async def relay(stream: ChannelStream, request: dict[str, Any]) -> None:
            await relay_command(stream, AgentStream(guest.open(request)))

        async with open_pair(relay) as (client, _):
            yield client


def test_a_relayed_stream_is_as_good_as_a_direct_one() -> None:
    async def scenario() -> None:
        async with open_relay(echo) as client:
            data = os.urandom(3 << 20)
            stream = client.open({"exit_code": 9})
            assert await round_trip(stream, data) == data
            assert stream.result == {"exit_code": 9}

    run(scenario())


def test_messages_cross_a_relay() -> None:
    async def scenario() -> None:
        async with open_relay(echo) as client:
            stream = client.open({})
            stream.control({"rows": 5, "columns": 6})
            frame = await stream.receive()
            assert frame is not None
            assert frame.payload == b'message {"rows":5,"columns":6}'
            stream.close()

    run(scenario())


def test_a_slow_client_gets_all_that_was_said_before_the_close() -> None:
    async def talk(stream: ChannelStream, _request: dict[str, Any]) -> None:
        await stream.send(bytes(WINDOW_BYTES * 2))
        stream.close({"exit_code": 1})

    async def scenario() -> None:
        async with open_relay(talk) as client:
            stream = client.open({})
            await asyncio.sleep(0.1)
            assert len(await collect(stream)) == WINDOW_BYTES * 2
            assert stream.result == {"exit_code": 1}

    run(scenario())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_client_that_leaves_closes_the_stream_behind_the_relay(how: str) -> None:
    async def scenario() -> None:
        closed = asyncio.Event()

        async def watch(stream: ChannelStream, _request: dict[str, Any]) -> None:
            await stream.wait_closed()
            closed.set()

        async with open_relay(watch) as client:
            stream = client.open({})
            await stream.send(b"x")
            stream.close() if how == "close" else client.close()
            await closed.wait()

    run(scenario())


# --- between a connection and a stream


@contextlib.asynccontextmanager
async def open_endpoint(directory: Path, on_open: OnOpen) -> AsyncIterator[Path]:
    """A Unix socket whose connections are carried to a guest's streams."""
    path = directory / "endpoint.sock"
    relays: set[asyncio.Task[None]] = set()
    async with open_pair(on_open) as (guest, _):

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            relays.add(task)
            await relay_connection(reader, writer, AgentStream(guest.open({})))

        server = await asyncio.start_unix_server(serve, path)
        yield path
        server.close()
        await asyncio.gather(*relays)


def test_a_half_closed_client_still_gets_its_answer(tmp_path: Path) -> None:
    async def count(stream: ChannelStream, _request: dict[str, Any]) -> None:
        total = 0
        while (frame := await stream.receive()) is not None and frame.kind == protocol.DATA:
            total += len(frame.payload)
        await asyncio.sleep(0.05)
        await stream.send(str(total).encode())
        stream.close({})

    async def scenario() -> None:
        async with open_endpoint(tmp_path, count) as path:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(bytes(2 << 20))
            writer.write_eof()
            assert await reader.read() == str(2 << 20).encode()
            writer.close()

    run(scenario())


def test_a_guest_that_half_closes_is_still_sent_to(tmp_path: Path) -> None:
    async def hush(stream: ChannelStream, _request: dict[str, Any]) -> None:
        stream.end()
        frame = await stream.receive()
        assert frame is not None
        assert frame.payload == b"after your end"
        stream.close({})

    async def scenario() -> None:
        async with open_endpoint(tmp_path, hush) as path:
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.read() == b""
            writer.write(b"after your end")
            await writer.drain()
            writer.close()

    run(scenario())


def test_fifty_clients_at_once_get_their_own_bytes(tmp_path: Path) -> None:
    async def client(path: Path, data: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(path)
        reading = asyncio.ensure_future(reader.read())
        writer.write(data)
        writer.write_eof()
        received = await reading
        writer.close()
        return received

    async def scenario() -> None:
        payloads = [os.urandom(100_000 + number) for number in range(50)]
        async with open_endpoint(tmp_path, echo) as path:
            assert await asyncio.gather(*(client(path, payload) for payload in payloads)) == payloads

    run(scenario())


@pytest.mark.parametrize("sends_first", [True, False])
def test_a_client_that_is_killed_closes_its_stream(tmp_path: Path, sends_first: bool) -> None:
    """Unread data in a socket that is closed resets the connection, as a kill does."""

    async def scenario() -> None:
        closed = asyncio.Event()

        async def talk(stream: ChannelStream, _request: dict[str, Any]) -> None:
            if sends_first:
                await stream.receive()
            await stream.send(bytes(1 << 20))
            await stream.wait_closed()
            closed.set()

        async with open_endpoint(tmp_path, talk) as path:
            reader, writer = await asyncio.open_unix_connection(path, limit=1)
            if sends_first:
                writer.write(b"GET")
                await writer.drain()
            await reader.read(1)
            writer.transport.abort()
            await closed.wait()

    run(scenario())


def test_a_client_that_does_not_read_holds_up_its_own_stream_alone(tmp_path: Path) -> None:
    sent = 0

    async def talk(stream: ChannelStream, _request: dict[str, Any]) -> None:
        nonlocal sent
        for _ in range(64):
            await stream.send(bytes(1 << 20))
            sent += 1 << 20
        stream.close({})

    async def scenario() -> None:
        async with open_endpoint(tmp_path, talk) as path:
            _, stalled = await asyncio.open_unix_connection(path, limit=1)
            await asyncio.sleep(0.1)
            assert sent <= 2 << 20
            stalled.transport.abort()

    run(scenario())


def test_a_guest_that_is_lost_ends_its_clients_connections(tmp_path: Path) -> None:
    async def vanish(stream: ChannelStream, _request: dict[str, Any]) -> None:
        await stream.receive()
        stream._channel.close()

    async def scenario() -> None:
        async with open_endpoint(tmp_path, vanish) as path:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"x")
            assert await reader.read() == b""
            writer.close()

    run(scenario())
