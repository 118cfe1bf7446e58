"""A disk that a pod's own script makes: when it is left as it is, and what would take its place. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from kata_dind.pod.daemon import without_drivers
from kata_dind.pod.model import ConfigMaps, Engine, Finding, Root, Severity
from kata_dind.pod.patch import escape_expansion
from kata_dind.pod.reading import mapping, text, words

_LONGEST_SCRIPT = 65_536
_BACKGROUND = re.compile(r"(?<![&>])&(?![&>])")
"""What starts a program beside the others, as `&&`, `2>&1` and `&>` don't."""


def replacement(engine: Engine) -> list[str]:
    """Return the command that takes the place of a script: the words that it ends with."""
    return [escape_expansion(word) for word in without_drivers(engine.command)]


def can_replace(engine: Engine, container: Mapping[str, Any], config_maps: ConfigMaps) -> bool:
    """Tell whether a script ends with the words that start the program, with nothing in them for a shell.

    What else it does after that, or beside it, would be lost.
    """
    if not engine.command or any(set(word) & set("$`*?;&|<>") for word in engine.command):
        return False
    texts = [*words(container.get("command")), *words(container.get("args"))]
    texts += [text(value) for data in config_maps.values() for value in mapping(data).values()]
    return any(_ends_with(script, engine.command) for script in texts if "mount" in script)


def _ends_with(script: str, command: Sequence[str]) -> bool:
    start = script.rfind(command[0])
    if start < 0 or len(script) > _LONGEST_SCRIPT or _BACKGROUND.search(script):
        return False
    try:
        return shlex.split(script[start:]) == list(command)
    except ValueError:
        return False


def works_by_hand(engine: Engine) -> Finding:
    """Return the finding about a disk that is left as it is."""
    return Finding(
        "root.by-hand",
        Severity.NOTE,
        f"{engine.named} makes a disk for its data root by itself; that works, and is left as it is.",
        engine.container,
        engine.pointer,
        "`kata-dind fix --improve` shows what it would become: direct I/O, checks after a power cut, no packages from "
        "the network at each start, and limits for containers.",
    )


def root_beside(engine: Engine, root: Root) -> Finding:
    """Return the finding about a second root, a containerd's, that is not on the disk."""
    return Finding(
        "root.beside-by-hand",
        Severity.WARNING,
        f"{engine.named} makes a disk for Docker by itself, but Docker's images are in `{root.path}`, which is "
        "not on it.",
        engine.container,
        engine.pointer,
        f"Let the script mount a directory of the disk on {root.path}, too.",
    )


def unclear_script(engine: Engine) -> Finding:
    """Return the finding about a script that can't be replaced."""
    return Finding(
        "root.script-unclear",
        Severity.NOTE,
        f"The script of {engine.named} makes a disk by itself, and what else it does is not clear, so it can't "
        "be replaced.",
        engine.container,
        engine.pointer,
    )
