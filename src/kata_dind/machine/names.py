"""The guest's nameserver where it may reach services of the host: it knows one name more than the host's resolver.

It listens on the guest's gateway, and so serves the guest OS, containers and builds alike. A container copies the
guest's nameserver when it is made, and none of that has to be changed where it is in use already.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any

from kata_dind.machine import socket_maker
from kata_dind.machine.argv import GUEST_GATEWAY
from kata_dind.machine.network import OUTER_DNS

if TYPE_CHECKING:
    from kata_dind.machine.forwarding import GuestPorts

HOST_NAME = "host.docker.internal"
"""The name that Docker Desktop gives the host."""

DNS_PORT = 53

_UPSTREAM = (OUTER_DNS, DNS_PORT)
_ANSWER_SECONDS = 15.0
"""Longer than resolvers wait."""
_MOST_QUESTIONS = 256
"""How many questions may wait for an answer at a time."""
_TIME_TO_LIVE_SECONDS = 60

_HEADER = struct.Struct("!HHHHHH")
_ANSWER, _RECURSION_WANTED, _RECURSION_OFFERED = 0x8400, 0x0100, 0x0080
_TYPE_A, _CLASS_IN = 1, 1


def own_answer(question: bytes) -> bytes | None:
    """Compute the answer to a question for the host's name; None for any other question. Source: RFC 1035, 4.1."""
    if len(question) < _HEADER.size:
        return None
    number, flags, questions, *_ = _HEADER.unpack_from(question)
    if flags & 0xF800 or questions != 1:  # an answer, or another operation than a query
        return None
    labels, at = [], _HEADER.size
    while at < len(question) and (length := question[at]) and length < 64:
        labels.append(question[at + 1 : at + 1 + length])
        at += 1 + length
    end = at + 5
    if len(question) < end or b".".join(labels).lower() != HOST_NAME.encode():
        return None
    kind, class_ = struct.unpack_from("!HH", question, at + 1)
    records = b""
    if (kind, class_) == (_TYPE_A, _CLASS_IN):
        records = struct.pack("!HHHIH", 0xC000 | _HEADER.size, kind, class_, _TIME_TO_LIVE_SECONDS, 4)
        records += socket.inet_aton(GUEST_GATEWAY)
    head = _HEADER.pack(number, _ANSWER | flags & _RECURSION_WANTED | _RECURSION_OFFERED, 1, bool(records), 0, 0)
    return head + question[_HEADER.size : end] + records


@contextlib.asynccontextmanager
async def serving_names(ports: GuestPorts) -> AsyncIterator[None]:
    """Answer the guest's questions for the length of the block. Raises SandboxError."""
    async with contextlib.AsyncExitStack() as stack:
        datagrams = stack.enter_context(await ports.listen(DNS_PORT, socket_maker.UDP))
        connections = stack.enter_context(await ports.listen(DNS_PORT))
        nameserver = _Nameserver(ports, datagrams)
        stack.push_async_callback(nameserver.close)
        server = await asyncio.start_server(nameserver.serve, sock=connections)
        stack.callback(server.close)
        yield


class _Nameserver:
    """Answers what it knows, and passes all other questions on."""

    def __init__(self, ports: GuestPorts, datagrams: socket.socket) -> None:
        self._ports = ports
        self._datagrams = datagrams
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(datagrams, self._hear)

    async def close(self) -> None:
        self._loop.remove_reader(self._datagrams)
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _hear(self) -> None:
        with contextlib.suppress(OSError):
            question, asker = self._datagrams.recvfrom(65535)
            if answer := own_answer(question):
                self._datagrams.sendto(answer, asker)
            elif len(self._tasks) < _MOST_QUESTIONS:
                self._begin(self._pass_on(question, asker))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, question: bytes, asker: Any) -> None:
        # Without an answer, whoever has asked asks again.
        with contextlib.suppress(OSError), await self._ports.take(socket_maker.UDP) as upstream:
            upstream.connect(_UPSTREAM)
            upstream.send(question)
            async with asyncio.timeout(_ANSWER_SECONDS):
                answer = await self._loop.sock_recv(upstream, 65535)
            self._datagrams.sendto(answer, asker)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer questions that come over a connection, as those do whose answer is too large for a datagram."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(writer.close)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                upstream = None
                async with asyncio.timeout(_ANSWER_SECONDS) as deadline:
                    while True:
                        question = await _read_message(reader)
                        answer = own_answer(question)
                        if answer is None:
                            if upstream is None:
                                upstream = await self._connected(stack)
                            upstream[1].write(_framed(question))
                            answer = await _read_message(upstream[0])
                        writer.write(_framed(answer))
                        await writer.drain()
                        deadline.reschedule(self._loop.time() + _ANSWER_SECONDS)

    async def _connected(self, stack: contextlib.AsyncExitStack) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        made = await self._ports.take(socket_maker.TCP)
        try:
            await self._loop.sock_connect(made, _UPSTREAM)
        except BaseException:
            made.close()
            raise
        reader, writer = await asyncio.open_connection(sock=made)
        stack.callback(writer.close)
        return reader, writer


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message
