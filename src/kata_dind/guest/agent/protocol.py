"""The channel's wire format and the state of one side of it, without any I/O.

Both sides speak frames over one byte stream: a 12-byte header (kind, substream, two zero bytes, stream number, payload
length; big-endian), then the payload. Streams are opened by the host, numbered upwards from 1, and carry bytes both
ways under a credit per direction, so that a slow reader stops only its own stream. Stream 0 carries the guest's events.

A side that connects says HELLO with an epoch. A HELLO with a new epoch resets the receiver: its streams are gone, and
it answers with the same epoch. Until that answer comes the host drops all that it reads, so that a guest that was
restored or resumed and a new supervisor agree at once.
"""

from __future__ import annotations

import json
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs a slow guest a tenth of a second
    from typing import Any, NamedTuple

VERSION = 1
_HEADER = struct.Struct("!BBHII")

# Made once, and without the regular expressions of json.loads: an emulated guest that was restored a moment ago
# answers 10 ms earlier.
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
_DECODE = json.JSONDecoder().raw_decode

HELLO, OPEN, DATA, CREDIT, END, CONTROL, CLOSE = range(1, 8)
_KINDS = frozenset((HELLO, OPEN, DATA, CREDIT, END, CONTROL, CLOSE))

EVENTS = 0
"""The stream of the guest's events; CONTROL frames only."""

MAIN, ERROR = 0, 1
"""Substreams of DATA: standard input or output, and standard error."""

MAX_PAYLOAD_BYTES = 32 * 1024
"""The largest payload. A large frame delays every other stream; a small one costs a slow guest a header's work."""

WINDOW_BYTES = 256 * 1024
"""A fresh stream's credit per direction: at most this much of a stream waits on either side."""

PENDING_BYTES = 512 * 1024
"""Above this much unsent output a side should stop reading its local descriptors."""


class ProtocolError(Exception):
    """The other side broke the protocol; the channel is unusable."""


if TYPE_CHECKING:

    class Frame(NamedTuple):
        """One frame: `stream` is a number, `payload` bytes; `substream` means something in DATA only."""

        kind: int
        stream: int
        payload: bytes
        substream: int

else:
    from collections import namedtuple

    Frame = namedtuple("Frame", "kind stream payload substream")


def encode_frame(kind: int, stream: int, payload: bytes = b"", substream: int = 0) -> bytes:
    """Encode one frame; `payload` is at most MAX_PAYLOAD_BYTES long."""
    return _HEADER.pack(kind, substream, 0, stream, len(payload)) + payload


class FrameDecoder:
    """Cuts a byte stream into frames; keeps what is incomplete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes in, give whole frames out. Raises ProtocolError for an unknown kind or a too long payload."""
        self._buffer += data
        buffer, start, frames = self._buffer, 0, []
        while len(buffer) - start >= _HEADER.size:
            kind, substream, _, stream, length = _HEADER.unpack_from(buffer, start)
            if kind not in _KINDS or length > MAX_PAYLOAD_BYTES:
                raise ProtocolError(f"not a frame: kind {kind}, length {length}")
            end = start + _HEADER.size + length
            if end > len(buffer):
                break
            frames.append(Frame(kind, stream, bytes(buffer[start + _HEADER.size : end]), substream))
            start = end
        del buffer[:start]
        return frames


class _Stream:
    """One stream as this side sees it."""

    __slots__ = ("consumed", "ended", "receivable", "received_end", "sendable")

    def __init__(self) -> None:
        self.sendable = WINDOW_BYTES  # credit we hold
        self.receivable = WINDOW_BYTES  # credit the other side holds
        self.consumed = 0  # taken by our reader, not yet granted again
        self.ended = False
        self.received_end = False


