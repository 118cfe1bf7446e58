"""The files and variables that ConfigMaps give to a container, as far as they are in reach."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from kata_dind.pod.argv import expand
from kata_dind.pod.launches import Script
from kata_dind.pod.model import ConfigMaps
from kata_dind.pod.reading import is_mapping, items, mapping, text, volumes_of
from kata_dind.pod.volumes import clean_path


class Files:
    """What a container finds at paths at which it mounts ConfigMaps."""

    def __init__(self, spec: Mapping[str, Any], container: Mapping[str, Any], config_maps: ConfigMaps) -> None:
        self._config_maps = config_maps
        self._spec = spec
        self._entries = items(container.get("volumeMounts"))
        self._has_any = any("configMap" in volume or "projected" in volume for _, volume in volumes_of(spec))
        self._sorted: list[tuple[str, str, str]] | None = None

    @property
    def _mounts(self) -> list[tuple[str, str, str]]:
        """Path, volume and subPath of each mount; the longest path is the one that is seen."""
        if self._sorted is None:
            mounts = [
                (clean_path(text(mount.get("mountPath"))), text(mount.get("name")), text(mount.get("subPath")))
                for mount in map(mapping, self._entries)
            ]
            self._sorted = sorted(mounts, key=lambda mount: -len(mount[0]))
        return self._sorted

    def find(self, path: str) -> Script | None:
        """Return the text of the file at an absolute path; None if none of the ConfigMaps in reach has it."""
        return next((script for script, _ in self._at(path) if script is not None), None)

    def unread(self, path: str) -> str:
        """Return the name of a ConfigMap that lies at a path, but is not in reach; empty if there is none."""
        return next((name for script, name in self._at(path) if script is None), "")

    def _at(self, path: str) -> Iterator[tuple[Script | None, str]]:
        if not self._has_any or not path.startswith("/"):
            return
        wanted = clean_path(path)
        for at, volume, sub_path in self._mounts:
            if wanted != at and not wanted.startswith(at.rstrip("/") + "/"):
                continue
            below = wanted[len(at) :].strip("/")
            yield from self._in_volume(volume, posixpath.join(sub_path, below) if below else sub_path)
            return

    def _in_volume(self, volume: str, file: str) -> Iterator[tuple[Script | None, str]]:
        for _, entry in volumes_of(self._spec):
            if entry.get("name") != volume:
                continue
            if is_mapping(entry.get("configMap")):
                yield from self._in_config_map(mapping(entry["configMap"]), file)
            for source in items(mapping(entry.get("projected")).get("sources")):
                yield from self._in_config_map(mapping(mapping(source).get("configMap")), file)

    def _in_config_map(self, source: Mapping[str, Any], file: str) -> Iterator[tuple[Script | None, str]]:
        name = text(source.get("name"))
        if not name:
            return
        key = file
        chosen = items(source.get("items"))
        if chosen:
            keys = {text(mapping(item).get("path")): text(mapping(item).get("key")) for item in chosen}
            if file not in keys:
                return
            key = keys[file]
        data = mapping(self._config_maps.get(name))
        if not data:
            yield None, name
        elif isinstance(data.get(key), str):
            yield Script(data[key], f"the script {key} of the ConfigMap {name}"), name


def environment_of(container: Mapping[str, Any], config_maps: ConfigMaps) -> dict[str, str]:
    """Return the variables of a container whose values are known, expanded as Kubernetes does: the last of a name wins.

    A variable from a Secret, a field or a ConfigMap that is out of reach is an empty string, so that it is there.
    """
    variables: dict[str, str] = {}
    for source in map(mapping, items(container.get("envFrom"))):
        prefix = text(source.get("prefix"))
        data = mapping(config_maps.get(text(mapping(source.get("configMapRef")).get("name"))))
        variables.update({prefix + str(key): value for key, value in data.items() if isinstance(value, str)})
    for entry in items(container.get("env")):
        if not is_mapping(entry):
            continue
        name = entry.get("name")
        if not isinstance(name, str):
            continue
        value = entry.get("value")
        if isinstance(value, str):
            variables[name] = expand(value, variables) if "$" in value else value
        elif isinstance(value, int | float):
            variables[name] = str(value).lower() if isinstance(value, bool) else ""
        else:
            reference = mapping(mapping(entry.get("valueFrom")).get("configMapKeyRef"))
            found = mapping(config_maps.get(text(reference.get("name")))).get(text(reference.get("key")))
            variables[name] = text(found)
    return variables
