"""The guest's ends of the channel's streams: a process or a Unix socket."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios

from . import spawn
from .loop import READ, WRITE
from .protocol import ERROR, MAIN, MAX_PAYLOAD_BYTES, PENDING_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from .loop import Loop
    from .protocol import Mux

    class Handler(Protocol):
        """The calls by which the channel informs a stream."""

        def data(self, data: bytes) -> None:
            """Bytes have come."""

        def end(self) -> None:
            """No more bytes will come."""

        def control(self, message: dict[str, Any]) -> None:
            """A message has come."""

        def may_send(self) -> None:
            """There is credit again, or the channel's backlog has become smaller."""

        def close(self) -> None:
            """The stream is over; let go of everything."""


EXIT_GRACE_SECONDS = 0.5
"""How long a process that left its output open to a background child may keep its stream after its own end."""


class Reader:
    """Carries a descriptor's bytes into a stream, as far as the stream's credit and the channel's backlog let it."""

    def __init__(self, loop: Loop, mux: Mux, stream: int, fd: int, substream: int, on_end: Callable[[], None]) -> None:
        self._loop, self._mux, self._stream, self._substream = loop, mux, stream, substream
        self._fd = fd
        self._on_end = on_end
        self._last_bytes: int | None = None
        self.open = True
        self.read_on()

    def read_on(self) -> None:
        """Read again, when there is credit."""
        if self.open:
            self._loop.watch(self._fd, READ if self._sendable() else 0, self._ready)

    def stop(self) -> None:
        """Read no more; the descriptor stays the owner's to close."""
        if self.open:
            self.open = False
            self._loop.unwatch(self._fd)

    def stop_when_read(self) -> None:
        """Read what waits now and no more, however slowly the stream takes it."""
        if self.open:
            (self._last_bytes,) = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)))
            self._stop_if_read(0)

    def _stop_if_read(self, count: int) -> None:
        if self._last_bytes is not None:
            self._last_bytes -= count
            if self._last_bytes <= 0:
                self.stop()
                self._on_end()

    def _sendable(self) -> int:
        return self._mux.credit(self._stream) if self._mux.pending_bytes < PENDING_BYTES else 0

    def _ready(self, _events: int) -> None:
        count = self._sendable()
        if not count:
            return self.read_on()
        try:
            data = os.read(self._fd, min(count, MAX_PAYLOAD_BYTES))
        except BlockingIOError:
            return None
        except OSError:
            data = b""  # a terminal whose last process ended says EIO, a peer that vanished ECONNRESET
        if data:
            self._mux.send(self._stream, data, self._substream)
            if not self._sendable():
                self.read_on()
            return self._stop_if_read(len(data))
        self.stop()
        return self._on_end()


class Writer:
    """Carries a stream's bytes into a descriptor, and grants credit for what that took."""

    def __init__(self, loop: Loop, mux: Mux, stream: int, fd: int, on_end: Callable[[], None]) -> None:
        self._loop, self._mux, self._stream = loop, mux, stream
        self._fd = fd
        self._on_end = on_end
        self._waiting = bytearray()
        self._ending = False
        self.open = True

    def data(self, data: bytes) -> None:
        """Write what fits now and keep the rest; after the end of the reader, drop it."""
        if not self.open:
            return self._mux.consumed(self._stream, len(data))
        self._waiting += data
        return self._write()

    def end(self) -> None:
        """End the descriptor once everything is written."""
        self._ending = True
        self._write()

    def stop(self) -> None:
        """Write no more; the descriptor stays the owner's to close."""
        if self.open:
            self.open = False
            self._mux.consumed(self._stream, len(self._waiting))
            self._waiting.clear()

    def _write(self, _events: int = 0) -> None:
        while self._waiting and self.open:
            try:
                count = os.write(self._fd, self._waiting)
            except BlockingIOError:
                return self._loop.watch(self._fd, WRITE, self._write)
            except OSError:  # its reader is gone
                self._loop.unwatch(self._fd)
                self.stop()
                return self._on_end()
            del self._waiting[:count]
            self._mux.consumed(self._stream, count)
        if not self.open:
            return None
        self._loop.unwatch(self._fd)
        if self._ending:
            self.open = False
            self._on_end()
        return None


