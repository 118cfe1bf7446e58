"""JSON patches (RFC 6902): a draft that writes them, `apply`, and the escape for words that Kubernetes expands. Pure.

A patched document shares with the old one all that the patch does not touch; neither is ever changed in place.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from kata_dind.pod.model import Operation, Pointer

_EXPANDED = re.compile(r"\$(?=[$(]|[^\x00-\x7f])")


@functools.lru_cache(maxsize=1024)
def pointer_text(pointer: Pointer) -> str:
    """Return a pointer as RFC 6901 writes it."""
    text = "/".join(
        [key.replace("~", "~0").replace("/", "~1") if isinstance(key, str) else str(key) for key in pointer]
    )
    return f"/{text}" if pointer else ""


def pointer_keys(text: str) -> tuple[str, ...]:
    """Return the keys of a pointer in RFC 6901's form; indexes stay text. Raises ValueError for a malformed one."""
    if not text:
        return ()
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is not a JSON pointer")
    return tuple(key.replace("~1", "/").replace("~0", "~") for key in text[1:].split("/"))


def apply(document: Any, patch: Iterable[Operation]) -> Any:
    """Return the document with the patch applied: `add`, `remove`, `replace` and `test`.

    Raises ValueError when an operation names what isn't there, or when a test fails.
    """
    for operation in patch:
        document = _applied(document, pointer_keys(operation["path"]), operation)
    return document


def _applied(value: Any, keys: Sequence[str], operation: Operation) -> Any:
    if not keys:
        return _whole(value, operation)
    key, below = keys[0], keys[1:]
    if isinstance(value, Mapping):
        return _in_mapping(value, key, below, operation)
    if isinstance(value, list | tuple):
        return _in_list(value, key, below, operation)
    raise _missing(operation)


def _whole(value: Any, operation: Operation) -> Any:
    match operation["op"]:
        case "add" | "replace":
            return operation["value"]
        case "test":
            if not _same(value, operation["value"]):
                raise ValueError(f"the test of {operation['path']!r} failed")
            return value
    raise ValueError("the whole document can't be removed")


def _in_mapping(value: Mapping[Any, Any], key: str, below: Sequence[str], operation: Operation) -> dict[Any, Any]:
    copy = dict(value)
    if below or operation["op"] == "test":
        if key not in copy:
            raise _missing(operation)
        copy[key] = _applied(copy[key], below, operation)
    elif operation["op"] == "add":
        copy[key] = operation["value"]
    elif key not in copy:
        raise _missing(operation)
    elif operation["op"] == "replace":
        copy[key] = operation["value"]
    else:
        del copy[key]
    return copy


def _in_list(value: Sequence[Any], key: str, below: Sequence[str], operation: Operation) -> list[Any]:
    copy = list(value)
    adds = not below and operation["op"] == "add"
    index = len(copy) if adds and key == "-" else _index(key, operation)
    if index >= len(copy) + adds:
        raise _missing(operation)
    if below or operation["op"] == "test":
        copy[index] = _applied(copy[index], below, operation)
    elif adds:
        copy.insert(index, operation["value"])
    elif operation["op"] == "replace":
        copy[index] = operation["value"]
    else:
        del copy[index]
    return copy


def _index(key: str, operation: Operation) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,8}", key):
        raise _missing(operation)
    return int(key)


def _missing(operation: Operation) -> ValueError:
    return ValueError(f"there is nothing at {operation['path']!r} to {operation['op']}")


