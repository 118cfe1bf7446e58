from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_dind.host.file_users import is_open, users_of


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (disk := tmp_path / "a disk.img").write_bytes(bytes(1 << 20))
    return disk


@pytest.fixture
def user(disk: Path) -> Iterator[subprocess.Popen[bytes]]:
    with disk.open("rb") as file, subprocess.Popen(["sleep", "60"], stdin=file) as process:
        file.close()
        yield process
        process.kill()


def test_a_process_has_it_until_its_end(disk: Path, user: subprocess.Popen[bytes]) -> None:
    assert is_open(disk)
    assert [*users_of(disk)] == [f"sleep (process {user.pid})"]
    user.kill()
    user.wait()
    assert not is_open(disk)
    assert [*users_of(disk)] == []


@pytest.mark.requires("root", "loop")
def test_a_loop_device_has_it_for_its_users(disk: Path) -> None:
    argv = ["losetup", "--find", "--show", str(disk)]
    device = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    try:
        assert is_open(disk)
        with Path(device).open("rb") as opened, subprocess.Popen(["sleep", "60"], stdin=opened) as process:
            opened.close()
            assert [*users_of(disk)] == [f"sleep (process {process.pid})"]
            process.kill()
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
    assert not is_open(disk)


def test_a_file_that_is_gone_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        is_open(tmp_path / "none")
