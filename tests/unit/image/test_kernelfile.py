from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kata_dind.errors import SpecError
from kata_dind.image.kernelfile import read_kernel_version


def _bzimage(version: bytes = b"6.1.0-56-cloud-amd64 (debian-kernel@lists) #1 SMP\0") -> bytes:
    image = bytearray(0x1000)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x400)
    image[0x600 : 0x600 + len(version)] = version
    return bytes(image)


def _vmlinux(*, note_kind: int = 18, note_name: bytes = b"Xen\0") -> bytes:
    note = struct.pack("<III", len(note_name), 8, note_kind) + note_name + bytes(8)
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 0x20, 64)
    struct.pack_into("<HH", header, 0x36, 56, 1)
    segment = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(note), len(note), 4)
    return bytes(header) + segment + note + b"Linux version 6.12.117 (builder@host) #1 SMP\n\0"


@pytest.mark.parametrize(
    ("image", "version"), [(_bzimage(), "6.1.0-56-cloud-amd64"), (_vmlinux(), "6.12.117")], ids=["bzImage", "vmlinux"]
)
def test_kernels_tell_their_version(image: bytes, version: str, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(image)
    assert read_kernel_version(tmp_path / "kernel") == version


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"\x7fELF\x02\x01",
        b"#!/bin/sh\n" * 200,
        _bzimage()[:0x210],
        _bzimage(version=b"\0"),
        _vmlinux(note_kind=1),
        _vmlinux(note_name=b"GNU\0"),
        b"\x7fELF\x01" + _vmlinux()[5:],
    ],
    ids=["empty", "ELF magic", "script", "truncated", "no version", "no PVH note", "GNU note", "32 bit"],
)
def test_anything_but_a_kernel_is_refused_in_one_line(image: bytes, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(image)
    with pytest.raises(SpecError, match=r"^--kernel: ") as caught:
        read_kernel_version(tmp_path / "kernel")
    assert "\n" not in caught.value.summary
    assert str(tmp_path / "kernel") in caught.value.summary


@pytest.mark.parametrize("name", ["", "none"], ids=["a directory", "nothing"])
def test_what_cannot_be_read_is_refused_as_well(name: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^--kernel: "):
        read_kernel_version(tmp_path / name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=600), start=st.sampled_from([b"", _bzimage()[:0x206], _vmlinux()[:64]]))
def test_no_file_makes_it_stumble(data: bytes, start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(start + data)
    with contextlib.suppress(SpecError):
        assert read_kernel_version(path)
