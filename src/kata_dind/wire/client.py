"""A client of a sandbox's control socket: run a command in the guest, attached or captured; ask it to stop.

It uses plain blocking sockets and `selectors`, since a command-line program has one stream and must start quickly.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import socket
import struct
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_dind.errors import GuestNotReady, SandboxError
from kata_dind.guest.agent import protocol
from kata_dind.guest.agent.protocol import Frame, Mux, ProtocolError

_LOST_EXIT_CODE = 255
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class ExecResult:
    """A command in the guest that ended."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Connection:
    """A client's one connection to a sandbox, with one stream on it."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._mux = Mux(is_host=True)
        self._frames: list[Frame] = []
        self._mux.hello("client", time=0)
        while not self._agreed():
            self._flush()

    @property
    def fd(self) -> int:
        """The descriptor to wait on for reading."""
        return self._socket.fileno()

    def open(self, request: dict[str, Any]) -> int:
        """Open a stream. Raises SandboxError for a request above 32 KiB: too many or too long arguments."""
        try:
            number = self._mux.open(request)
        except ValueError as error:
            raise SandboxError(f"the command is too long: {error}", id="process.command-too-long") from error
        self._flush()
        return number

    def send(self, number: int, data: bytes) -> None:
        """Send bytes, at most `credit` of them."""
        self._mux.send(number, data)
        self._flush()

    def credit(self, number: int) -> int:
        """How many bytes may be sent now."""
        return self._mux.credit(number)

    def end(self, number: int) -> None:
        """Say that no more bytes follow."""
        self._mux.end(number)
        self._flush()

    def send_message(self, number: int, message: dict[str, Any]) -> None:
        """Send a message beside the bytes: a resize, a signal."""
        self._mux.control(number, message)
        self._flush()

    def receive(self) -> list[Frame]:
        """Wait for frames and return them. Raises GuestNotReady when the owner is gone."""
        if self._frames:
            frames, self._frames = self._frames, []
            return frames
        try:
            data = self._socket.recv(65536)
            frames = self._mux.receive(data)
        except (OSError, ProtocolError) as error:
            raise GuestNotReady(f"the sandbox broke the connection: {error}", id="sandbox.connection-broken") from error
        if not data:
            raise GuestNotReady("the sandbox has ended", id="sandbox.ended")
        for frame in frames:
            if frame.kind == protocol.DATA:
                self._mux.consumed(frame.stream, len(frame.payload))
        self._flush()
        return frames

    def _agreed(self) -> bool:
        self._flush()
        return any(frame.kind == protocol.HELLO for frame in self.receive())

    def _flush(self) -> None:
        while data := self._mux.peek():
            try:
                self._mux.took(self._socket.send(data))
            except OSError as error:
                raise GuestNotReady("the sandbox has ended", id="sandbox.ended") from error


def exec_request(
    argv: Sequence[str], where: str = "container", environment: dict[str, str] | None = None, cwd: str = ""
) -> dict[str, Any]:
    """Return the request to run a command, beside dockerd or, where `where` is `guest`, in the guest OS."""
    return {"kind": "exec", "argv": list(argv), "where": where, "environment": environment or {}, "cwd": cwd}


@contextlib.contextmanager
def connect(path: Path) -> Iterator[Connection]:
    """Connect to a control socket. Raises GuestNotReady when no process serves it."""
    with socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(_CONNECT_SECONDS)
        try:
            connected.connect(str(path))
        except OSError as error:
            raise GuestNotReady(
                f"the sandbox does not answer: {error.strerror or error}", id="sandbox.no-answer"
            ) from error
        connection = Connection(connected)
        connected.settimeout(None)
        yield connection


def ask(path: Path, request: dict[str, Any], *, timeout_seconds: float, late: str) -> dict[str, Any]:
    """Ask for something and return the answer.

    Raises GuestNotReady when the sandbox ends without an answer or, with the summary `late`, when the time is over.
    """
    deadline = time.monotonic() + timeout_seconds
    with connect(path) as connection:
        connection.open(request)
        while True:
            if not _becomes_readable(connection.fd, deadline):
                raise GuestNotReady(late, id="sandbox.answer-late")
            for frame in connection.receive():
                if frame.kind == protocol.CLOSE:
                    return protocol.load_message(frame.payload)


def capture(path: Path, request: dict[str, Any], *, stdin: bytes, timeout_seconds: float) -> ExecResult:
    """Run a command with given input and return its exit code and output.

    Raises GuestNotReady when the sandbox ends before the command does, or when the time is over.
    """
    outputs = {protocol.MAIN: bytearray(), protocol.ERROR: bytearray()}
    deadline = time.monotonic() + timeout_seconds
    with connect(path) as connection:
        number = connection.open(request)
        waiting = memoryview(stdin)
        ended = False
        while True:
            count = min(len(waiting), connection.credit(number))
            if count:
                connection.send(number, bytes(waiting[:count]))
                waiting = waiting[count:]
            if not waiting and not ended:
                connection.end(number)
                ended = True
            if not _becomes_readable(connection.fd, deadline):
                raise GuestNotReady("the command in the guest did not end in time", id="guest.command-timed-out")
            for frame in connection.receive():
                if frame.kind == protocol.DATA:
                    outputs[frame.substream] += frame.payload
                elif frame.kind == protocol.CLOSE:
                    code = _exit_code(protocol.load_message(frame.payload))
                    return ExecResult(code, bytes(outputs[protocol.MAIN]), bytes(outputs[protocol.ERROR]))


def attach(path: Path, request: dict[str, Any], *, terminal: bool) -> int:
    """Run a command on our own standard descriptors and return its exit code.

    With `terminal` our terminal is in raw mode meanwhile, and its size is passed on as it changes; without it, INT and
    TERM are passed on. Raises GuestNotReady when the sandbox ends before the command does.
    """
    with contextlib.ExitStack() as stack:
        if terminal:
            rows, columns = _terminal_size()
            request = {**request, "tty": True, "rows": rows, "columns": columns}
        connection = stack.enter_context(connect(path))
        session = _Session(connection, connection.open(request))
        if terminal:
            stack.enter_context(_raw_terminal())
            stack.enter_context(_on_signals([signal.SIGWINCH], session.resized, session.wake_fd))
        else:
            stack.enter_context(_on_signals([signal.SIGINT, signal.SIGTERM], session.signalled, session.wake_fd))
        return session.run()


class _Session:
    """Carries our standard descriptors to and from one stream."""

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection = connection
        self._number = number
        self._selector = selectors.DefaultSelector()
        self._wake_read, self.wake_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._reading_input = False
        self._input_open = True
        self._messages: list[dict[str, Any]] = []

    def resized(self, _number: int) -> None:
        rows, columns = _terminal_size()
        self._messages.append({"rows": rows, "columns": columns})

    def signalled(self, number: int) -> None:
        self._messages.append({"signal": number})

    def run(self) -> int:
        self._selector.register(self._connection.fd, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        try:
            while True:
                self._watch_input()
                for key, _ in self._selector.select():
                    if key.fd == self._connection.fd:
                        code = self._receive()
                        if code is not None:
                            return code
                    elif key.fd == self._wake_read:
                        self._send_messages()
                    else:
                        self._read_input()
        finally:
            self._selector.close()
            os.close(self._wake_read)
            os.close(self.wake_fd)

    def _watch_input(self) -> None:
        wanted = self._input_open and self._connection.credit(self._number) > 0
        if wanted == self._reading_input:
            return
        if wanted:
            try:
                self._selector.register(0, selectors.EVENT_READ)
            except PermissionError:  # epoll takes no regular files; those never block
                while self._input_open and self._connection.credit(self._number) > 0:
                    self._read_input()
                return
        else:
            self._selector.unregister(0)
        self._reading_input = wanted

    def _read_input(self) -> None:
        data = os.read(0, min(65536, self._connection.credit(self._number)))
        if data:
            self._connection.send(self._number, data)
        else:
            self._input_open = False
            self._connection.end(self._number)

    def _send_messages(self) -> None:
        os.read(self._wake_read, 4096)
        messages, self._messages = self._messages, []
        for message in messages:
            self._connection.send_message(self._number, message)

    def _receive(self) -> int | None:
        for frame in self._connection.receive():
            if frame.kind == protocol.DATA:
                _write_all(2 if frame.substream == protocol.ERROR else 1, frame.payload)
            elif frame.kind == protocol.CLOSE:
                return _exit_code(protocol.load_message(frame.payload))
        return None


def _exit_code(result: dict[str, Any]) -> int:
    if "error" in result:
        raise SandboxError(f"the command could not be run: {result['error']}", id="guest.command-not-run")
    if "exit_code" not in result:
        raise GuestNotReady("the sandbox ended before the command did", id="sandbox.ended")
    code = result["exit_code"]
    return code if isinstance(code, int) and 0 <= code <= 255 else _LOST_EXIT_CODE


def _becomes_readable(fd: int, deadline: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        return bool(selector.select(max(0.0, deadline - time.monotonic())))


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _terminal_size() -> tuple[int, int]:
    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(1, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        rows = columns = 0
    return rows or 24, columns or 80


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # the default would drop keys that were typed ahead
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _on_signals(numbers: list[signal.Signals], handle: Callable[[int], None], wake_fd: int) -> Iterator[None]:
    """Call `handle` for signals, and wake a `select` through the pipe, until the block ends."""
    before_fd = signal.set_wakeup_fd(wake_fd, warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda seen, _frame: handle(seen)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_fd)
