"""A manifest of ours as YAML: scripts as literal blocks, and a comment on each part that is not usual."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kata_dind.manifest import dumped

_COMMENTS = {
    "runtimeClassName": "Each pod gets a virtual machine, so that what is privileged below is so in the guest alone.",
    "privileged": "dockerd mounts file systems and makes devices: in the guest, not on the node.",
    "command": "The guest entrypoint prepares and proves the data root, then starts the image's own entrypoint.",
    "terminationGracePeriodSeconds": "The time that dockerd gets to end its containers.",
    "startupProbe": "The first start makes a file system, and guests may be slow.",
    "sizeLimit": "Kubelet counts the file of the data root as this volume, and evicts the pod beyond it.",
    "medium": "A tmpfs of the guest.",
    "volumeMode": "The guest gets the device itself, and makes the file system.",
    "volumeDevices": "The device of the data root.",
    "restartPolicy": "A sidecar: it starts before the other containers, and ends after them.",
}
"""By the key above whose first line a comment stands."""

_KEY = re.compile(r"(?P<indent>\s*)(?P<dash>- )?(?P<key>[A-Za-z]+):(?:\s(?P<value>.*))?")
_BLOCK = re.compile(r"[|>][+-]?\d*\s*$")


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """Return a manifest as YAML with comments."""
    return _commented(dumped(manifest))


def _commented(text: str) -> str:
    said: set[str] = set()
    lines: list[str] = []
    block_indent = -1
    all_lines = text.splitlines(keepends=True)
    for line, following in zip(all_lines, [*all_lines[1:], ""], strict=True):
        indent = len(line) - len(line.lstrip(" "))
        if block_indent >= 0 and (not line.strip() or indent > block_indent):
            lines.append(line)
            continue
        block_indent = indent if _BLOCK.search(line) else -1
        found = _KEY.match(line)
        comment = _COMMENTS.get(found["key"]) if found else None
        if found and comment and found["key"] not in said and _applies(found, following):
            said.add(found["key"])
            lines.append(f"{found['indent']}{'  ' if found['dash'] else ''}# {comment}\n")
        lines.append(line)
    return "".join(lines)


def _applies(found: re.Match[str], following: str) -> bool:
    """Tell whether a key has the meaning that its comment explains: a probe has a command, too."""
    match found["key"]:
        case "restartPolicy":
            return found["value"] == "Always" and len(found["indent"]) > 4
        case "command":
            return following.strip() == "- /bin/sh"
        case _:
            return True
