"""The newc cpio format, as the kernel reads an initramfs. Source: the kernel's early-userspace/buffer-format.rst."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """One file of an archive; its owner is root, its time 0."""

    path: str
    """Relative, without a leading slash."""
    mode: int
    """Type and permissions, as in `st_mode`."""
    data: bytes = b""
    """A file's content or a symbolic link's target."""
    device: tuple[int, int] = (0, 0)


def directory(path: str) -> Entry:
    """Return a directory's entry."""
    return Entry(path, stat.S_IFDIR | 0o755)


def regular(path: str, data: bytes, *, mode: int = 0o644) -> Entry:
    """Return a regular file's entry."""
    return Entry(path, stat.S_IFREG | mode, data)


def symlink(path: str, target: str) -> Entry:
    """Return a symbolic link's entry."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, device: tuple[int, int]) -> Entry:
    """Return a character device's entry."""
    return Entry(path, stat.S_IFCHR | 0o600, device=device)


def encode_cpio(entries: Iterable[Entry]) -> bytes:
    """Return an archive of the entries in their order; the directories above an entry come before it."""
    archive = bytearray()
    seen: set[str] = set()
    number = 0
    for entry in _with_parents(entries):
        if entry.path in seen:
            continue
        seen.add(entry.path)
        number += 1
        archive += _encode(entry, number)
    archive += _encode(Entry(_TRAILER, 0), 0)
    return bytes(archive)


def _with_parents(entries: Iterable[Entry]) -> Iterable[Entry]:
    for entry in entries:
        parts = entry.path.split("/")
        for depth in range(1, len(parts)):
            yield directory("/".join(parts[:depth]))
        yield entry


def _encode(entry: Entry, number: int) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
