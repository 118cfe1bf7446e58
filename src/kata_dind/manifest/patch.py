"""JSON patches (RFC 6902) on plain data. A patched document shares with the old one all that the patch leaves alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Patch = Iterable[Mapping[str, Any]]
"""Operations `add`, `remove`, `replace` and `test`, whose `path` is a JSON pointer (RFC 6901)."""

# Most are dicts, and to ask an abstract class takes ten times as long.
_MAPPINGS = (dict, Mapping)
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


def join_pointer(steps: Iterable[str | int]) -> str:
    """Return the JSON pointer of some steps."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def split_pointer(path: str) -> tuple[str, ...]:
    """Return the steps of a JSON pointer; indexes stay text. Raises ValueError for a malformed one."""
    if path and not path.startswith("/"):
        raise ValueError(f"{path!r} is not a JSON pointer")
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:])


def patched(document: Any, patch: Patch) -> Any:
    """Return the document with the patch applied; neither is changed in place.

    Raises ValueError when an operation names what isn't there, or when a test fails.
    """
    for operation in patch:
        document = _applied(document, split_pointer(operation["path"]), operation)
    return document


def _applied(value: Any, steps: Sequence[str], operation: Mapping[str, Any]) -> Any:
    if not steps:
        return _whole(value, operation)
    if isinstance(value, Mapping):
        return _in_mapping(value, steps[0], steps[1:], operation)
    if isinstance(value, list | tuple):
        return _in_list(value, steps[0], steps[1:], operation)
    raise _missing(operation)


def _whole(value: Any, operation: Mapping[str, Any]) -> Any:
    match operation["op"]:
        case "add" | "replace":
            return operation["value"]
        case "test":
            if not same(value, operation["value"]):
                raise ValueError(f"the test of {operation['path']!r} failed")
            return value
    raise ValueError(f"the whole document can't be {operation['op']}d")


def _in_mapping(
    value: Mapping[Any, Any], key: str, below: Sequence[str], operation: Mapping[str, Any]
) -> dict[Any, Any]:
    copy = dict(value)
    op = operation["op"]
    if key not in copy and (below or op != "add"):
        raise _missing(operation)
    if op == "remove" and not below:
        del copy[key]
    elif below or op == "test":
        copy[key] = _applied(copy[key], below, operation)
    else:
        copy[key] = operation["value"]
    return copy


def _in_list(value: Sequence[Any], step: str, below: Sequence[str], operation: Mapping[str, Any]) -> list[Any]:
    copy = list(value)
    op = operation["op"]
    adds = op == "add" and not below
    if adds and step == "-":
        return [*copy, operation["value"]]
    if not _INDEX.fullmatch(step) or int(step) >= len(copy) + adds:
        raise _missing(operation)
    index = int(step)
    if adds:
        copy.insert(index, operation["value"])
    elif op == "remove" and not below:
        del copy[index]
    elif below or op == "test":
        copy[index] = _applied(copy[index], below, operation)
    else:
        copy[index] = operation["value"]
    return copy


def _missing(operation: Mapping[str, Any]) -> ValueError:
    return ValueError(f"there is nothing at {operation['path']!r} to {operation['op']}")


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are the same JSON: true is not 1, and NaN is NaN."""
    if one is other:
        return True
    if isinstance(one, bool) or isinstance(other, bool):
        return False
    if isinstance(one, str) or isinstance(other, str):
        return type(one) is type(other) and bool(one == other)
    if isinstance(one, _MAPPINGS) and isinstance(other, _MAPPINGS):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)  # noqa: PLR0124 NaN
