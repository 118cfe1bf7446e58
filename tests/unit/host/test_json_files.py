from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kata_dind.host.json_files import read_json, write_json, write_passing_json


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff"])
def test_anything_but_an_object_reads_as_empty(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    assert read_json(tmp_path / "file") == {}


@pytest.mark.parametrize("write", [write_json, write_passing_json])
def test_what_was_written_is_read(tmp_path: Path, write: Callable[[Path, dict[str, Any]], None]) -> None:
    for value in ({"a": 1}, {"b": [None, "ü"]}):
        write(tmp_path / "file", value)
        assert read_json(tmp_path / "file") == value
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_content_is_on_disk_before_it_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut can't be had here: the order of the system calls is what there is to look at."""
    synced: list[tuple[bytes, list[str]]] = []

    def fsync(descriptor: int) -> None:
        content = Path(f"/proc/self/fd/{descriptor}").read_bytes()
        synced.append((content, [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")]))

    monkeypatch.setattr(os, "fsync", fsync)
    write_json(tmp_path / "file", {})
    assert synced == [(b"{}\n", [])]
    write_passing_json(tmp_path / "file", {})
    assert len(synced) == 1


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"old": True})
    with pytest.raises(TypeError):
        write_json(tmp_path / "file", {"new": object()})
    (tmp_path / "directory" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_json(tmp_path / "directory", {})
    assert read_json(tmp_path / "file") == {"old": True}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "file"]
