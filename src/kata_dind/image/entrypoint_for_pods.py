"""The guest entrypoint for a pod: without comments, and with what one configuration needs.

A pod's manifest carries it, so it must be small, but people read manifests: its lines are the source's own.
"""

from __future__ import annotations

import functools
import hashlib

from kata_dind.drivers import FILESYSTEM_DRIVERS, UNPROVEN_DRIVERS
from kata_dind.image.entrypoint import INTERFACE, PROGRAM_WORDS, WORDS, assemble, read_parts
from kata_dind.image.shelltext import only_needed, without_comments
from kata_dind.pod.model import Copy, Program
from kata_dind.version import __version__
from kata_dind.vocabulary import DataRootKind, Filesystem

MOST_BYTES = {
    DataRootKind.AUTO: 36 * 1024,
    DataRootKind.MEMORY: 22 * 1024,
    DataRootKind.LOOP: 23 * 1024,
    DataRootKind.BLOCK: 23 * 1024,
    DataRootKind.VIRTIOFS: 20 * 1024,
}
"""What a copy for a kind may take of a manifest, with no more than the kind said. `auto` has all kinds, and what
chooses between them. A ConfigMap holds a mebibyte, and one argument or variable of a process 128 KiB."""

MOST_BYTES_WITH_AN_OPTION = 24 * 1024
"""What a copy for one kind may take with one of `fallback`, `containerd` and `mounts_below`, which add to it."""

_DISKS = (DataRootKind.LOOP, DataRootKind.BLOCK)
_SIZED = (DataRootKind.MEMORY, DataRootKind.LOOP)
_ROOTLESS = (DataRootKind.MEMORY, DataRootKind.VIRTIOFS)
"""Without root, the kinds with a disk are refused before there is anything to prove."""


_OTHER_PATTERNS = [
    f"*,{word}" for program, words in PROGRAM_WORDS.items() if program != "dockerd" for word in words.split(" | ")
]
"""The words that tell of another program than dockerd, behind the word before and a comma."""


@functools.cache
def entrypoint_for_pods(copy: Copy) -> str:
    """Return the script for a configuration, which is assembled once.

    Its second line tells version, interface, configuration and digest. Without its first two lines, its SHA-256 is that
    digest.
    """
    parts = read_parts(_features(copy))
    body = without_comments(only_needed(assemble(parts, WORDS | words_of(copy))))
    digest = hashlib.sha256(body.encode()).hexdigest()
    head = f"kata-dind {__version__} guest entrypoint, interface {INTERFACE}, {_named(copy)}, sha256 {digest}"
    return f"#!/bin/sh\n# {head}\n{body}"


def _features(copy: Copy) -> set[str]:
    kinds = [*DataRootKind] if copy.kind is DataRootKind.AUTO else [copy.kind]
    features = {"copy", *map(str, kinds), *(["dockerd"] if copy.program is Program.DOCKERD else [])}
    if _has_disk(copy):
        features |= {"disk", str(copy.filesystem)}
    has = {
        "auto": copy.kind is DataRootKind.AUTO,
        "loop": DataRootKind.LOOP in kinds,
        "block": DataRootKind.BLOCK in kinds,
        "size": not {*kinds}.isdisjoint(_SIZED),
        "rootless": not {*kinds}.isdisjoint(_ROOTLESS),
        "memory-or-share": not {*kinds}.isdisjoint(_ROOTLESS),
        "below": copy.mounts_below and _has_disk(copy),
        "containerd": copy.containerd,
        "fallback": copy.fallback,
        "choice": copy.kind is DataRootKind.AUTO or copy.fallback,
        "other-programs": copy.program is not Program.DOCKERD,
        "other-kinds": kinds != [DataRootKind.LOOP],
    }
    return features | {name if it_has else f"no-{name}" for name, it_has in has.items()}


def words_of(copy: Copy) -> dict[str, str]:
    """Return the words of a copy that differ from those of the whole script."""
    other = "xfs" if copy.filesystem is Filesystem.EXT4 else "ext4"
    own = "buildkitd" if copy.program is Program.EARTHLY else str(copy.program)
    words = {
        "OTHER_FILESYSTEM": f"; for {other} use: kata-dind entrypoint --filesystem {other}",
        "PROGRAM": str(copy.program),
        "OWN_WORDS": PROGRAM_WORDS[own],
        "OTHER_WORDS": " | ".join(words for program, words in PROGRAM_WORDS.items() if program != own),
        "OTHER_PATTERNS": " | ".join(_OTHER_PATTERNS),
    }
    if copy.kind is not DataRootKind.AUTO:
        words["KINDS"] = str(copy.kind)
    if not copy.fallback:
        words["FALLBACKS"] = "none"
    if not _may_have_any_filesystem(copy):
        words["UNPROVEN_DRIVERS"] = " | ".join((*UNPROVEN_DRIVERS, *FILESYSTEM_DRIVERS))
    if copy.filesystem is Filesystem.EXT4:
        words |= {"GROWER": "resize2fs", "LEAST_OF_XFS": "", "MORE_OPTIONS": ""}
    if _has_disk(copy):
        return words | {"FILESYSTEM_OPTION": "--filesystem", "FILESYSTEMS": str(copy.filesystem)}
    return words | {
        "FILESYSTEM_OPTION": "--kind=loop",
        "FILESYSTEMS": "''",
        "DISK_OPTION": "--kind=loop",
        "CHECKS": "",
        "EXCLUSIVES": "",
    }


def _may_have_any_filesystem(copy: Copy) -> bool:
    return copy.kind in (DataRootKind.AUTO, DataRootKind.VIRTIOFS)


def _has_disk(copy: Copy) -> bool:
    return copy.kind is DataRootKind.AUTO or copy.kind in _DISKS


def _named(copy: Copy) -> str:
    disk = f", filesystem {copy.filesystem}" if _has_disk(copy) else ""
    extras = {"fallback": copy.fallback, "containerd": copy.containerd, "mounts below": copy.mounts_below}
    more = "".join(f", {name}" for name, it_has in extras.items() if it_has)
    return f"kind {copy.kind}, program {copy.program}{disk}{more}"
