"""Arrays of bash as values of variables: the elements in one text, which no script can write itself. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping

MARK = "\x03"
"""Stands before each element."""

LONGEST_ARRAY = 65_536
"""Characters."""

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
_APPENDING = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\+=")
_OPENS_INDEX = f"{MARK}["
_INDEX = re.compile(rf"{MARK}\[[^\]={MARK}]*\]=")
# `${a[@]}`, from an element on, and with what is taken if the array has none: `${a[@]:1}`, `${a[@]+"${a[@]}"}`.
_ALL = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\[[@*]\](?::([0-9]{1,4})|:?[-+].*)?\}", re.S)
_DECLARING = frozenset(("declare", "export", "local", "readonly", "typeset"))


def opens_array(word: str) -> bool:
    """Tell whether a parenthesis right behind a word opens an array, as in `args=(`."""
    return _ASSIGNMENT.fullmatch(word) is not None


def array_of(elements: Iterable[str]) -> str:
    """Return an array as one text."""
    text = "".join(itertools.chain.from_iterable(zip(itertools.repeat(MARK), elements, strict=False)))
    text = _INDEX.sub(MARK, text) if _OPENS_INDEX in text else text
    return text if len(text) <= LONGEST_ARRAY else text[: text.rfind(MARK, 0, LONGEST_ARRAY)]


def elements_of(value: str) -> list[str]:
    """Return the elements of a variable; of one that is no array, its value."""
    if MARK in value:
        return value.split(MARK)[1:]
    return [value] if value else []


def first_of(value: str) -> str:
    """Return what `$NAME` is: the first element of an array."""
    return value.split(MARK, 2)[1] if MARK in value else value


def all_elements(word: str, variables: Mapping[str, str]) -> list[str] | None:
    """Return the words that `"${NAME[@]}"` becomes; None for any other word, and for a variable that isn't known."""
    found = _ALL.fullmatch(word) if "[" in word else None
    value = variables.get(found[1]) if found else None
    if found is None or value is None:
        return None
    return elements_of(value)[int(found[2] or 0) :]


def appended(word: str, before: list[str], variables: Mapping[str, str]) -> str:
    """Return `NAME+=VALUE` as `NAME=` with the whole of what it then is; any other word as it is.

    `before` are the words of the command that stand before it: an argument of a program appends nothing.
    """
    found = _APPENDING.match(word)
    if found is None or not ((before[:1] and before[0] in _DECLARING) or all(map(_ASSIGNMENT.match, before))):
        return word
    old, more = variables.get(found[1], ""), word[found.end() :]
    if MARK in old or MARK in more:
        more = more if MARK in more else array_of([more])
        return f"{found[1]}={array_of([*elements_of(old), *elements_of(more)])}"
    return f"{found[1]}={(old + more)[:LONGEST_ARRAY]}"
