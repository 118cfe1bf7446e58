from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kata_dind.errors import HostError
from kata_dind.host.locks import is_locked, is_locked_exclusively, locked, locked_shared

_LOCK = """
import sys
from pathlib import Path
from kata_dind.host.locks import locked
with locked(Path(sys.argv[1]), timeout_seconds=None):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_lock_shows_until_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    with locked(path, timeout_seconds=0):
        assert is_locked(path)
    assert not is_locked(path)


def test_a_second_lock_gives_up_at_its_deadline(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    started = time.monotonic()
    with (
        locked(path, timeout_seconds=0),
        pytest.raises(HostError, match="in use by another process"),
        locked(path, timeout_seconds=0.15),
    ):
        raise AssertionError
    assert 0.15 <= time.monotonic() - started < 2


def test_a_waiter_gets_the_lock_when_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    order: list[str] = []

    def wait() -> None:
        with locked(path, timeout_seconds=None):
            order.append("waiter")

    waiter = threading.Thread(target=wait)
    with locked(path, timeout_seconds=0):
        waiter.start()
        time.sleep(0.05)
        order.append("owner")
    waiter.join(timeout=5)
    assert order == ["owner", "waiter"]


def test_shared_locks_exclude_exclusive_ones_only(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked_shared(path, timeout_seconds=0), locked_shared(path, timeout_seconds=0):
        assert is_locked(path)
        with pytest.raises(HostError), locked(path, timeout_seconds=0):
            raise AssertionError
    with locked(path, timeout_seconds=0), pytest.raises(HostError), locked_shared(path, timeout_seconds=0):
        raise AssertionError


def test_two_looks_for_an_exclusive_lock_do_not_see_each_other(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked_exclusively(path)
    with locked_shared(path, timeout_seconds=0):  # which is what a look is
        assert not is_locked_exclusively(path)
    with locked(path, timeout_seconds=0):
        assert is_locked_exclusively(path)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", _LOCK, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"locked\n"
        assert is_locked(path)
        owner.kill()
        owner.wait(timeout=5)
    assert not is_locked(path)


def test_children_do_not_inherit_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, timeout_seconds=0):
        child = subprocess.Popen(["sleep", "30"])
    try:
        assert not is_locked(path)
    finally:
        child.kill()
        child.wait()


def test_a_lock_without_a_directory_is_a_host_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot be opened"), locked(tmp_path / "none" / "lock", timeout_seconds=0):
        raise AssertionError
