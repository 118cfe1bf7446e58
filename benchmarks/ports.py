#!/usr/bin/env python3
"""What it costs to reach a port of a guest through its sandbox's owner, against QEMU's own host forwarding.

One guest, with a plain server in its guest OS. A client, which is a process of its own, reaches the server in two ways:

    direct   in QEMU's network namespace, on the address that QEMU forwards
    ours     on the host's loopback, where the owner listens, and carries each connection into that namespace

Each round measures both in turn, so that changes in the machine's speed cancel out.

    first     seconds from the client's `connect` to the first byte of the server, which speaks first
    download  MiB per second from the server
    upload    MiB per second to the server, until it has answered that it has all
    idle      connections that do nothing: the memory that they take in the owner, and in QEMU, and the seconds until
              all have the server's first byte; ours come all at once, and the direct ones in turn, since libslirp lets
              no more than two wait, and Linux drops the attempts of the others

Bars: first <= 1.5 times direct, and <= 30 ms; download and upload >= 0.9 times direct; 1,000 idle ones <= 20 MiB. Exits
with 1 when a bar that was measured is missed.

    .venv/bin/python benchmarks/ports.py [--rounds 5] [--accel tcg] [--connections 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

from startup import Bar, at_least, at_most, print_bars

from kata_dind import parse_spec
from kata_dind.backend import Forward, Guest, Wish, load_backend
from kata_dind.backend.vm.start import VmGuest
from kata_dind.host.descriptors import raise_descriptor_limit
from kata_dind.host.namespaces import inside_network_argv
from kata_dind.host.process import process_status
from kata_dind.life.connections import Connections
from kata_dind.machine.forwarding import GuestPort
from kata_dind.vocabulary import Transport
from kata_dind.wire.requests import Container, Exec, Output, Where

PORT = 7000
FIRST_BYTES_EACH, FIRST_BYTES_TURNS = 5, 6
BULK_MIB = 32

# It greets, then does what the client's first byte says.
SERVER = """
import os, selectors, socket, sys, threading
def serve(connected, order):
    connected.setblocking(True)
    with connected:
        if order == b"d":
            part = bytes(1 << 20)
            for _ in range(int(sys.argv[2])):
                connected.sendall(part)
        elif order == b"u":
            buffer = bytearray(1 << 18)
            while connected.recv_into(buffer):
                pass
            connected.sendall(b"+")
listening = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=4096)
if os.fork():
    os._exit(0)
os.setsid()
for fd in (0, 1, 2):
    os.close(fd)
