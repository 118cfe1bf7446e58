"""What a sandbox survives: each part of it is killed in turn. It stops by itself, says so, and starts with its images.

One sandbox goes through all of it; each test starts it, hurts it, and leaves it stopped.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kata_dind.store.sandboxes import record_of
from tests.vm.driver import STOP_SECONDS, SandboxDriver, kata_dind, start_kata_dind, states, succeed, wait_until

pytestmark = [pytest.mark.requires("qemu", "virtiofsd"), pytest.mark.thorough]

NAME = "hurt"


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("share")


@pytest.fixture(scope="module")
def two_ups(share: Path, private_directories: Path) -> Iterator[list[tuple[int, str]]]:
    """What two `up` of one name said, started at once: exit code and stderr. The sandbox is stopped by then."""
    argv = ["up", NAME, "--share", f"{share}:/srv/share"]
    with ThreadPoolExecutor(2) as pool:
        both = [done.result() for done in [pool.submit(kata_dind, *argv) for _ in range(2)]]
    try:
        succeed("docker", NAME, "--", "run", "--name", "first", "kata-dind/hello", "sh", "-c", "echo kept >/file")
        succeed("docker", NAME, "--", "commit", "first", "kept:1")
        succeed("stop", NAME)
        yield [(done.returncode, done.stderr) for done in both]
    finally:
        succeed("rm", "--force", NAME)


@pytest.fixture
def hurt(two_ups: object) -> Iterator[SandboxDriver]:
    """The sandbox, started again, with a data root that is whole; stopped afterwards if it still runs."""
    sandbox = SandboxDriver(NAME)
    was_cut_off, checks_before = (sandbox.sandbox.directory / "unclean").exists(), sandbox.disk_checks
    succeed("start", NAME)
    try:
        assert sandbox.disk_checks - checks_before == int(was_cut_off)
        assert sandbox.succeed("docker run --rm kept:1 cat /file") == "kept\n"
        sandbox.fail("dmesg | grep -E 'EXT4-fs (error|warning)'", where="guest")
        yield sandbox
    finally:
        kata_dind("stop", NAME)


def test_of_two_ups_of_one_name_one_wins(two_ups: list[tuple[int, str]]) -> None:
    codes = sorted(code for code, _ in two_ups)
    assert codes == [0, 2], two_ups
    (complaint,) = (stderr for code, stderr in two_ups if code == 2)
    assert f"there is a sandbox '{NAME}' already" in complaint


def test_a_stopped_sandbox_takes_no_commands(two_ups: object) -> None:
    assert states()[NAME] == "stopped"
    for words in (["docker", NAME, "--", "ps"], ["exec", NAME, "--", "true"], ["env", NAME], ["shell", NAME]):
        refused = kata_dind(*words)
        assert refused.returncode == 4
        assert f"hint: kata-dind start {NAME}" in refused.stderr
    succeed("stop", NAME)
    assert not (record_of(NAME).directory / "unclean").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_start_that_is_broken_off_keeps_the_sandbox(two_ups: object, tmp_path: Path, number: signal.Signals) -> None:
    directory = record_of(NAME).directory
    (directory / "guest.log").unlink(missing_ok=True)
    with start_kata_dind(tmp_path, "start", NAME) as command:
        command.wait_until((directory / "guest.log").exists, what="boots a guest")
        command.process.send_signal(number)
        code = command.wait(timeout_seconds=STOP_SECONDS)
        assert code == (-number if number == signal.SIGKILL else 128 + number), command.stderr
    wait_until(lambda: not record_of(NAME).is_owned(), what="nobody owns it", timeout_seconds=STOP_SECONDS)
    assert states()[NAME] == "stopped"
    assert (directory / "data.qcow2").exists()


def test_a_dockerd_that_does_not_stop_is_forced(hurt: SandboxDriver) -> None:
    hurt.succeed("kill -STOP $(pidof dockerd)", where="guest")
    began = time.monotonic()
    stopped = kata_dind("stop", NAME)
    assert stopped.returncode == 0, stopped.stderr
    assert "dockerd did not stop within 20 s and was killed; its data root was not unmounted" in stopped.stderr
    assert time.monotonic() - began < STOP_SECONDS
    assert states()[NAME] == "stopped"
    assert (hurt.sandbox.directory / "unclean").exists()


def test_the_supervisor(hurt: SandboxDriver) -> None:
    os.kill(hurt.supervisor_pid, signal.SIGKILL)
    wait_for_the_end(hurt)
    assert states()[NAME] == "crashed"
    assert [path for path in hurt.sandbox.directory.iterdir() if path.is_socket()] == []


def test_qemu(hurt: SandboxDriver) -> None:
    os.kill(hurt.process_of("qemu-system"), signal.SIGKILL)
    wait_for_the_end(hurt)
    assert states()[NAME] == "crashed"
    error = hurt.sandbox.inspect()["error"]
    assert error["summary"] == "the guest is gone: qemu ended (SIGKILL)"
    assert "SIGKILL" in error["details"]


def test_a_power_cut_while_the_guest_writes(hurt: SandboxDriver) -> None:
    """What was fsynced before is there after the next start, which has checked the file system."""
    data = "/var/lib/docker/volumes/fsynced/_data"
    hurt.succeed("docker volume create fsynced")
    written = hurt.succeed(f"head -c 8M /dev/urandom | dd of={data}/file conv=fsync && sha256sum {data}/file")
    hurt.succeed(
        "docker run --name fsynced kept:1 sh -c 'echo fsynced >/file' && docker commit fsynced fsynced:1 && sync"
    )
    # Both data and the journal are busy: files come, grow and go.
    noise = f"while :; do for i in 1 2 3 4 5; do head -c 2M /dev/urandom >{data}/noise$i; done; rm {data}/noise*; done"
    hurt.succeed(f"({noise}) >/dev/null 2>&1 &")
    hurt.wait_until_succeeds(f"test -e {data}/noise5")
    checks_before = hurt.disk_checks
    os.kill(hurt.process_of("qemu-system"), signal.SIGKILL)
    wait_for_the_end(hurt)
    succeed("start", NAME)
    assert hurt.disk_checks == checks_before + 1
    assert hurt.succeed(f"sha256sum {data}/file") == written
    assert (
        hurt.succeed("docker run --rm -v fsynced:/v fsynced:1 sh -c 'cat /file && ls /v/file'") == "fsynced\n/v/file\n"
    )
    hurt.fail("dmesg | grep -E 'EXT4-fs (error|warning)'", where="guest")


def test_dockerd(hurt: SandboxDriver) -> None:
    hurt.succeed("kill -9 $(pidof dockerd)", where="guest")
    wait_for_the_end(hurt)
    assert states()[NAME] == "crashed"
    error = hurt.sandbox.inspect()["error"]
    assert error["error"] == "DockerdFailed"
    assert "137" in error["summary"]


def test_slirp4netns_and_virtiofsd(hurt: SandboxDriver) -> None:
    os.kill(hurt.process_of("slirp4netns"), signal.SIGKILL)
    # The way out is gone; all that does not need it works.
    assert hurt.succeed("docker run --rm kept:1 cat /file") == "kept\n"
    # Without its share the guest would hang where it looks at it, so the sandbox ends and says why.
    os.kill(hurt.process_of("virtiofsd"), signal.SIGKILL)
    wait_for_the_end(hurt)
    assert states()[NAME] == "crashed"
    assert hurt.sandbox.inspect()["error"]["summary"] == "the guest is gone: virtiofsd ended (SIGKILL)"


def wait_for_the_end(sandbox: SandboxDriver) -> None:
    """Wait until nobody owns the sandbox; its processes are left to the check of every test."""
    wait_until(
        lambda: not record_of(sandbox.name).is_owned(), what="nobody owns the sandbox", timeout_seconds=STOP_SECONDS
    )
