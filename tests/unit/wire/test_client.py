"""The client of a control socket against a real channel's server; an attached client runs in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from kata_dind.errors import GuestNotReady, SandboxError
from kata_dind.guest.agent import protocol
from kata_dind.guest.agent.protocol import ERROR
from kata_dind.wire import client
from kata_dind.wire.channel import Channel, ChannelStream
from kata_dind.wire.client import ExecResult, capture

ATTACH = """
import json, sys
from pathlib import Path
from kata_dind.wire.client import attach
from kata_dind.errors import KataDindError
try:
    code = attach(Path(sys.argv[1]), {"kind": "exec", "argv": json.loads(sys.argv[2])}, terminal=sys.argv[3] == "tty")
except KataDindError as error:
    sys.exit(f"{type(error).__name__}: {error.summary}")
sys.exit(code)
"""


class Guest:
    """The server of the control socket: commands that each show one thing, and a list of all requests."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.channels: list[Channel] = []

    def channel(self) -> Channel:
        self.channels.append(Channel(is_host=False, on_open=self.serve))
        return self.channels[-1]

    async def serve(self, stream: ChannelStream, request: dict[str, Any]) -> None:
        self.requests.append(request)
        command, *arguments = request["argv"]
        await getattr(self, command)(stream, *arguments)

    async def say(self, stream: ChannelStream, out: str, err: str, code: int) -> None:
        await stream.send(out.encode())
        await stream.send(err.encode(), ERROR)
        stream.close({"exit_code": code})

    async def count(self, stream: ChannelStream) -> None:
        """At the end of the input, send the number of its bytes, as `wc -c` does."""
        total = 0
        while (frame := await stream.receive()) is not None and frame.kind != protocol.END:
            total += len(frame.payload) if frame.kind == protocol.DATA else 0
        await stream.send(str(total).encode())
        stream.close({"exit_code": 0})

    async def echo(self, stream: ChannelStream) -> None:
        """Send all bytes back, and messages as lines."""
        while (frame := await stream.receive()) is not None and frame.kind != protocol.END:
            if frame.kind == protocol.DATA:
                await stream.send(frame.payload)
            else:
                self.messages.append(protocol.load_message(frame.payload))
                await stream.send(b"message " + frame.payload + b"\n")
        stream.close({"exit_code": 0})

    async def flood(self, stream: ChannelStream, count: int) -> None:
        await stream.send(bytes(count))
        stream.close({"exit_code": 0})

    async def deaf(self, stream: ChannelStream) -> None:
        """End without having read anything."""
        await asyncio.sleep(0.1)
        stream.close({"exit_code": 5})

    async def stall(self, stream: ChannelStream) -> None:
        await asyncio.Event().wait()

    async def vanish(self, stream: ChannelStream) -> None:
        for channel in self.channels:
            channel.close()

    async def refuse(self, stream: ChannelStream) -> None:
        stream.close({"error": "ProcessLookupError: no container runs"})

    async def close(self, stream: ChannelStream) -> None:
        stream.close({})


@pytest.fixture
def guest() -> Guest:
    return Guest()


