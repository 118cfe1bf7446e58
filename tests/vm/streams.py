"""Docker's attach and exec streams as bare connections, so that a test says itself when which half is closed."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.vm.driver import COMMAND_SECONDS

STDOUT, STDERR = 1, 2


class DockerStream:
    """An upgraded connection to dockerd, on which a container's streams come multiplexed."""

    def __init__(self, connected: socket.socket, rest: bytes) -> None:
        self._socket = connected
        self._buffer = rest

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def read(self, count: int) -> dict[int, bytes]:
        """Read until so many bytes have come, by their stream. Source: the Engine API's ContainerAttach."""
        output = {STDOUT: b"", STDERR: b""}
        while sum(map(len, output.values())) < count and (frame := self._frame()):
            output[frame[0]] += frame[1]
        return output

    def read_to_end(self) -> dict[int, bytes]:
        return self.read(1 << 62)

    def _frame(self) -> tuple[int, bytes] | None:
        header = self._exactly(8)
        if not header:
            return None
        stream, length = struct.unpack(">BxxxI", header)
        return stream, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = self._socket.recv(65536)
            if not data:
                assert not self._buffer, f"the stream ended within a frame: {self._buffer!r}"
                return b""
            self._buffer += data
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data


@contextlib.contextmanager
def open_stream(endpoint: Path, path: str, body: object = None) -> Iterator[DockerStream]:
    """Start a stream with POST `path` for the length of the block."""
    with socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(COMMAND_SECONDS)
        connected.connect(str(endpoint))
        content = json.dumps(body).encode() if body is not None else b""
        head = f"POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        connected.sendall(head.encode() + content)
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = connected.recv(65536)
            assert data, answer
            answer += data
        status, _, _ = answer.partition(b"\r\n")
        assert b" 101 " in status, answer
        yield DockerStream(connected, answer.partition(b"\r\n\r\n")[2])
