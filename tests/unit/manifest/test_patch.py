"""JSON patches on plain data: what is written and read as RFC 6901 has it, and applied as a library applies it."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.manifest.patch import join_pointer, patched, split_pointer

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab~/0-", max_size=2), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("pointer", "text"),
    [
        ((), ""),
        (("spec", "containers", 0), "/spec/containers/0"),
        (("metadata", "annotations", "kata-dind.io/repaired"), "/metadata/annotations/kata-dind.io~1repaired"),
        (("a~1b", "", "-"), "/a~01b//-"),
    ],
)
def test_a_pointer_is_written_as_rfc_6901_has_it(pointer: tuple[str | int, ...], text: str) -> None:
    assert join_pointer(pointer) == text
    assert split_pointer(text) == tuple(map(str, pointer))


def test_a_pointer_without_a_slash_is_none() -> None:
    with pytest.raises(ValueError, match="not a JSON pointer"):
        split_pointer("spec")


# ---- patches


def pointers_in(value: Any, here: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    below: list[tuple[str | int, ...]] = [here]
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        below += pointers_in(inner, (*here, key))
    return below


@given(st.data(), JSON, JSON)
def test_a_patch_does_what_the_library_does(data: st.DataObject, document: Any, value: Any) -> None:
    pointer = data.draw(st.sampled_from(pointers_in(document)))
    last = data.draw(st.sampled_from(["", "x", "-", "0", "1", "00", "~", "9"]) | st.none())
    op = data.draw(st.sampled_from(["add", "remove", "replace", "test"]))
    path = join_pointer(pointer if last is None else (*pointer, last))
    patch: list[dict[str, Any]] = [{"op": op, "path": path, "value": value}]
    if path == "" and op == "remove":
        return  # the library answers with None, and no API server allows it
    before = copy.deepcopy(document)
    try:
        expected = jsonpatch.apply_patch(document, patch)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError, KeyError, AttributeError):
        with pytest.raises(ValueError, match=r"nothing at|failed"):
            patched(document, patch)
    else:
        if op == "test" and json.dumps(expected) != json.dumps(before):
            return
        if op == "test" and not same_json(find(document, path), value):
            return  # for Python 1 == True, for JSON not
        assert patched(document, patch) == expected
    assert document == before


def find(document: Any, path: str) -> Any:
    for key in split_pointer(path):
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document


def same_json(ours: Any, theirs: Any) -> bool:
    return json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)


def test_what_a_patch_does_not_touch_is_shared() -> None:
    document: dict[str, Any] = {"spec": {"containers": [{"name": "a"}, {"name": "b"}]}, "metadata": {}}
    after = patched(document, [{"op": "add", "path": "/spec/containers/1/image", "value": "docker"}])
    assert after["metadata"] is document["metadata"]
    assert after["spec"]["containers"][0] is document["spec"]["containers"][0]
    assert document["spec"] == {"containers": [{"name": "a"}, {"name": "b"}]}


@pytest.mark.parametrize(("ours", "theirs"), [(1, True), (0, False), ("1", 1), ([1], [True]), ({"a": 0}, {"a": False})])
def test_a_test_compares_as_json_does(ours: object, theirs: object) -> None:
    with pytest.raises(ValueError, match="failed"):
        patched({"a": ours}, [{"op": "test", "path": "/a", "value": theirs}])
