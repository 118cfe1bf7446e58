"""The answers that the guest's nameserver gives by itself, as bytes of RFC 1035."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.machine.names import own_answer

A, AAAA = 1, 28


def question(name: str, kind: int = A, *, flags: int = 0x0100, more: bytes = b"") -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    additional = 1 if more else 0
    return struct.pack("!HHHHHH", 0x1234, flags, 1, 0, 0, additional) + labels + struct.pack("!BHH", 0, kind, 1) + more


@pytest.mark.parametrize("name", ["host.docker.internal", "HOST.Docker.internal"])
def test_the_hosts_name_is_the_guests_gateway(name: str) -> None:
    answer = own_answer(question(name))
    assert answer is not None
    asked = question(name)[12:]
    head = bytes.fromhex("1234 8580 0001 0001 0000 0000")
    record = bytes.fromhex("c00c 0001 0001 0000003c 0004") + bytes([198, 18, 1, 2])
    assert answer == head + asked + record


def test_it_has_no_address_of_another_kind() -> None:
    answer = own_answer(question("host.docker.internal", AAAA))
    assert answer is not None
    assert answer[2:12] == bytes.fromhex("8580 0001 0000 0000 0000")


def test_what_a_resolver_adds_to_its_question_is_left_out() -> None:
    edns = bytes.fromhex("00 0029 0200 00000000 0000")
    assert own_answer(question("host.docker.internal", more=edns)) == own_answer(question("host.docker.internal"))


@pytest.mark.parametrize(
    "other",
    [
        question("docker.internal"),
        question("a.host.docker.internal"),
        question("host.docker.internal.example"),
        question("host.docker.internal", flags=0x8180),  # an answer
        question("host.docker.internal", flags=0x2800),  # an update
        question("host.docker.internal")[:-1],
        b"",
        bytes(12),
    ],
)
def test_everything_else_is_for_others(other: bytes) -> None:
    assert own_answer(other) is None


@given(st.binary(max_size=64))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    assert own_answer(data) is None
    own_answer(question("host.docker.internal")[:12] + data)
