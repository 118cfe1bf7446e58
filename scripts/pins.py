#!/usr/bin/env python3
"""Print the versions in uv.lock as constraints for pip, which then installs from the index in its configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

_LOCK = Path(__file__).parents[1] / "uv.lock"


def constraints(lock: dict[str, Any]) -> list[str]:
    """Return a line for each package of a lock but our own; of a package in two versions, each line has its markers."""
    return [_line(package) for package in lock["package"] if "registry" in package["source"]]


def _line(package: dict[str, Any]) -> str:
    pinned = f"{package['name']}=={package['version']}"
    markers = " or ".join(f"({marker})" for marker in package.get("resolution-markers", ()))
    return f"{pinned} ; {markers}" if markers else pinned


if __name__ == "__main__":
    print("\n".join(constraints(tomllib.loads(_LOCK.read_text(encoding="utf-8")))))
