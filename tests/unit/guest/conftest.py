"""The guest's agent as a process of this host, and a channel to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kata_dind.guest.agent import protocol
from kata_dind.wire.channel import Channel, ChannelStream, open_channel

ROOT = Path(__file__).parents[3]


@dataclass
class AgentProcess:
    """A running agent; `call` runs a scenario on a channel to it."""

    process: subprocess.Popen[bytes]
    port: socket.socket
    run_directory: Path
    events: list[dict[str, Any]] = field(default_factory=list)

    def call(self, scenario: Callable[[Channel], Awaitable[None]], *, timeout_seconds: float = 20) -> None:
        async def run() -> None:
            async with asyncio.timeout(timeout_seconds), self.channel() as channel:
                await scenario(channel)

        asyncio.run(run())

    @contextlib.asynccontextmanager
    async def channel(self) -> AsyncIterator[Channel]:
        async with open_channel(self.port.dup(), on_event=self.events.append) as channel:
            await channel.agreed.wait()
            yield channel

    def memory_kib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.partition("VmRSS:")[2].split()[0])

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Output:
    """What came on a stream until it was closed."""

    stdout: bytes = b""
    stderr: bytes = b""
    ended: bool = False
    result: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    ours, theirs = socket.socketpair()
    argv = [sys.executable, "-m", "tests.unit.guest.agent_process", str(theirs.fileno()), str(tmp_path)]
    with ours, theirs:
        process = subprocess.Popen(argv, cwd=ROOT, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE)
        theirs.close()
        ours.setblocking(False)
        with process:
            try:
                yield AgentProcess(process, ours, tmp_path)
            finally:
                process.kill()


def start_command(channel: Channel, argv: Sequence[str], **request: Any) -> ChannelStream:
    return channel.open({"kind": "exec", "where": "guest", "argv": list(argv), **request})


def start_shell(channel: Channel, script: str, **request: Any) -> ChannelStream:
    return start_command(channel, ["sh", "-c", script], **request)


async def collect(stream: ChannelStream) -> Output:
    output = Output()
    while (frame := await stream.receive()) is not None:
        if frame.kind == protocol.END:
            output.ended = True
        elif frame.substream == protocol.ERROR:
            output.stderr += frame.payload
        else:
            output.stdout += frame.payload
    output.result = stream.result or {}
    return output


async def read_line(stream: ChannelStream) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        frame = await stream.receive()
        assert frame is not None, f"closed after {line!r}: {stream.result}"
        line += frame.payload
    return line