class Mux:
    """One side of a channel: bytes in through `receive`, out through `peek` and `took`.

    `receive` returns what the owner must act on: OPEN, DATA, END, CONTROL and CLOSE of streams, CREDIT for a stream
    that may send again, HELLO; it raises ProtocolError for nonsense. The owner sends at most `credit(stream)` bytes,
    and calls `consumed` for what its reader took.
    """

    def __init__(self, *, is_host: bool) -> None:
        self._is_host = is_host
        self._decoder = FrameDecoder()
        self._out = bytearray()
        self._streams: dict[int, _Stream] = {}
        self._next = 1
        self._epoch = ""
        self._agreed = False

    # --- outgoing

    def hello(self, epoch: str, **fields: Any) -> None:
        """Begin (host) an epoch; streams of an earlier one are forgotten, and their numbers not used again."""
        self._reset(epoch)
        self._agreed = not self._is_host
        self._put(HELLO, EVENTS, _dump({"version": VERSION, "epoch": epoch, **fields}))

    def open(self, request: dict[str, Any]) -> int:
        """Open a stream (host) with a request the guest understands; return its number."""
        number = self._next
        self._next += 1
        self._streams[number] = _Stream()
        self._put(OPEN, number, _dump(request))
        return number

    def credit(self, number: int) -> int:
        """Return how many bytes may be sent on a stream now; 0 for one that is gone."""
        stream = self._streams.get(number)
        return 0 if stream is None or stream.ended else stream.sendable

    def send(self, number: int, data: bytes, substream: int = MAIN) -> None:
        """Send bytes within the credit; on a stream that is gone they are dropped."""
        stream = self._streams.get(number)
        if stream is None:
            return
        if stream.ended or len(data) > stream.sendable:
            raise ValueError(f"stream {number}: {len(data)} bytes against a credit of {stream.sendable}")
        stream.sendable -= len(data)
        for start in range(0, len(data), MAX_PAYLOAD_BYTES):
            self._put(DATA, number, data[start : start + MAX_PAYLOAD_BYTES], substream)

    def end(self, number: int) -> None:
        """Say that no more data follows on a stream; its other direction stays open."""
        stream = self._streams.get(number)
        if stream is not None and not stream.ended:
            stream.ended = True
            self._put(END, number)

    def control(self, number: int, message: dict[str, Any]) -> None:
        """Send a message beside a stream's bytes: a resize, a signal, an event."""
        if number == EVENTS or number in self._streams:
            self._put(CONTROL, number, _dump(message))

    def close(self, number: int, result: dict[str, Any]) -> None:
        """End a stream in both directions, with a result (exit status, error)."""
        if self._streams.pop(number, None) is not None:
            self._put(CLOSE, number, _dump(result))

    def consumed(self, number: int, count: int) -> None:
        """Grant credit for bytes that our reader has taken; sent in larger steps than they are taken."""
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.consumed += count
        if stream.consumed >= WINDOW_BYTES // 4:
            self._put(CREDIT, number, struct.pack("!I", stream.consumed))
            stream.receivable += stream.consumed
            stream.consumed = 0

    @property
    def pending_bytes(self) -> int:
        """How many bytes of output wait to be taken; compare with PENDING_BYTES."""
        return len(self._out)

    def peek(self, limit: int = 1 << 16) -> bytes:
        """Return the next outgoing bytes, `limit` at most, without taking them; empty when there are none."""
        return bytes(self._out[:limit])

    def took(self, count: int) -> None:
        """Drop outgoing bytes that the channel has accepted."""
        del self._out[:count]

    # --- incoming

    def receive(self, data: bytes) -> list[Frame]:
        """Take bytes from the channel, return the frames that the owner must act on."""
        actions = []
        for frame in self._decoder.feed(data):
            if frame.kind == HELLO:
                if self._received_hello(frame):
                    actions.append(frame)
            elif self._agreed and self._accepts(frame):
                actions.append(frame)
        return actions

    def _received_hello(self, frame: Frame) -> bool:
        message = load_message(frame.payload)
        if message.get("version") != VERSION:
            raise ProtocolError(f"the other side speaks version {message.get('version')}, we speak {VERSION}")
        if self._is_host:
            if message.get("epoch") != self._epoch:
                return False  # left over from before a restore
            self._agreed = True
        else:
            self.hello(str(message.get("epoch")))
        return True

    def _accepts(self, frame: Frame) -> bool:
        if frame.kind == OPEN:
            if self._is_host or frame.stream in self._streams or frame.stream == EVENTS:
                raise ProtocolError(f"unexpected OPEN of stream {frame.stream}")
            self._streams[frame.stream] = _Stream()
            return True
        if frame.stream == EVENTS:
            return frame.kind == CONTROL
        stream = self._streams.get(frame.stream)
        if stream is None:
            return False  # closed by us while this was on its way
        # Frames that cost no credit could fill our memory: so empty and repeated ones are refused.
        if frame.kind == DATA:
            stream.receivable -= len(frame.payload)
            if stream.receivable < 0 or stream.received_end or not frame.payload or frame.substream > ERROR:
                raise ProtocolError(f"stream {frame.stream} sends beyond its credit or its end")
        elif frame.kind == CONTROL and self._is_host:
            raise ProtocolError(f"stream {frame.stream} sends a message, which only a host may")
        elif frame.kind == CREDIT:
            stream.sendable += _parse_credit(frame.payload)
        elif frame.kind == END:
            if stream.received_end:
                raise ProtocolError(f"stream {frame.stream} ends twice")
            stream.received_end = True
        elif frame.kind == CLOSE:
            del self._streams[frame.stream]
        return True

    def _reset(self, epoch: str) -> None:
        self._epoch = epoch
        self._streams.clear()
        self._out.clear()

    def _put(self, kind: int, stream: int, payload: bytes = b"", substream: int = 0) -> None:
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"a message of {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} fit")
        self._out += encode_frame(kind, stream, payload, substream)


def load_message(payload: bytes) -> dict[str, Any]:
    """Decode the JSON object of an OPEN, CONTROL, CLOSE or HELLO frame. Raises ProtocolError for anything else."""
    try:
        text = payload.decode()
        message, end = _DECODE(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a message that is not JSON") from error
    if not isinstance(message, dict) or end != len(text):
        raise ProtocolError("a message that is not an object")
    return message


def _parse_credit(payload: bytes) -> int:
    if len(payload) != 4:
        raise ProtocolError("a CREDIT frame without its number")
    return int.from_bytes(payload, "big")


def _dump(message: dict[str, Any]) -> bytes:
    return _ENCODE(message).encode()
