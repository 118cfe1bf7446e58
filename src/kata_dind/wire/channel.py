"""A channel of framed streams over a connected socket, in asyncio: to the agent in a guest, and from our own clients.

The protocol, with its credit and epochs, is in `kata_dind.guest.agent.protocol`; this file only moves bytes and wakes
tasks that wait. Nothing here polls.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from kata_dind.guest.agent import protocol
from kata_dind.guest.agent.protocol import Frame, Mux, ProtocolError

READ_BYTES = 64 * 1024

OnEvent = Callable[[dict[str, Any]], None]
OnOpen = Callable[["ChannelStream", dict[str, Any]], Awaitable[None]]


class ChannelClosed(Exception):
    """The other side of the channel is gone."""


class ChannelStream:
    """One stream of a channel. `result` came with the other side's CLOSE; None while the stream is open."""

    def __init__(self, channel: Channel, number: int) -> None:
        self._channel = channel
        self._number = number
        self._incoming: deque[Frame] = deque()
        self._arrived = asyncio.Event()
        self._credit = asyncio.Event()
        self._lost = False
        self.result: dict[str, Any] | None = None

    async def receive(self) -> Frame | None:
        """Return the next DATA, END or CONTROL frame, None when the stream is closed.

        Raises ChannelClosed when the channel broke or began anew before the stream was closed.
        """
        while not self._incoming:
            if self._lost:
                raise ChannelClosed("the channel has begun anew")
            if self.result is not None:
                return None
            self._channel.raise_if_lost()
            self._arrived.clear()
            await self._arrived.wait()
        frame = self._incoming.popleft()
        if frame.kind == protocol.DATA:
            self._channel.consumed(self._number, len(frame.payload))
        return frame

    async def send(self, data: bytes, substream: int = protocol.MAIN) -> None:
        """Send bytes, waiting for credit and for the socket; after the other side's CLOSE, drop them."""
        view = memoryview(data)
        while view and self.result is None:
            await self._channel.writable()
            credit = self._channel.mux.credit(self._number)
            if not credit:
                self._credit.clear()
                await self._credit.wait()
                continue
            self._channel.mux.send(self._number, bytes(view[:credit]), substream)
            self._channel.flush()
            view = view[credit:]

    def end(self) -> None:
        """Say that we send no more; receiving continues."""
        self._channel.mux.end(self._number)
        self._channel.flush()

    def control(self, message: dict[str, Any]) -> None:
        """Send a message beside the bytes."""
        self._channel.mux.control(self._number, message)
        self._channel.flush()

    def close(self, result: dict[str, Any] | None = None) -> None:
        """End both directions; harmless when the stream is closed already."""
        self._channel.forget(self._number)
        self._channel.mux.close(self._number, result or {})
        self._channel.flush()
        self.result = self.result if self.result is not None else {}
        self.wake()

    async def wait_closed(self) -> dict[str, Any]:
        """Drop all frames until the other side closes the stream; return the result."""
        while await self.receive() is not None:
            pass
        return self.result or {}

    def deliver(self, frame: Frame) -> None:
        """Take a frame from the channel (the channel's part)."""
        if frame.kind == protocol.CLOSE:
            self.result = protocol.load_message(frame.payload)
        elif frame.kind != protocol.CREDIT:
            self._incoming.append(frame)
        self.wake()

    def lose(self) -> None:
        """Take note that the channel begins anew, without this stream (the channel's part)."""
        self._lost = self.result is None
        self.result = self.result if self.result is not None else {}
        self.wake()

    def wake(self) -> None:
        """Let the tasks that wait look again."""
        self._arrived.set()
        self._credit.set()


