"""What a container prints, as CRI keeps it in a file."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kata_dind.backend.containerd.container_log import LogFollower, append_rest, parse_lines
from kata_dind.wire.requests import Output

TIME = b"2026-11-30T09:46:32.811810082Z"


async def nothing() -> None:
    """Nobody rotates."""


def line(text: bytes, *, stream: bytes = b"stdout", whole: bool = True) -> bytes:
    return b" ".join([TIME, stream, b"F" if whole else b"P", text]) + b"\n"


def read_all(follower: LogFollower) -> list[Output]:
    async def scenario() -> list[Output]:
        follower.end()
        found = []
        while (part := await follower.read()) is not None:
            found.append(part)
        assert follower.is_read
        return found

    return asyncio.run(scenario())


def test_lines_have_their_stream_and_parts_no_end() -> None:
    lines = [line(b"a b"), line(b"half", whole=False), line(b"error", stream=b"stderr"), b"damaged\n"]
    assert [*parse_lines([each.rstrip(b"\n") for each in lines])] == [
        Output(b"a b\n"), Output(b"half"), Output(b"error\n", is_error=True)
    ]  # fmt: skip


def test_a_later_follower_reads_on_where_the_earlier_one_ended(tmp_path: Path) -> None:
    log = tmp_path / "dind.log"
    log.write_bytes(line(b"one") + TIME + b" stdout F two, which is not wh")
    assert read_all(LogFollower(log, reopen=nothing)) == [Output(b"one\n")]
    with log.open("ab") as file:
        file.write(b"ole\n")
    assert read_all(LogFollower(log, reopen=nothing)) == [Output(b"two, which is not whole\n")]


def test_a_container_that_has_printed_nothing_has_no_file(tmp_path: Path) -> None:
    assert read_all(LogFollower(tmp_path / "absent.log", reopen=nothing)) == []


def test_a_large_file_is_set_aside_and_read_to_its_end(tmp_path: Path) -> None:
    log = tmp_path / "dind.log"
    log.write_bytes(line(b"x" * 100) * 10)

    async def reopen() -> None:
        with (tmp_path / "dind.old").open("ab") as late:
            late.write(line(b"late"))
        log.write_bytes(line(b"new"))

    found = read_all(LogFollower(log, reopen=reopen, limit_bytes=500))
    assert [part.data for part in found] == [b"x" * 100 + b"\n"] * 10 + [b"late\n", b"new\n"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dind.log", "dind.position"]


def test_one_that_is_let_go_reads_no_more(tmp_path: Path) -> None:
    log = tmp_path / "dind.log"
    log.write_bytes(line(b"one"))
    follower = LogFollower(log, reopen=nothing)
    follower.end(at_once=True)
    assert read_all(follower) == []


def test_what_was_printed_after_the_last_follower_is_appended_once(tmp_path: Path) -> None:
    log, kept = tmp_path / "dind.log", tmp_path / "dockerd.log"
    log.write_bytes(line(b"read"))
    kept.write_bytes(b"read\n")
    assert read_all(LogFollower(log, reopen=nothing)) == [Output(b"read\n")]
    with log.open("ab") as file:
        file.write(line(b"going ", whole=False) + line(b"down", stream=b"stderr") + b"damaged\n")
    for _ in range(2):
        append_rest(log, kept)
        assert kept.read_bytes() == b"read\ngoing down\n"


def test_a_container_that_has_printed_nothing_makes_no_log(tmp_path: Path) -> None:
    append_rest(tmp_path / "absent.log", tmp_path / "dockerd.log")
    assert [*tmp_path.iterdir()] == []
