from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from kata_dind.guest.agent import protocol
from kata_dind.guest.agent.protocol import ERROR, EVENTS, MAIN, WINDOW_BYTES, encode_frame
from kata_dind.wire.channel import (
    Channel,
    ChannelClosed,
    ChannelStream,
    OnOpen,
    first_of,
    open_channel,
)


def run(work: Coroutine[Any, Any, None], *, timeout_seconds: float = 10) -> None:
    async def limited() -> None:
        async with asyncio.timeout(timeout_seconds):
            await work

    asyncio.run(limited())


@contextlib.asynccontextmanager
async def open_pair(
    on_open: OnOpen | None = None, on_event: Callable[[dict[str, Any]], None] = lambda message: None
) -> AsyncIterator[tuple[Channel, Channel]]:
    """A host's channel and a guest's, agreed; the guest serves streams with `on_open`."""
    ours, theirs = socket.socketpair()
    guest = Channel(is_host=False, on_open=on_open)
    await asyncio.get_running_loop().create_connection(lambda: guest, sock=theirs)
    async with open_channel(ours, on_event=on_event) as host:
        await host.agreed.wait()
        yield host, guest
    await guest.lost.wait()


async def echo(stream: ChannelStream, request: dict[str, Any]) -> None:
    while (frame := await stream.receive()) is not None:
        if frame.kind == protocol.DATA:
            await stream.send(frame.payload, frame.substream)
        elif frame.kind == protocol.CONTROL:
            await stream.send(b"message " + frame.payload)
        elif frame.kind == protocol.END:
            stream.end()
            stream.close({"exit_code": request.get("exit_code", 0)})


async def collect(stream: ChannelStream) -> bytes:
    data = b""
    while (frame := await stream.receive()) is not None:
        data += frame.payload if frame.kind == protocol.DATA else b""
    return data


async def round_trip(stream: ChannelStream, data: bytes) -> bytes:
    received = asyncio.ensure_future(collect(stream))
    await stream.send(data)
    stream.end()
    return await received


# --- two channels


def test_bytes_messages_ends_and_the_result_arrive_in_order() -> None:
    async def scenario() -> None:
        async with open_pair(echo) as (host, _):
            stream = host.open({"exit_code": 7})
            await stream.send(b"out")
            await stream.send(b"err", ERROR)
            stream.control({"rows": 3})
            stream.end()
            frames = []
            while (frame := await stream.receive()) is not None:
                frames.append((frame.kind, frame.payload, frame.substream))
            assert frames == [
                (protocol.DATA, b"out", MAIN),
                (protocol.DATA, b"err", ERROR),
                (protocol.DATA, b'message {"rows":3}', MAIN),
                (protocol.END, b"", 0),
            ]
            assert stream.result == {"exit_code": 7}
            assert await stream.receive() is None

    run(scenario())


def test_events_reach_the_host() -> None:
    events: list[dict[str, Any]] = []

    async def scenario() -> None:
        async with open_pair(echo, events.append) as (host, guest):
            guest.mux.control(EVENTS, {"event": "agent"})
            guest.flush()
            await round_trip(host.open({}), b"")

    run(scenario())
    assert events == [{"event": "agent"}]


def test_fifty_streams_at_once_carry_megabytes_each_way() -> None:
    async def scenario() -> None:
        payloads = [os.urandom(300_000 + number) for number in range(50)]
        async with open_pair(echo) as (host, _):
            results = await asyncio.gather(*(round_trip(host.open({}), payload) for payload in payloads))
            assert results == payloads
            assert not host._streams

    run(scenario())


def test_a_reader_that_stops_stops_its_sender_alone() -> None:
    async def talk(stream: ChannelStream, _request: dict[str, Any]) -> None:
        await stream.send(bytes(4 << 20))
        stream.close({})

    async def scenario() -> None:
        async with open_pair(talk) as (host, guest):
            stalled, read = host.open({}), host.open({})
            assert len(await collect(read)) == 4 << 20
            waiting = sum(len(frame.payload) for frame in stalled._incoming)
            assert waiting == WINDOW_BYTES
            assert guest.mux.credit(1) == 0
            assert len(await collect(stalled)) == 4 << 20

    run(scenario())


def test_closing_a_stream_drops_what_is_still_on_its_way() -> None:
    async def talk(stream: ChannelStream, request: dict[str, Any]) -> None:
        if request:
            await echo(stream, request)
        await stream.send(bytes(4 << 20))  # ends when the host closes: there is no reader left

    async def scenario() -> None:
        async with open_pair(talk) as (host, guest):
            stream = host.open({})
            await stream.receive()
            stream.close()
            stream.close()
            assert stream.result == {}
            await stream.send(b"dropped")
            assert await round_trip(host.open({"other": 1}), b"still works") == b"still works"
            assert [*guest._streams] == []

    run(scenario())


