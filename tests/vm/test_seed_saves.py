"""`stop --save`: a clone resumes where it was, once; and however that ends, the sandbox starts again."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata_dind.sandbox.api import list_sandboxes
from kata_dind.store.seeds import require_seed
from tests.vm.driver import (
    COMMAND_SECONDS,
    SandboxDriver,
    kata_dind,
    mounted_tmpfs,
    start_kata_dind,
    states,
    succeed,
    wait_until,
)

pytestmark = pytest.mark.requires("qemu")

SEED = "small"

COUNTER = (
    "docker run --detach --name counter --entrypoint /bin/busybox kata-dind/hello sh -c "
    "'i=0; while :; do i=$((i+1)); echo $i; /bin/busybox sleep 0.2; done'"
)
IDENTITY = "cat /proc/sys/kernel/random/boot_id; stat -c %Y /proc/1; cut -d' ' -f22 /proc/1/stat"
"""Of the kernel and of the container's process 1: another boot has others."""


@pytest.fixture(autouse=True)
def removed_at_the_end(private_directories: object) -> Iterator[None]:
    yield
    if names := [summary.name for summary in list_sandboxes() if summary.name.startswith("save-")]:
        succeed("rm", "--force", *names)


@pytest.fixture
def clone(small_seed: str) -> SandboxDriver:
    return up("save-0")


def up(name: str, *options: str) -> SandboxDriver:
    succeed("up", name, "--seed", SEED, *options)
    return SandboxDriver(name)


def inspect(clone: SandboxDriver) -> dict[str, Any]:
    return dict(json.loads(succeed("inspect", clone.name, "--json")))


def how(clone: SandboxDriver) -> str:
    return str(inspect(clone)["start"]["how"])


def count(clone: SandboxDriver) -> int:
    return int(clone.succeed("docker logs --tail 1 counter"))


def saved_file(clone: SandboxDriver, name: str) -> Path:
    return clone.sandbox.directory / name


def saved_files(clone: SandboxDriver) -> list[str]:
    return sorted(path.name for path in clone.sandbox.directory.glob("saved.*"))


def fill(directory: Path, *, left_bytes: int) -> Path:
    """Take what the host has there but for some bytes."""
    status, filler = os.statvfs(directory), directory / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - left_bytes)
    return filler


def wait_until_writing(clone: SandboxDriver) -> None:
    deadline = time.monotonic() + COMMAND_SECONDS
    while not saved_files(clone):  # without a pause: it may take less than a second
        assert time.monotonic() < deadline, "nothing is saved"


def wait_until_crashed(clone: SandboxDriver) -> None:
    wait_until(lambda: states()[clone.name] == "crashed", what="the end of the sandbox")


def test_containers_resume_where_they_were_as_often_as_one_likes(clone: SandboxDriver) -> None:
    clone.succeed(COUNTER)
    before = clone.succeed(IDENTITY, "docker info --format '{{.ID}}'")
    for _ in range(2):
        counted = count(clone)
        succeed("stop", "--save", clone.name)
        facts = inspect(clone)
        assert (facts["state"], facts["error"]) == ("stopped", None)
        assert 0 < facts["saved_state"]["size_bytes"] <= facts["disk_bytes"]
        time.sleep(3)  # in which the counter stands still
        told = kata_dind("start", clone.name)
        assert told.returncode == 0, told.stderr
        assert "the machine has resumed from its saved state" in told.stderr
        started = time.time()
        assert abs(float(clone.succeed("date +%s.%N")) - started) < 5
        resumed = count(clone)
        assert counted <= resumed
        clone.wait_until_succeeds(f"test $(docker logs --tail 1 counter) -gt {resumed}")
        numbers = [int(word) for word in clone.succeed("docker logs counter").split()]
        assert numbers == [*range(1, len(numbers) + 1)]
        facts = inspect(clone)
        assert (facts["start"]["how"], facts["start"]["seed"], facts["saved_state"]) == ("resume", SEED, None)
        assert facts["data_root"]["proof"]["whiteout"] == "passed"
        assert saved_files(clone) == []
    assert clone.succeed(IDENTITY, "docker info --format '{{.ID}}'") == before
    assert clone.succeed("docker run --rm --entrypoint /bin/busybox kata-dind/hello echo new") == "new\n"
    assert clone.sandbox.log_path("dockerd").read_text().count("API listen on /var/run/docker.sock") == 1


