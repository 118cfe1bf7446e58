"""The version in a kernel's file; any other file is refused, whatever is in it."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from pathlib import Path

from kata_dind.errors import SpecError

_XEN_PHYS32_ENTRY = 18  # the ELF note that says where a PVH guest starts
_PT_NOTE = 4


def read_kernel_version(path: Path) -> str:
    """Return the version of a bzImage, or of an ELF vmlinux that can start as a PVH guest.

    Raises SpecError for anything else. Source: the kernel's x86/boot.rst, and xen/interface/elfnote.h for the note.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
            version = _bzimage_version(image) or _vmlinux_version(image)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise SpecError(f"--kernel: {path} cannot be read as a kernel: {error}", id="kernel.unreadable") from error
    if version is None:
        raise SpecError(
            f"--kernel: {path} is not a kernel; a bzImage (vmlinuz) or a PVH vmlinux is needed",
            id="kernel.not-a-kernel",
        )
    return version


def _bzimage_version(image: mmap.mmap) -> str | None:
    if len(image) < 0x210 or image[0x202:0x206] != b"HdrS":
        return None
    (offset,) = struct.unpack_from("<H", image, 0x20E)
    return _first_word(image[offset + 0x200 : offset + 0x200 + 256]) if offset else None


def _vmlinux_version(image: mmap.mmap) -> str | None:
    if image[:6] != b"\x7fELF\x02\x01" or not any(kind == _XEN_PHYS32_ENTRY for kind in _xen_notes(image)):
        return None
    start = image.find(b"Linux version ")
    return _first_word(image[start + 14 : start + 270]) if start >= 0 else None


def _xen_notes(image: mmap.mmap) -> Iterable[int]:
    try:
        (headers,) = struct.unpack_from("<Q", image, 0x20)
        size, count = struct.unpack_from("<HH", image, 0x36)
        for number in range(count):
            kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", image, headers + number * size)
            if kind == _PT_NOTE:
                yield from _notes(image[offset : offset + length])
    except struct.error:
        return


def _notes(segment: bytes) -> Iterable[int]:
    position = 0
    while position + 12 <= len(segment):
        name_size, data_size, kind = struct.unpack_from("<III", segment, position)
        name = segment[position + 12 : position + 12 + name_size]
        if name == b"Xen\0":
            yield kind
        position += 12 + _aligned(name_size) + _aligned(data_size)


def _aligned(size: int) -> int:
    return (size + 3) & ~3


def _first_word(text: bytes) -> str | None:
    words = text.partition(b"\0")[0].decode("ascii", errors="replace").split()
    return words[0] if words else None