def test_a_stream_that_is_not_served_is_closed_with_an_error() -> None:
    async def scenario() -> None:
        async with open_pair() as (host, _):
            assert await host.open({}).wait_closed() == {"error": "nothing is served here"}

    run(scenario())


def test_a_request_that_fits_no_frame_is_refused_here() -> None:
    async def scenario() -> None:
        async with open_pair(echo) as (host, _):
            with pytest.raises(ValueError, match="at most 32768 fit"):
                host.open({"argv": ["x" * 40_000]})
            assert await round_trip(host.open({}), b"x") == b"x"

    run(scenario())


def test_all_tasks_that_wait_learn_that_the_channel_is_lost() -> None:
    async def stall(stream: ChannelStream, _request: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with open_pair(stall) as (host, guest):
            receiving = asyncio.ensure_future(host.open({}).receive())
            sending = asyncio.ensure_future(host.open({}).send(bytes(WINDOW_BYTES + 1)))
            await asyncio.sleep(0.05)
            guest.close()
            for task in (receiving, sending):
                with pytest.raises(ChannelClosed):
                    await task
            with pytest.raises(ChannelClosed):
                host.open({})

    run(scenario())


def test_a_channel_that_begins_anew_loses_its_streams_and_no_later_one_is_taken_for_them() -> None:
    async def scenario() -> None:
        async with open_pair(echo) as (host, _):
            old = host.open({})
            waiting = asyncio.ensure_future(old.receive())
            await asyncio.sleep(0)
            host.begin()
            assert not host.agreed.is_set()
            with pytest.raises(ChannelClosed, match="begun anew"):
                await waiting
            await host.agreed.wait()
            new = host.open({})
            await old.send(b"dropped")
            old.end()
            old.close()
            assert await round_trip(new, b"answered") == b"answered"

    run(scenario())


def test_a_hushed_channel_sends_nothing_until_it_begins_anew() -> None:
    async def scenario() -> None:
        opened: list[dict[str, Any]] = []

        async def note(stream: ChannelStream, request: dict[str, Any]) -> None:
            opened.append(request)
            stream.close({"request": request["number"]})

        async with open_pair(note) as (host, _):
            before = host.open({"number": 1})
            host.hush()
            host.open({"number": 2})
            assert await before.wait_closed() == {"request": 1}
            await asyncio.sleep(0.05)
            host.begin()
            assert await host.open({"number": 3}).wait_closed() == {"request": 3}
            assert [request["number"] for request in opened] == [1, 3]

    run(scenario())


def test_what_has_arrived_before_a_loss_can_still_be_read() -> None:
    async def talk(stream: ChannelStream, _request: dict[str, Any]) -> None:
        await stream.send(b"last words")
        stream._channel.close()

    async def scenario() -> None:
        async with open_pair(talk) as (host, _):
            stream = host.open({})
            await host.lost.wait()
            frame = await stream.receive()
            assert frame is not None
            assert frame.payload == b"last words"
            with pytest.raises(ChannelClosed):
                await stream.receive()

    run(scenario())


@pytest.mark.parametrize(
    "nonsense",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        encode_frame(protocol.OPEN, 1, b"{}"),
        encode_frame(protocol.HELLO, 0, b"no JSON"),
        encode_frame(protocol.CONTROL, EVENTS, b"no JSON"),
        encode_frame(protocol.CLOSE, 1, b"[]"),
        encode_frame(protocol.CREDIT, 1, b"x"),
    ],
    ids=["no frame", "OPEN", "HELLO", "CONTROL", "CLOSE", "CREDIT"],
)
def test_nonsense_from_the_guest_closes_the_channel_with_the_cause(
    nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def stall(stream: ChannelStream, _request: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with open_pair(stall) as (host, guest):
            stream = host.open({})
            assert guest._transport is not None
            guest._transport.write(nonsense)
            with pytest.raises(ChannelClosed) as caught:
                await stream.receive()
            assert isinstance(caught.value.__cause__, protocol.ProtocolError)

    run(scenario())
    assert not caplog.records, "asyncio calls it a fatal error of ours"


def test_nonsense_from_a_client_closes_its_channel_with_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with open_pair(echo) as (host, guest):
            assert host._transport is not None
            host._transport.write(encode_frame(protocol.OPEN, 1, b"no JSON"))
            await guest.lost.wait()
            assert isinstance(guest._cause, protocol.ProtocolError)

    run(scenario())
    assert not caplog.records


def test_first_of_cancels_the_others() -> None:
    async def scenario() -> None:
        never = asyncio.Event()
        waiting = asyncio.ensure_future(never.wait())
        await first_of(asyncio.sleep(0), waiting)
        assert waiting.cancelled()

    run(scenario())
