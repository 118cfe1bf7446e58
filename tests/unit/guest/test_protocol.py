from __future__ import annotations

import itertools
import json
import random
import struct
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata_dind.guest.agent import protocol
from kata_dind.guest.agent.protocol import (
    CLOSE,
    CONTROL,
    CREDIT,
    DATA,
    END,
    ERROR,
    EVENTS,
    HELLO,
    MAIN,
    MAX_PAYLOAD_BYTES,
    OPEN,
    WINDOW_BYTES,
    Frame,
    FrameDecoder,
    Mux,
    ProtocolError,
    encode_frame,
    load_message,
)

KINDS = (HELLO, OPEN, DATA, CREDIT, END, CONTROL, CLOSE)

frames = st.builds(
    Frame,
    kind=st.sampled_from(KINDS),
    stream=st.integers(0, 2**32 - 1),
    payload=st.binary(max_size=64) | st.sampled_from([b"x" * 1000, b"y" * MAX_PAYLOAD_BYTES]),
    substream=st.integers(0, 255),
)


def encoded(sequence: list[Frame]) -> bytes:
    return b"".join(encode_frame(frame.kind, frame.stream, frame.payload, frame.substream) for frame in sequence)


def agreed_pair() -> tuple[Mux, Mux]:
    host, guest = Mux(is_host=True), Mux(is_host=False)
    host.hello("one", time=0)
    transfer(host, guest)
    transfer(guest, host)
    return host, guest


def transfer(source: Mux, target: Mux, limit: int = 1 << 30) -> list[Frame]:
    data = source.peek(limit)
    source.took(len(data))
    return target.receive(data)


# --- frames


def test_a_frame_is_a_header_of_twelve_bytes_and_its_payload() -> None:
    assert encode_frame(DATA, 0x01020304, b"abc", ERROR) == b"\x03\x01\0\0\1\2\3\4\0\0\0\3abc"


@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 2**20)))
def test_any_split_of_any_frames_decodes_to_them(sequence: list[Frame], cuts: list[int]) -> None:
    data = encoded(sequence)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    decoder = FrameDecoder()
    decoded = [frame for start, end in itertools.pairwise(edges) for frame in decoder.feed(data[start:end])]
    assert decoded == sequence


def test_frames_decode_byte_by_byte() -> None:
    sequence = [Frame(OPEN, 1, b"{}", 0), Frame(END, 1, b"", 0), Frame(DATA, 2, b"x" * 100, ERROR)]
    decoder = FrameDecoder()
    assert [frame for byte in encoded(sequence) for frame in decoder.feed(bytes([byte]))] == sequence


@pytest.mark.parametrize(
    "header",
    [struct.pack("!BBHII", 0, 0, 0, 1, 0), struct.pack("!BBHII", 8, 0, 0, 1, 0), b"GET / HTTP/1.1\r\n"],
    ids=["kind 0", "kind 8", "HTTP"],
)
def test_bytes_that_are_not_a_frame_are_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a frame"):
        FrameDecoder().feed(header)


def test_a_payload_is_refused_before_it_has_arrived() -> None:
    with pytest.raises(ProtocolError, match=f"length {MAX_PAYLOAD_BYTES + 1}"):
        FrameDecoder().feed(struct.pack("!BBHII", DATA, 0, 0, 1, MAX_PAYLOAD_BYTES + 1))


# --- nonsense


@settings(max_examples=300)
@given(st.booleans(), st.booleans(), st.lists(st.binary(max_size=200) | frames.map(lambda frame: encoded([frame]))))
def test_nonsense_raises_nothing_but_protocol_error(is_host: bool, agreed: bool, chunks: list[bytes]) -> None:
    mux = Mux(is_host=is_host)
    if agreed:
        mux = agreed_pair()[0 if is_host else 1]
        mux.open({}) if is_host else mux.receive(encode_frame(OPEN, 1, b"{}"))
    for chunk in chunks:
        try:
            mux.receive(chunk)
        except ProtocolError:
            return


@pytest.mark.parametrize("is_host", [True, False], ids=["host", "guest"])
def test_a_hundred_thousand_random_bytes_raise_nothing_but_protocol_error(is_host: bool) -> None:
    randomness = random.Random(20)
    refused = 0
    for _ in range(200):
        mux = Mux(is_host=is_host)
        try:
            mux.receive(randomness.randbytes(500))
        except ProtocolError:
            refused += 1
    assert refused > 190


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff\xfe", b"[]", b"null", b"{", b"[" * MAX_PAYLOAD_BYTES, b'{"a":' * 5000, b"1" * 5000, b"{}{}"],
    ids=["empty", "no text", "array", "null", "half", "deep array", "deep object", "long number", "two"],
)
def test_a_message_that_is_not_an_object_is_a_protocol_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="a message that is not"):
        load_message(payload)


