"""What the agent does with a container's data root, here with a directory of this host's."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from kata_dind.guest.agent.container import Check


@pytest.fixture
def check(tmp_path: Path) -> Check:
    return Check(os.getpid(), str(tmp_path))


def test_a_prepared_look_writes_to_the_file_that_is_there(check: Check, tmp_path: Path) -> None:
    check.prepare()
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()

    assert 0 < check.look() < 10
    after = file.read_bytes()
    assert len(before) == len(after) == 4096
    assert before != after


def test_a_look_needs_no_preparation_and_can_be_repeated(check: Check) -> None:
    assert check.look() > 0
    assert check.look() > 0


def test_nothing_is_open_after_a_look(check: Check, tmp_path: Path) -> None:
    check.prepare()
    check.look()

    links = [Path(entry.path).readlink() for entry in os.scandir("/proc/self/fd") if Path(entry.path).is_symlink()]
    assert not [link for link in links if link.is_relative_to(tmp_path)]


def test_a_data_root_that_answers_with_something_else_is_found(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    check.prepare()

    def forgetful(_fd: int, buffers: Any, _offset: int) -> int:
        return len(buffers[0])

    monkeypatch.setattr(os, "pwritev", forgetful)
    with pytest.raises(OSError, match="does not return what was written") as failed:
        check.look()
    assert failed.value.errno == errno.EIO
