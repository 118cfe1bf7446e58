"""What is said of a pod, as it is written in the sources: whole sentences, which formats put one behind the other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kata_dind
from kata_dind.pod.sentences import lowered, sentence

_SOURCES = Path(kata_dind.__file__).parent
_FILES = sorted(path for room in ("pod", "fixing") for path in (_SOURCES / room).rglob("*.py"))
_PLACES = {"Finding": (2, 5), "finding": (1, 2)}
"""Where message and hint stand among the arguments of what makes a finding."""


def _said(path: Path) -> Iterator[ast.expr]:
    """Yield what a module has as message or hint of a finding, and as reason of a change."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            places = _PLACES.get(name, (0,) if name == "say" else ())
            yield from (node.args[place] for place in places if place < len(node.args))
            yield from (keyword.value for keyword in node.keywords if keyword.arg in ("message", "hint") and places)


def _ends(text: ast.expr) -> tuple[str, str]:
    """Return the first and the last words of a text as they stand in the source; empty for what is computed."""
    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
    first, last = (str(part.value) if isinstance(part, ast.Constant) else "" for part in (parts[0], parts[-1]))
    return first, last


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.name)
def test_what_is_said_begins_and_ends_as_a_sentence(path: Path) -> None:
    for text in _said(path):
        first, last = _ends(text)
        assert not first or first[0].isupper() or first[0] == "`", first
        assert not last or last.endswith("."), last


def test_the_sources_say_something() -> None:
    assert sum(1 for path in _FILES for _ in _said(path)) > 80


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("the share is slow", "The share is slow."),
        ("dockerd exits", "dockerd exits."),
        ("`x` is there", "`x` is there."),
        ("What changes:", "What changes:"),
        (" ", ""),
    ],
)
def test_a_text_becomes_a_sentence(text: str, whole: str) -> None:
    assert sentence(text) == whole


@pytest.mark.parametrize(
    ("text", "within"), [("The share is slow.", "the share is slow."), ("Docker exits.", "Docker exits."), ("", "")]
)
def test_a_sentence_goes_behind_other_words(text: str, within: str) -> None:
    assert lowered(text) == within
