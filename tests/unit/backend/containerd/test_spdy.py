"""The frames of SPDY/3.1."""

from __future__ import annotations

import struct
import zlib

import pytest

from kata_dind.backend.containerd.spdy import (
    Data,
    GoAway,
    Other,
    Ping,
    Reset,
    Writer,
    data_frame,
    parse_frame,
    payload_length,
    ping_frame,
)


def test_a_stream_is_opened_with_headers_that_share_a_compressor() -> None:
    writer, inflate = Writer(), zlib.decompressobj()
    for number, kind in ((1, "error"), (3, "stdin")):
        frame = writer.open_stream(number, {"streamtype": kind})
        assert frame[:5] == b"\x80\x03\x00\x01\x00"
        assert payload_length(frame[:8]) == len(frame) - 8
        assert struct.unpack(">II", frame[8:16]) == (number, 0)
        name, value = b"streamtype", kind.encode()
        block = struct.pack(">II", 1, len(name)) + name + struct.pack(">I", len(value)) + value
        assert inflate.decompress(frame[18:]) == block


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (data_frame(5, b"abc"), Data(5, b"abc", False)),
        (data_frame(5, b"", ends=True), Data(5, b"", True)),
        (ping_frame(1), Ping(1, b"\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01")),
        (b"\x80\x03\x00\x03\x00\x00\x00\x08\x00\x00\x00\x01\x00\x00\x00\x05", Reset(1)),
        (b"\x80\x03\x00\x07\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00", GoAway()),
        (b"\x80\x03\x00\x02\x00\x00\x00\x04\x00\x00\x00\x01", Other()),
        (b"\x80\x03\x00\x06\x00\x00\x00\x00", Other()),
    ],
)
def test_a_frame_is_read(frame: bytes, said: object) -> None:
    assert payload_length(frame[:8]) == len(frame) - 8
    assert parse_frame(frame[:8], frame[8:]) == said
