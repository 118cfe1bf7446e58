"""A daemon's socket in an emptyDir that its pod's containers share. Pure.

With virtio-fs, each container has a mount of its own of such a directory, so the socket's inode is another one in each
of them, and the kernel refuses connections to it. A tmpfs is the guest's own, and one for all containers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from kata_dind.pod.handlers import Runtime
from kata_dind.pod.model import Engine, Finding, Severity
from kata_dind.pod.policy import EmptyDirMode
from kata_dind.pod.reading import containers_of, items, mapping, text, words
from kata_dind.pod.sentences import quoted
from kata_dind.pod.storage import Bench
from kata_dind.pod.volumes import clean_path, find_volume

_RUN = ("/run", "/var/run")

_SOCKET = re.compile(r"unix://(/[\w./-]{1,512})", re.A)
"""The address of a socket, as in `--host=unix:///sockets/docker.sock`."""


def share_sockets(bench: Bench, engine: Engine, runtime: Runtime) -> tuple[list[Finding], list[Finding]]:
    """Put the sockets of a program that other containers reach into memory.

    Returns what was wrong, a finding each, and what stays wrong: a volume with other data may be too large for memory.
    """
    if not runtime.shares or runtime.guest_empty_dir or runtime.empty_dir is not EmptyDirMode.SHARED_FS:
        return [], []
    mended: list[Finding] = []
    left: list[Finding] = []
    for name in _volumes_with_sockets(mapping(bench.draft.get(engine.pointer)), engine):
        found = find_volume(bench.spec, name)
        if found is None or not _is_on_share(found[1]):
            continue
        others = _others_with(bench.spec, engine, name)
        if not others:
            continue
        pointer, volume = found
        where = quoted(name)
        finding = Finding(
            "socket.on-share",
            Severity.ERROR,
            f"{engine.named} has its sockets in the emptyDir {where}, which Kata shares by virtio-fs; "
            f"{others[0]} would get `Connection refused` there.",
            engine.container,
            pointer,
        )
        if _has_other_data(bench.spec, engine, name):
            hint = "Give the sockets an emptyDir of their own, with `medium: Memory`; this one has other data, too."
            left.append(replace(finding, hint=hint))
            continue
        mended.append(finding)
        bench.draft.put((*pointer, "emptyDir"), {**mapping(volume.get("emptyDir")), "medium": "Memory"})
        bench.say(
            f"The emptyDir {where} lies in memory, since on virtio-fs only the container that made a socket reaches it."
        )
    return mended, left


def _volumes_with_sockets(container: Mapping[str, Any], engine: Engine) -> list[str]:
    """Return the names of what a container mounts at /run or below it, and at or above a socket that it names."""
    sockets = _named_sockets(container, engine)
    names = []
    for path, name in _mounts(container):
        if any(_is_below(path, run) for run in _RUN) or any(_is_below(socket, path) for socket in sockets):
            names.append(name)
    return list(dict.fromkeys(names))


def _named_sockets(container: Mapping[str, Any], engine: Engine) -> list[str]:
    """Return the paths of the sockets that a container speaks of, in its words or its environment."""
    values = [text(mapping(entry).get("value")) for entry in items(container.get("env"))]
    said = [*words(container.get("command")), *words(container.get("args")), *engine.command, *values]
    return [clean_path(path) for word in said if "unix://" in word for path in _SOCKET.findall(word)]


def _has_other_data(spec: Mapping[str, Any], engine: Engine, volume: str) -> bool:
    """Tell whether something else than sockets is kept in a volume: a data root, or what a container works on."""
    for list_name, index, container in containers_of(spec):
        is_engines = (list_name, index) == (engine.list, engine.index)
        kept = [text(container.get("workingDir")), *(root.path for root in engine.roots if is_engines)]
        for path, name in _mounts(container):
            if name == volume and any(place and _is_below(clean_path(place), path) for place in kept):
                return True
    return False


def _mounts(container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for entry in items(container.get("volumeMounts")):
        path, name = clean_path(text(mapping(entry).get("mountPath"))), text(mapping(entry).get("name"))
        if name and path:
            yield path, name


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _others_with(spec: Mapping[str, Any], engine: Engine, name: str) -> list[str]:
    """Return the pod's other containers that mount a volume, as sentences name them."""
    return [
        quoted(text(container.get("name")) or f"{list_name}[{index}]")
        for list_name, index, container in containers_of(spec)
        if (list_name, index) != (engine.list, engine.index)
        and any(mapping(entry).get("name") == name for entry in items(container.get("volumeMounts")))
    ]


def _is_on_share(volume: Mapping[str, Any]) -> bool:
    """Tell whether a volume is an emptyDir of no special medium; without a source it is an emptyDir."""
    if len(volume) > 1 and "emptyDir" not in volume:
        return False
    return not text(mapping(volume.get("emptyDir")).get("medium"))
