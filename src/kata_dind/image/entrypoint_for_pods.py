"""The guest entrypoint for a pod: without comments, and with what one configuration needs.

A pod's manifest carries it, so it must be small, but people read manifests: its lines are the source's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from kata_dind.image.entrypoint import INTERFACE, WORDS, assemble, read_parts
from kata_dind.image.shelltext import only_needed, without_comments
from kata_dind.pod.model import Copy, Program
from kata_dind.version import __version__
from kata_dind.vocabulary import DataRootKind, Filesystem

MOST_BYTES = {
    DataRootKind.AUTO: 52 * 1024,
    DataRootKind.MEMORY: 33 * 1024,
    DataRootKind.LOOP: 40 * 1024,
    DataRootKind.BLOCK: 37 * 1024,
    DataRootKind.VIRTIOFS: 30 * 1024,
}
"""What a copy for a kind may take of a manifest, with no more than the kind said. A ConfigMap holds a mebibyte, and one
argument or variable of a process 128 KiB."""

_DISKS = (DataRootKind.LOOP, DataRootKind.BLOCK)
_SIZED = (DataRootKind.MEMORY, DataRootKind.LOOP)
_ROOTLESS = (DataRootKind.MEMORY, DataRootKind.VIRTIOFS)
"""Without root, the kinds with a disk are refused before there is anything to prove."""


def entrypoint_for_pods(copy: Copy) -> str:
    """Return the script for a configuration. Its second line tells version, interface, configuration and digest.

    Without its first two lines, its SHA-256 is that digest.
    """
    parts = read_parts(_features(copy))
    body = without_comments(only_needed(assemble(parts, WORDS | words_of(copy))))
    digest = hashlib.sha256(body.encode()).hexdigest()
    head = f"kata-dind {__version__} guest entrypoint, interface {INTERFACE}, {_named(copy)}, sha256 {digest}"
    return f"#!/bin/sh\n# {head}\n{body}"


def _features(copy: Copy) -> set[str]:
    kinds = [*DataRootKind] if copy.kind is DataRootKind.AUTO else [copy.kind]
    features = {"copy", *map(str, kinds), "dockerd" if copy.program is Program.DOCKERD else "other-programs"}
    if _has_disk(copy):
        features |= {"disk", str(copy.filesystem)}
    if not {*kinds}.isdisjoint(_SIZED):
        features |= {"size"}
    features |= {"rootless" if not {*kinds}.isdisjoint(_ROOTLESS) else "no-rootless"}
    features |= {"containerd" if copy.containerd else "no-containerd"}
    return features | ({"fallback"} if copy.fallback else set())


def words_of(copy: Copy) -> dict[str, str]:
    """Return the words of a copy that differ from those of the whole script, or that only a copy has."""
    other = "xfs" if copy.filesystem is Filesystem.EXT4 else "ext4"
    return {
        "DEFAULT_FILESYSTEM": str(copy.filesystem) if _has_disk(copy) else "",
        "DEFAULT_KIND": str(copy.kind),
        "LEFT_OUT": " ".join(_left_out(copy)),
        "OTHER_FILESYSTEM": f"; for {other}, take the file of: kata-dind entrypoint --filesystem {other}",
        "PROGRAM": str(copy.program),
    }


def _left_out(copy: Copy) -> Iterator[str]:
    """Yield each variable whose value, if it has any, must be this one, and the option that makes a copy for others."""
    auto = copy.kind is DataRootKind.AUTO
    if not auto:
        yield f"DATA_ROOT={copy.kind}:--kind"
    yield f"PROGRAM={copy.program}:--program"
    if not copy.fallback:
        yield "FALLBACK=none:--fallback"
    if not auto and copy.kind is not DataRootKind.BLOCK:
        yield "DEVICE=:--kind=block"
    if not auto and copy.kind is not DataRootKind.LOOP:
        yield "DIR=:--kind=loop"
    if not auto and copy.kind not in _SIZED:
        yield "SIZE=:--kind=loop"
    if _has_disk(copy):
        yield f"FILESYSTEM={copy.filesystem}:--filesystem"
    else:
        yield from (f"{name}=:--kind=loop" for name in ("FILESYSTEM", "CHECK", "EXCLUSIVE"))


def _has_disk(copy: Copy) -> bool:
    return copy.kind is DataRootKind.AUTO or copy.kind in _DISKS


def _named(copy: Copy) -> str:
    disk = f", filesystem {copy.filesystem}" if _has_disk(copy) else ""
    more = "".join(f", {name}" for name in ("fallback", "containerd") if getattr(copy, name))
    return f"kind {copy.kind}, program {copy.program}{disk}{more}"
