"""Carrying a Docker client's requests to dockerd, but for those that ask for files of the host that it can't have."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from kata_dind.life.bind_guard import MOST_HELD_BYTES, BindGuard, too_long
from kata_dind.life.binds import may_bind
from kata_dind.wire.channel import READ_BYTES
from kata_dind.wire.http_messages import Conversation, Held, Step, TooLong

if TYPE_CHECKING:
    from kata_dind.backend import Guest
    from kata_dind.store.sandboxes import Record
    from kata_dind.wire.requests import Stream

_INVITATION = b"HTTP/1.1 100 Continue\r\n\r\n"

_LAST_WORDS_SECONDS = 2.0
"""For a client to read an answer after which the connection is closed, although it may still be sending."""


class GuardedUpload:
    """One client's connection, as `relay_connection` wants it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: Stream, guard: BindGuard
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._stream = stream
        self._guard = guard
        self._conversation = Conversation(may_bind, most_held_bytes=MOST_HELD_BYTES)
        self._came_back = asyncio.Event()

    async def carry(self) -> None:
        """Carry requests until the client sends no more, or was given an answer that is the last."""
        conversation = self._conversation
        while data := await self._reader.read(READ_BYTES):
            if conversation.is_raw:
                await self._stream.send(data)
                continue
            for step in conversation.from_client(data):
                if isinstance(step, bytes):
                    await self._stream.send(step)
                elif await self._decide(step):
                    await self._end()
                    return
        if kept := conversation.at_end():
            await self._stream.send(kept)

    def came_back(self, data: bytes) -> None:
        """See what dockerd answers."""
        if not self._conversation.is_raw:
            self._conversation.from_server(data)
            self._came_back.set()

    async def _decide(self, step: Step) -> bool:
        """Carry out a step that is not just bytes; return whether the client was given its last answer."""
        match step:
            case Held():
                answer = await self._guard.refused(step.request, step.body)
                if answer is None:
                    return False
                step.refused = True
                await self._say(answer)
                return step.request.is_last
            case TooLong():
                await self._say(too_long(step.request))
                return True
            case _:
                await self._say(_INVITATION)
                return False

    async def _say(self, answer: bytes) -> None:
        """Give an answer of ours, after those that dockerd has yet to give."""
        while not (self._conversation.is_idle or self._conversation.is_raw):
            self._came_back.clear()
            await self._came_back.wait()
        self._writer.write(answer)
        await self._writer.drain()

    async def _end(self) -> None:
        self._writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                while await self._reader.read(READ_BYTES):
                    pass
        self._stream.close()


def guarded_upload(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: Stream, *, record: Record, guest: Guest
) -> GuardedUpload:
    """Return what carries a client's requests to the dockerd of a sandbox."""
    return GuardedUpload(reader, writer, stream, BindGuard(record, guest))
