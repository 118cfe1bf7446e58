"""Small JSON files that several processes read and one writes: replaced in one step, and never read half."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's object; empty when it is absent, unreadable or something else."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a file in one step; a host that crashes has the old one or the new one. Raises OSError."""
    _replace(path, value, sync=True)


def write_passing_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a file that means nothing once the host has crashed: so nobody waits for the disk. Raises OSError."""
    _replace(path, value, sync=False)


def _replace(path: Path, value: dict[str, Any], *, sync: bool) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w") as file:
            file.write(json.dumps(value, indent=2) + "\n")
            file.flush()
            if sync:
                os.fsync(file.fileno())  # else some file systems keep the rename, and lose what was written
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
