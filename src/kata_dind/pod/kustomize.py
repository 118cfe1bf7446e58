"""JSON patches of Kustomize (RFC 6902): what they add to pods that stand elsewhere, put together to one pod. Pure.

A patch is a list of operations, in a file of its own or as text in a kustomization. Source: "patches" and
"patchesJson6902" in the reference of kustomization.yaml.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kata_dind.manifest.patch import split_pointer
from kata_dind.pod.model import Place, Pointer
from kata_dind.pod.parts import Assembly
from kata_dind.pod.reading import items, text

_WORDS = frozenset(("add", "replace", "remove", "move", "copy", "test"))
_SETTING = frozenset(("add", "replace"))
_LISTS = ("containers", "initContainers", "volumes")
_CLASS = "runtimeClassName"
_FILE = {"kind": "JSON patch"}
"""What a file is that has nothing else in it."""
_MADE_BY = "Kustomize makes the pod of this patch and of what the patch is for"
_NO_CLASS = "This patch of Kustomize's names no RuntimeClass: the pod has that of the object which the patch is for."


def is_operations(value: object) -> bool:
    """Tell whether a value is a JSON patch: a list of operations, each with a path."""
    return isinstance(value, list) and bool(value) and all(_is_operation(each) for each in value)


def _is_operation(value: object) -> bool:
    return isinstance(value, Mapping) and value.get("op") in _WORDS and text(value.get("path")).startswith("/")


def operation_pods(operations: Sequence[Any], pointer: Pointer, document: Mapping[Any, Any]) -> Iterator[Place]:
    """Yield a pod for each pod spec to which a JSON patch adds containers; `pointer` is the way to the patch."""
    specs: dict[tuple[str, ...], _Added] = {}
    for index, operation in enumerate(operations):
        if operation["op"] in _SETTING and "value" in operation:
            steps = split_pointer(operation["path"])
            at = next((at for at, step in enumerate(steps) if step in (*_LISTS, _CLASS)), None)
            if at is not None:
                added = specs.setdefault(tuple(steps[:at]), _Added())
                added.take(steps[at:], operation["value"], (*pointer, index, "value"))
    for added in specs.values():
        if added.has_containers:
            incomplete = "" if added.has_class else _NO_CLASS
            yield added.assembly.place(document or _FILE, made_by=_MADE_BY, incomplete=incomplete)


class _Added:
    """What the operations of a patch add to one pod spec."""

    def __init__(self) -> None:
        self.assembly = Assembly()
        self.has_containers = False
        self.has_class = False
        self._entries: dict[tuple[str, str], dict[str, Any]] = {}
        """Entries of lists of which single fields are set, by list and index."""

    def take(self, steps: Sequence[str], value: Any, pointer: Pointer) -> None:
        match steps:
            case ["runtimeClassName"]:
                self.has_class = True
                self.assembly.field(_CLASS, value, pointer)
            case [name]:
                self.assembly.gather(name, [(value, pointer)], into=pointer)
                self.has_containers |= name != "volumes" and bool(items(value))
            case [name, _] if isinstance(value, Mapping):
                self.assembly.entry(name, value, {(): pointer})
                self.has_containers |= name != "volumes"
            case [name, at, field, *rest] if name != "volumes" and rest in ([], ["-"]):
                self._take_field(name, at, field, [value] if rest else value, pointer, is_whole=not rest)
            case _:
                pass

    def _take_field(self, name: str, at: str, field: str, value: Any, pointer: Pointer, *, is_whole: bool) -> None:
        entry = self._entries.get((name, at))
        if entry is None:
            entry = self._entries[name, at] = {}
            self.assembly.entry(name, entry, {(): None})
            self.has_containers = True
        if is_whole or not isinstance(entry.get(field), list):
            entry[field] = value
        else:
            entry[field] = [*entry[field], *value]