@pytest.fixture
def path(tmp_path: Path, guest: Guest) -> Iterator[Path]:
    """A control socket, served in a thread."""
    loop = asyncio.new_event_loop()
    path = tmp_path / "control.sock"
    server = loop.run_until_complete(loop.create_unix_server(guest.channel, str(path)))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield path

    async def end() -> None:
        server.close()
        for channel in guest.channels:
            channel.close()
            await channel.lost.wait()

    asyncio.run_coroutine_threadsafe(end(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def run(path: Path, *argv: object, stdin: bytes = b"", timeout_seconds: float = 10) -> ExecResult:
    return capture(path, {"kind": "exec", "argv": [*argv]}, stdin=stdin, timeout_seconds=timeout_seconds)


# --- captured


def test_outputs_and_exit_code_are_kept_apart(path: Path) -> None:
    assert run(path, "say", "out", "err", 3) == ExecResult(3, b"out", b"err")


@pytest.mark.parametrize("count", [0, 1, 1 << 18, (1 << 20) + 1])
def test_the_whole_input_arrives_and_ends(path: Path, count: int) -> None:
    assert run(path, "count", stdin=bytes(count)).stdout == str(count).encode()


def test_a_megabyte_goes_there_and_back(path: Path) -> None:
    data = os.urandom(1 << 20)
    assert run(path, "echo", stdin=data).stdout == data


def test_a_command_that_does_not_read_its_input_still_ends(path: Path) -> None:
    assert run(path, "deaf", stdin=bytes(1 << 20)).exit_code == 5


def test_a_command_that_does_not_end_is_given_up_in_time(path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(GuestNotReady, match="did not end in time"):
        run(path, "stall", timeout_seconds=0.2)
    assert time.monotonic() - began < 2


def test_a_sandbox_that_ends_meanwhile_is_told(path: Path) -> None:
    with pytest.raises(GuestNotReady, match="the sandbox"):
        run(path, "vanish")


def test_what_the_guest_cannot_run_is_its_error(path: Path) -> None:
    with pytest.raises(SandboxError, match="the command could not be run: ProcessLookupError: no container"):
        run(path, "refuse")


def test_a_stream_that_is_closed_without_a_code_is_a_sandbox_that_ended(path: Path) -> None:
    with pytest.raises(GuestNotReady, match="the sandbox ended before the command did"):
        run(path, "close")


def test_too_many_arguments_are_told_as_such(path: Path, guest: Guest) -> None:
    with pytest.raises(SandboxError, match="the command is too long"):
        run(path, "say", "x" * 40_000)
    assert guest.requests == []


# --- connecting


def test_a_socket_that_is_not_served_is_reported(tmp_path: Path) -> None:
    with pytest.raises(GuestNotReady, match="the sandbox does not answer: No such file"):
        run(tmp_path / "absent.sock", "say")


@contextlib.contextmanager
def listening(tmp_path: Path, answer: bytes) -> Iterator[Path]:
    """A socket that gives its first client a fixed answer."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                with contextlib.suppress(OSError):
                    connection.recv(1) if not answer else None

        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        thread.join()


def test_a_socket_that_is_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_CONNECT_SECONDS", 0.2)
    with listening(tmp_path, b"") as path, pytest.raises(GuestNotReady, match="broke the connection: timed out"):
        run(path, "say")


def test_a_socket_that_speaks_something_else_is_told(tmp_path: Path) -> None:
    with listening(tmp_path, b"HTTP/1.1 400 Bad Request\r\n\r\n") as path, pytest.raises(GuestNotReady, match="no"):
        run(path, "say")


# --- attached


@contextlib.contextmanager
def attached(
    path: Path,
    *argv: object,
    stdin: int | IO[bytes] = subprocess.PIPE,
    stdout: int | IO[bytes] = subprocess.PIPE,
    terminal: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", ATTACH, str(path), json.dumps(argv), "tty" if terminal else "plain"]
    with subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_our_own_descriptors_are_the_commands(path: Path) -> None:
    with attached(path, "say", "out", "err", 7) as process:
        assert process.communicate(timeout=5) == (b"out", b"err")
        assert process.returncode == 7


def test_what_is_typed_is_answered_before_the_input_ends(path: Path) -> None:
    with attached(path, "echo") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for word in (b"one\n", b"two\n"):
            process.stdin.write(word)
            process.stdin.flush()
            assert process.stdout.readline() == word
        process.stdin.close()
        assert process.wait(5) == 0


@pytest.mark.parametrize("count", [0, 10, 65_536, 300_000, 1 << 20])
def test_a_file_as_input_ends(path: Path, tmp_path: Path, count: int) -> None:
    file = tmp_path / "input"
    file.write_bytes(bytes(count))
    with file.open("rb") as stdin, attached(path, "count", stdin=stdin) as process:
        assert process.communicate(timeout=5)[0] == str(count).encode()


def test_no_input_ends_at_once(path: Path) -> None:
    with attached(path, "count", stdin=subprocess.DEVNULL) as process:
        assert process.communicate(timeout=5)[0] == b"0"


def test_a_pipe_as_input_is_carried_whole(path: Path) -> None:
    with attached(path, "count") as process:
        assert process.communicate(bytes(3 << 20), timeout=5)[0] == str(3 << 20).encode()


def test_a_large_output_waits_for_a_slow_reader(path: Path) -> None:
    with attached(path, "flood", 3 << 20, stdin=subprocess.DEVNULL) as process:
        time.sleep(0.2)
        assert len(process.communicate(timeout=5)[0]) == 3 << 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(path: Path, guest: Guest, number: signal.Signals) -> None:
    with attached(path, "echo") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"ready\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == b'message {"signal":%d}\n' % number
        process.stdin.close()
        assert process.wait(5) == 0
    assert guest.messages == [{"signal": number}]


def test_a_sandbox_that_ends_under_an_attached_command_is_told(path: Path) -> None:
    with attached(path, "vanish") as process:
        assert b"GuestNotReady: the sandbox" in process.communicate(timeout=5)[1]
        assert process.returncode == 1


# --- with a terminal


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
    yield master, slave
    os.close(master)
    os.close(slave)


def read_until(master: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        seen += os.read(master, 1000)
    return seen


@pytest.mark.timeout(10)
def test_a_terminal_is_raw_meanwhile_and_follows_resizes(path: Path, guest: Guest, terminal: tuple[int, int]) -> None:
    master, slave = terminal
    before = termios.tcgetattr(slave)
    with attached(path, "echo", stdin=slave, stdout=slave, terminal=True) as process:
        while termios.tcgetattr(slave)[3] & (termios.ECHO | termios.ICANON | termios.ISIG):
            time.sleep(0.01)
        os.write(master, b"\x03\x04\x1a\x00")
        read_until(master, b"\x03\x04\x1a")
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        process.send_signal(signal.SIGWINCH)  # the kernel sends it to the terminal's own session
        read_until(master, b'message {"rows":40,"columns":100}')
        asyncio.run_coroutine_threadsafe(end_all(guest), loop_of(guest)).result(5)
        assert process.wait(5) == 1
    assert termios.tcgetattr(slave) == before
    assert (guest.requests[0]["tty"], guest.requests[0]["rows"], guest.requests[0]["columns"]) == (True, 30, 90)


def loop_of(guest: Guest) -> asyncio.AbstractEventLoop:
    (task, *_) = guest.channels[0]._tasks
    return task.get_loop()


async def end_all(guest: Guest) -> None:
    for channel in guest.channels:
        channel.close()