class Channel(asyncio.Protocol):
    """One side of a channel on an asyncio transport; `lost` is set when the socket is gone."""

    def __init__(self, *, is_host: bool, on_event: OnEvent | None = None, on_open: OnOpen | None = None) -> None:
        self.mux = Mux(is_host=is_host)
        self.lost = asyncio.Event()
        self.agreed = asyncio.Event()
        self._on_event = on_event
        self._on_open = on_open
        self._streams: dict[int, ChannelStream] = {}
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._cause: Exception | None = None
        self._hushed = False

    def begin(self) -> None:
        """Send the host's HELLO, with the time to which the guest should set its clock; all earlier streams are lost.

        `agreed` is set again once the guest has answered.
        """
        self.agreed.clear()
        for stream in self._streams.values():
            stream.lose()
        self._streams.clear()
        self.mux.hello(os.urandom(8).hex(), time=time.time())
        self._hushed = False
        self.flush()

    def hush(self) -> None:
        """Send nothing more until the channel begins anew.

        A guest that is suspended in the middle of a frame would take a later HELLO for the rest of that frame.
        """
        self._hushed = True

    def open(self, request: dict[str, Any]) -> ChannelStream:
        """Open a stream. Raises ChannelClosed when the channel is gone, ValueError for a request above 32 KiB."""
        self.raise_if_lost()
        number = self.mux.open(request)
        stream = self._streams[number] = ChannelStream(self, number)
        self.flush()
        return stream

    def close(self) -> None:
        """Close the socket; streams see ChannelClosed."""
        if self._transport is not None:
            self._transport.abort()
        for task in list(self._tasks):
            task.cancel()

    def raise_if_lost(self) -> None:
        """Raise ChannelClosed when the other side is gone."""
        if self.lost.is_set():
            raise ChannelClosed("the channel is closed") from self._cause

    async def writable(self) -> None:
        """Wait until the socket takes more. Raises ChannelClosed."""
        await self._writable.wait()
        self.raise_if_lost()

    def flush(self) -> None:
        """Hand the bytes in the mux to the socket, unless the socket is closed or the channel hushed."""
        if self._transport is None or self._transport.is_closing() or self._hushed:
            return
        while data := self.mux.peek():
            self.mux.took(len(data))
            self._transport.write(data)

    def consumed(self, number: int, count: int) -> None:
        """Grant credit for bytes that a reader has taken."""
        self.mux.consumed(number, count)
        self.flush()

    def forget(self, number: int) -> None:
        """Deliver no more to a stream."""
        self._streams.pop(number, None)

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=protocol.PENDING_BYTES)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Feed the mux, and act on the frames; bytes that make no sense end the channel."""
        try:
            for frame in self.mux.receive(data):
                self._act(frame)
        except ProtocolError as error:
            self._cause = error
            self.close()
            return
        self.flush()

    def pause_writing(self) -> None:
        """Let senders wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let senders continue."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake all tasks that wait; the next step of each raises ChannelClosed."""
        self._cause = self._cause or exc
        self.lost.set()
        self._writable.set()
        for stream in list(self._streams.values()):
            stream.wake()
        self._streams.clear()

    def _act(self, frame: Frame) -> None:
        if frame.kind == protocol.HELLO:
            self.agreed.set()
        elif frame.stream == protocol.EVENTS:
            if self._on_event is not None:
                self._on_event(protocol.load_message(frame.payload))
        elif frame.kind == protocol.OPEN:
            self._accept(frame)
        elif (stream := self._streams.get(frame.stream)) is not None:
            stream.deliver(frame)
            if frame.kind == protocol.CLOSE:
                self.forget(frame.stream)

    def _accept(self, frame: Frame) -> None:
        if self._on_open is None:
            self.mux.close(frame.stream, {"error": "nothing is served here"})
            return
        stream = self._streams[frame.stream] = ChannelStream(self, frame.stream)
        task = asyncio.ensure_future(self._serve(stream, protocol.load_message(frame.payload)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: ChannelStream, request: dict[str, Any]) -> None:
        assert self._on_open is not None
        with contextlib.suppress(ChannelClosed):
            await self._on_open(stream, request)


@contextlib.asynccontextmanager
async def open_channel(connected: socket.socket, *, on_event: OnEvent) -> AsyncIterator[Channel]:
    """Speak the host's side of the protocol on a connected socket, which is closed with the block.

    `channel.agreed` is set once the guest has answered.
    """
    channel = Channel(is_host=True, on_event=on_event)
    await asyncio.get_running_loop().create_connection(lambda: channel, sock=connected)
    channel.begin()
    try:
        yield channel
    finally:
        channel.close()
        # The transport closes its socket in a later turn of the loop, which may be about to end.
        await channel.lost.wait()


async def first_of(*waits: Any) -> None:
    """Wait until one of several awaitables is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do some work beside a block; it is cancelled at the block's end."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
