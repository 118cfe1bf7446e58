"""Small JSON files that several processes read and one writes: replaced in one step, so that none reads half of one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; an empty one when the file is absent, unreadable or has something else in it."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a file in one step; after a crash of the host there is the old one or the new one. Raises OSError."""
    _replace(path, value, sync=True)


def write_passing_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a file that means nothing after a crash of the host, so without waiting for the disk. Raises OSError."""
    _replace(path, value, sync=False)


def _replace(path: Path, value: dict[str, Any], *, sync: bool) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w") as file:
            file.write(json.dumps(value, indent=2) + "\n")
            file.flush()
            if sync:
                os.fsync(file.fileno())  # else some file systems keep the rename, and lose the content
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
