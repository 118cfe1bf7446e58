"""What the follower of a container is made of; a whole life is in tests/contract."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.life.container import LineSplitter, RotatingLog


@given(
    st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b" ")), max_size=20),
    st.lists(st.integers(0, 600)),
)
def test_any_split_of_any_lines_gives_those_lines(lines: list[bytes], cuts: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    splitter = LineSplitter()
    assert [line for start, end in itertools.pairwise(edges) for line in splitter.feed(data[start:end])] == lines


def test_an_incomplete_line_waits_for_its_rest() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == [b"one"]
    assert splitter.feed(b"") == []
    assert splitter.feed(b"o\n\n") == [b"two", b""]


def test_a_line_without_an_end_does_not_grow_for_ever() -> None:
    splitter = LineSplitter()
    for _ in range(100):
        assert splitter.feed(b"x" * 65536) == []
    (line,) = splitter.feed(b"\n")
    assert len(line) == 65536
    assert splitter.feed(b"next\n") == [b"next"]


def test_a_log_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "dockerd.log"
    path.write_bytes(b"before\n")
    RotatingLog(path, limit_bytes=100).write(b"now\n")
    assert path.read_bytes() == b"before\nnow\n"


def test_a_log_beyond_its_limit_is_set_aside_once(tmp_path: Path) -> None:
    path = tmp_path / "dockerd.log"
    log = RotatingLog(path, limit_bytes=10)
    for word in (b"12345\n", b"67890\n", b"abcde\n", b"fghij\n", b"klmno\n"):
        log.write(word)
    assert path.read_bytes() == b"klmno\n"
    assert (tmp_path / "dockerd.log.1").read_bytes() == b"abcde\nfghij\n"
    assert {file.name for file in tmp_path.iterdir()} == {"dockerd.log", "dockerd.log.1"}


def test_a_log_that_cannot_be_written_is_lost_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    RotatingLog(tmp_path / "absent" / "dockerd.log", limit_bytes=10).write(b"lost")
    assert "cannot write dockerd.log" in caplog.text