selector = selectors.DefaultSelector()
selector.register(listening, selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        if key.fileobj is listening:
            connected, _ = listening.accept()
            connected.sendall(b"+")
            selector.register(connected, selectors.EVENT_READ)
            continue
        selector.unregister(key.fileobj)
        try:
            order = key.fileobj.recv(1)
        except ConnectionError:
            order = b""
        threading.Thread(target=serve, args=(key.fileobj, order)).start() if order else key.fileobj.close()
"""

# Prints what it has measured; `in turn` and `at once` do so when all are connected, and end with their input.
CLIENT = """
import selectors, socket, sys, time
what, address, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
def connect():
    connected = socket.create_connection((address, port))
    assert connected.recv(1) == b"+"
    return connected
if what == "first":
    for _ in range(count):
        started = time.monotonic()
        with connect():
            print(time.monotonic() - started)
        time.sleep(0.02)
elif what == "download":
    with connect() as connected:
        buffer, left, started = bytearray(1 << 20), count << 20, time.monotonic()
        connected.sendall(b"d")
        while left:
            left -= connected.recv_into(buffer)
        print(count / (time.monotonic() - started))
elif what == "upload":
    with connect() as connected:
        part, started = bytes(1 << 20), time.monotonic()
        connected.sendall(b"u")
        for _ in range(count):
            connected.sendall(part)
        connected.shutdown(socket.SHUT_WR)
        assert connected.recv(1) == b"+"
        print(count / (time.monotonic() - started))
elif what == "in turn":
    started = time.monotonic()
    all_of_them = [connect() for _ in range(count)]
    print(time.monotonic() - started, flush=True)
    sys.stdin.read()
elif what == "at once":
    selector, started, all_of_them = selectors.DefaultSelector(), time.monotonic(), []
    for _ in range(count):
        connected = socket.socket()
        connected.setblocking(False)
        connected.connect_ex((address, port))
        selector.register(connected, selectors.EVENT_READ)
        all_of_them.append(connected)
    left = count
    while left:
        for key, _ in selector.select():
            assert key.fileobj.recv(1) == b"+"
            selector.unregister(key.fileobj)
            left -= 1
    print(time.monotonic() - started, flush=True)
    sys.stdin.read()
"""


class Server:
    """The guest's server: where both ways to it begin."""

    def __init__(self, guest: VmGuest, forward: GuestPort, listening: tuple[str, int]) -> None:
        self.qemu = guest._machine.process.pid
        self._places = {"direct": forward._place, "ours": listening}

    def argv(self, way: str, what: str, count: int) -> list[str]:
        """Return the call of a client."""
        address, port = self._places[way]
        client = [sys.executable, "-c", CLIENT, what, address, str(port), str(count)]
        return client if way == "ours" else inside_network_argv(client, pid=self.qemu, as_root=os.geteuid() == 0)

    async def ask(self, way: str, what: str, count: int) -> list[float]:
        """Run a client to its end; return what it has measured."""
        process = await asyncio.create_subprocess_exec(*self.argv(way, what, count), stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        if process.returncode:
            raise SystemExit(f"the client '{what}' failed on the way '{way}'")
        print(f"{way} {what}: {output.decode().split()[-1]}", file=sys.stderr)
        return [float(line) for line in output.split()]


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """Make a directory for the sandbox's files."""
    with tempfile.TemporaryDirectory(prefix="kata-dind-ports-") as directory:
        yield Path(directory)


@contextlib.asynccontextmanager
async def served(accel: str) -> AsyncIterator[Server]:
    """Boot a guest with a server, and publish that, for the length of the block."""
    spec = parse_spec(name="bench", data_root="memory", size="512M", cold=True, accelerator=accel)
    backend = load_backend("vm")
    with temporary_directory() as directory:
        plan = backend.prepare(Wish(spec, directory), report=lambda _: None)
        with backend.begin(plan, directory, ephemeral=True) as begun:
            async with begun.meet(lambda _: None) as guest:
                guest.discard()
                container = guest.open(Container())
                reading = asyncio.ensure_future(_read_all(container))
                await _execute(guest, "sh", "-c", "until ip route | grep -q default; do sleep 0.1; done; sleep 20")
                await _execute(guest, "python3", "-c", SERVER, str(PORT), str(BULK_MIB))
                assert guest.ports is not None
                forward = await guest.ports.forward(Transport.TCP, PORT)
                async with _published(forward) as listening:
                    yield Server(cast(VmGuest, guest), cast(GuestPort, forward), listening)
                reading.cancel()


async def _read_all(stream: Any) -> bytes:
    output = b""
    while (part := await stream.receive()) is not None:
        output += part.data if isinstance(part, Output) else b""
    return output


async def _execute(guest: Guest, *argv: str) -> None:
    stream = guest.open(Exec(argv, Where.GUEST))
    stream.end()
    said = await _read_all(stream)
    if stream.result is None or stream.result.exit_code:
        raise SystemExit(f"{argv[0]} failed in the guest: {said.decode(errors='replace')}")


@contextlib.asynccontextmanager
async def _published(forward: Forward) -> AsyncIterator[tuple[str, int]]:
    loop, connections, tasks = asyncio.get_running_loop(), Connections(), set()
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        listening.setblocking(False)

        async def carry(client: socket.socket) -> None:
            await connections.carry(client, await forward.connect())

        async def accept() -> None:
            while True:
                client, _ = await loop.sock_accept(listening)
                task = asyncio.ensure_future(carry(client))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        accepting = asyncio.ensure_future(accept())
        try:
            yield listening.getsockname()
        finally:
            for task in (accepting, *tasks):
                task.cancel()


def resident_mib(pid: int) -> float:
    """Return how much memory a process has for itself."""
    row = next(line for line in process_status(pid).splitlines() if line.startswith("RssAnon:"))
    return int(row.split()[1]) / 1024


async def idle(server: Server, way: str, how: str, count: int) -> dict[str, float]:
    """Hold connections that do nothing, and look at what they take."""
    before = {"owner_mib": resident_mib(os.getpid()), "qemu_mib": resident_mib(server.qemu)}
    process = await asyncio.create_subprocess_exec(
        *server.argv(way, how, count), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    seconds = float(await process.stdout.readline())
    await asyncio.sleep(1)
    after = {"owner_mib": resident_mib(os.getpid()), "qemu_mib": resident_mib(server.qemu)}
    await process.communicate(b"")
    await asyncio.sleep(2)
    return {"seconds": round(seconds, 2), **{name: round(after[name] - before[name], 1) for name in before}}


async def measured(rounds: int, accel: str, connections: int) -> dict[str, Any]:
    """Measure all, round by round."""
    found: dict[str, Any] = {way: {"first": [], "download": [], "upload": []} for way in ("direct", "ours")}
    async with served(accel) as server:
        for way in found:
            await server.ask(way, "first", 3)
        for number in range(rounds):
            ways = sorted(found, reverse=bool(number % 2))
            for way in ways * FIRST_BYTES_TURNS:
                found[way]["first"] += await server.ask(way, "first", FIRST_BYTES_EACH)
            for way in ways:
                for what in ("download", "upload"):
                    found[way][what] += await server.ask(way, what, BULK_MIB)
        if connections:
            found["direct"]["idle"] = await idle(server, "direct", "in turn", connections)
            found["ours"]["idle"] = await idle(server, "ours", "at once", connections)
    return found


def bars(found: dict[str, Any]) -> Iterator[Bar]:
    """Compare the measurements with their bars."""
    ours, direct = found["ours"], found["direct"]

    def ratio(what: str) -> float:
        return statistics.median(float(one) / float(other) for one, other in zip(ours[what], direct[what], strict=True))

    first = float(statistics.median(ours["first"]) / statistics.median(direct["first"]))
    yield at_most("first byte, ours / direct, medians", first, 1.5)
    yield at_most("first byte, ms", statistics.median(ours["first"]) * 1000, 30)
    for what in ("download", "upload"):
        yield at_least(f"{what}, ours / direct, pair by pair, median", ratio(what), 0.9)
    if "idle" in ours:
        yield at_most("idle connections, MiB", ours["idle"]["owner_mib"], 20)


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--accel", default="auto", choices=["auto", "kvm", "tcg"])
    asked = parser.parse_args()
    raise_descriptor_limit()
    found = asyncio.run(measured(asked.rounds, asked.accel, asked.connections))
    for values in found.values():
        for what in ("first", "download", "upload"):
            values[what] = [round(value, 4) for value in values[what]]
    judged = [*bars(found)]
    medians = {
        way: {what: round(statistics.median(values[what]), 4) for what in ("first", "download", "upload")}
        for way, values in found.items()
    }
    print(json.dumps({"medians": medians, **found, "bars": [bar._asdict() for bar in judged]}))
    print_bars(judged)
    sys.exit(0 if all(bar.kept for bar in judged) else 1)


if __name__ == "__main__":
    main()
