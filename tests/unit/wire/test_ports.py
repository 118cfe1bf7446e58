from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.wire.ports import AllTold, Asked, PublishedPort, Unpublished, answer_line, parse_port_event

OPEN = {
    "protocol": "tcp",
    "host_address": "0.0.0.0",
    "port": 8080,
    "container_address": "172.17.0.2",
    "container_port": 80,
    "retried": True,
}


def test_what_a_guest_says() -> None:
    port = PublishedPort("tcp", "0.0.0.0", 8080, "172.17.0.2", 80, True)
    assert parse_port_event(json.dumps({"id": 1, "open": OPEN}).encode()) == Asked(1, port, False)
    assert parse_port_event(json.dumps({"id": 1, "open": OPEN, "published": True}).encode()) == Asked(1, port, True)
    assert parse_port_event(b'{"id": 1, "close": true}') == Unpublished(1)
    assert parse_port_event(b'{"all": 2}') == AllTold(2)


def test_what_it_is_answered() -> None:
    assert json.loads(answer_line(1)) == {"id": 1, "ok": True}
    assert json.loads(answer_line(2, "it is taken")) == {"id": 2, "error": "it is taken"}


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": "icmp"},
        {"port": 65536},
        {"port": -1},
        {"port": True},
        {"port": "80"},
        {"host_address": "localhost"},
        {"container_address": None},
        {"protocol": []},
    ],
)
def test_a_port_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_port_event(json.dumps({"id": 1, "open": {**OPEN, **change}}).encode())


_KEYS = st.sampled_from(["id", "open", "close", "all", "port"])
_VALUES = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(_KEYS, inner)
)


@given(st.binary() | _VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_line_is_an_event_or_a_value_error(line: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_port_event(line)
