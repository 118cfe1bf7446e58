"""The frames of SPDY/3.1 that a client of CRI's streaming sends and reads; no I/O.

CRI's streaming server speaks SPDY and WebSockets. Only by SPDY can a client end its half of a stream, and Docker's API
needs that: `docker run -i` and `docker build -` end their input and wait for the answer. Source: the SPDY protocol,
draft 3.1; Kubernetes' remotecommand protocol, version 4 (k8s.io/apimachinery, pkg/util/remotecommand).

Headers are compressed without SPDY's dictionary, which readers accept, and those that a server sends are not needed.
Neither side of Kubernetes' SPDY counts windows: a slow reader is felt by TCP.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_CONTROL, _VERSION = 0x8000, 3
_SYN_STREAM, _PING = 1, 6
_FIN = 1
HEADER_BYTES = 8
MOST_BYTES = 1 << 16
"""What a data frame of ours carries at most."""


class Data(NamedTuple):
    """Some bytes of a stream; `ends` tells that no more follow."""

    stream: int
    content: bytes
    ends: bool


class Reset(NamedTuple):
    """The other side has given a stream up."""

    stream: int


class Ping(NamedTuple):
    """A question whether we are there, or the answer to ours: the frame itself is the answer to a question."""

    number: int
    frame: bytes


class GoAway(NamedTuple):
    """The other side is about to hang up."""


class Other(NamedTuple):
    """A frame that tells nothing we need."""


Frame = Data | Reset | Ping | GoAway | Other


class Writer:
    """Makes frames; the headers of one connection share a compressor."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj()

    def open_stream(self, stream: int, headers: Mapping[str, str]) -> bytes:
        """Return the frame that opens a stream, whose number is odd; the names of headers are in lower case."""
        block = struct.pack(">I", len(headers))
        for name, value in headers.items():
            block += struct.pack(">I", len(name)) + name.encode() + struct.pack(">I", len(value)) + value.encode()
        packed = self._compressor.compress(block) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return _control(_SYN_STREAM, struct.pack(">IIBB", stream, 0, 0, 0) + packed)


class Reader:
    """Makes frames of what arrives."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes in, give whole frames out."""
        received, start = self._rest + data, 0
        while start + HEADER_BYTES <= len(received):
            header = received[start : start + HEADER_BYTES]
            end = start + HEADER_BYTES + payload_length(header)
            if end > len(received):
                break
            yield parse_frame(header, received[start + HEADER_BYTES : end])
            start = end
        self._rest = received[start:]


def data_frame(stream: int, content: bytes, *, ends: bool = False) -> bytes:
    """Return the frame that carries some bytes."""
    return struct.pack(">II", stream, (_FIN if ends else 0) << 24 | len(content)) + content


def ping_frame(number: int) -> bytes:
    """Return a frame that asks whether the other side is there; a client's numbers are odd."""
    return _control(_PING, struct.pack(">I", number))


def _control(kind: int, payload: bytes) -> bytes:
    return struct.pack(">HHI", _CONTROL | _VERSION, kind, len(payload)) + payload


def payload_length(header: bytes) -> int:
    """Return how many bytes follow the eight of a frame's header."""
    return int.from_bytes(header[5:8])


def parse_frame(header: bytes, payload: bytes) -> Frame:
    """Return what a frame says."""
    first, second = struct.unpack(">HH", header[:4])
    if not first & _CONTROL:
        return Data(int.from_bytes(header[:4]), payload, bool(header[4] & _FIN))
    match second:
        case 3 if len(payload) >= 4:
            return Reset(int.from_bytes(payload[:4]) & 0x7FFFFFFF)
        case 6 if len(payload) >= 4:
            return Ping(int.from_bytes(payload[:4]), header + payload)
        case 7:
            return GoAway()
    return Other()
