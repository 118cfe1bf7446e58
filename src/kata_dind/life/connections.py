"""Carrying TCP connections between two sockets: bytes, half-closes, resets, and the patience of a slow reader.

Both sockets are ours, so an idle connection needs no buffer of its own, and no streams of asyncio's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

_BUFFER_BYTES = 256 << 10
"""The most that is read at once, and so the most that is kept for a reader that is slow."""

_RESET = struct.pack("ii", 1, 0)
"""A struct linger by which a socket is closed with a reset. Source: socket(7)."""


def reset(connected: socket.socket) -> None:
    """Close a socket with a reset, as refused as a connection can be that was accepted already."""
    with connected, contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


class Connections:
    """What an owner carries; all of it goes through one buffer."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    async def carry(self, one: socket.socket, other: socket.socket) -> None:
        """Carry bytes between two non-blocking sockets until both directions have ended, then close both.

        A reset of one resets the other, and so does a cancellation with both.
        """
        connection = _Connection(one, other, self._buffer)
        try:
            await connection.done
        finally:
            connection.close()


class _Connection:
    """Two directions that share an end."""

    __slots__ = ("_directions", "done")

    def __init__(self, one: socket.socket, other: socket.socket, buffer: memoryview) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._directions = (_Direction(self, one, other, buffer), _Direction(self, other, one, buffer))
        for end in (one, other):
            with contextlib.suppress(OSError):  # it is reset already, which reading it tells
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ended(self) -> None:
        """Take note that a direction has ended."""
        if all(direction.has_ended for direction in self._directions) and not self.done.done():
            self.done.set_result(None)

    def close(self) -> None:
        """Close both sockets, with a reset unless both directions have ended."""
        in_order = all(direction.has_ended for direction in self._directions)
        for direction in self._directions:
            direction.stop()
        for direction in self._directions:
            if not in_order:
                with contextlib.suppress(OSError):
                    direction.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            direction.source.close()

    def reset(self) -> None:
        """Take note that one of the sockets was reset."""
        if not self.done.done():
            self.done.set_result(None)


class _Direction:
    """What comes from one socket and goes to the other."""

    __slots__ = ("_buffer", "_connection", "_left", "_loop", "_target", "has_ended", "source")

    def __init__(
        self, connection: _Connection, source: socket.socket, target: socket.socket, buffer: memoryview
    ) -> None:
        self._connection = connection
        self.source = source
        self._target = target
        self._buffer = buffer
        self._left = memoryview(b"")
        self.has_ended = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(source, self._read)

    def _read(self) -> None:
        try:
            count = self.source.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            self._lose()
            return
        if count:
            self._write(self._buffer[:count])
            return
        self._loop.remove_reader(self.source)
        try:
            self._target.shutdown(socket.SHUT_WR)
        except OSError:
            self._lose()
            return
        self.has_ended = True
        self._connection.ended()

    def _write(self, data: memoryview) -> None:
        try:
            sent = self._target.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose()
            return
        if sent < len(data):
            # The source waits as well, so that whoever sends there notices.
            self._left = memoryview(bytes(data[sent:]))
            self._loop.remove_reader(self.source)
            self._loop.add_writer(self._target, self._write_on)

    def _write_on(self) -> None:
        try:
            self._left = self._left[self._target.send(self._left) :]
        except BlockingIOError:
            return
        except OSError:
            self._lose()
            return
        if not self._left:
            self._left = memoryview(b"")
            self._loop.remove_writer(self._target)
            self._loop.add_reader(self.source, self._read)

    def _lose(self) -> None:
        self.stop()
        self._connection.reset()

    def stop(self) -> None:
        """Wait for nothing any more."""
        self._loop.remove_reader(self.source)
        self._loop.remove_writer(self._target)
