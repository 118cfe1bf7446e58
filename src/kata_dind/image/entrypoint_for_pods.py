"""The guest entrypoint for a pod: without comments, and with those functions alone that the chosen kind needs.

A pod's manifest carries it, so it must be small, but people read manifests: its lines are the source's own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping

from kata_dind.image.entrypoint import INTERFACE, WORDS, assemble, read_parts
from kata_dind.version import __version__
from kata_dind.vocabulary import DataRootKind

MOST_BYTES = 52 * 1024
"""What it may take of a manifest. A ConfigMap holds a mebibyte, and one argument or variable of a process 128 KiB."""

_PARTS_OF_SOME = {
    "block": (DataRootKind.BLOCK,),
    "loop": (DataRootKind.LOOP,),
    "filesystem": (DataRootKind.BLOCK, DataRootKind.LOOP),
    "check": (DataRootKind.BLOCK, DataRootKind.LOOP),
    "protect": (DataRootKind.BLOCK, DataRootKind.LOOP),
    # Without root, the kinds with a disk are refused before there is anything to prove.
    "rootless": (DataRootKind.MEMORY, DataRootKind.VIRTIOFS),
}
"""The parts that only some kinds need; `auto` needs all."""

_FUNCTION = re.compile(r"^([a-z_0-9]+)\(\) \{.*?^\}\n", re.MULTILINE | re.DOTALL)
_WORD = re.compile(r"[a-z_0-9]+")
_COMPUTED = re.compile(r"([a-z_0-9]*)\$(?:\w+|\{\w+\})([a-z_0-9]*)")
"""The name of a function with a variable in it, such as `prepare_$kind`."""


def entrypoint_for_pods(kind: DataRootKind) -> str:
    """Return the script for a kind. Its second line tells version, interface, kind and the digest of all that follows.

    Without its first two lines, its SHA-256 is that digest.
    """
    words = dict(WORDS)
    if kind is not DataRootKind.AUTO:
        words |= {"KINDS": kind.value, "DEFAULT_KIND": kind.value, "KINDS_IN_WORDS": f"{kind}, which this file is for"}
    parts = {name: text for name, text in read_parts().items() if _is_needed(name, kind)}
    body = without_comments(only_needed(assemble(parts, words)))
    digest = hashlib.sha256(body.encode()).hexdigest()
    head = f"# kata-dind {__version__} guest entrypoint, interface {INTERFACE}, kind {kind}, sha256 {digest}"
    return f"#!/bin/sh\n{head}\n{body}"


def without_comments(script: str) -> str:
    """Return a script without comments and blank lines.

    What it quotes over several lines, or has in a here-document, must have none of either.
    """
    kept = (_without_comment(line).rstrip() for line in script.splitlines())
    return "".join(f"{line}\n" for line in kept if line)


def _without_comment(line: str) -> str:
    for found in re.finditer(r"(?:^|[ \t])#", line):
        before = line[: found.start()]
        # Within quotes or braces a number sign begins no comment.
        plain = re.sub(r"\\.", "", before)
        if plain.count("'") % 2 == 0 and plain.count('"') % 2 == 0 and plain.count("${") <= plain.count("}"):
            return before
    return line


def only_needed(script: str) -> str:
    """Return a script without the functions that nothing in it calls, directly or by a name with a variable in it."""
    bodies = {found[1]: found[0] for found in _FUNCTION.finditer(script)}
    pending = [_FUNCTION.sub("", script)]
    needed: set[str] = set()
    while pending:
        called = {name for name in _called_in(pending.pop(), bodies) if name not in needed}
        needed |= called
        pending += [bodies[name].split("\n", 1)[1] for name in called]
    return _FUNCTION.sub(lambda found: found[0] if found[1] in needed else "", script)


def _called_in(text: str, bodies: Mapping[str, str]) -> Iterator[str]:
    code = without_comments(text)
    for word in _WORD.findall(code):
        if word in bodies:
            yield word
    for before, behind in _COMPUTED.findall(code):
        if before.endswith("_") or behind.startswith("_"):
            yield from (name for name in bodies if name.startswith(before) and name.endswith(behind))


def _is_needed(part: str, kind: DataRootKind) -> bool:
    return kind is DataRootKind.AUTO or kind in _PARTS_OF_SOME.get(part, (kind,))
