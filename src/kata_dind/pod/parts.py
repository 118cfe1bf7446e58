"""A pod that is put together from parts of a document: what goes where, so that a patch finds its way back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kata_dind.pod.model import Place, Pointer
from kata_dind.pod.reading import items, mapping, text

NOT_MERGED = ("containers", "ephemeralContainers", "initContainers", "volumes")


class Assembly:
    """A pod in the making. What it takes stays the document's own: nothing is copied but the outer levels."""

    def __init__(self) -> None:
        self._spec: dict[str, Any] = {}
        self._metadata: Any = None
        self._parts: dict[Pointer, Pointer | None] = {}
        self._missing: set[Pointer] = set()

    def fields(self, source: object, pointer: Pointer | None) -> None:
        """Take the fields of a pod spec, or of something like it; earlier ones win. `gather` takes the lists."""
        for key, value in mapping(source).items():
            if isinstance(key, str) and key not in NOT_MERGED and key not in self._spec:
                self.field(key, value, None if pointer is None else (*pointer, key))

    def field(self, key: str, value: object, pointer: Pointer | None) -> None:
        """Take one field of the pod spec; one without a pointer stands nowhere in the document."""
        self._spec[key] = value
        self._parts["spec", key] = pointer

    def gather(self, key: str, sources: Iterable[tuple[object, Pointer | None]], *, into: Pointer | None) -> None:
        """Join lists of several places to one of the pod spec. New entries go into the list at `into`."""
        joined: list[Any] = list(items(self._spec.get(key)))
        present: set[Pointer | None] = set()
        for source, pointer in sources:
            entries = items(source)
            if entries or isinstance(source, list):
                present.add(pointer)
            for index, entry in enumerate(entries):
                self._parts["spec", key, len(joined)] = None if pointer is None else (*pointer, index)
                joined.append(entry)
        self._parts["spec", key] = into
        if joined or present:
            self._spec[key] = joined
            if into is not None and into not in present:
                self._missing.add(into)

    def entry(self, key: str, value: object, parts: Mapping[Pointer, Pointer | None]) -> int:
        """Add an entry to a list of the pod spec; `parts` are pointers within the entry. Returns its index."""
        entries = self._spec.setdefault(key, [])
        index = len(entries)
        entries.append(value)
        self._parts.setdefault(("spec", key), None)
        for inside, pointer in parts.items():
            self._parts[("spec", key, index, *inside)] = pointer
        return index

    def lacks(self, lists: Iterable[Pointer]) -> None:
        """Note lists that the document has not, though an entry of the pod has them, from elsewhere."""
        self._missing.update(lists)

    def overlay(self, patch: object) -> None:
        """Merge a pod spec patch that stands in a string: its fields win, its containers are merged by name."""
        for key, value in mapping(patch).items():
            if key in NOT_MERGED:
                self._overlay_list(key, items(value))
            elif isinstance(key, str) and value is not None:
                self.field(key, value, None)

    def _overlay_list(self, key: str, entries: Sequence[Any]) -> None:
        known = {text(mapping(entry).get("name")): at for at, entry in enumerate(items(self._spec.get(key)))}
        for entry in entries:
            name = text(mapping(entry).get("name"))
            if not name or name not in known:
                self.entry(key, entry, {(): None})
                continue
            fields = {field: value for field, value in mapping(entry).items() if field != "name"}
            self.complete(key, known[name], fields)

    def complete(self, key: str, index: int, fields: Mapping[str, Any]) -> None:
        """Give an entry of a list fields that stand nowhere in the document; they win."""
        changed = list(self._spec[key])
        changed[index] = {**mapping(changed[index]), **fields}
        self._spec[key] = changed
        self._parts.update({("spec", key, index, field): None for field in fields})

    def metadata(self, sources: Sequence[tuple[object, Pointer]], *, into: Pointer | None) -> None:
        """Take the pod's metadata: of the last source if there is one, else joined, and then no patch finds its way."""
        present = [(mapping(source), pointer) for source, pointer in sources if mapping(source)]
        if len(present) > 1:
            self._metadata = {
                key: {name: value for source, _ in present for name, value in mapping(source.get(key)).items()}
                for key in ("labels", "annotations")
            }
            self._parts["metadata",] = None
            return
        self._metadata = present[0][0] if present else None
        self._parts["metadata",] = present[0][1] if present and present[0][1] == into else None
        if not present:
            self._parts["metadata",] = into

    def has(self, key: str) -> bool:
        """Tell whether the pod spec has a field by now."""
        return key in self._spec

    def value(self, key: str) -> Any:
        """Return a field of the pod spec as it is by now."""
        return self._spec.get(key)

    def place(
        self,
        document: Mapping[Any, Any],
        *,
        claim_templates: object = (),
        made_by: str = "",
        incomplete: str = "",
        class_elsewhere: bool = False,
        doubles_dollars: bool = False,
        patch_text: tuple[Pointer, str] | None = None,
    ) -> Place:
        """Return the pod, as a place in the object that it was found in."""
        pod = {"spec": self._spec} if self._metadata is None else {"metadata": self._metadata, "spec": self._spec}
        # What has no part has none in the document either.
        self._parts.setdefault((), None)
        return Place(
            *identity(document),
            pod=pod,
            parts=tuple(sorted(self._parts.items(), key=lambda part: -len(part[0]))),
            missing=frozenset(self._missing),
            claim_templates=mappings(claim_templates),
            made_by=made_by,
            incomplete=incomplete,
            class_elsewhere=class_elsewhere,
            doubles_dollars=doubles_dollars,
            patch_text=patch_text,
        )


def identity(document: Mapping[Any, Any]) -> tuple[str, str, str]:
    """Return what names an object: kind, name and namespace."""
    metadata = mapping(document.get("metadata"))
    name = text(metadata.get("name")) or text(metadata.get("generateName"))
    return text(document.get("kind")), name, text(metadata.get("namespace"))


def mappings(value: object) -> tuple[Mapping[str, Any], ...]:
    """Return the mappings in a list."""
    return tuple(item for item in items(value) if isinstance(item, Mapping))