@pytest.mark.thorough
def test_a_saved_state_is_used_once(clone: SandboxDriver) -> None:
    succeed("stop", "--save", clone.name)
    succeed("start", clone.name)
    clone.succeed("echo kept >/var/lib/docker/kept && sync /var/lib/docker/kept")
    os.kill(clone.supervisor_pid, signal.SIGKILL)
    wait_until_crashed(clone)
    succeed("start", clone.name)
    assert how(clone) == "boot"
    assert clone.succeed("cat /var/lib/docker/kept") == "kept\n"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("cut", "it is damaged"),
        ("zeroed", "QEMU could not read the saved state"),
        ("moved-on", "the sandbox's disks were written to since"),
    ],
)
def test_a_useless_saved_state_is_reported_and_the_sandbox_boots(clone: SandboxDriver, damage: str, why: str) -> None:
    clone.succeed("echo kept >/var/lib/docker/kept")
    succeed("stop", "--save", clone.name)
    state = saved_file(clone, "saved.state")
    if damage == "cut":
        os.truncate(state, state.stat().st_size // 2)
    elif damage == "zeroed":  # where no cheap look sees it
        with state.open("r+b") as file:
            file.seek(2 << 20)
            file.write(bytes(1 << 20))
    else:
        os.utime(saved_file(clone, "data.qcow2"), ns=(1, 1))
    told = kata_dind("start", clone.name)
    assert told.returncode == 0, told.stderr
    assert f"the saved state is lost, so the guest boots: {why}" in told.stderr
    assert how(clone) == "boot"
    assert clone.succeed("cat /var/lib/docker/kept") == "kept\n"
    assert saved_files(clone) == []


@pytest.mark.thorough
def test_a_sandbox_that_cannot_be_saved_says_so_at_once_and_runs_on(small_seed: str, tmp_path: Path) -> None:
    clone = up("save-0", "--share", f"{tmp_path}:/srv")
    before = clone.succeed(IDENTITY)
    refused = kata_dind("stop", "--save", clone.name)
    assert refused.returncode == 2
    assert (
        "the state of 'save-0' can't be saved: it has shares, and a suspended machine can't have any" in refused.stderr
    )
    assert states()[clone.name] == "running"
    assert clone.succeed(IDENTITY) == before
    succeed("stop", clone.name)
    refused = kata_dind("stop", "--save", clone.name)
    assert refused.returncode == 2
    assert "the sandbox 'save-0' is not running" in refused.stderr


@pytest.mark.thorough
@pytest.mark.parametrize("victim", ["supervisor", "qemu"])
def test_a_save_that_was_killed_leaves_a_whole_state_or_none(clone: SandboxDriver, tmp_path: Path, victim: str) -> None:
    clone.succeed("echo kept >/var/lib/docker/kept && sync /var/lib/docker/kept")
    pid = clone.process_of("qemu-system") if victim == "qemu" else clone.supervisor_pid
    with start_kata_dind(tmp_path, "stop", "--save", clone.name) as stop:
        wait_until_writing(clone)
        os.kill(pid, signal.SIGKILL)
        stop.wait()
    wait_until(lambda: states()[clone.name] in ("crashed", "stopped"), what="the end of the sandbox")
    whole = saved_file(clone, "saved.json").exists()  # on a host that writes it in less time than we take to look
    succeed("start", clone.name)
    assert how(clone) == ("resume" if whole else "boot")
    assert clone.succeed("cat /var/lib/docker/kept") == "kept\n"
    assert saved_files(clone) == []


@pytest.mark.thorough
def test_a_save_is_not_broken_off_when_its_client_is_gone_or_a_stop_follows(
    clone: SandboxDriver, tmp_path: Path
) -> None:
    with start_kata_dind(tmp_path, "stop", "--save", clone.name) as stop:
        wait_until_writing(clone)
        stop.process.kill()
        stop.process.wait()
    succeed("stop", clone.name)
    assert inspect(clone)["saved_state"] is not None
    succeed("start", clone.name)
    assert how(clone) == "resume"


@pytest.mark.thorough
def test_clients_are_hung_up_on(clone: SandboxDriver, tmp_path: Path) -> None:
    with start_kata_dind(tmp_path, "exec", clone.name, "--", "sh", "-c", "echo begun; sleep 600") as command:
        command.wait_until_it_says("begun")
        succeed("stop", "--save", clone.name)
        assert command.wait() == 4
        assert "the sandbox ended before the command did" in command.stderr
    succeed("start", clone.name)
    # A process that has ended may stay as a zombie of dockerd's, which is process 1 there, and has no command line.
    clone.wait_until_succeeds("! cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep 'sleep 60[0]'")


@pytest.mark.thorough
@pytest.mark.requires("root")
def test_a_guest_whose_state_does_not_fit_on_the_disk_runs_on(
    small_seed: str, private_directories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted_tmpfs(tmp_path / "small", size="1000m") as small:
        (small / "seeds").symlink_to(private_directories / "state" / "seeds")
        monkeypatch.setenv("KATA_DIND_STATE_DIR", str(small))
        clone = up("save-small")
        clone.succeed(COUNTER)
        before = clone.succeed(IDENTITY)

        filler = fill(small, left_bytes=100 << 20)
        refused = kata_dind("stop", "--save", clone.name)
        assert (refused.returncode, "there is no space for the saved state" in refused.stderr) == (5, True)
        filler.unlink()

        with start_kata_dind(tmp_path, "stop", "--save", clone.name) as stop:
            wait_until_writing(clone)
            os.kill(clone.process_of("qemu-system"), signal.SIGSTOP)
            filler = fill(small, left_bytes=1 << 19)
            os.kill(clone.process_of("qemu-system"), signal.SIGCONT)
            assert stop.wait() == 5
            assert "there is no space for the saved state" in stop.stderr
        filler.unlink()
        assert saved_files(clone) == []
        assert clone.succeed(IDENTITY) == before
        counted = count(clone)
        clone.wait_until_succeeds(f"test $(docker logs --tail 1 counter) -gt {counted}")

        succeed("stop", "--save", clone.name)
        succeed("start", clone.name)
        assert clone.succeed(IDENTITY) == before
        succeed("rm", "--force", clone.name)


@pytest.mark.thorough
def test_a_seed_with_a_saved_sandbox_stays(clone: SandboxDriver) -> None:
    succeed("stop", "--save", clone.name)
    assert kata_dind("seed", "rm", SEED).returncode == 2
    assert require_seed(SEED).seed_id == SEED
    succeed("rm", clone.name)
    assert not clone.sandbox.directory.exists()
