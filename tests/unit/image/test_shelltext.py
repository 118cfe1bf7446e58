"""What is left out of a shell program's text: whole lines, and only those that are meant."""

from __future__ import annotations

import re

import pytest

from kata_dind.image.shelltext import lines_for, only_for, only_needed, without_comments


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


STATEMENTS = {
    "a command": "a # only: x\n",
    "a command of two lines": "\t# only: x\n\ta \\\n\t\tb\n",
    "a list of two lines": "a || # only: x\n\tb\n",
    "a list with a block": "a || { # only: x\n\tb\n}\n",
    "an if": "\tif a; then # only: x\n\t\tb\n\n\t\tc\n\tfi\n",
    "a loop": "while a; do # only: x\n\tb\ndone <c\n",
    "a case": "case a in # only: x\nb) ;;\n*) c ;;\nesac\n",
    "an arm": "\ta) b ;; # only: x\n",
    "an arm of several lines": "\ta | b) # only: x\n\t\tc\n\t\t;;\n",
    "a function": "a() { # only: x\n\tb\n}\n",
}


@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS.keys())
def test_a_statement_is_for_its_feature_alone(statement: str) -> None:
    around = f"before\n{statement}after\n"
    assert only_for({"x"}, around) == around
    assert only_for({"y"}, around) == "before\nafter\n"
    assert [*lines_for({"y"}, around)] == [0, around.count("\n") - 1]


def test_a_mark_at_a_statement_with_another_part_is_refused() -> None:
    with pytest.raises(ValueError, match="else"):
        only_for({"y"}, "if a; then # only: x\n\tb\nelse\n\tc\nfi\n")
