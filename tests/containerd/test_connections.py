"""Connections to dockerd that their clients, or we, have lost: none stays, and no container waits for one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from kata_dind.sandbox.api import Sandbox, start
from tests.containerd.sandboxes import Sandboxes, kill_supervisor, supervisor_of, wait_until

pytestmark = pytest.mark.requires("containerd", "mmdebstrap")

_COUNT = 'i=0; while :; do i=$((i+1)); echo "$i $(/busybox head -c 1000 /dev/zero | /busybox tr "\\0" x)"; done'


@pytest.fixture
def sandbox(sandboxes: Sandboxes) -> Sandbox:
    sandbox = sandboxes.up(data_root="memory", size="512M", memory="1G")
    archive = subprocess.run(["tar", "-c", "-C", "/bin", "busybox"], check=True, capture_output=True).stdout
    subprocess.run([*docker(sandbox), "import", "-", "box"], input=archive, check=True, capture_output=True, timeout=60)
    return sandbox


def docker(sandbox: Sandbox) -> list[str]:
    return ["docker", "--host", sandbox.docker_host]


def run_in(sandbox: Sandbox, name: str, script: str) -> subprocess.Popen[bytes]:
    words = ["run", f"--name={name}", "--network=none", "box", "/busybox", "sh", "-c", script]
    return subprocess.Popen([*docker(sandbox), *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


def connections_in(sandboxes: Sandboxes) -> set[int]:
    """Return the processes that carry connections to dockerd."""
    return {pid for pid, line in sandboxes.host.namespaces.processes().items() if line.endswith(" system dial-stdio")}


def stays(holds: Callable[[], bool], *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not holds():
            return False
        time.sleep(0.1)
    return True


def test_a_container_is_not_held_up_by_a_client_that_was_killed(sandboxes: Sandboxes, sandbox: Sandbox) -> None:
    def count() -> int:
        said = subprocess.run([*docker(sandbox), "logs", "--tail=1", "count"], check=True, capture_output=True)
        return int(said.stdout.split()[0])

    with run_in(sandbox, "count", _COUNT) as client:
        assert client.stdout is not None
        client.stdout.read(1 << 20)
        client.kill()
    reached = count()
    wait_until(lambda: count() > reached + 4000)  # twice what would have gathered until it stopped
    subprocess.run([*docker(sandbox), "kill", "count"], check=True, capture_output=True)
    wait_until(lambda: connections_in(sandboxes) == set())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_one_who_served_the_sandbox_has_left_is_ended_by_him_or_the_next(
    sandboxes: Sandboxes, sandbox: Sandbox, number: signal.Signals
) -> None:
    with run_in(sandbox, "silent", "echo begun; exec /busybox sleep 1000") as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"begun\n"
        wait_until(lambda: connections_in(sandboxes) != set())
        if number is signal.SIGTERM:
            os.kill(supervisor_of(sandbox), number)
        else:
            kill_supervisor(sandbox)
            assert not stays(lambda: connections_in(sandboxes) == set(), seconds=2)
            start("demo")
        client.kill()
    wait_until(lambda: connections_in(sandboxes) == set())
    if number is signal.SIGTERM:
        wait_until(lambda: sandbox.summary().problem is not None)
        start("demo")
    running = sandbox.run(["docker", "ps", "--quiet", "--filter=name=silent"]).stdout
    assert running.strip()
