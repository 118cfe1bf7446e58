"""A guest's report about its data root is not trusted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.dataroot.status import parse_status

EMPTY = {
    "kind": "",
    "path": "",
    "filesystem": "",
    "device": "",
    "storage_driver": "",
    "size_bytes": 0,
    "direct_io": None,
    "proof": {},
    "reasons": {},
}
SPOKEN = {
    "kind": "loop",
    "path": "/var/lib/docker",
    "filesystem": "ext4",
    "device": "/dev/loop0",
    "storage_driver": "",
    "size_bytes": 20 << 30,
    "direct_io": True,
    "proof": {"mount": "passed"},
    "reasons": {"kept": "overlay does not work on virtiofs"},
}


def test_what_the_entrypoint_says_is_kept() -> None:
    assert parse_status({"kata_dind": "info", "step": "ready", **SPOKEN}) == SPOKEN


def test_unknown_fields_are_not_kept() -> None:
    assert parse_status({"password": "x"}) == EMPTY


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", 5),
        ("path", ["/"]),
        ("size_bytes", "20G"),
        ("size_bytes", -1),
        ("size_bytes", True),
        ("size_bytes", 1.5),
        ("direct_io", "true"),
        ("direct_io", 1),
        ("proof", ["mount"]),
        ("reasons", "none"),
    ],
)
def test_values_of_another_type_are_not_kept(field: str, value: Any) -> None:
    assert parse_status({**SPOKEN, field: value}) == {**SPOKEN, field: EMPTY[field]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from([*EMPTY]), json_values))
def test_whatever_a_guest_says_the_types_are_right(spoken: dict[str, Any]) -> None:
    status = parse_status(spoken)
    assert [*status] == [*EMPTY]
    assert all(isinstance(status[key], type(EMPTY[key])) for key in EMPTY if key != "direct_io")


def test_long_texts_and_many_steps_are_cut_short() -> None:
    status = parse_status({"path": "x" * 100_000, "proof": {str(number): "x" * 100_000 for number in range(1000)}})
    assert len(status["path"]) == 4096
    assert len(status["proof"]) == 32
    assert len(status["proof"]["0"]) == 4096
