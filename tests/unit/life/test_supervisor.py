"""What a supervisor tells its starter; its life is in tests/contract."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from kata_dind.errors import NoSpace, error_from_fields
from kata_dind.life.supervisor import Reporter
from kata_dind.progress import Event


@pytest.fixture
def pipe() -> Iterator[tuple[int, Reporter]]:
    read, write = os.pipe()
    reporter = Reporter(write)
    yield read, reporter
    reporter.close()
    os.close(read)


def lines(read: int) -> list[dict[str, object]]:
    return [json.loads(line) for line in os.read(read, 65536).splitlines()]


def test_events_are_a_line_each(pipe: tuple[int, Reporter]) -> None:
    read, reporter = pipe
    reporter.event(Event("boot", "the guest has booted", seconds=1.5))
    reporter.event(Event("warning", "two\nlines"))
    assert lines(read) == [
        {"name": "boot", "message": "the guest has booted", "seconds": 1.5},
        {"name": "warning", "message": "two\nlines", "seconds": None},
    ]


def test_an_error_crosses_the_pipe_whole(pipe: tuple[int, Reporter]) -> None:
    read, reporter = pipe
    error = NoSpace("cannot make a disk", id="host.no-space", details="mke2fs: no space", hint="free space")
    error.add_note("and then something else")
    reporter.error(error)
    (fields,) = lines(read)
    again = error_from_fields(fields)
    assert type(again) is NoSpace
    assert (again.summary, again.hint, again.exit_code) == (error.summary, error.hint, error.exit_code)
    assert again.details == "mke2fs: no space\nnote: and then something else"


def test_a_mistake_of_ours_is_told_as_one(pipe: tuple[int, Reporter]) -> None:
    read, reporter = pipe
    reporter.error(ZeroDivisionError("division by zero"))
    (fields,) = lines(read)
    assert fields["summary"] == "internal error: ZeroDivisionError: division by zero"


def test_a_starter_that_is_gone_is_not_told_any_more() -> None:
    read, write = os.pipe()
    reporter = Reporter(write)
    os.close(read)
    reporter.event(Event("boot", "nobody hears this"))
    assert reporter.fd == -1
    reporter.event(Event("boot", "nor this"))
    reporter.close()