class ProcessStream:
    """A process: its standard descriptors are the stream, its exit code the stream's result.

    `on_end` is told the stream's number when the process has closed it, `on_exit` the exit code. A process with
    `on_exit` outlives its stream, and keeps its descriptors for the next one.
    """

    def __init__(
        self,
        loop: Loop,
        mux: Mux,
        stream: int,
        child: spawn.Child,
        *,
        on_end: Callable[[int], None],
        on_exit: Callable[[int], None] | None = None,
    ) -> None:
        self._loop, self._mux, self._stream, self._child = loop, mux, stream, child
        self._on_end = on_end
        self._on_exit = on_exit
        self._exit_code: int | None = None
        self._closed = False
        self._outlives_stream = on_exit is not None
        # A terminal is read and written through one descriptor each, since a descriptor has one watch.
        self._input = os.dup(child.stdin) if child.terminal else child.stdin
        self._fds = {fd for fd in (self._input, child.stdout, child.stderr) if fd >= 0}
        self._writer = Writer(loop, mux, stream, self._input, self._end_input)
        self._readers = [Reader(loop, mux, stream, child.stdout, MAIN, self._finish)]
        if child.stderr >= 0:
            self._readers.append(Reader(loop, mux, stream, child.stderr, ERROR, self._finish))
        loop.when_child_ends(child.pid, self._exited)

    def data(self, data: bytes) -> None:
        """Write to the other end."""
        self._writer.data(data)

    def end(self) -> None:
        """Half-close the other end; a terminal gets what a person types to end its input."""
        if self._child.terminal:
            self._writer.data(b"\x04")
        else:
            self._writer.end()

    def control(self, message: dict[str, Any]) -> None:
        """Resize the terminal, or signal the process group; what makes no sense is ignored."""
        rows, columns, number = message.get("rows"), message.get("columns"), message.get("signal")
        if self._child.terminal and isinstance(rows, int) and isinstance(columns, int):
            spawn.resize(self._child.stdout, (rows, columns))
        if isinstance(number, int) and self._exit_code is None:
            _kill(self._child.pid, number)

    def may_send(self) -> None:
        """Read again, now that more can be sent."""
        for reader in self._readers:
            reader.read_on()

    def close(self) -> None:
        """The host has closed the stream, or is gone: hang up on the process."""
        if self._exit_code is None and self._outlives_stream:
            self._stop()
            return
        if self._exit_code is None:
            _kill(self._child.pid, 1)
            _kill(self._child.pid, 15)
        self._release()

    def _end_input(self) -> None:
        self._close_fd(self._input)

    def _exited(self, code: int) -> None:
        self._exit_code = code
        if self._on_exit:
            self._on_exit(code)
        self._loop.after(EXIT_GRACE_SECONDS, self._give_up_output)
        self._finish()

    def _give_up_output(self) -> None:
        if not self._closed:
            for reader in self._readers:
                reader.stop_when_read()

    def _finish(self) -> None:
        if self._exit_code is None or self._closed or any(reader.open for reader in self._readers):
            return
        self._release()
        self._mux.close(self._stream, {"exit_code": self._exit_code})
        self._on_end(self._stream)

    def _stop(self) -> None:
        self._closed = True
        self._writer.stop()
        for reader in self._readers:
            reader.stop()

    def _release(self) -> None:
        self._stop()
        for fd in list(self._fds):
            self._close_fd(fd)

    def _close_fd(self, fd: int) -> None:
        if fd in self._fds:
            self._fds.discard(fd)
            self._loop.unwatch(fd)
            os.close(fd)


class SocketStream:
    """A connection to a Unix socket in the guest, half-closed as its two ends half-close it."""

    def __init__(self, loop: Loop, mux: Mux, stream: int, path: str, *, on_end: Callable[[int], None]) -> None:
        """Connect; raises OSError when no process listens."""
        self._loop, self._mux, self._stream = loop, mux, stream
        self._on_end = on_end
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._output = os.dup(self._socket.fileno())  # a descriptor has one watch
        self._writer = Writer(loop, mux, stream, self._output, self._end_output)
        self._reader = Reader(loop, mux, stream, self._socket.fileno(), MAIN, self._end_input)

    def data(self, data: bytes) -> None:
        """Write to the other end."""
        self._writer.data(data)
        if not self._writer.open:
            self._finish()

    def end(self) -> None:
        """Half-close the other end."""
        self._writer.end()

    def control(self, message: dict[str, Any]) -> None:
        """Sockets take no messages."""

    def may_send(self) -> None:
        """Read again, now that more can be sent."""
        self._reader.read_on()

    def close(self) -> None:
        """Drop the connection."""
        if self._output < 0:
            return
        self._reader.stop()
        self._writer.stop()
        self._loop.unwatch(self._output)
        os.close(self._output)
        self._output = -1
        self._socket.close()

    def _end_output(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self._finish()

    def _end_input(self) -> None:
        self._mux.end(self._stream)
        self._finish()

    def _finish(self) -> None:
        if self._output >= 0 and not self._reader.open and not self._writer.open:
            self.close()
            self._mux.close(self._stream, {})
            self._on_end(self._stream)


def _kill(pid: int, number: int) -> None:
    """Signal a child's group, or the child alone when it is too young to have one; a number may be no signal at all."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, number)
        except (OSError, OverflowError):
            continue
        return
