"""One disk, one user: no second container gets a disk that is in use, and a dead user keeps none out for long.

Two containers of a Kata pod see one directory through mounts of their own, with different device numbers, so that
neither a lock nor the loop device tells one of the other. bindfs makes the same condition here.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kata_dind.errors import DataRootBusy
from kata_dind.host.filesystems import check_filesystem
from kata_dind.host.process import run
from tests.guest.conftest import Ended, Shell, attach_loop
from tests.guest.shares import served, succeeds, wait_until

pytestmark = [pytest.mark.requires("root", "loop")]

SIZE = "300M"  # the least that xfs takes
HOLD = 'echo precious >"$0/file"; sync; echo held; touch "$1/held"; until [ -e "$1/let-go" ]; do sleep 0.1; done'


@pytest.fixture
def views(shell: Shell, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two mounts of one directory that have different device numbers."""
    shared, mounts = tmp_path / "shared", (tmp_path / "one", tmp_path / "two")
    shared.mkdir()
    with served(shared, mounts[0]), served(shared, mounts[1]):
        assert mounts[0].stat().st_dev != mounts[1].stat().st_dev
        assert mounts[0].stat().st_ino == mounts[1].stat().st_ino
        yield mounts


class Containers:
    """Two containers with a data root each, whose disks lie where they are told."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._pool = ThreadPoolExecutor(2)

    def asked(self, number: int, **variables: Any) -> dict[str, Any]:
        status = self._shell.directory / f"status-{number}"
        defaults = {"PATH": self._shell.directory / f"docker-{number}", "DATA_ROOT": "loop", "SIZE": SIZE}
        return {**defaults, "STATUS_DIR": status, **variables}

    def start(self, number: int, *command: str, **variables: Any) -> Ended:
        return self._shell.entrypoint(*command, **self.asked(number, **variables))

    def hold(self, number: int, **variables: Any) -> Any:
        """Start one that uses its data root until `let_go`; returns when that works, or when it has ended."""
        asked = self.asked(number, **variables)
        command = ("sh", "-c", HOLD, str(asked["PATH"]), str(self._shell.directory))
        future = self._pool.submit(self._shell.entrypoint, *command, **asked)
        held = self._shell.directory / "held"
        wait_until(lambda: held.exists() or future.done(), what="it has its data root", timeout_seconds=50)
        return future

    def let_go(self) -> None:
        (self._shell.directory / "let-go").touch()

    def end(self) -> None:
        """Wait for all of them, so that none is left when a test has failed."""
        self.let_go()
        self._pool.shutdown()


@pytest.fixture
def containers(shell: Shell) -> Iterator[Containers]:
    containers = Containers(shell)
    yield containers
    containers.end()


@pytest.mark.requires("fuse")
def test_a_link_to_a_share_is_taken_for_a_share(
    shell: Shell, containers: Containers, views: tuple[Path, Path], tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(views[0])
    ended = containers.start(1, "true", DIR=link, FILESYSTEM="xfs")
    assert ended.code == 0, ended.stderr
    assert any("nothing keeps another pod" in warning for warning in ended.said("warning"))


def test_a_directory_that_cannot_be_written_leaves_it_to_another_kind(shell: Shell, containers: Containers) -> None:
    share = shell.directory / "read-only"
    share.mkdir()
    before = f"mount -t tmpfs -o ro t {share}"
    ended = shell.entrypoint("true", before=before, **containers.asked(1, DIR=share, FALLBACK="vfs"))
    assert ended.code == 0, ended.stderr
    assert "cannot make" in ended.said("warning")[0]
    ended = shell.entrypoint("true", before=before, **containers.asked(1, DIR=share / "new", FALLBACK="vfs"))
    assert ended.code == 0, ended.stderr
    assert f"cannot make {share}/new" in ended.said("warning")[0]


def is_refused(ended: Ended, disk: Path) -> bool:
    return ended.code == 78 and ended.error["message"] == f"{disk} is in use by another container"


def is_whole(disk: Path) -> bool:
    return "precious" in run(["debugfs", "-R", "cat /file", disk], timeout_seconds=10).stdout and (
        succeeds("e2fsck", "-fn", disk)
    )


@pytest.mark.requires("fuse")
def test_a_second_container_is_refused_a_loop_disk_that_it_sees_in_another_way(
    containers: Containers, views: tuple[Path, Path], tmp_path: Path
) -> None:
    first = containers.hold(1, DIR=views[0])
    second = containers.start(2, "echo", "went on", DIR=views[1])
    assert (second.code, second.stdout) == (78, ""), second.stderr
    assert second.error["message"].endswith(" is in use by another container")
    assert second.error["hint"]
    containers.let_go()
    assert first.result().code == 0, first.result().stderr
    assert is_whole(tmp_path / "shared" / "kata-dind.img")
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["kata-dind.img"]
    assert containers.start(2, "true", DIR=views[1]).code == 0


@pytest.mark.parametrize("shell", ["busybox"], indirect=True)  # it waits for long
@pytest.mark.thorough
@pytest.mark.requires("fuse")
@pytest.mark.parametrize("disk", ["none", "clean", "of an older version"])
def test_of_two_containers_that_start_at_once_one_gets_the_loop_disk(
    shell: Shell, containers: Containers, views: tuple[Path, Path], tmp_path: Path, disk: str
) -> None:
    if disk != "none":
        older = {} if disk == "clean" else {"EXCLUSIVE": "1"}
        assert containers.start(1, "true", DIR=views[0], **older).code == 0
    with ThreadPoolExecutor(2) as pool:
        # The one that gets it keeps it for longer than the other waits.
        both = [pool.submit(containers.start, number, "sleep", "25", DIR=views[number - 1]) for number in (1, 2)]
        ended = [future.result() for future in both]
    assert sorted(one.code for one in ended) == [0, 78], [one.stderr for one in ended]
    (loser,) = [one for one in ended if one.code == 78]
    assert loser.error["message"].endswith(" is in use by another container"), loser.stderr
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["kata-dind.img"]
    run(["e2fsck", "-fn", tmp_path / "shared" / "kata-dind.img"], timeout_seconds=60)


@pytest.mark.requires("fuse")
def test_the_directory_of_a_disk_may_be_the_data_root_itself(shell: Shell, tmp_path: Path) -> None:
    shared, mount = tmp_path / "shared", tmp_path / "one"
    shared.mkdir()
    with served(shared, mount):
        ended = shell.entrypoint("true", PATH=mount, DATA_ROOT="loop", SIZE=SIZE)
    assert ended.code == 0, ended.stderr
    assert [path.name for path in shared.iterdir()] == ["kata-dind.img"]


@pytest.mark.thorough
@pytest.mark.requires("fuse", "xfs")
def test_one_kernel_mounts_an_xfs_once(containers: Containers, views: tuple[Path, Path]) -> None:
    first = containers.hold(1, DIR=views[0], FILESYSTEM="xfs")
    second = containers.start(2, "true", DIR=views[1], FILESYSTEM="xfs")
    assert second.code == 78, second.stderr
    assert "in use by another container" in second.error["message"]
    containers.let_go()
    assert first.result().code == 0
    warnings = first.result().said("warning")
    assert any("nothing keeps another pod from mounting the xfs" in warning for warning in warnings)
    alone = containers.start(2, "true", DIR=views[1], FILESYSTEM="xfs", EXCLUSIVE="1")
    assert alone.code == 0, alone.stderr
    assert not any("another pod" in warning for warning in alone.said("warning"))


def cut(containers: Containers, shell: Shell, **variables: Any) -> Path:
    """Return a disk as a power cut leaves it: a copy of one that is in use."""
    share = shell.directory / "share"
    first = containers.hold(1, DIR=share, **variables)
    run(["cp", "--sparse=always", share / "kata-dind.img", f"{share}.img"], timeout_seconds=30)
    containers.let_go()
    assert first.result().code == 0, first.result().stderr
    Path(f"{share}.img").replace(share / "kata-dind.img")
    return share


def read_precious(shell: Shell, containers: Containers, **variables: Any) -> tuple[float, Ended]:
    """Return how many seconds a start took whose command reads what was written."""
    began = time.monotonic()
    ended = containers.start(1, "cat", str(shell.directory / "docker-1" / "file"), **variables)
    assert (ended.code, ended.stdout) == (0, "precious\n"), ended.stderr
    return time.monotonic() - began, ended


def is_guard_clean(share: Path) -> bool:
    """Return whether a mount waits for nothing; fs/ext4/mmp.c."""
    said = run(["debugfs", "-R", "dump_mmp", share / "kata-dind.img"], timeout_seconds=10).stdout
    return "sequence: ff4d4d50" in said


@pytest.mark.parametrize("shell", ["dash"], indirect=True)  # it waits for long
@pytest.mark.thorough
def test_a_power_cut_costs_a_wait_once(shell: Shell, containers: Containers) -> None:
    share = cut(containers, shell)
    assert not is_guard_clean(share)
    took, again = read_precious(shell, containers, DIR=share)
    assert any("in full" in message for message in again.said("info")), again.stderr
    assert is_guard_clean(share)
    usual, once_more = read_precious(shell, containers, DIR=share)
    assert not any("in full" in message for message in once_more.said("info")), once_more.stderr
    # The waits are 33 s; with ext4's own interval they would be 64 s. A busy machine takes its time for all else.
    assert usual + 10 < took < 45 + 10 * usual


@pytest.mark.parametrize("shell", ["dash"], indirect=True)  # it waits for long
@pytest.mark.thorough
def test_a_disk_without_another_user_costs_less_after_a_power_cut(shell: Shell, containers: Containers) -> None:
    share = cut(containers, shell)
    took, again = read_precious(shell, containers, DIR=share, EXCLUSIVE="1")
    assert any("in full" in message for message in again.said("info")), again.stderr
    usual, _ = read_precious(shell, containers, DIR=share, EXCLUSIVE="1")
    assert took < 22 + 10 * usual  # e2fsck's own wait is 11 s, instead of 33 s


def test_a_disk_of_an_older_version_gets_its_protection(shell: Shell, containers: Containers) -> None:
    share = shell.directory / "share"
    assert containers.start(1, "true", DIR=share, EXCLUSIVE="1").code == 0
    features: list[str | Path] = ["dumpe2fs", "-h", share / "kata-dind.img"]
    assert " mmp " not in run(features, timeout_seconds=10).stdout
    again = containers.start(1, "true", DIR=share)
    assert again.code == 0, again.stderr
    said = run(features, timeout_seconds=10).stdout
    assert " mmp " in said
    assert "MMP update interval:      2" in said


@pytest.mark.parametrize("shell", ["dash"], indirect=True)  # it waits for long
@pytest.mark.thorough
@pytest.mark.parametrize("unmounted", [True, False], ids=["a disk that was unmounted", "after a power cut"])
def test_a_check_that_was_killed_locks_nobody_out(shell: Shell, containers: Containers, unmounted: bool) -> None:
    share = shell.directory / "share"
    share.mkdir()
    image = share / "kata-dind.img"
    # Without checksums, so that the mark can be written here as a killed e2fsck leaves it; fs/ext4/ext4.h.
    run(["mkfs.ext4", "-q", "-F", "-b", "4096", "-L", "kata-dind", "-O", "mmp,^metadata_csum", image, SIZE],
        timeout_seconds=30)  # fmt: skip
    block = int(run(["dumpe2fs", "-h", image], timeout_seconds=10).stdout.partition("MMP block number:")[2].split()[0])
    with image.open("r+b") as disk:
        disk.seek(block * 4096 + 4)
        disk.write(0xE24D4D50.to_bytes(4, "little"))
        if not unmounted:
            disk.seek(1024 + 0x3A)
            disk.write(bytes(2))
    ended = containers.start(1, "true", DIR=share)
    assert ended.code == 0, ended.stderr
    assert any("was killed" in warning for warning in ended.said("warning"))


@pytest.mark.parametrize("filesystem", ["ext4", pytest.param("xfs", marks=pytest.mark.thorough)])
def test_of_two_containers_with_one_device_one_gets_it(shell: Shell, containers: Containers, filesystem: str) -> None:
    image = shell.directory / "disk.img"
    run(["truncate", "--size", SIZE, image], timeout_seconds=10)
    device = attach_loop(image)
    asked = {"DATA_ROOT": "block", "DEVICE": device, "FILESYSTEM": filesystem}
    assert containers.start(1, "true", **asked).code == 0
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(containers.start, number, "sleep", "5", **asked) for number in (1, 2)]
        ended = [future.result() for future in both]
    assert sorted(one.code for one in ended) == [0, 78], [one.stderr for one in ended]
    (loser,) = [one for one in ended if one.code == 78]
    assert is_refused(loser, device)


@pytest.mark.thorough
def test_the_hosts_check_of_a_disk_in_use_is_refused(shell: Shell, containers: Containers) -> None:
    share = shell.directory / "share"
    first = containers.hold(1, DIR=share)
    with pytest.raises(DataRootBusy, match="in use"):
        check_filesystem(share / "kata-dind.img")
    containers.let_go()
    assert first.result().code == 0
    assert check_filesystem(share / "kata-dind.img") == "clean"


def test_a_new_disk_that_another_start_takes_away_while_it_is_formatted_is_in_use(
    shell: Shell, containers: Containers, tmp_path: Path
) -> None:
    """The other one's mount of the directory has a lock of its own, so it takes the file for a leftover."""
    share, stub = shell.directory / "share", tmp_path / "stubs" / "mkfs.ext4"
    share.mkdir()
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\nrm {share}/kata-dind.img.new-*\nexec {shutil.which("mkfs.ext4")} "$@"\n')
    stub.chmod(0o755)
    ended = containers.start(1, "true", tools=str(stub.parent), DIR=share)
    assert is_refused(ended, share / "kata-dind.img"), ended.stderr
    assert [*share.iterdir()] == []
