"""The guest entrypoint in front of a container's command: how it is put there, and how it is known again. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kata_dind.pod.model import Copy, Engine, Program, VolumeMount
from kata_dind.pod.patch import escape_expansion
from kata_dind.pod.reading import items, mapping, text, words
from kata_dind.pod.volumes import Claims, find_claim_template, find_mount, find_volume, mounts_below
from kata_dind.pod.wishes import Environment, read_environment
from kata_dind.vocabulary import DataRootKind, Filesystem

DIRECTORY = "/opt/kata-dind"
"""Where the guest entrypoint is mounted, if it does not travel in the command."""

FILE = "entrypoint.sh"
"""Its name there, and at the top of the image that brings it."""

BESIDE = "/var/lib/kata-dind"
"""Where the volume with the disk is mounted, so that the disk lies beside the data root, which stays empty."""

DEVICE = "/dev/kata-dind"
"""The path of the block device in the container."""

NAME = "kata-dind"

NO_PROGRAM = ("/bin/true",)
"""The command behind the guest entrypoint where it only makes a disk, which another container then mounts."""

_PROGRAMS = frozenset(Program)

_HEAD = re.compile(r"#!/bin/sh\n# kata-dind [^\n]{1,60} guest entrypoint, interface [0-9]{1,4}, ")

_DISKS = (DataRootKind.LOOP, DataRootKind.BLOCK)
_ONLY_FOR = {
    "DEVICE": (DataRootKind.BLOCK,),
    "DIR": (DataRootKind.LOOP,),
    "SIZE": (DataRootKind.LOOP, DataRootKind.MEMORY),
    "FILESYSTEM": _DISKS,
    "CHECK": _DISKS,
    "EXCLUSIVE": _DISKS,
}
"""The variables that only copies for some kinds know; the others refuse them."""

_INITS = ("init", "systemd", "containerd")
_WITH_CONTAINERD = re.compile(r"(?:.*/)?(?:init|systemd|docker-init\.sh)|.*containerd\.sock", re.DOTALL)
"""A word that tells the guest entrypoint of a containerd beside dockerd."""


def copy_for(engine: Engine, kind: DataRootKind, container: Mapping[str, Any], environment: Environment) -> Copy:
    """Return the copy of the guest entrypoint that serves a container: the smallest that refuses nothing it has."""
    asked = environment.get("DATA_ROOT")
    if (asked and asked != kind) or any(
        kind not in kinds and environment.get(name) for name, kinds in _ONLY_FOR.items()
    ):
        kind = DataRootKind.AUTO
    if None in environment.values.values():  # a Secret's or ConfigMap's value, which may be anything
        return Copy(DataRootKind.AUTO, engine.program, fallback=True, containerd=True, mounts_below=True)
    program = environment.get("PROGRAM")
    return Copy(
        kind,
        Program(program) if program in _PROGRAMS else engine.program,
        Filesystem.XFS if environment.get("FILESYSTEM") == Filesystem.XFS else Filesystem.EXT4,
        fallback=environment.get("FALLBACK") not in ("", "none"),
        containerd=engine.program is Program.DOCKERD and _may_have_containerd(engine, container, environment),
        mounts_below=any(mounts_below(container, root.path) for root in engine.roots),
    )


def _may_have_containerd(engine: Engine, container: Mapping[str, Any], environment: Environment) -> bool:
    return (
        environment.get("CONTAINERD") not in ("", "none")
        or any(root.is_standalone_containerds for root in engine.roots)
        or any(
            _WITH_CONTAINERD.fullmatch(word)
            for part in (container.get("command"), container.get("args"), engine.entrypoint)
            for word in items(part)
            if isinstance(word, str) and any(name in word for name in _INITS)
        )
        or any("containerd" in text(mapping(mount).get("mountPath")) for mount in items(container.get("volumeMounts")))
    )


def inline_command(script: str, command: Sequence[str]) -> list[str]:
    """Return a command that runs the script, which then runs the old command. Its arguments stay where they are."""
    return ["/bin/sh", "-c", escape_expansion(script), NAME, *command]


def mounted_command(command: Sequence[str]) -> list[str]:
    """Return a command that runs the guest entrypoint from its mount, which then runs the old command."""
    return ["/bin/sh", f"{DIRECTORY}/{FILE}", *command]


def wrapped_words(command: object) -> list[str] | None:
    """Return what stands behind the guest entrypoint in a container's command; None if that isn't in front."""
    found = words(command)
    if found[:2] == ["/bin/sh", "-c"] and len(found) >= 4 and found[3] == NAME and _HEAD.match(found[2]):
        return found[4:]
    if found[:2] == ["/bin/sh", f"{DIRECTORY}/{FILE}"]:
        return found[2:]
    return None


def with_dollars_doubled(command: Any) -> Any:
    """Return a command with each `$` of a guest entrypoint in it written twice; anything else as it is.

    The rest of a command is the user's, who has written it as it must be.
    """
    if not isinstance(command, list) or wrapped_words(command) is None or command[1] != "-c":
        return command
    return [*command[:2], command[2].replace("$", "$$"), *command[3:]]


def is_intact(spec: Mapping[str, Any], container: Mapping[str, Any], claim_templates: Claims = ()) -> bool:
    """Tell whether a container has the guest entrypoint, and the volumes of a repair that it needs."""
    command = container.get("command")
    if not isinstance(command, list | tuple) or wrapped_words(command) is None:
        return False
    if words(command)[1] != "-c" and not _is_there(spec, find_mount(spec, container, DIRECTORY), claim_templates):
        return False
    environment = read_environment(container)
    kind = environment.get("DATA_ROOT")
    # A directory or a device that the user has named may be there in ways that a pod does not show.
    needed = {"loop": environment.get("DIR"), "block": environment.get("DEVICE")}.get(kind, "")
    if not needed.startswith((BESIDE, DEVICE)):
        return True
    mount = find_mount(spec, container, needed, claim_templates)
    return _is_there(spec, mount, claim_templates)


def _is_there(spec: Mapping[str, Any], mount: VolumeMount | None, claim_templates: Claims) -> bool:
    if mount is None:
        return False
    return find_claim_template(claim_templates, mount.volume) is not None or find_volume(spec, mount.volume) is not None


def command_of(container: Mapping[str, Any]) -> list[Any]:
    """Return a container's own command as it stands; empty if it has none, so that the image's entrypoint runs."""
    return list(items(container.get("command")))


def shows_data_root(command: Sequence[str]) -> bool:
    """Tell whether the guest entrypoint finds the data root in the words of a command by itself."""
    for word in command:
        if word.startswith(("--data-root=", "--root=")) or word in ("--data-root", "--root", "-g"):
            return True
        if word.startswith("-g") and word[2:3] in ("=", "/"):
            return True
    return False


def mentions_variable(value: object, name: str, *, depth: int = 8) -> bool:
    """Tell whether `$(NAME)` stands in any text of a value."""
    if isinstance(value, str):
        return f"$({name})" in value
    if depth == 0:
        return False
    if isinstance(value, Mapping):
        return any(mentions_variable(item, name, depth=depth - 1) for item in value.values())
    return any(mentions_variable(item, name, depth=depth - 1) for item in items(value))
