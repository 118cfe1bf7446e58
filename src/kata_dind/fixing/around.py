"""What else lies in a file or a cluster that a pod depends on: ConfigMaps and claims that it mounts, RuntimeClasses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from kata_dind.errors import SpecError
from kata_dind.manifest import read_documents
from kata_dind.pod.model import ConfigMaps
from kata_dind.pod.places import config_maps_in
from kata_dind.pod.policy import Policy, RuntimeClass
from kata_dind.pod.volumes import claim_in_reach

_RELEVANT = re.compile(r"kind[\"']?\s*:\s*[\"']?(?:ConfigMap|PersistentVolumeClaim|RuntimeClass)\b")
_SEPARATOR = re.compile(r"---(?:\s|$)")

_Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Around:
    """The surroundings of the pods of one file, or of one workload of a cluster."""

    policy: Policy | None = None
    """The user's policy with what RuntimeClasses tell; None if they tell nothing."""
    objects: Mapping[str, Sequence[_Object]] = field(default_factory=dict)
    """ConfigMaps and PersistentVolumeClaims, by their namespaces; an empty one if they name none."""
    _in_reach: dict[str, tuple[ConfigMaps, tuple[_Object, ...]]] = field(default_factory=dict, compare=False)
    """What was asked for already, by namespace: a file may have thousands of pods and of ConfigMaps."""

    def config_maps_of(self, namespace: str) -> ConfigMaps:
        """Return the ConfigMaps that a pod of this namespace may mount."""
        return self._reach_of(namespace)[0] if self.objects else {}

    def claims_of(self, namespace: str) -> tuple[_Object, ...]:
        """Return the claims that a pod of this namespace may mount, as they stand among claim templates."""
        return self._reach_of(namespace)[1] if self.objects else ()

    def _reach_of(self, namespace: str) -> tuple[ConfigMaps, tuple[_Object, ...]]:
        # All namespaces that have nothing of their own are one: a dot is in none's name.
        key = namespace if not namespace or namespace in self.objects else "."
        if key not in self._in_reach:
            self._in_reach[key] = (
                config_maps_in(self._of(key, "ConfigMap")),
                tuple(map(claim_in_reach, self._of(key, "PersistentVolumeClaim"))),
            )
        return self._in_reach[key]

    def _of(self, namespace: str, kind: str) -> Iterator[_Object]:
        for own, objects in self.objects.items():
            # A manifest without a namespace gets that of the command which applies it.
            if own == namespace or not own or not namespace:
                yield from (each for each in objects if each.get("kind") == kind)


def around_with(objects: Iterable[_Object], policy: Policy | None) -> Around:
    """Return surroundings with these objects, of any kind."""
    by_namespace: dict[str, list[_Object]] = {}
    for each in objects:
        if each.get("kind") in ("ConfigMap", "PersistentVolumeClaim"):
            metadata = each.get("metadata")
            namespace = str(metadata.get("namespace") or "") if isinstance(metadata, Mapping) else ""
            by_namespace.setdefault(namespace, []).append(each)
    return Around(policy, by_namespace)


def look_around(text: TextIO, *, source: str, policy: Policy) -> Around:
    """Parse only those documents of a file that pods may depend on; the file is left at its begin.

    What is wrong with the file is said by those who read all of it.
    """
    objects = [each for part in _parts(text) if _RELEVANT.search(part) for each in _objects(part, source)]
    text.seek(0)
    classes = (each for each in objects if each.get("kind") == "RuntimeClass")
    return around_with(objects, with_handlers(policy, classes))


def with_handlers(policy: Policy, runtime_classes: Iterable[Mapping[str, Any]]) -> Policy | None:
    """Return a policy with the handlers of RuntimeClass objects; None if there is nothing new in them.

    A class with a handler of Kata's is Kata's, unless a rule of the policy is about it.
    """
    rules = []
    for each in runtime_classes:
        metadata, handler = each.get("metadata"), each.get("handler")
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        if not isinstance(name, str) or not isinstance(handler, str) or not re.fullmatch(r"[a-z0-9.-]+", name):
            continue
        known = policy.rule_for(name)
        if known is not None and not known.handler and handler != name:
            rules.append(known.model_copy(update={"match": name, "handler": handler}))
        elif known is None and (handler == "kata" or handler.startswith("kata-")):
            rules.append(RuntimeClass(match=name, handler=handler))
    return policy.model_copy(update={"runtime_classes": (*rules, *policy.runtime_classes)}) if rules else None


def _parts(text: TextIO) -> Iterator[str]:
    """Split a stream at YAML's document separators, without parsing; a part may be more than one document."""
    lines: list[str] = []
    for line in text:
        if _SEPARATOR.match(line):
            yield "".join(lines)
            lines = []
        else:
            lines.append(line)
    yield "".join(lines)


def _objects(part: str, source: str) -> list[Mapping[str, Any]]:
    try:
        found = [document.data for document in read_documents(part, source)]
    except SpecError:
        return []
    return [each for top in found for each in _flat(top)]


def _flat(data: Any) -> Iterator[Mapping[str, Any]]:
    """Yield an object, or the objects of a List."""
    if isinstance(data, Mapping):
        items = data.get("items")
        if str(data.get("kind", "")).endswith("List") and isinstance(items, list):
            for item in items:
                yield from _flat(item)
        else:
            yield data
