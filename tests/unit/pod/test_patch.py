"""A patch in the making, and words that Kubernetes expands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
from kata_dind.pod.model import Copy
from kata_dind.pod.patch import Draft, escape_expansion
from kata_dind.vocabulary import DataRootKind

# ---- a draft


def test_an_absent_list_is_made_by_its_first_item() -> None:
    draft = Draft({"spec": {}})
    draft.append(("spec", "volumes"), {"name": "a"})
    draft.append(("spec", "volumes"), {"name": "b"})
    assert draft.operations == [
        {"op": "add", "path": "/spec/volumes", "value": [{"name": "a"}]},
        {"op": "add", "path": "/spec/volumes/-", "value": {"name": "b"}},
    ]


@pytest.mark.parametrize("nothing", [{}, {"volumes": None}])
def test_null_is_as_good_as_absent(nothing: dict[str, Any]) -> None:
    draft = Draft({"spec": nothing})
    draft.append(("spec", "volumes"), "a")
    assert draft.document == {"spec": {"volumes": ["a"]}}
    assert jsonpatch.apply_patch({"spec": nothing}, draft.operations) == draft.document


def test_mappings_on_the_way_are_made_at_once() -> None:
    draft = Draft({"spec": {}})
    draft.put(("metadata", "annotations", "kata-dind.io/repaired"), "x")
    assert draft.operations == [
        {"op": "add", "path": "/metadata", "value": {"annotations": {"kata-dind.io/repaired": "x"}}}
    ]


def test_what_is_there_already_is_no_operation() -> None:
    draft = Draft({"spec": {"a": {"b": [1]}}})
    draft.put(("spec", "a", "b"), [1])
    assert draft.operations == []


def test_items_go_from_the_end_so_that_each_is_the_right_one() -> None:
    draft = Draft({"args": ["a", "b", "c", "d"], "env": [1, 2]})
    draft.remove_items([("args", 0), ("args", 2), ("env", 1), ("args", 0)])
    assert draft.document == {"args": ["b", "d"], "env": [1]}
    assert [operation["path"] for operation in draft.operations] == ["/args/2", "/env/1", "/args/0"]


def test_items_of_several_lists_go_in_the_order_in_which_they_are_named() -> None:
    names = [f"list{number}" for number in range(20)]
    draft = Draft({name: [1] for name in names})
    draft.remove_items([(name, 0) for name in names])
    assert [operation["path"] for operation in draft.operations] == [f"/{name}/0" for name in names]


def test_a_list_gets_a_first_item() -> None:
    draft = Draft({"a": [1]})
    draft.insert_first(("a",), 0)
    draft.insert_first(("b",), 0)
    assert draft.document == {"a": [0, 1], "b": [0]}


# ---- Kubernetes' expansion


def expand(text: str, mapping: Callable[[bytes], bytes]) -> str:
    """Do what third_party/forked/golang/expansion/expand.go of Kubernetes does, byte by byte as it does."""
    data, done, checkpoint, cursor = text.encode(), b"", 0, 0
    while cursor < len(data):
        if data[cursor] == ord("$") and cursor + 1 < len(data):
            done += data[checkpoint:cursor]
            read, is_variable, advance = try_read_variable_name(data[cursor + 1 :])
            done += mapping(read) if is_variable else read
            cursor += advance
            checkpoint = cursor + 1
        cursor += 1
    return (done + data[checkpoint:]).decode(errors="replace")


def try_read_variable_name(data: bytes) -> tuple[bytes, bool, int]:
    if data[0] == ord("$"):
        return data[:1], False, 1
    if data[0] == ord("("):
        close = data.find(b")", 1)
        return (data[1:close], True, close + 1) if close > 0 else (b"$(", False, 1)
    return b"$" + chr(data[0]).encode(), False, 1  # Go's string(byte) is the character of that number


def variables(known: Mapping[str, str]) -> Callable[[bytes], bytes]:
    return lambda name: known.get(name.decode(), f"$({name.decode()})").encode()


TEXTS = st.text(st.sampled_from("$$$$()() aXé𝄞\n\\'\""), max_size=40)


@given(TEXTS | st.text(max_size=20), st.dictionaries(TEXTS, st.text(max_size=5), max_size=4))
def test_kubernetes_turns_an_escaped_word_into_the_word(word: str, known: dict[str, str]) -> None:
    assert expand(escape_expansion(word), variables(known)) == word


@given(TEXTS, st.data())
def test_no_name_of_a_variable_reaches_an_escaped_word(word: str, data: st.DataObject) -> None:
    inside = [word[start:end] for start in range(len(word)) for end in range(start, min(start + 8, len(word)))]
    known = dict.fromkeys(data.draw(st.lists(st.sampled_from(inside), max_size=5)), "HIT") if inside else {}
    assert expand(escape_expansion(word), variables(known)) == word


@pytest.mark.parametrize("kind", DataRootKind)
def test_the_guest_entrypoint_comes_through_unchanged(kind: DataRootKind) -> None:
    script = entrypoint_for_pods(Copy(kind))
    hostile = dict.fromkeys(("", "id", "pwd", "cat", "stat -f -c '%a %S' \"$directory\"", "(1"), "HIT")
    assert expand(escape_expansion(script), variables(hostile)) == script


@pytest.mark.parametrize(
    ("word", "escaped"),
    [
        ("echo $HOME ${A} $?", "echo $HOME ${A} $?"),
        ("$(id)", "$$(id)"),
        ("$$", "$$$"),
        ("kill $$; a", "kill $$$; a"),
        ("$$$(", "$$$$$$("),
        ("a$", "a$"),
        ("$é", "$$é"),
    ],
)
def test_only_what_would_be_expanded_is_escaped(word: str, escaped: str) -> None:
    assert escape_expansion(word) == escaped