def _same(ours: Any, theirs: Any) -> bool:
    """Compare as JSON does, where true is not 1."""
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return ours is theirs
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return ours.keys() == theirs.keys() and all(_same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    return bool(ours == theirs)


class Malformed(ValueError):
    """A value that a patch would have to change is of a wrong type, which no API server accepts."""

    def __init__(self, pointer: Pointer) -> None:
        super().__init__(f"{pointer_text(pointer)} is of a wrong type")
        self.pointer = pointer


class Draft:
    """A patch in the making: each operation is noted and applied at once, so the next one sees what is there by then.

    Pointers are those of the original as long as nothing was put into a list or taken out of one: what comes later in
    a list must be done first, so `remove_items` begins at the end, and insertions at the front come last of all.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document: Any = document
        self.operations: list[Operation] = []
        self._ours: dict[Pointer, Any] = {}
        """The mappings and lists that were copied already, as long as their pointers hold."""

    def get(self, pointer: Pointer) -> Any:
        """Return what is there by now; None if nothing is."""
        found = self._ours.get(pointer)
        if found is not None:
            return found
        value = self.document
        for key in pointer:
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list):
                value = value[key] if isinstance(key, int) and 0 <= key < len(value) else None
            elif isinstance(value, Mapping):
                value = value.get(key)
            else:
                return None
        return value

    def put(self, pointer: Pointer, value: Any) -> None:
        """Give a key of a mapping this value, and make the mappings on the way to it that are missing.

        Raises Malformed where something else than a mapping is in the way; so do the other methods.
        """
        there = self.get(pointer)
        if there is not None and _same(there, value):
            return
        parent = self.get(pointer[:-1])
        while parent is None:
            pointer, value = pointer[:-1], {pointer[-1]: value}
            parent = self.get(pointer[:-1])
        if not isinstance(parent, Mapping):
            raise Malformed(pointer[:-1])
        op: Literal["replace", "add"] = "replace" if pointer[-1] in parent else "add"
        self.operations.append({"op": op, "path": pointer_text(pointer), "value": value})
        self._own(pointer[:-1])[pointer[-1]] = value
        if self._ours.pop(pointer, None) is not None:
            self._forget(pointer)

    def append(self, pointer: Pointer, *values: Any) -> None:
        """Put values at the end of a list, which is made if it is absent."""
        there = self.get(pointer)
        if isinstance(there, list):
            path = pointer_text((*pointer, "-"))
            self.operations += [{"op": "add", "path": path, "value": value} for value in values]
            self._own(pointer).extend(values)
        elif there is None:
            self.put(pointer, list(values))
        else:
            raise Malformed(pointer)

    def insert_first(self, pointer: Pointer, value: Any) -> None:
        """Put a value at the front of a list, which is made if it is absent."""
        there = self.get(pointer)
        if there and isinstance(there, list):
            self.operations.append({"op": "add", "path": pointer_text((*pointer, 0)), "value": value})
            self._own(pointer).insert(0, value)
            self._forget(pointer)
        else:
            self.append(pointer, value)

    def remove(self, pointer: Pointer) -> None:
        """Take out what is there."""
        self.operations.append({"op": "remove", "path": pointer_text(pointer)})
        del self._own(pointer[:-1])[pointer[-1]]
        self._forget(pointer[:-1])

    def remove_items(self, pointers: Iterable[Pointer]) -> None:
        """Take items out of their lists, from the end, so that each index still means what it meant."""
        for pointer in sorted(set(pointers), key=lambda pointer: pointer[-1], reverse=True):
            self.remove(pointer)

    def _forget(self, pointer: Pointer) -> None:
        """Take what lies below a pointer for another's again, since it has moved or is gone."""
        depth = len(pointer)
        for known in [known for known in self._ours if len(known) > depth and known[:depth] == pointer]:
            del self._ours[known]

    def _own(self, pointer: Pointer) -> Any:
        """Return the mapping or list at a pointer, which is ours to change: what is on the way is copied once."""
        found = self._ours.get(pointer)
        if found is not None:
            return found
        if not pointer:
            self.document = self._ours[pointer] = dict(self.document)
            return self.document
        parent = self._own(pointer[:-1])
        there = parent[pointer[-1]]
        copy = list(there) if isinstance(there, list) else dict(there)
        parent[pointer[-1]] = self._ours[pointer] = copy
        return copy


@functools.lru_cache(maxsize=64)
def escape_expansion(text: str) -> str:
    """Return what Kubernetes' expansion of `command`, `args` or a variable's value turns into the text.

    That replaces `$$` by `$`, and `$(NAME)` where NAME is a variable; what stands between the parentheses may be
    anything, since names of variables may. It also garbles a `$` before a character beyond ASCII, which it takes for a
    byte. So a `$` before any of these is doubled, and all others stay as they are.
    Source: third_party/forked/golang/expansion/expand.go in kubernetes/kubernetes.
    """
    return _EXPANDED.sub("$$", text)
