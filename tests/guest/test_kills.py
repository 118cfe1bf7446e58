"""A start that is killed before or after any program it runs: the next one completes, and nothing is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kata_dind.host.process import run
from tests.guest.alpine import make_programs, needs_call
from tests.guest.conftest import GROWING, Shell, attach_loop
from tests.guest.kills import Killer, detach_what_is_left, loops_of
from tests.guest.shares import wait_until

pytestmark = [
    pytest.mark.requires("root", "loop"),
    pytest.mark.parametrize("shell", ["dash"], indirect=True),
    pytest.mark.thorough,
]

_KILLED = 137


@pytest.fixture(params=["before", "after"])
def killer(request: pytest.FixtureRequest, shell: Shell, tmp_path: Path) -> Killer:
    return Killer(shell, tmp_path / "stubs", after=request.param == "after")


def kill_at_every_step(shell: Shell, killer: Killer, restore: Any, check: Any, **variables: Any) -> None:
    """Start from the same state again and again, each time killed one program later, until a start completes."""
    for call in range(1, 100):
        restore()
        ended = killer.start(call, "true", **variables)
        if ended.code != _KILLED:
            assert ended.code == 0, ended.stderr
            assert call > 8, "it was hardly ever killed"
            return
        again = shell.entrypoint("true", **variables)
        assert again.code == 0, f"after a kill at program {call}:\n{again.stderr}"
        check(call)
    raise AssertionError("it never completes")


def test_a_first_start_of_the_loop_kind(shell: Shell, killer: Killer) -> None:
    share, data_root = shell.directory / "share", shell.directory / "docker"

    def restore() -> None:
        shutil.rmtree(share, ignore_errors=True)

    def check(call: int) -> None:
        assert [path.name for path in share.iterdir()] == ["kata-dind.img"], call
        run(["e2fsck", "-fn", share / "kata-dind.img"], timeout_seconds=30)

    kill_at_every_step(
        shell, killer, restore, check, PATH=data_root, DATA_ROOT="loop", SIZE="128M", DIR=share, LOG="error"
    )


@needs_call
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("grow", [False, True], ids=["new", "grown"])
def test_a_start_with_the_programs_of_the_official_images(shell: Shell, tmp_path: Path, when: str, grow: bool) -> None:
    """Where one of ours makes the system calls; of it nothing is left in the disk, in /dev or beside the status."""
    make_programs(tmp_path / "alpine")
    alpine = dataclasses.replace(shell, argv=("/bin/dash",), tools=str(tmp_path / "alpine"))
    killer = Killer(alpine, tmp_path / "stubs", after=when == "after")
    share, data_root, original = shell.directory / "share", shell.directory / "docker", tmp_path / "original.img"
    share.mkdir()
    asked: dict[str, Any] = {"PATH": data_root, "DATA_ROOT": "loop", "DIR": share, "FILESYSTEM": "xfs", "LOG": "error"}
    look = 'cat "$0/file"; ls -A "$0"; df -k "$0" | tail -n 1'
    assert alpine.entrypoint("sh", "-c", 'echo kept >"$0/file"', str(data_root), SIZE="320M", **asked).code == 0
    (share / "kata-dind.img").rename(original)

    def restore() -> None:
        (share / "kata-dind.img").unlink(missing_ok=True)
        if grow:
            subprocess.run(["cp", "--sparse=always", str(original), str(share / "kata-dind.img")], check=True)

    def check(call: int) -> None:
        ended = alpine.entrypoint("sh", "-c", look, str(data_root), **asked)
        *lines, df = ended.stdout.splitlines()
        assert (ended.code, lines) == (0, ["kept", "file"] if grow else []), f"{call}: {ended.stderr}"
        assert int(df.split()[1]) > 400 << 10, call
        assert json.loads(ended.status.read_text())["direct_io"] is True
        assert sorted(path.name for path in ended.status.parent.iterdir()) == ["status.json"], call
        assert not Path("/dev/kata-dind-call").exists(), call

    kill_at_every_step(alpine, killer, restore, check, SIZE="512M", **asked)


@pytest.mark.parametrize("cut", [False, True], ids=["clean", "after a power cut"])
@pytest.mark.parametrize("filesystem", GROWING)
def test_a_later_start_of_the_loop_kind_that_grows_its_disk(
    shell: Shell, killer: Killer, tmp_path: Path, filesystem: str, cut: bool
) -> None:
    share, data_root, original = shell.directory / "share", shell.directory / "docker", tmp_path / "original.img"
    share.mkdir()
    asked: dict[str, Any] = {"PATH": data_root, "DATA_ROOT": "loop", "DIR": share, "FILESYSTEM": filesystem}
    write = 'for i in 1 2 3 4 5 6 7 8; do mkdir "$0/$i"; echo "precious $i" >"$0/$i/file"; done; sync'
    copy = f"cp --sparse=always {share}/kata-dind.img {original}"
    ended = shell.entrypoint("sh", "-c", f"{write}; {copy if cut else ':'}", str(data_root), SIZE="320M", **asked)
    assert ended.code == 0, ended.stderr
    if not cut:
        subprocess.run(copy.split(), check=True)

    def restore() -> None:
        subprocess.run(["cp", "--sparse=always", str(original), str(share / "kata-dind.img")], check=True)

    def check(call: int) -> None:
        look = shell.entrypoint("sh", "-c", 'cat "$0"/*/file; df -k "$0" | tail -n 1', str(data_root), **asked)
        assert look.code == 0, f"{call}: {look.stderr}"
        *lines, df = look.stdout.splitlines()
        assert lines == [f"precious {number}" for number in range(1, 9)], call
        assert int(df.split()[1]) > 800 << 10, call

    kill_at_every_step(shell, killer, restore, check, SIZE="1G", LOG="error", **asked)


def test_a_first_start_of_the_block_kind(shell: Shell, killer: Killer) -> None:
    image, data_root = shell.directory / "disk.img", shell.directory / "docker"
    image.touch()
    subprocess.run(["truncate", "-s", "128M", str(image)], check=True)
    device = attach_loop(image)

    def restore() -> None:
        subprocess.run(["blkdiscard", "--zeroout", str(device)], check=True)

    def check(call: int) -> None:
        run(["e2fsck", "-fn", device], timeout_seconds=30)
        with device.open("rb") as disk:
            disk.seek((128 << 20) - (1 << 20))
            assert disk.read(512) == bytes(512), f"{call}: the claim is left"

    kill_at_every_step(shell, killer, restore, check, PATH=data_root, DATA_ROOT="block", DEVICE=device, LOG="error")


def test_a_loop_device_on_a_volume_is_detached_by_the_next_start(shell: Shell, tmp_path: Path) -> None:
    """One that a start has attached, and has not yet detached as it does while it is open.

    When the volume's mount has ended with the container, the file has the path that it has from the mount's root.
    """
    killer = Killer(shell, tmp_path / "stubs", programs=["losetup"], after=True, whole_group=True)
    share, volume = tmp_path / "share", shell.directory / "volume"
    share.mkdir()
    volume.mkdir()
    asked: dict[str, Any] = {"PATH": shell.directory / "docker", "DATA_ROOT": "loop", "SIZE": "128M", "DIR": volume}
    asked["before"] = f"mount --bind {share} {volume}"
    image = share / "kata-dind.img"
    ended = killer.start(2, "true", **asked)  # before its second call of losetup, and so when the first has ended
    try:
        was_left = [*loops_of(image, held=False)]
        next_one = shell.entrypoint("true", **asked)
        # The device of the start that has ended may be on its way out, and shows half of what it was.
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not [*loops_of(image, held=False)], what="no loop device is left")
        is_left = [*loops_of(image, held=False)]
    finally:
        detach_what_is_left(image)
    if (ended.code, next_one.code, len(was_left)) != (-signal.SIGKILL, 0, 1):
        raise RuntimeError(f"it was not killed as it should: {ended}, {next_one}, {was_left}")
    assert is_left == []
