"""Carrying bytes between a client and a guest's stream; each half closes when its source does."""

from __future__ import annotations

import asyncio
from typing import Protocol

from kata_dind.guest.agent import protocol
from kata_dind.wire.channel import READ_BYTES, ChannelClosed, ChannelStream
from kata_dind.wire.requests import Output, Stream, StreamLost, Terminal, result_to_json


class Upload(Protocol):
    """Carries what a client sends to a guest's stream, and sees what comes back."""

    async def carry(self) -> None:
        """Carry bytes until the client sends no more. Raises ConnectionError, StreamLost."""

    def came_back(self, data: bytes) -> None:
        """See bytes that the client was sent."""


async def relay_connection(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: Stream, upload: Upload | None = None
) -> None:
    """Carry bytes between a client's connection to the endpoint and a stream; without `upload` all of them."""
    carrier = upload or _Everything(reader, stream)
    sending = asyncio.ensure_future(_send(carrier, stream))
    try:
        while (part := await stream.receive()) is not None:
            if isinstance(part, Output):
                writer.write(part.data)
                carrier.came_back(part.data)
                await writer.drain()
            elif writer.can_write_eof():
                writer.write_eof()
    except (ConnectionError, StreamLost):
        pass  # the client or the guest has gone; both halves end here
    finally:
        sending.cancel()
        stream.close()
        writer.close()
        await asyncio.gather(sending, return_exceptions=True)


async def _send(carrier: Upload, stream: Stream) -> None:
    try:
        await carrier.carry()
    except ConnectionError:
        stream.close()  # the client was killed, so no answer is needed
    else:
        stream.end()


class _Everything:
    """Carries all bytes."""

    def __init__(self, reader: asyncio.StreamReader, stream: Stream) -> None:
        self._reader = reader
        self._stream = stream

    async def carry(self) -> None:
        while data := await self._reader.read(READ_BYTES):
            await self._stream.send(data)

    def came_back(self, data: bytes) -> None:
        pass


async def relay_command(client: ChannelStream, stream: Stream) -> None:
    """Carry a command between a client of the control socket and the guest, until one side ends it."""
    outward = asyncio.ensure_future(_carry_output(stream, client))
    inward = asyncio.ensure_future(_carry_input(client, stream))
    try:
        await asyncio.wait([outward, inward], return_when=asyncio.FIRST_COMPLETED)
        if stream.result is not None:  # the guest has ended it: let what it sent before go out first
            await outward
    finally:
        for task in (outward, inward):
            task.cancel()
        await asyncio.gather(outward, inward, return_exceptions=True)
        client.close(result_to_json(stream.result))
        stream.close()


async def _carry_output(stream: Stream, client: ChannelStream) -> None:
    while (part := await stream.receive()) is not None:
        if isinstance(part, Output):
            await client.send(part.data, protocol.ERROR if part.is_error else protocol.MAIN)
        else:
            client.end()


async def _carry_input(client: ChannelStream, stream: Stream) -> None:
    try:
        while (frame := await client.receive()) is not None:
            if frame.kind == protocol.DATA:
                await stream.send(frame.payload)
            elif frame.kind == protocol.END:
                stream.end()
            elif frame.kind == protocol.CONTROL:
                _pass_on(protocol.load_message(frame.payload), stream)
    except ChannelClosed:
        pass  # the client is gone, and its command with it


def _pass_on(message: dict[str, object], stream: Stream) -> None:
    match message:
        case {"rows": int(rows), "columns": int(columns)}:
            stream.resize(Terminal(rows, columns))
        case {"signal": int(number)}:
            stream.signal(number)
