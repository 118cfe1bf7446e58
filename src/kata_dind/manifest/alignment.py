"""Two lists side by side: which items of the old are which of the new. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

_MOST_COMPARED = 500
"""Items of two lists that are compared with one another, which takes the square of it."""


def aligned(old: Sequence[Any], new: Sequence[Any]) -> Iterator[tuple[int | None, int | None]]:
    """Pair the items of two lists: (before, after), with None for what is new or gone, in the order of both."""
    before, after = [_mark(item) for item in old], [_mark(item) for item in new]
    shorter = min(len(before), len(after))
    head = next((at for at in range(shorter) if before[at] != after[at]), shorter)
    tail = next((at for at in range(shorter - head) if before[-1 - at] != after[-1 - at]), shorter - head)
    yield from zip(range(head), range(head), strict=True)
    yield from _aligned_middle(old, new, range(head, len(old) - tail), range(head, len(new) - tail))
    yield from zip(range(len(old) - tail, len(old)), range(len(new) - tail, len(new)), strict=True)


def _aligned_middle(
    old: Sequence[Any], new: Sequence[Any], before: range, after: range
) -> Iterator[tuple[int | None, int | None]]:
    if len(before) == len(after):
        yield from zip(before, after, strict=True)
        return
    if max(len(before), len(after)) > _MOST_COMPARED:
        yield from _paired_by_name(old, new, before, after)
        return
    matcher = difflib.SequenceMatcher(
        None, [_mark(old[at]) for at in before], [_mark(new[at]) for at in after], autojunk=False
    )
    for tag, start, end, new_start, new_end in matcher.get_opcodes():
        mine, theirs = before[start:end], after[new_start:new_end]
        if tag == "equal" or (tag == "replace" and len(mine) == len(theirs)):
            yield from zip(mine, theirs, strict=True)
        else:
            yield from _paired_by_name(old, new, mine, theirs)


def _paired_by_name(
    old: Sequence[Any], new: Sequence[Any], before: range, after: range
) -> Iterator[tuple[int | None, int | None]]:
    places: dict[str, int] = {}
    for at in reversed(before):
        places[_name(old[at]) or ""] = at
    start = before.start
    for number in after:
        found = places.get(_name(new[number]) or " ", -1)
        if found < start:
            yield None, number
            continue
        yield from ((one, None) for one in range(start, found))
        yield found, number
        start = found + 1
    yield from ((one, None) for one in range(start, before.stop))


def _mark(item: Any) -> Any:
    # What a patch leaves alone is the same object afterwards.
    return id(item) if isinstance(item, dict | list) else (type(item), item)


def _name(item: Any) -> Any:
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else None
