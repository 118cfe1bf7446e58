"""Documents are changed where a patch says, and nowhere else."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.errors import SpecError
from kata_dind.manifest import Document, dumped, edited, line_of, parse_yaml, read_documents
from kata_dind.manifest.emit import Style
from kata_dind.manifest.patch import join_pointer, patched, same


def document(text: str, name: str = "f.yaml") -> Document:
    (found,) = read_documents(text, name)
    return found


def add(path: str, value: object) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


def put(path: str, value: object) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


def remove(path: str) -> dict[str, Any]:
    return {"op": "remove", "path": path}


def check(before: str, patch: list[dict[str, Any]], after: str) -> None:
    before, after = textwrap.dedent(before).lstrip("\n"), textwrap.dedent(after).lstrip("\n")
    assert edited(document(before), patch) == after


def test_a_pod_keeps_its_comments_quotes_and_order() -> None:
    check(
        """
        # who wrote this
        apiVersion: v1
        kind: Pod   # a pod
        metadata: {name: "ci", labels: {a: 'b'}}
        spec:
          # the class
          runtimeClassName: kata

          containers:
          - name: dind  # the daemon
            image: 'docker:27-dind'
            args: ["--storage-driver=vfs", '--mtu=1450']  # slow
            # no mount yet
            env:
            - {name: DOCKER_DRIVER, value: vfs}
            - {name: A, value: "1"}
          # end of the list
          volumes: []   # none
        # the end
        """,
        [
            remove("/spec/containers/0/args/0"),
            remove("/spec/containers/0/env/0"),
            add("/spec/containers/0/volumeMounts", [{"name": "root", "mountPath": "/var/lib/docker"}]),
            add("/spec/volumes/-", {"name": "root", "emptyDir": {"medium": "Memory", "sizeLimit": "20Gi"}}),
            add("/metadata/annotations", {"kata-dind.io/repaired": "yes"}),
            add("/spec/terminationGracePeriodSeconds", 60),
        ],
        """
        # who wrote this
        apiVersion: v1
        kind: Pod   # a pod
        metadata: {name: "ci", labels: {a: 'b'}, annotations: {kata-dind.io/repaired: "yes"}}
        spec:
          # the class
          runtimeClassName: kata

          containers:
          - name: dind  # the daemon
            image: 'docker:27-dind'
            args: ['--mtu=1450']  # slow
            # no mount yet
            env:
            - {name: A, value: "1"}
            volumeMounts:
            - name: root
              mountPath: /var/lib/docker
          # end of the list
          volumes:   # none
          - name: root
            emptyDir:
              medium: Memory
              sizeLimit: 20Gi
          terminationGracePeriodSeconds: 60
        # the end
        """,
    )


def test_new_lists_are_indented_as_the_files_are() -> None:
    check(
        """
        spec:
            containers:
              - name: a
        """,
        [
            add("/spec/containers/0/args", ["x"]),
            add("/spec/volumes", [{"name": "v", "emptyDir": {"medium": "Memory"}}]),
        ],
        """
        spec:
            containers:
              - name: a
                args:
                  - x
            volumes:
              - name: v
                emptyDir:
                    medium: Memory
        """,
    )


def test_a_script_becomes_a_literal_block_where_brackets_were() -> None:
    script = '#!/bin/sh\nif true; then\n\techo "$@"\nfi\n\nexec x\n'
    check(
        """
        command: [dockerd]  # the daemon
        args: [a]
        """,
        [put("/command", ["/bin/sh", "-c", script, "kata-dind", "dockerd"])],
        """
        command:  # the daemon
        - /bin/sh
        - -c
        - |
          #!/bin/sh
          if true; then
          \techo "$@"
          fi

          exec x
        - kata-dind
        - dockerd
        args: [a]
        """,
    )


@pytest.mark.parametrize("text", ["a\nb", "a\nb\n", "a\nb\n\n\n", "  a\nb\n", "\n\na\nb", "\ta\nb", "a\n \nb\n  \n"])
def test_any_text_of_lines_is_the_same_as_a_block(text: str) -> None:
    changed = edited(document("a: 1\nb:\n- c\nd: 2\n"), [put("/a", text), add("/b/-", text)])
    assert document(changed).data == {"a": text, "b": ["c", text], "d": 2}
    assert "|" in changed


@pytest.mark.parametrize(
    "text",
    ["yes", "n", "0777", "1:30", "2020-01-01", "1e3", "~", "", " a", "a: b", "a #b", "- x", "---", "@x", "\x85", "a\rb",
     "é", "😀", "\u2028", "=", "<<", "null", "0x1g", "#", "'", '"', "\\", "{a}", "x" * 900],
)  # fmt: skip
def test_a_text_stays_a_text(text: str) -> None:
    for source in ("a: 1\nb: {c: 1}\n", '{"a": 1, "b": {"c": 1}}'):
        changed = edited(document(source), [put("/a", text), put("/b/c", text), add("/b/d", {text: text})])
        assert document(changed).data == {"a": text, "b": {"c": text, "d": {text: text}}}


def test_line_ends_and_a_missing_last_one_are_kept() -> None:
    text = "a: 1\r\nb:\r\n  c: 2\r\nd: 3"
    assert edited(document(text), [add("/b/e", "x\ny"), put("/d", 4)]) == (
        "a: 1\r\nb:\r\n  c: 2\r\n  e: |-\r\n    x\r\n    y\r\nd: 4"
    )
    assert edited(document(text), [remove("/d"), add("/e", 5)]) == "a: 1\r\nb:\r\n  c: 2\r\ne: 5"


def test_what_surrounds_a_document_is_kept() -> None:
    text = "\ufeff# head\n---\n# first\na: 1\n---\n# second\nb: 1\n# tail\n---\n# rest\n"
    first, second = read_documents(text, "f")
    assert edited(first, [put("/a", 2)]) == "\ufeff# head\n---\n# first\na: 2\n"
    assert edited(second, [put("/b", 2)]) == "---\n# second\nb: 2\n# tail\n---\n# rest\n"
    assert edited(first, []) == first.source


def test_an_anchor_that_others_use_changes_for_one_alone() -> None:
    check(
        """
        base: &base
          args: [a]
          image: x
        one: *base
        two:
          <<: *base
          name: two
        three: *base
        """,
        [add("/one/args/-", "b"), put("/two/args/0", "c")],
        """
        base: &base
          args: [a]
          image: x
        one:
          args:
          - a
          - b
          image: x
        two:
          <<: *base
          name: two
          args:
          - c
        three: *base
        """,
    )


def test_a_change_of_the_anchored_itself_leaves_its_users_as_they_were() -> None:
    check(
        """
        one: &it
          args: [a]
        two: *it
        three:
          <<: *it
          name: x
        """,
        [add("/one/args/-", "b")],
        """
        one: &it
          args: [a, b]
        two:
          args:
          - a
        three:
          <<: *it
          name: x
          args:
          - a
        """,
    )


def test_a_change_of_all_that_share_an_anchor_is_one_change() -> None:
    check(
        "one: &it\n  args: [a]\ntwo: *it\n",
        [add("/one/args/-", "b"), add("/two/args/-", "b")],
        "one: &it\n  args: [a, b]\ntwo: *it\n",
    )


def test_an_anchor_is_kept_when_its_value_is_written_anew() -> None:
    check("a: &x 1  # one\nb: *x\nc: *x\n", [put("/a", 2), put("/b", 2)], "a: &x 2  # one\nb: *x\nc: 1\n")


def test_a_merged_key_that_goes_is_written_out() -> None:
    changed = edited(document("a: &x {p: 1, q: 2}\nb:\n  <<: *x\nc: 3  # kept\n"), [remove("/b/p")])
    assert changed == "a: &x {p: 1, q: 2}\nb:\n  q: 2\nc: 3  # kept\n"


@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        ("- a\n- b\n- c\n", [add("/0", "x"), remove("/2")], "- x\n- a\n- c\n"),
        ("a:\n- b: 1\n  c: 2\n", [remove("/a/0/b")], "a:\n- c: 2\n"),
        ("a:\n- b: 1\n  c: 2\n", [remove("/a/0/b"), remove("/a/0/c")], "a:\n- {}\n"),
        ("a:\n  b: 1\nc: 2\n", [remove("/a/b")], "a: {}\nc: 2\n"),
        ("a:\n- b\nc: 2\n", [remove("/a/0")], "a: []\nc: 2\n"),
        ("a:\nb: 1\n", [put("/a", {"c": 1})], "a:\n  c: 1\nb: 1\n"),
        ("a:  # why\nb: 1\n", [put("/a", 2)], "a: 2  # why\nb: 1\n"),
        ("a: |\n  x\n  y\nb: 1\n", [put("/a", "z")], "a: z\nb: 1\n"),
        ("a: |+\n  x\n\nb: 1\n", [add("/c", 2), put("/b", 3)], "a: |+\n  x\n\nb: 3\nc: 2\n"),
        ("a: x\n  y\nb: 1\n", [add("/c", 2)], "a: x\n  y\nb: 1\nc: 2\n"),
        ("a: {b: 1}\n", [add("/a/c", 2), remove("/a/b")], "a: {c: 2}\n"),
        ("a: { b: 1, c: 2 }\n", [add("/a/d", 2), remove("/a/b")], "a: { c: 2, d: 2 }\n"),
        ("a: [b,c,d]\n", [remove("/a/1"), add("/a/-", "e")], "a: [b,d,e]\n"),
        ("a: [\n  b,\n  c\n]\n", [add("/a/-", "e")], "a: [\n  b,\n  c,\n  e\n]\n"),
        (
            "a:\n- - b\n  - c\n",
            [add("/a/0/-", "d"), add("/a/-", ["e", "f"])],
            "a:\n- - b\n  - c\n  - d\n- - e\n  - f\n",
        ),
        ("--- # x\na: 1\n", [add("/b", 2)], "--- # x\na: 1\nb: 2\n"),
        ('a: "b"\n', [put("/a", "c")], 'a: "c"\n'),
        ("a: yes\n", [put("/a", "yes"), add("/b", True)], 'a: "yes"\nb: true\n'),
        ("a: yes\n", [put("/a", True)], "a: yes\n"),
    ],
)
def test_each_kind_of_change(before: str, patch: list[dict[str, Any]], after: str) -> None:
    assert edited(document(before), patch) == after


@pytest.mark.parametrize("indent", [None, 2, 4, "\t"])
def test_json_keeps_its_indent_and_its_order(indent: int | str | None) -> None:
    data = {
        "b": {"c": [1, {"d": "é"}], "e": {}},
        "a": "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    }
    patch = [add("/b/c/-", {"x": [1]}), put("/b/e", {"y": None}), add("/z", "l\nm"), remove("/b/c/0")]
    for ascii_only in (True, False):
        text = json.dumps(data, indent=indent, ensure_ascii=ascii_only)
        changed = edited(document(text, "f.json"), patch)
        assert changed == json.dumps(patched(data, patch), indent=indent, ensure_ascii=ascii_only)


def test_json_of_somebodys_own_style_is_changed_where_it_must_be() -> None:
    text = '{ "a":[1,2],\n  "b" : {"c": 1} ,\n\n  "d": [\n    "e"\n  ]\n}\n'
    changed = edited(document(text, "f.json"), [put("/b/c", 2), add("/d/-", {"f": 1})])
    assert changed == '{ "a":[1,2],\n  "b" : {"c": 2} ,\n\n  "d": [\n    "e",\n    {"f": 1}\n  ]\n}\n'


def test_toml_is_never_changed() -> None:
    config = document("a = 1\n", "config.toml")
    assert edited(config, []) == "a = 1\n"
    with pytest.raises(SpecError, match="TOML is read, and never changed"):
        edited(config, [put("/a", 2)])


@pytest.mark.parametrize("operation", [remove("/b"), put("/b/c", 1), put("/l/7", 1), add("/l/x", 1), add("a", 1)])
def test_a_patch_that_does_not_fit_is_a_mistake_of_ours(operation: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"nothing at|not a JSON pointer"):
        edited(document("a: 1\nl: [1]\n"), [operation])


def test_a_test_operation_compares_as_json_does() -> None:
    assert patched({"a": 1}, [{"op": "test", "path": "/a", "value": 1}]) == {"a": 1}
    with pytest.raises(ValueError, match="the test of '/a' failed"):
        patched({"a": 1}, [{"op": "test", "path": "/a", "value": True}])


def test_lines_of_values_are_the_files() -> None:
    text = "# c\n---\nx: 1\n---\n# c\n"
    text += "spec:\n  containers:\n  - name: a\n    args:\n    - b\n  other: &o {p: 1}\n  more: *o\n"
    _, second = read_documents(text, "f")
    assert line_of(second, ()) == 6
    assert line_of(second, ("spec", "containers", 0, "args", 0)) == 10
    assert line_of(second, ("spec", "containers", 0, "missing", "x")) == 8
    assert line_of(second, ("spec", "more", "p")) == 11
    (as_json,) = read_documents('{\n"a": [\n{"b": 1},\n{"b": 2}]}', "f")
    assert line_of(as_json, ("a", 1, "b")) == 4


_TEXTS = st.sampled_from(
    ["a", "yes", "0777", "docker:27-dind", "x y", "", "#c", "a: b", "- x", "l1\nl2\n", "l1\n\n  l2", "\n\n",
     "t\tx", "  l", "é", "😀", "{a}", "*x", "a #b", "end:", "--f=x", "---", "a\n---\nb\n", "trail ", "a\rb",
     "\x85", "<<", "\n a"]
)  # fmt: skip
_KEYS = st.sampled_from(["a", "b", "name", "args", "yes", "1", "k.io/x", "é", "x y", "a: b", "#", "-", "null"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 2000) | st.floats(0, 9) | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)
_STYLES = st.builds(
    Style,
    newline=st.sampled_from(["\n", "\r\n"]),
    step=st.sampled_from([2, 3, 4]),
    sequence_offset=st.sampled_from([0, 2]),
    json_indent=st.sampled_from([None, "  ", "\t"]),
    is_json=st.booleans(),
)


def _places(value: Any, here: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], Any]]:
    found: list[tuple[tuple[str | int, ...], Any]] = [(here, value)]
    if isinstance(value, dict | list):
        pairs: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            found += _places(inner, (*here, key))
    return found


def _draw_operation(data: st.DataObject, value: object) -> dict[str, Any]:
    pointer, found = data.draw(st.sampled_from(_places(value)))
    if isinstance(found, dict):
        return add(join_pointer((*pointer, data.draw(_KEYS))), data.draw(_VALUES))
    if isinstance(found, list):
        step = data.draw(st.sampled_from(["-", str(len(found)), "0"]))
        return add(join_pointer((*pointer, step)), data.draw(_VALUES))
    if data.draw(st.booleans()):
        return remove(join_pointer(pointer))
    return put(join_pointer(pointer), data.draw(_VALUES))


@hypothesis.settings(max_examples=300)
@given(
    data=st.data(),
    value=st.dictionaries(_KEYS, _VALUES, min_size=1, max_size=4),
    style=_STYLES,
    ends=st.booleans(),
    comments=st.lists(st.integers(0, 40), max_size=3),
)
def test_a_changed_document_reads_as_the_patched_data(
    data: st.DataObject, value: dict[str, Any], style: Style, ends: bool, comments: list[int]
) -> None:
    text = dumped(value, style)
    assert same(document(text, "f").data, value)
    if not style.is_json:
        text = _commented(text, comments)
    before = document(text if ends else text.removesuffix(style.newline), "f")
    patch: list[dict[str, Any]] = []
    expected = before.data
    for _ in range(data.draw(st.integers(1, 3))):
        operation = _draw_operation(data, expected)
        patch.append(operation)
        expected = patched(expected, [operation])
    after = document(edited(before, patch), "f")
    assert same(after.data, expected)
    for comment in _comments(before.source):
        assert comment in after.source or not ends or _is_all_new(before.data, expected)


def _commented(text: str, lines: list[int]) -> str:
    """Put comments into a text, where they change nothing."""
    for number, line in enumerate(lines):
        parts = text.split("\n")
        at = min(line, len(parts) - 1)
        candidate = "\n".join([*parts[:at], f"# comment {number}", *parts[at:]])
        try:
            if same(next(parse_yaml(candidate)), next(parse_yaml(text))):
                text = candidate
        except SpecError:
            continue
    return text


def _comments(text: str) -> list[str]:
    # At the left edge, above the first key, no change of a value reaches them.
    head = text.partition("\n")[0].rstrip("\r")
    return [head] if head.startswith("# comment") else []


def _is_all_new(before: dict[str, Any], after: object) -> bool:
    return not isinstance(after, dict) or not (before.keys() & after.keys())
