"""The client of `benchmarks/webhook.py`, as a process of its own: reviews over TLS connections that stay open.

With a rate, each review is due at a fixed moment, and its time counts from there, also when the one before is late.
Without one, each connection sends the next review as soon as it has the answer. Prints a JSON object.

    .venv/bin/python benchmarks/webhook_load.py '{"port": 8443, "rate": 200, "seconds": 10, "mix": "repair", ...}'
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections import deque
from typing import Any, cast

import uvloop
from webhook_reviews import MIXES, request_of


class Client(asyncio.Protocol):
    """One connection, on which one review at a time is asked for."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._got = bytearray()
        self._awaited = 0
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self._transport = cast("asyncio.Transport", transport)

    def send(self, content: bytes, due: float) -> None:
        """Ask."""
        self._due = due
        self._transport.write(content)

    def data_received(self, data: bytes) -> None:
        """Collect an answer, of which the head alone is looked at."""
        self._got += data
        if not self._awaited:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._got[:end]).lower()
            if not head.startswith(b"http/1.1 200 "):
                self._load.failures += 1
            self._awaited = end + 4 + int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        if len(self._got) >= self._awaited:
            self._load.bytes += self._awaited
            self._got.clear()
            self._awaited = 0
            self._load.answered(self, time.perf_counter() - self._due)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell a loss before the end."""
        self._load.lost()


class Load:
    """All connections, and what they have measured."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._rate: float | None = told.get("rate")
        self._seconds: float | None = told.get("seconds")
        self._count: int | None = told.get("reviews")
        self._total: int | None = None
        """How many there are at a rate, when the last of them is on its way."""
        self._requests = [request_of(review) for review in MIXES[told["mix"]]()]
        self._free: deque[Client] = deque()
        self._late: deque[float] = deque()
        self._sent = 0
        self._ended = asyncio.Event()
        self.latencies: list[float] = []
        self.lateness: list[float] = []
        """By how much this client itself sent reviews too late, although a connection was free: a part of latencies."""
        self.failures = self.bytes = 0
        self.connections = told.get("connections", 8)

    async def run(self, port: int, context: ssl.SSLContext) -> dict[str, Any]:
        """Connect, measure, and tell."""
        loop = asyncio.get_running_loop()
        for _ in range(self.connections):
            _, client = await loop.create_connection(
                lambda: Client(self), "127.0.0.1", port, ssl=context, server_hostname="127.0.0.1"
            )
            self._free.append(client)
        cpu, started = time.process_time(), time.perf_counter()
        self._until = started + self._seconds if self._seconds else None
        if self._rate:
            await self._paced(started, self._rate, int(self._rate * (self._seconds or 0)))
        else:
            for client in [*self._free]:
                self._send(client, time.perf_counter())
        await self._ended.wait()
        took = time.perf_counter() - started
        return {
            "latencies": sorted(self.latencies),
            "lateness": sorted(self.lateness),
            "failures": self.failures,
            "seconds": took,
            "processor_seconds": time.process_time() - cpu,
            "mib": self.bytes / 2**20,
        }

    async def _paced(self, started: float, rate: float, total: int) -> None:
        for number in range(total):
            due = started + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            if self._free:
                self.lateness.append(time.perf_counter() - due)
                self._send(self._free.popleft(), due)
            else:
                self._late.append(due)
        self._total = total
        self._end_if_all_came()

    def _end_if_all_came(self) -> None:
        if self._total is not None and len(self.latencies) >= self._total:
            self._ended.set()

    def _send(self, client: Client, due: float) -> None:
        client.send(self._requests[self._sent % len(self._requests)], due)
        self._sent += 1

    def answered(self, client: Client, seconds: float) -> None:
        """Note an answer, and use its connection for the next review."""
        self.latencies.append(seconds)
        if self._rate:
            if self._late:
                self._send(client, self._late.popleft())
            else:
                self._free.append(client)
                self._end_if_all_came()
        elif (self._until is None or time.perf_counter() < self._until) and (
            self._count is None or self._sent < self._count
        ):
            self._send(client, time.perf_counter())
        elif len(self.latencies) == self._sent:
            self._ended.set()

    def lost(self) -> None:
        """Note a connection that ended too early."""
        if not self._ended.is_set():
            self.failures += 1
            self._ended.set()


def main() -> None:
    """Measure and print."""
    told = json.loads(sys.argv[1])
    context = ssl.create_default_context(cafile=told["authority"])

    async def run() -> dict[str, Any]:
        return await Load(told).run(told["port"], context)

    print(json.dumps(uvloop.run(run())))


if __name__ == "__main__":
    main()