@pytest.mark.parametrize("payload", [b"", b"123", b"12345"])
def test_a_credit_without_its_number_is_refused(payload: bytes) -> None:
    _, guest = agreed_pair()
    guest.receive(encode_frame(OPEN, 1, b"{}"))
    with pytest.raises(ProtocolError, match="CREDIT"):
        guest.receive(encode_frame(CREDIT, 1, payload))


# --- hello and epochs


def test_the_guest_answers_a_hello_with_its_epoch_and_nothing_else() -> None:
    host, guest = Mux(is_host=True), Mux(is_host=False)
    host.hello("one", time=12.5)
    (hello,) = transfer(host, guest)
    assert json.loads(hello.payload) == {"version": protocol.VERSION, "epoch": "one", "time": 12.5}
    (answer,) = FrameDecoder().feed(guest.peek())
    assert answer == Frame(HELLO, EVENTS, b'{"version":1,"epoch":"one"}', 0)


def test_another_version_is_refused_by_both_sides() -> None:
    hello = encode_frame(HELLO, EVENTS, b'{"version":2,"epoch":"one"}')
    for mux in (Mux(is_host=True), Mux(is_host=False)):
        with pytest.raises(ProtocolError, match="speaks version 2, we speak 1"):
            mux.receive(hello)


def test_nothing_is_taken_before_the_sides_agree() -> None:
    opened = encode_frame(OPEN, 1, b"{}")
    host, guest = Mux(is_host=True), Mux(is_host=False)
    assert guest.receive(opened) == []
    host.hello("one")
    assert host.receive(encode_frame(CONTROL, EVENTS, b"{}") + opened) == []


def test_an_answer_of_an_earlier_epoch_is_dropped_with_what_follows_it() -> None:
    host = Mux(is_host=True)
    host.hello("two")
    stale = encode_frame(HELLO, EVENTS, b'{"version":1,"epoch":"one"}') + encode_frame(CONTROL, EVENTS, b'{"old":1}')
    answer = encode_frame(HELLO, EVENTS, b'{"version":1,"epoch":"two"}') + encode_frame(CONTROL, EVENTS, b'{"new":1}')
    kinds = [(frame.kind, frame.payload) for frame in host.receive(stale + answer)]
    assert kinds == [(HELLO, b'{"version":1,"epoch":"two"}'), (CONTROL, b'{"new":1}')]


def test_a_new_epoch_forgets_streams_credit_and_unsent_output_on_both_sides() -> None:
    host, guest = agreed_pair()
    number = host.open({})
    transfer(host, guest)
    guest.send(number, b"never arrives")
    host.hello("two")
    assert host.credit(number) == 0
    transfer(host, guest)
    assert guest.credit(number) == 0
    assert [frame.kind for frame in transfer(guest, host)] == [HELLO]
    assert (new := host.open({})) != number  # or who still has the old stream would speak on the new one
    assert [frame.kind for frame in transfer(host, guest)] == [OPEN]
    assert host.credit(new) == guest.credit(new) == WINDOW_BYTES


# --- streams


def test_streams_are_numbered_from_one() -> None:
    host, guest = agreed_pair()
    assert [host.open({"n": number}) for number in (1, 2, 3)] == [1, 2, 3]
    assert [(frame.stream, json.loads(frame.payload)) for frame in transfer(host, guest)] == [
        (1, {"n": 1}),
        (2, {"n": 2}),
        (3, {"n": 3}),
    ]


def test_data_is_cut_into_payloads_and_keeps_its_substream() -> None:
    host, guest = agreed_pair()
    number = host.open({})
    transfer(host, guest)
    guest.send(number, b"e" * (MAX_PAYLOAD_BYTES + 1), ERROR)
    assert [(len(frame.payload), frame.substream) for frame in transfer(guest, host)] == [
        (MAX_PAYLOAD_BYTES, ERROR),
        (1, ERROR),
    ]


def test_sending_beyond_the_credit_is_our_own_mistake() -> None:
    host, _ = agreed_pair()
    number = host.open({})
    host.send(number, bytes(WINDOW_BYTES))
    assert host.credit(number) == 0
    with pytest.raises(ValueError, match="1 bytes against a credit of 0"):
        host.send(number, b"x")


