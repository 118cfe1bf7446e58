"""Publishing a product: one builder at a time per key, and the product is whole or not there.

A published path is complete and durable, and never changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from kata_dind.host.directories import make_private
from kata_dind.host.disks import make_durable, sync_path
from kata_dind.host.locks import locked
from kata_dind.image.workspace import Goal, Workspace, open_workspace

Build = Callable[[Workspace, Path], None]
"""Builds one thing in a workspace, at the given path, which lies in the workspace."""


def require_built(target: Path, build: Build, *, cache: Path, goal: Goal) -> Path:
    """Return `target`, a path in the cache; build it when absent, unless another builder is doing that: then wait."""
    if target.exists():
        return target
    make_private(target.parent)
    with build_lock(f"{target.parent.name}-{target.name}", cache=cache):
        if not target.exists():
            with open_workspace(cache, goal) as workspace:
                product = workspace.directory / "product"
                build(workspace, product)
                publish(product, target)
    return target


def build_lock(key: str, *, cache: Path) -> contextlib.AbstractContextManager[int]:
    """Take the lock for building the thing with this key, however long an earlier builder has it."""
    return locked(make_private(cache / "locks") / key, timeout_seconds=None)


def publish(product: Path, target: Path) -> None:
    """Make a finished file or directory durable, then visible under its final name."""
    make_durable(product)
    product.rename(target)
    sync_path(target.parent)


def content_key(*parts: object) -> str:
    """Return a short key of values that JSON can express; equal values have equal keys."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def files_key(contents: Mapping[str, bytes]) -> str:
    """Return a short key of some files' names and contents, whatever their order."""
    return content_key({name: hashlib.sha256(content).hexdigest() for name, content in contents.items()})
