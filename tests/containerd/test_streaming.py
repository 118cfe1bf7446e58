"""Commands over CRI's streaming server, as the backend carries them."""

from __future__ import annotations

import asyncio

import pytest

from kata_dind.backend.containerd.client import Containerd, connected
from kata_dind.backend.containerd.streaming import CommandStream, Streams
from kata_dind.sandbox.api import Sandbox
from kata_dind.wire.requests import Result, StreamLost, Terminal
from tests.containerd.sandboxes import Sandboxes

pytestmark = pytest.mark.requires("containerd", "mmdebstrap")


def command(containerd: Containerd, container_id: str, *argv: str, terminal: Terminal | None = None) -> CommandStream:
    async def open_url() -> str:
        plain = terminal is None
        answer = await containerd.ask("RuntimeService/Exec", failing="no", container_id=container_id, cmd=list(argv),
                                      tty=not plain, stdin=True, stdout=True, stderr=plain)  # fmt: skip
        return str(answer.url)

    return CommandStream(open_url, Streams(terminal=terminal, errors=True), is_gone=lambda: True)


async def read_all(stream: CommandStream) -> tuple[bytes, bytes]:
    out, err = b"", b""
    while (part := await stream.receive()) is not None:
        out, err = (out, err + part.data) if part.is_error else (out + part.data, err)
    return out, err


def test_streams(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes.up(data_root="memory", size="256M", memory="1G")
    with connected(sandboxes.host.address) as containerd:
        asyncio.run(_streams(containerd, sandboxes.pod_of(sandbox).container_id))
        asyncio.run(_lost(containerd, sandboxes, sandbox))


async def _streams(containerd: Containerd, container_id: str) -> None:
    both = command(containerd, container_id, "sh", "-c", "cat; echo error >&2; exit 7")
    await both.send(b"x" * 1_000_000)
    both.end()
    assert await read_all(both) == (b"x" * 1_000_000, b"error\n")
    assert both.result == Result(7)
    await both.send(b"dropped")

    sized = command(containerd, container_id, "sh", "-c", "read line; stty size", terminal=Terminal(11, 22))
    sized.resize(Terminal(33, 44))
    await sized.send(b"\n")
    out, _ = await read_all(sized)
    assert out.split() == [b"33", b"44"]
    assert sized.result == Result(0)

    absent = command(containerd, container_id, "no-such-program")
    assert await read_all(absent) == (b"", b"")
    assert absent.result is not None
    assert "no-such-program" in absent.result.error

    closed = command(containerd, container_id, "sleep", "60")
    closed.close()
    assert closed.result == Result()


async def _lost(containerd: Containerd, sandboxes: Sandboxes, sandbox: Sandbox) -> None:
    stream = command(containerd, sandboxes.pod_of(sandbox).container_id, "sleep", "60")
    reading = asyncio.ensure_future(stream.receive())
    await asyncio.sleep(1)
    sandboxes.kill_pod(sandbox)
    try:
        assert await reading is None  # with the status of a command that was killed
        assert stream.result is not None
    except StreamLost:
        pass
