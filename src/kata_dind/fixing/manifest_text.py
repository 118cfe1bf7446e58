"""A manifest of ours as YAML: scripts as literal blocks, and a comment on each part that is not usual."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

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

_BOOLEANS = frozenset(("y", "n", "yes", "no", "on", "off"))
"""Words that kubectl, which reads YAML 1.1, takes for booleans, and ruamel does not."""

_KEY = re.compile(r"(?P<indent>\s*)(?P<dash>- )?(?P<key>[A-Za-z]+):(?:\s(?P<value>.*))?")
_BLOCK = re.compile(r"[|>][+-]?\d*\s*$")


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """Return a manifest as YAML with comments."""
    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = io.StringIO()
    yaml.dump(_with_blocks(manifest), text)
    return _commented(text.getvalue())


def _with_blocks(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_blocks(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_with_blocks(each) for each in value]
    if isinstance(value, str):
        if value.lower() in _BOOLEANS:
            return DoubleQuotedScalarString(value)
        return LiteralScalarString(value) if "\n" in value else str(value)
    return value


def _commented(text: str) -> str:
    said: set[str] = set()
    lines: list[str] = []
    block_indent = -1
    for line in text.splitlines(keepends=True):
        indent = len(line) - len(line.lstrip(" "))
        if block_indent >= 0 and (not line.strip() or indent > block_indent):
            lines.append(line)
            continue
        block_indent = indent if _BLOCK.search(line) else -1
        found = _KEY.match(line)
        comment = _COMMENTS.get(found["key"]) if found else None
        if found and comment and found["key"] not in said and _applies(found):
            said.add(found["key"])
            lines.append(f"{found['indent']}{'  ' if found['dash'] else ''}# {comment}\n")
        lines.append(line)
    return "".join(lines)


def _applies(found: re.Match[str]) -> bool:
    # Of a whole pod, restartPolicy has its usual meaning.
    return found["key"] != "restartPolicy" or (found["value"] == "Always" and len(found["indent"]) > 4)