OPENED = encode_frame(OPEN, 1, b"{}")


@pytest.mark.parametrize(
    "nonsense",
    [
        encode_frame(DATA, 1, bytes(MAX_PAYLOAD_BYTES)) * 8 + encode_frame(DATA, 1, b"x"),
        encode_frame(END, 1) + encode_frame(DATA, 1, b"x"),
        encode_frame(END, 1) * 2,
        encode_frame(DATA, 1),
        encode_frame(DATA, 1, b"x", ERROR + 1),
    ],
    ids=["beyond its credit", "after its end", "a second end", "nothing", "a third substream"],
)
def test_what_would_fill_our_memory_beside_the_credit_is_refused(nonsense: bytes) -> None:
    _, guest = agreed_pair()
    guest.receive(OPENED)
    with pytest.raises(ProtocolError, match="stream 1 "):
        guest.receive(nonsense)


def test_only_the_host_sends_messages_on_a_stream() -> None:
    host, guest = agreed_pair()
    number = host.open({})
    host.control(number, {"rows": 1})
    assert [frame.kind for frame in transfer(host, guest)] == [OPEN, CONTROL]
    with pytest.raises(ProtocolError, match="only a host may"):
        host.receive(encode_frame(CONTROL, number, b"{}"))


def test_credit_comes_back_in_quarters_of_the_window() -> None:
    host, guest = agreed_pair()
    number = host.open({})
    host.send(number, bytes(WINDOW_BYTES))
    transfer(host, guest)
    guest.consumed(number, WINDOW_BYTES // 4 - 1)
    assert guest.pending_bytes == 0
    guest.consumed(number, 1)
    (credit,) = transfer(guest, host)
    assert (credit.kind, host.credit(number)) == (CREDIT, WINDOW_BYTES // 4)


def test_an_end_leaves_the_other_direction_open() -> None:
    host, guest = agreed_pair()
    number = host.open({})
    host.end(number)
    host.end(number)
    assert [frame.kind for frame in transfer(host, guest)] == [OPEN, END]
    assert host.credit(number) == 0
    guest.send(number, b"still")
    assert [frame.payload for frame in transfer(guest, host)] == [b"still"]


def test_what_crosses_a_close_is_dropped() -> None:
    host, guest = agreed_pair()
    number = host.open({})
    transfer(host, guest)
    guest.close(number, {"exit_code": 0})
    host.send(number, b"late")
    host.end(number)
    host.control(number, {"rows": 1})
    assert transfer(host, guest) == []
    (close,) = transfer(guest, host)
    assert (close.kind, load_message(close.payload)) == (CLOSE, {"exit_code": 0})
    host.send(number, b"later still")
    host.close(number, {})
    host.consumed(number, WINDOW_BYTES)
    assert host.pending_bytes == 0


def test_the_guest_opens_nothing_and_the_host_nothing_twice() -> None:
    host, guest = agreed_pair()
    with pytest.raises(ProtocolError, match="unexpected OPEN"):
        host.receive(encode_frame(OPEN, 1, b"{}"))
    guest.receive(encode_frame(OPEN, 1, b"{}"))
    for number in (1, EVENTS):
        with pytest.raises(ProtocolError, match=f"unexpected OPEN of stream {number}"):
            guest.receive(encode_frame(OPEN, number, b"{}"))


def test_a_message_that_fits_no_frame_is_our_own_mistake_and_opens_nothing() -> None:
    host, guest = agreed_pair()
    with pytest.raises(ValueError, match="at most 32768 fit"):
        host.open({"argv": ["x" * MAX_PAYLOAD_BYTES]})
    assert transfer(host, guest) == []


# --- both sides together


class Direction:
    """One direction of one stream: what was sent, what arrived, what the reader has not taken yet."""

    def __init__(self, number: int) -> None:
        self.pattern = bytes((number * 7 + index * 31) & 0xFF for index in range(257)) * 4100
        self.sent = {MAIN: 0, ERROR: 0}
        self.arrived = {MAIN: 0, ERROR: 0}
        self.unread = 0
        self.ended = False
        self.end_arrived = False

    def take(self, frame: Frame) -> None:
        start = self.arrived[frame.substream]
        assert frame.payload == self.pattern[start : start + len(frame.payload)], "bytes are lost or out of order"
        self.arrived[frame.substream] += len(frame.payload)
        self.unread += len(frame.payload)
        assert self.unread <= WINDOW_BYTES, "more waits than the window allows"


class Wire:
    """A host and a guest on a wire that carries any number of bytes at a time."""

    def __init__(self) -> None:
        self.host, self.guest = agreed_pair()
        self.up: dict[int, Direction] = {}
        self.down: dict[int, Direction] = {}
        self.opened: set[int] = set()

    def side(self, is_host: bool) -> tuple[Mux, dict[int, Direction]]:
        return (self.host, self.up) if is_host else (self.guest, self.down)

    def open(self) -> None:
        number = self.host.open({})
        self.up[number], self.down[number] = Direction(number), Direction(number + 100)

    def send(self, is_host: bool, number: int, wanted: int, substream: int) -> None:
        mux, directions = self.side(is_host)
        direction = directions[number]
        count = min(wanted, mux.credit(number))
        start = direction.sent[substream]
        if direction.ended or start + count > len(direction.pattern):
            return
        mux.send(number, direction.pattern[start : start + count], substream)
        direction.sent[substream] += count

    def end(self, is_host: bool, number: int) -> None:
        mux, directions = self.side(is_host)
        if not is_host and number not in self.opened:
            return
        mux.end(number)
        directions[number].ended = True

    def read(self, is_host: bool, number: int, wanted: int) -> None:
        mux, _ = self.side(is_host)
        direction = (self.down if is_host else self.up)[number]
        count = min(wanted, direction.unread)
        direction.unread -= count
        mux.consumed(number, count)

    def carry(self, is_host: bool, limit: int) -> bool:
        source, target = (self.host, self.guest) if is_host else (self.guest, self.host)
        directions = self.up if is_host else self.down
        moved = bool(source.pending_bytes)
        for frame in transfer(source, target, limit):
            if frame.kind == OPEN:
                self.opened.add(frame.stream)
            elif frame.kind == DATA:
                directions[frame.stream].take(frame)
            elif frame.kind == END:
                directions[frame.stream].end_arrived = True
        return moved

    def settle(self) -> None:
        while self.carry(True, 1 << 20) | self.carry(False, 1 << 20):
            for number in self.up:
                self.read(True, number, 1 << 30)
                self.read(False, number, 1 << 30)


Step = tuple[str, bool, int, int, int]
KINDS_OF_STEP = ("open", "send", "send", "send", "read", "read", "carry", "carry", "carry", "end")
COUNTS = (1, 12, 13, 100, 5000, MAX_PAYLOAD_BYTES, 70000, WINDOW_BYTES)

steps = st.tuples(
    st.sampled_from(KINDS_OF_STEP),
    st.booleans(),
    st.integers(0, 7),
    st.sampled_from(COUNTS),
    st.sampled_from([MAIN, ERROR]),
)


def take_steps(wire: Wire, sequence: Iterable[Step]) -> None:
    for what, is_host, which, count, substream in sequence:
        number = which % max(1, len(wire.up)) + 1
        if what == "open" and len(wire.up) < 8:
            wire.open()
        elif what == "carry":
            wire.carry(is_host, count)
        elif number not in wire.up:
            continue
        elif what == "send":
            wire.send(is_host, number, count, substream)
        elif what == "read":
            wire.read(is_host, number, count)
        elif what == "end":
            wire.end(is_host, number)


def assert_all_arrived(wire: Wire) -> None:
    wire.settle()
    for is_host in (True, False):
        mux, directions = wire.side(is_host)
        for number, direction in directions.items():
            assert direction.arrived == direction.sent
            assert direction.end_arrived == direction.ended
            assert mux.credit(number) > WINDOW_BYTES // 2 or direction.ended, "the stream can't go on"


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=60))
def test_no_order_of_steps_loses_reorders_or_blocks_bytes(sequence: list[Step]) -> None:
    wire = Wire()
    take_steps(wire, sequence)
    assert_all_arrived(wire)


@pytest.mark.parametrize("seed", range(4))
def test_nor_does_a_long_one_that_fills_the_windows(seed: int) -> None:
    randomness = random.Random(seed)
    wire = Wire()
    for _ in range(20):
        # Streams that end early would leave the rest of a long run with nothing to do.
        kinds = KINDS_OF_STEP if randomness.random() < 0.1 else KINDS_OF_STEP[:-1]
        take_steps(
            wire,
            [
                (
                    randomness.choice(kinds),
                    randomness.random() < 0.5,
                    randomness.randrange(8),
                    randomness.choice(COUNTS),
                    randomness.choice((MAIN, ERROR)),
                )
                for _ in range(100)
            ],
        )
    assert_all_arrived(wire)
    assert sum(sum(direction.sent.values()) for direction in wire.up.values()) > 4 * WINDOW_BYTES
