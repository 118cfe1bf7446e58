"""The guest entrypoint for a pod: what it leaves out changes nothing, and what it says of itself is true."""

from __future__ import annotations

import hashlib
import re
import subprocess

import pytest

from kata_dind.image.entrypoint import INTERFACE, entrypoint_script
from kata_dind.image.entrypoint_for_pods import MOST_BYTES, entrypoint_for_pods, only_needed, without_comments
from kata_dind.version import __version__
from kata_dind.vocabulary import DataRootKind


def functions_of(script: str) -> dict[str, str]:
    """Return each function as bash prints it, which has read it and knows no comments."""
    functions, main, _ = script.partition("\ntrap ")
    assert main
    printed = subprocess.run(
        ["bash", "-c", f"{functions}\ndeclare -f"], capture_output=True, text=True, check=True
    ).stdout
    return {found[1]: found[0] for found in re.finditer(r"^(\w+) \(\).*?^\}\n", printed, re.MULTILINE | re.DOTALL)}


@pytest.mark.parametrize("kind", DataRootKind)
def test_what_is_left_of_the_script_does_the_same(kind: DataRootKind) -> None:
    whole, shipped = functions_of(entrypoint_script()), functions_of(entrypoint_for_pods(kind))
    # The one function that is told the kind.
    assert {name for name, body in shipped.items() if body != whole[name]} <= {"parse"}
    if kind is DataRootKind.AUTO:
        assert shipped["parse"] == whole["parse"]


@pytest.mark.parametrize("kind", DataRootKind)
def test_its_second_line_tells_what_it_is(kind: DataRootKind) -> None:
    shebang, head, body = entrypoint_for_pods(kind).split("\n", 2)
    assert shebang == "#!/bin/sh"
    digest = hashlib.sha256(body.encode("ascii")).hexdigest()
    assert head == f"# kata-dind {__version__} guest entrypoint, interface {INTERFACE}, kind {kind}, sha256 {digest}"


@pytest.mark.parametrize("kind", [kind for kind in DataRootKind if kind is not DataRootKind.AUTO])
def test_it_is_small_and_lacks_what_its_kind_does_not_need(kind: DataRootKind) -> None:
    script = entrypoint_for_pods(kind)
    assert len(script.encode()) <= MOST_BYTES
    names = set(functions_of(script))
    assert ("prepare_loop" in names, "prepare_block" in names) == (kind == "loop", kind == "block")
    assert not [line for line in script.splitlines()[2:] if line.lstrip().startswith("#") or not line.strip()]


def test_a_function_is_needed_when_it_is_called_by_its_name_or_by_a_computed_one() -> None:
    script = "\n".join(f"{name}() {{\n\t{body}\n}}\n" for name, body in [
        ("used", "read_${kind}_words # not_this"), ("read_a_words", ":"), ("not_this", "used"), ("unused", "unused"),
    ]) + "\nused\n"  # fmt: skip
    assert set(re.findall(r"^(\w+)\(\)", only_needed(script), re.MULTILINE)) == {"used", "read_a_words"}


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("\t# only a comment", ""),
        ("f() { # WHAT: it's one", "f() {"),
        ("[ $# -gt 0 ] # none", "[ $# -gt 0 ]"),
        ("echo 'a # b' # c", "echo 'a # b'"),
        ('echo "it\'s # a" "${a#b}"', 'echo "it\'s # a" "${a#b}"'),
        ("x=${a%% #*}", "x=${a%% #*}"),
    ],
)
def test_comments_go_and_nothing_else(line: str, kept: str) -> None:
    assert without_comments(line) == (f"{kept}\n" if kept else "")
