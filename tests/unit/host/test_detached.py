"""A program that outlives its starter."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from kata_dind.host.detached import Detached


def program(*argv: str, pass_fds: tuple[int, ...] = ()) -> Detached:
    return Detached([shutil.which(argv[0]) or "", *argv[1:]], pass_fds=pass_fds)


def test_it_has_a_session_of_its_own_and_the_descriptors_that_it_was_given() -> None:
    read, write = os.pipe()
    script = f"found=$(readlink /proc/$$/fd/0 /proc/$$/fd/1); echo $found >/proc/self/fd/{write}; exec sleep 60"
    detached = program("sh", "-c", script, pass_fds=(write,))
    os.close(write)
    try:
        assert os.read(read, 100) == b"/dev/null /dev/null\n"
        assert os.getsid(detached.pid) == detached.pid
    finally:
        detached.end(rung_seconds=5)
        os.close(read)


def test_a_program_that_does_not_end_is_killed() -> None:
    read, write = os.pipe()
    detached = program("sh", "-c", f"trap '' TERM; echo >/proc/self/fd/{write}; exec sleep 60", pass_fds=(write,))
    os.close(write)
    os.read(read, 1)
    started = time.monotonic()
    detached.end(rung_seconds=0.2)
    assert time.monotonic() - started < 5
    os.close(read)
    assert not Path(f"/proc/{detached.pid}").exists()


def test_ending_a_program_that_has_ended_is_harmless() -> None:
    detached = program("true")
    os.waitid(os.P_PID, detached.pid, os.WEXITED | os.WNOWAIT)
    detached.end(rung_seconds=5)
    assert not Path(f"/proc/{detached.pid}").exists()


def test_programs_that_ended_by_themselves_are_reaped_at_the_next_start() -> None:
    first = program("true")
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    second = program("true")
    assert not Path(f"/proc/{first.pid}").exists()
    second.end(rung_seconds=5)
