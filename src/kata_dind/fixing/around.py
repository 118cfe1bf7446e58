"""What else lies in a file or a cluster that a pod depends on: ConfigMaps and claims that it mounts, RuntimeClasses."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from kata_dind.errors import SpecError
from kata_dind.manifest import read_documents
from kata_dind.pod.classes import with_handlers
from kata_dind.pod.model import ConfigMaps, Place
from kata_dind.pod.places import config_maps_in
from kata_dind.pod.policy import Policy
from kata_dind.pod.pull_secrets import pull_secrets_of, service_account_of
from kata_dind.pod.reading import mapping
from kata_dind.pod.tekton import Templates, templates_of_runs, with_run
from kata_dind.pod.volumes import claim_in_reach

_KINDS = ("ConfigMap", "PersistentVolumeClaim", "TaskRun", "PipelineRun", "Pipeline")
_KINDS_OF_LOOKUPS = ("Secret", "ServiceAccount")
_RELEVANT = re.compile(rf"kind[\"']?\s*:\s*[\"']?(?:{'|'.join((*_KINDS, 'RuntimeClass'))})\b")
_RELEVANT_TO_LOOKUPS = re.compile(rf"{_RELEVANT.pattern}|kind[\"']?\s*:\s*[\"']?(?:{'|'.join(_KINDS_OF_LOOKUPS)})\b")
_SEPARATOR = re.compile(r"---(?:\s|$)")

_Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Around:
    """The surroundings of the pods of one file, or of one workload of a cluster."""

    policy: Policy | None = None
    """The user's policy with what RuntimeClasses tell; None if they tell nothing."""
    objects: Mapping[str, Sequence[_Object]] = field(default_factory=dict)
    """ConfigMaps, PersistentVolumeClaims, Tekton's runs and, for lookups, Secrets and ServiceAccounts, by their
    namespaces; an empty one if they name none."""
    _in_reach: dict[str, tuple[ConfigMaps, tuple[_Object, ...], Templates]] = field(default_factory=dict, compare=False)
    """What was asked for already, by namespace: a file may have thousands of pods and of ConfigMaps."""

    def config_maps_of(self, namespace: str) -> ConfigMaps:
        """Return the ConfigMaps that a pod of this namespace may mount."""
        return self._reach_of(namespace)[0] if self.objects else {}

    def claims_of(self, namespace: str) -> tuple[_Object, ...]:
        """Return the claims that a pod of this namespace may mount, as they stand among claim templates."""
        return self._reach_of(namespace)[1] if self.objects else ()

    def pull_secrets_of(self, pod: Mapping[str, Any], namespace: str) -> Iterator[_Object]:
        """Yield the Secrets that a pod's images are pulled with, as far as they are at hand."""
        names = set(pull_secrets_of(pod))
        if account := service_account_of(pod):
            names = {
                name for each in self._named("ServiceAccount", {account}, namespace) for name in pull_secrets_of(each)
            }
        yield from self._named("Secret", names, namespace)

    def _named(self, kind: str, names: Container[str], namespace: str) -> Iterator[_Object]:
        return (each for each in self._of(namespace, kind) if mapping(each.get("metadata")).get("name") in names)

    def completed(self, place: Place) -> Place:
        """Return a place with what lies beside it: the class of a Tekton Task is in its run."""
        if not self.objects or not place.class_elsewhere:
            return place
        return with_run(place, self._reach_of(place.namespace)[2])

    def _reach_of(self, namespace: str) -> tuple[ConfigMaps, tuple[_Object, ...], Templates]:
        # All namespaces that have nothing of their own are one: a dot is in none's name.
        key = namespace if not namespace or namespace in self.objects else "."
        if key not in self._in_reach:
            self._in_reach[key] = (
                config_maps_in(self._of(key, "ConfigMap")),
                tuple(map(claim_in_reach, self._of(key, "PersistentVolumeClaim"))),
                templates_of_runs(self._of(key, "TaskRun", "PipelineRun", "Pipeline")),
            )
        return self._in_reach[key]

    def _of(self, namespace: str, *kinds: str) -> Iterator[_Object]:
        for own, objects in self.objects.items():
            # A manifest without a namespace gets that of the command which applies it.
            if own == namespace or not own or not namespace:
                yield from (each for each in objects if each.get("kind") in kinds)


def around_with(objects: Iterable[_Object], policy: Policy | None) -> Around:
    """Return surroundings with these objects, of any kind."""
    by_namespace: dict[str, list[_Object]] = {}
    for each in objects:
        if each.get("kind") in (*_KINDS, *_KINDS_OF_LOOKUPS):
            metadata = each.get("metadata")
            namespace = str(metadata.get("namespace") or "") if isinstance(metadata, Mapping) else ""
            by_namespace.setdefault(namespace, []).append(each)
    return Around(policy, by_namespace)


def look_around(text: TextIO, *, source: str, policy: Policy, with_secrets: bool = False) -> Around:
    """Parse only those documents of a file that pods may depend on; the file is left at its begin.

    Secrets and ServiceAccounts are parsed only for lookups of images.

    What is wrong with the file is said by those who read all of it.
    """
    relevant = _RELEVANT_TO_LOOKUPS if with_secrets else _RELEVANT
    objects = [each for part in _parts(text) if relevant.search(part) for each in _objects(part, source)]
    text.seek(0)
    classes = (each for each in objects if each.get("kind") == "RuntimeClass")
    return around_with(objects, with_handlers(policy, classes))


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
