"""Reviews at a steady rate over connections that stay open, as an API server sends them; each failure is told.

A connection that the webhook wants to close is opened again. One that breaks after a request was written is a failure:
an API server does not repeat it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.webhook.client import common_name, post

_ANSWER_SECONDS = 10.0
"""The timeout of a webhook, if its registration has none."""
_GOODBYE_SECONDS = 2.0


@dataclass
class Load:
    """What came of it."""

    rate: float
    """Reviews in a second."""
    bodies: Sequence[bytes]
    port: Callable[[int], int]
    """The port of the n-th connection: what a Service would do."""
    context: ssl.SSLContext
    connections: int = 8
    reviews_per_connection: int = 50
    """After so many, a new connection is opened."""
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    certificates: Counter[str] = field(default_factory=Counter)
    ports: Counter[int] = field(default_factory=Counter)
    answers: Callable[[bytes], None] | None = None
    """Is shown each answer's body."""
    _ends: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _opened: Iterator[int] = field(default_factory=itertools.count)

    def __enter__(self) -> Load:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        assert self._thread is not None
        self._thread.join()

    def wait_for(self, reviews: int, *, timeout_seconds: float = 60.0) -> None:
        """Wait until so many more were answered."""
        wanted, deadline = len(self.seconds) + len(self.failures) + reviews, time.monotonic() + timeout_seconds
        while len(self.seconds) + len(self.failures) < wanted:
            assert time.monotonic() < deadline, "the load comes to a standstill"
            time.sleep(0.02)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self.connections):
                group.create_task(self._ask(number))

    async def _ask(self, number: int) -> None:
        start, turn = time.monotonic(), 0
        while not self._ends.is_set():
            try:
                reader, writer = await self._connect()
            except (OSError, TimeoutError) as error:
                self.failures.append(f"no connection: {type(error).__name__}: {error}")
                await asyncio.sleep(0.1)
                continue
            try:
                for _ in range(self.reviews_per_connection):
                    due = start + (turn * self.connections + number) / self.rate
                    turn += 1
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    if self._ends.is_set() or not await self._review(reader, writer, turn + number):
                        break
            finally:
                await self._close(writer)

    @staticmethod
    async def _close(writer: asyncio.StreamWriter) -> None:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), _GOODBYE_SECONDS)
            return
        writer.transport.abort()
        await asyncio.sleep(0)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = self.port(next(self._opened))
        streams = await asyncio.wait_for(
            asyncio.open_connection("127.0.0.1", port, ssl=self.context, server_hostname="127.0.0.1"), _ANSWER_SECONDS
        )
        self.certificates[common_name(streams[1].get_extra_info("peercert"))] += 1
        self.ports[port] += 1
        return streams

    async def _review(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, which: int) -> bool:
        """Send a review, and tell whether the connection may be used for another."""
        if reader.at_eof():
            return False  # as an API server, which sees that before it writes
        started = time.monotonic()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                writer.write(post(self.bodies[which % len(self.bodies)], path="/mutate?timeout=10s"))
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            return False
        if not head.startswith(b"http/1.1 200 "):
            status = head.partition(b"\r\n")[0].decode()
            self.failures.append(f"{status}: {body[:200].decode(errors='replace')}")
        self.seconds.append(time.monotonic() - started)
        if self.answers is not None:
            self.answers(body)
        return b"connection: close" not in head
