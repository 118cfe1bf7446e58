"""Files are split and read as kubectl splits and reads them; what can't be read is one sentence with a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.errors import SpecError
from kata_dind.manifest import parse_yaml, read_documents


def read(text: str | bytes, name: str = "f.yaml") -> list[tuple[int, Any]]:
    return [(document.line, document.data) for document in read_documents(text, name)]


def one(text: str) -> Any:
    ((_, data),) = read(text)
    return data


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("# only a comment\n---\n# and another\n", []),
        ("a: 1\n---\nb: 2\n", [(1, {"a": 1}), (3, {"b": 2})]),
        ("---\n---\n\na: 1\n---\n", [(4, {"a": 1})]),
        ("a: |\n  x\n--- # ends a block scalar too\nb: 2\n", [(1, {"a": "x\n"}), (4, {"b": 2})]),
        ("a: |\n  ---\n  x\n", [(1, {"a": "---\nx\n"})]),
        ("--- {a: 1}\n---\n- x\n", [(1, {"a": 1}), (3, ["x"])]),
        ("a: 1\n...\nb: 2\n...\n", [(1, {"a": 1}), (3, {"b": 2})]),
        ("# c\n%YAML 1.1\n---\na: 1\n---\nb: 2\n", [(4, {"a": 1}), (6, {"b": 2})]),
        ("a: 1\r\n---\r\nb: 2\r\n", [(1, {"a": 1}), (3, {"b": 2})]),
        ("\ufeffa: 1\n---\nb: 2\n", [(1, {"a": 1}), (3, {"b": 2})]),
        ('{"a": 1}\n{"b": 2}', [(1, {"a": 1}), (2, {"b": 2})]),
        ("{a: 1}\n---\nb: 2\n", [(1, {"a": 1}), (3, {"b": 2})]),
    ],
)
def test_documents_and_their_lines(text: str, expected: list[tuple[int, Any]]) -> None:
    assert read(text) == expected
    assert read(text.encode()) == expected
    if expected:
        assert "".join(document.source for document in read_documents(text, "f.yaml")) == text


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("yes", True),
        ("On", True),
        ("y", True),
        ("NO", False),
        ("off", False),
        ("yEs", "yEs"),
        ("'yes'", "yes"),
        ("0777", 511),
        ("0o17", 15),
        ("0x1F", 31),
        ("-0b11", -3),
        ("1_000", 1000),
        ("08", 8.0),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("1.2.3", "1.2.3"),
        ("~", None),
        ("", None),
        ("Null", None),
        ("=", "="),
        ("!!str 5", "5"),
        ("!!int '7'", 7),
        ("!custom x", "x"),
    ],
)
def test_scalars_are_those_of_kubectl(word: str, value: object) -> None:
    found = one(f"a: {word}\n")["a"]
    assert found == value
    assert type(found) is type(value)


def test_keys_become_texts_as_json_has_them() -> None:
    assert one("1: a\ntrue: b\non: c\n1.5: d\n".replace("on: c\n", "")) == {"1": "a", "true": "b", "1.5": "d"}


def test_merge_keys_give_way_to_what_is_there() -> None:
    text = "x: &a {p: 1, q: 2}\nz:\n  q: 3\n  <<: *a\nw:\n  <<: [*a, {p: 9, r: 1}]\n"
    assert one(text) == {"x": {"p": 1, "q": 2}, "z": {"p": 1, "q": 3}, "w": {"p": 1, "q": 2, "r": 1}}


def test_toml_is_known_by_its_name_or_its_look() -> None:
    for name in ("config.toml", "-"):
        (document,) = read_documents('concurrent = 4\n[[runners]]\nname = "a"\n', name)
        assert (document.kind, document.data["runners"]) == ("toml", [{"name": "a"}])


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("a: 1\nb: 'c\n", "f.yaml:3: it is not YAML: found unexpected end of stream, in what begins in line 2"),
        ("a: 1\nb: [\n", "f.yaml:3: it is not YAML: did not find expected node content"),
        ("x: 1\n---\na: 1\nb: 2\na: 3\n", "f.yaml:5: the key a is there twice in one mapping"),
        ('{"a": 1, "a": 2}', "f.yaml: the key a is there twice in one object"),
        ("a:\n\tb: 1\n", "f.yaml:2: YAML is not indented by tabs: use spaces"),
        ("a: 1\nb: \x00\n", "f.yaml:2: it contains the control character U+0000"),
        (b"a: 1\nb: \xff\n", "f.yaml:2: it is not UTF-8 text"),
        ("a: 1".encode("utf-16"), "f.yaml is UTF-16: save it as UTF-8"),
        ("a: &a [*a]\n", "f.yaml:1: the alias *a contains itself"),
        ("a: *b\n", "f.yaml:1: the alias *b has no anchor above it"),
        ("? [a]\n: b\n", "f.yaml:1: a key is neither a word nor a number"),
        ("a: {{workflow.name}}\n", "f.yaml:1: a key is neither a word nor a number"),
        ("<<: 1\n", "f.yaml:1: `<<` merges mappings, and this is something else"),
        ("a: " + "[" * 300 + "]" * 300, "f.yaml:1: it is nested more than 200 levels deep"),
        ('{"a": 1,\n"b" 2}', "f.yaml:2: it is not JSON: expecting ':' delimiter"),
        ("[" * 100_000, "f.yaml: it is nested too deep"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_the_line(text: str | bytes, summary: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(text)
    assert caught.value.summary == summary
    assert caught.value.id == "manifest.unreadable"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{{- if .Values.x }}\na: 1\n{{- end }}\n", 1),
        ("a: 1\nb: {{ .Values.x }}\n", 2),
        ("a: 1\n---\nb:\n  {{- toYaml .Values.y | nindent 4 }}\n", 4),
        ('a: {{ include "name" . }}\n', 1),
    ],
)
def test_a_helm_template_is_called_what_it_is(text: str, line: int) -> None:
    with pytest.raises(SpecError) as caught:
        read(text)
    assert caught.value.summary == f"f.yaml:{line}: this is a template, not a manifest yet"
    assert caught.value.id == "manifest.template"
    assert caught.value.hint.startswith("render it first: helm template")


def test_braces_in_a_text_are_nothing_special() -> None:
    assert one("a: '{{workflow.name}}'\n") == {"a": "{{workflow.name}}"}


def test_aliases_that_multiply_are_refused_at_once() -> None:
    levels = [f"k{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 30)]
    with pytest.raises(SpecError, match="aliases expand to more than 100000 values"):
        read("\n".join(["k0: &a0 x", *levels]))


def test_aliases_are_one_object() -> None:
    data = one("a: &x {b: 1}\nc: *x\n")
    assert data["a"] is data["c"]


def test_a_stream_is_read_a_document_at_a_time() -> None:
    asked = 0

    def lines() -> Iterator[str]:
        nonlocal asked
        while True:
            asked += 1
            yield "a: 1\n"
            yield "---\n"

    documents = read_documents(lines(), "f.yaml")
    next(documents)
    assert asked < 10


@pytest.mark.parametrize("read_any", [lambda text: list(parse_yaml(text)), lambda text: read(text, "-")])
@given(text=st.text(st.sampled_from("ab-: \n\t{}[]&*!|>'\"%#?,.\\0~<\r\ufeff\x85é")) | st.text())
def test_any_text_is_read_or_refused(read_any: Callable[[str], object], text: str) -> None:
    try:
        read_any(text)
    except SpecError as error:
        assert "\n" not in error.summary


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        read(data, "-")
    except SpecError as error:
        assert "\n" not in error.summary


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_is_what_it_is(data: object) -> None:
    text = json.dumps({"a": data})
    (document,) = read_documents(text, "f.json")
    assert document.data == json.loads(text)
