from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.image import cpio

_NAMES = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x17F, exclude_characters="/\x7f"), min_size=1, max_size=9
)
_PATHS = (
    st.lists(_NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3)
    .map("/".join)
    .filter(lambda path: path != "TRAILER!!!")
)


def _decode(archive: bytes) -> list[cpio.Entry]:
    """Read an archive back, by the format's description alone."""
    entries: list[cpio.Entry] = []
    position = 0
    while True:
        assert archive[position : position + 6] == b"070701"
        fields = [int(archive[position + 6 + 8 * n : position + 14 + 8 * n], 16) for n in range(13)]
        _, mode, uid, gid, _, mtime, size, _, _, major, minor, name_size, check = fields
        assert (uid, gid, mtime, check) == (0, 0, 0, 0)
        name = archive[position + 110 : position + 110 + name_size]
        assert name.endswith(b"\0")
        data = (position + 110 + name_size + 3) & ~3
        position = (data + size + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert position == len(archive)
            return entries
        entries.append(cpio.Entry(name[:-1].decode(), mode, archive[data : data + size], (major, minor)))


@given(st.dictionaries(_PATHS, st.binary(max_size=40), max_size=6))
def test_what_is_encoded_reads_back_after_its_directories(files: dict[str, bytes]) -> None:
    decoded = _decode(cpio.encode_cpio(cpio.regular(path, data) for path, data in files.items()))
    seen: set[str] = set()
    for entry in decoded:
        parent = entry.path.rpartition("/")[0]
        assert not parent or parent in seen
        assert entry.path not in seen
        seen.add(entry.path)
    contents = {entry.path: entry.data for entry in decoded if stat.S_ISREG(entry.mode)}
    # A path that is also the beginning of another one stays what it was first.
    assert contents.items() <= files.items()
    assert seen >= files.keys()


def test_each_kind_of_file_has_its_mode_and_device() -> None:
    entries = [
        cpio.directory("d"),
        cpio.regular("d/f", b"x", mode=0o755),
        cpio.symlink("d/l", "f"),
        cpio.character_device("console", (5, 1)),
    ]
    assert _decode(cpio.encode_cpio(entries)) == [
        cpio.Entry("d", 0o040755),
        cpio.Entry("d/f", 0o100755, b"x"),
        cpio.Entry("d/l", 0o120777, b"f"),
        cpio.Entry("console", 0o020600, b"", (5, 1)),
    ]


def test_the_bytes_are_these() -> None:
    archive = cpio.encode_cpio([cpio.regular("init", b"hello", mode=0o755)])
    assert archive == (
        b"070701" b"00000001" b"000081ED" b"00000000" b"00000000" b"00000001" b"00000000" b"00000005"
        b"00000000" b"00000000" b"00000000" b"00000000" b"00000005" b"00000000" b"init\0\0" b"hello\0\0\0"
        b"070701" b"00000000" b"00000000" b"00000000" b"00000000" b"00000001" b"00000000" b"00000000"
        b"00000000" b"00000000" b"00000000" b"00000000" b"0000000B" b"00000000" b"TRAILER!!!\0\0\0\0"
    )  # fmt: skip


@pytest.mark.requires("busybox")
def test_busybox_unpacks_it(tmp_path: Path) -> None:
    entries = [cpio.regular("a/b/file", b"x" * 4097), cpio.symlink("a/link", "b/file"), cpio.regular("last", b"")]
    archive = cpio.encode_cpio(entries)
    subprocess.run(["busybox", "cpio", "-i", "-d"], input=archive, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "a/link").read_bytes() == b"x" * 4097
    assert (tmp_path / "last").read_bytes() == b""
