"""Publishing what was built: one builder at a time per key, whole or not at all.

A published path is complete and durable. Directories never change; files may be replaced by a newer build of the same
key, while whoever has opened the old one keeps it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from kata_dind.host.locks import locked
from kata_dind.image.workspace import Workspace, open_workspace

Build = Callable[[Workspace, Path], None]
"""Builds one thing in a workspace, at the path given, which lies in the workspace."""


def require_built(target: Path, build: Build, *, cache: Path, goal: str, since: float = 0.0) -> Path:
    """Return `target`, a path in the cache, built when it is absent or was published before `since`.

    `since` is a wall-clock time in seconds. Whoever waited for another builder gets what that one made.
    """
    if _is_fresh(target, since):
        return target
    locks = cache / "locks"
    locks.mkdir(mode=0o700, exist_ok=True)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(locks / f"{target.parent.name}-{target.name}", timeout_seconds=None):
        if not _is_fresh(target, since):
            with open_workspace(cache, goal=goal) as workspace:
                product = workspace.directory / "product"
                build(workspace, product)
                publish(product, target)
    return target


def publish(product: Path, target: Path) -> None:
    """Make a finished file or directory durable, then visible under its final name."""
    os.utime(product, (now := time.time(), now))
    for path in [*product.rglob("*"), product]:
        if not path.is_symlink():
            _sync(path)
    product.rename(target)
    _sync(target.parent)


def content_key(*parts: object) -> str:
    """Return a short key of values that JSON can write, equal for equal values."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def files_key(directory: Path, names: list[str]) -> str:
    """Return a short key of some files' names and contents."""
    digests = [(name, hashlib.sha256((directory / name).read_bytes()).hexdigest()) for name in sorted(names)]
    return content_key(digests)


def _is_fresh(target: Path, since: float) -> bool:
    try:
        return target.stat().st_mtime >= since
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
