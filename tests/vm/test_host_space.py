"""A full disk of the host hurts no guest: it is told in time, else it is paused until there is space again.

The sandbox lies on a small file system of its own; each kind of data root goes through all of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.vm.driver import STOP_SECONDS, SandboxDriver, kata_dind, mounted_tmpfs, succeed, wait_until

pytestmark = [pytest.mark.requires("qemu", "virtiofsd", "root"), pytest.mark.thorough]

NAME = "cramped"
MIB = 1 << 20


@dataclass(frozen=True)
class SmallHost:
    """A host with little space, and the sandbox on it."""

    directory: Path
    data_root: str
    filesystem: str
    sandbox: SandboxDriver

    @property
    def left_bytes(self) -> int:
        status = os.statvfs(self.directory)
        return status.f_bavail * status.f_frsize

    @property
    def problem(self) -> str | None:
        """What `ls` and `inspect` say."""
        until = time.monotonic() + STOP_SECONDS
        while True:
            before = self.sandbox.sandbox.inspect()["problem"]
            (row,) = json.loads(succeed("ls", "--json"))
            inspected = self.sandbox.sandbox.inspect()["problem"]
            if before == inspected:
                break
            assert time.monotonic() < until, "the problem changes all the time"  # else it began or ended in between
        assert row["problem"] == inspected
        return inspected if inspected is None else str(inspected)

    def fill(self, *, seconds: float = 0.0) -> Path:
        """Take what is left but for 1 MiB, as anybody else on the host may: at once, or over some time."""
        filler = self.directory / "filler"
        until = time.monotonic() + seconds
        with filler.open("wb") as file:
            while (left_seconds := until - time.monotonic()) > 0 or self.left_bytes > 2 * MIB:
                part_bytes = max(self.left_bytes - MIB, 0) // max(round(left_seconds / 0.1), 1)
                with contextlib.suppress(OSError):  # the guest has taken it meanwhile
                    os.posix_fallocate(file.fileno(), filler.stat().st_size, max(part_bytes, 1))
                time.sleep(0.1)
        return filler


@pytest.fixture(scope="class", params=["block ext4", "loop ext4", "loop xfs"])
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, private_directories: Path
) -> Iterator[SmallHost]:
    data_root, filesystem = request.param.split()
    with (
        mounted_tmpfs(tmp_path_factory.mktemp("host") / "small", size="400m") as small,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("KATA_DIND_STATE_DIR", str(small))
        done = kata_dind("up", NAME, "--data-root", data_root, "--filesystem", filesystem)
        assert done.returncode == 0, done.stderr
        # A seed would fill it; loop has none anywhere.
        assert ("no seed could be made, so the guest boots" in done.stderr) == (data_root == "block")
        try:
            yield SmallHost(small, data_root, filesystem, SandboxDriver(NAME))
        finally:
            succeed("rm", "--force", NAME)


class TestSmallHost:
    def test_a_guest_that_fills_it_is_told_so_in_time(self, host: SmallHost) -> None:
        sandbox = host.sandbox
        assert host.problem is None
        sandbox.succeed("head -c 1M /dev/urandom >/var/lib/docker/kept && sync && sha256sum /var/lib/docker/kept >/sum")
        said = sandbox.fail("dd if=/dev/zero of=/var/lib/docker/big bs=1M count=500")
        assert "No space left on device" in said
        assert host.left_bytes > 8 * MIB
        wait_until(lambda: host.problem is not None, what="the problem is told")
        assert f"the file system of {sandbox.sandbox.directory} has " in str(host.problem)
        assert "no space left on device" in sandbox.fail("docker volume create refused")
        sandbox.fail("echo >/refused")
        sandbox.succeed("rm /var/lib/docker/big && sync")
        wait_until(lambda: host.problem is None, what="the space is back")
        sandbox.wait_until_succeeds("docker volume create taken && echo >/taken")
        assert_unharmed(sandbox)

    def test_one_that_others_fill_pauses_the_guest_until_there_is_space(self, host: SmallHost) -> None:
        sandbox = host.sandbox
        # A guest that is told in time may try again; one that is paused need not. The last one waits, or on a busy host
        # all would be written before the disk is full.
        program = """
            for i in $(seq 40); do
                until [ $i != 40 ] || [ -e /go-on ]; do sleep 0.2; done
                until dd if=/dev/urandom of=/var/lib/docker/$i bs=64k count=16 conv=fsync 2>&1; do sleep 0.2; done
            done
        """
        with ThreadPoolExecutor(1) as pool:
            written = pool.submit(sandbox.succeed, program)
            sandbox.wait_until_succeeds("test -e /var/lib/docker/2")
            # Between two looks at what is left QEMU pauses the guest by itself; a loop disk's write fails in virtiofsd.
            filler = host.fill(seconds=0 if host.data_root == "block" else 2)
            wait_until(lambda: "full" in (host.problem or ""), what="the problem is told")
            time.sleep(2)
            assert not written.done()
            filler.unlink()
            sandbox.wait_until_succeeds("touch /go-on")
            assert "Input/output error" not in written.result()
        assert host.problem is None
        asked = time.time()
        clock = float(sandbox.succeed("date +%s.%N"))
        assert asked - 1 < clock < time.time() + 1
        assert sandbox.succeed("cat /var/lib/docker/[0-9]* | wc -c") == f"{40 << 20}\n"
        sandbox.succeed("rm /go-on /var/lib/docker/[0-9]*")
        assert_unharmed(sandbox)

    def test_a_paused_guest_is_stopped_at_once_and_starts_when_there_is_space(self, host: SmallHost) -> None:
        sandbox = host.sandbox
        filler = host.fill()
        wait_until(lambda: host.problem is not None, what="the problem is told")
        began = time.monotonic()
        stopped = kata_dind("stop", NAME)
        assert time.monotonic() - began < STOP_SECONDS / 2
        assert stopped.returncode == 0
        assert "the guest was paused, since the host's disk is full, and was cut off" in stopped.stderr
        refused = kata_dind("start", NAME)
        assert refused.returncode == 5
        assert "MiB left, and a guest needs 64 MiB" in refused.stderr
        filler.unlink()
        succeed("start", NAME)
        # An xfs has nothing to check: its log is replayed when it is mounted.
        assert sandbox.disk_checks == int(host.filesystem == "ext4")
        assert_unharmed(sandbox)
        succeed("stop", NAME)


def assert_unharmed(sandbox: SandboxDriver) -> None:
    sandbox.succeed("sha256sum -c /sum")
    sandbox.fail("dmesg | grep -E 'EXT4-fs.*(error|warning)|XFS.*(error|[Ss]hut)|I/O error|remount'", where="guest")
