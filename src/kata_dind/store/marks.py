"""The files of a seed: their content when the seed was made, and whether it is still the same.

A full look hashes gigabytes; a cheap one, at every clone, asks the file system whether a file was written or replaced.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kata_dind.host.disks import next_data

_BLOCK_BYTES = 64 * 1024
_READ_BYTES = 16 * _BLOCK_BYTES
_ZEROS = bytes(_BLOCK_BYTES)


def mark_files(directory: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the mark of each file, with which a later look compares it: size_bytes, mtime_ns, inode and sha256."""
    return {name: {**_cheap_mark(directory / name), "sha256": content_hash(directory / name)} for name in sorted(names)}


def remarked_files(directory: Path, marks: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return new marks for files that were copied: the content is the same, time and inode have changed."""
    return {name: {**_cheap_mark(directory / name), "sha256": mark["sha256"]} for name, mark in marks.items()}


def changed_file(directory: Path, marks: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the first file that is absent, or whose size, time or inode has changed; None without one."""
    for name, mark in marks.items():
        try:
            found = _cheap_mark(directory / name)
        except FileNotFoundError:
            return name
        if any(found[key] != mark.get(key) for key in found):
            return name
    return None


def damaged_file(directory: Path, marks: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the first file that is absent, or whose content has changed; None without one."""
    for name, mark in marks.items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != mark["size_bytes"] or content_hash(path) != mark["sha256"]:
            return name
    return None


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file's blocks that are not zero, each with its position, so that holes cost nothing."""
    import hashlib  # imported here, since no start needs it

    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_READ_BYTES))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size_bytes = os.fstat(descriptor).st_size
        digest.update(size_bytes.to_bytes(8, "big"))
        position = _block_of(next_data(descriptor, 0))
        while position < size_bytes:
            count = os.preadv(descriptor, [buffer], position)
            if not count:
                break
            for start in range(0, count, _BLOCK_BYTES):
                block = buffer[start : min(start + _BLOCK_BYTES, count)]
                if block != _ZEROS[: len(block)]:
                    digest.update((position + start).to_bytes(8, "big"))
                    digest.update(block)
            position = _block_of(next_data(descriptor, position + count))
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def _block_of(position: int) -> int:
    return position // _BLOCK_BYTES * _BLOCK_BYTES


def _cheap_mark(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
