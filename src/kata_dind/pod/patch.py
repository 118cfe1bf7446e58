"""A JSON patch (RFC 6902) in the making, and the escape for words that Kubernetes expands. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from kata_dind.manifest.patch import join_pointer, same
from kata_dind.pod.model import Operation, Pointer
from kata_dind.pod.reading import is_mapping

_EXPANDED = re.compile(r"\$(?=[$(]|[^\x00-\x7f])")


@functools.lru_cache(maxsize=1024)
def pointer_text(pointer: Pointer) -> str:
    """Return a pointer as RFC 6901 writes it; a repair writes the same ones for most pods."""
    return join_pointer(pointer)


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
        if there is not None and same(there, value):
            return
        parent = self.get(pointer[:-1])
        while parent is None:
            pointer, value = pointer[:-1], {pointer[-1]: value}
            parent = self.get(pointer[:-1])
        if not is_mapping(parent):
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
        # No set: its order differs from run to run, and so would the patch.
        for pointer in sorted(dict.fromkeys(pointers), key=lambda pointer: pointer[-1], reverse=True):
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
