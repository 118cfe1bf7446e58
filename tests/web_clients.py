"""Clients of the web servers that the tests publish, on the host."""

from __future__ import annotations

import contextlib
import socket
import time


def get(address: str, port: int, *, seconds: float = 120.0) -> str:
    """Ask a web server until it answers; return what it serves at /."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(ConnectionResetError), socket.create_connection((address, port), 30) as connected:
            connected.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while piece := connected.recv(4096):
                answer += piece
            if answer:
                return answer.decode().rpartition("\r\n\r\n")[2].strip()
        assert time.monotonic() < deadline, f"{address}:{port} does not answer"
        time.sleep(0.05)


def listens(address: str, port: int) -> bool:
    """Tell whether connections are taken there."""
    try:
        with socket.create_connection((address, port), 5):
            return True
    except ConnectionRefusedError:
        return False
