"""A sandbox's life on a real containerd: its data roots, its streams, and what becomes of it when something fails."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kata_dind.backend.containerd.client import connected
from kata_dind.errors import AbnormalShutdown, ContainerdError, DataRootBusy, KataDindError, SandboxError
from kata_dind.host.json_files import read_json
from kata_dind.progress import Event
from kata_dind.sandbox.api import list_sandboxes, require_sandbox, start
from kata_dind.sandbox.volumes import require_volume
from kata_dind.store.sandboxes import sandboxes_directory
from tests.containerd.sandboxes import Sandboxes, kill_supervisor, wait_until
from tests.containerd.test_ports import docker, get, publish, with_image
from tests.guest.daemons import wait_until_no_loop_lies_in
from tests.kube.node import start_containerd, start_host
from tests.vm.driver import KATA_DIND
from tests.web_clients import listens

pytestmark = pytest.mark.requires("containerd", "mmdebstrap")


@pytest.mark.parametrize(
    ("kind", "storage"),
    [("loop", "overlay2 on extfs"), ("block", "overlay2 on extfs"), ("memory", "overlay2 on tmpfs")],
)
def test_each_kind_is_proven_and_a_disk_keeps_its_data(sandboxes: Sandboxes, kind: str, storage: str) -> None:
    sandbox = sandboxes.up(data_root=kind, memory="1G", size="512M")
    known = sandbox.inspect()
    assert (known["docker"]["storage"], known["data_root"]["kind"]) == (storage, kind)
    assert known["image"]["reference"] == sandboxes.image
    assert known["kernel"] == os.uname().release
    sandbox.run(["docker", "volume", "create", "kept"])
    sandbox.stop()
    assert (sandbox.state, sandbox.inspect()["error"]) == ("stopped", None)
    assert "Daemon shutdown complete" in (sandbox.directory / "dockerd.log").read_text()
    start("demo")
    kept = sandbox.run(["docker", "volume", "ls", "--quiet"]).stdout
    assert kept == (b"" if kind == "memory" else b"kept\n")


@pytest.mark.requires("docker29")
def test_a_containerd_2_does_the_same(newer_sandboxes: Sandboxes) -> None:
    sandbox = newer_sandboxes.up(data_root="block")
    assert sandbox.inspect()["docker"]["storage"] == "overlay2 on extfs"
    assert sandbox.run(["echo", "hello"]).stdout == b"hello\n"
    kill_supervisor(sandbox)
    assert start("demo").summary().problem is None


def test_a_handler_that_isolates_nothing_says_so_at_each_start(sandboxes: Sandboxes) -> None:
    events: list[Event] = []
    sandbox = sandboxes.up(report=events.append)
    sandbox.stop()
    start("demo", report=events.append)
    said = [event.message for event in events if event.message.startswith("nothing isolates this sandbox")]
    assert len(said) == 2
    assert any("root on this host" in warning for warning in sandbox.inspect()["warnings"])


@pytest.mark.parametrize(
    ("fields", "id"),
    [
        ({"handler": "kata-x"}, "containerd.unknown-handler"),
        ({"allow_shared_kernel": False}, "containerd.shared-kernel"),
        ({"handler": "runc"}, "containerd.handler-unfit"),
        ({"handler": ""}, "containerd.no-kata"),
        ({"data_root": "virtiofs"}, "containerd.data-root-unfit"),
        ({"image": "127.0.0.1:1/nothing:here"}, "containerd.pull-failed"),
        ({"image": "sha256:" + "0" * 64}, "image.unknown"),
        ({"containerd_address": "/nowhere/containerd.sock"}, "containerd.no-socket"),
        ({"shares": ["/nowhere:/x"]}, "share.missing"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_made(
    sandboxes: Sandboxes, fields: dict[str, Any], id: str
) -> None:
    with pytest.raises(KataDindError) as caught:
        sandboxes.up(**fields)
    assert caught.value.id == id


# --- what a user meets


def test_the_endpoint_is_dockers_api_with_both_halves_of_a_connection(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes.up()
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(sandbox.endpoint))
            client.sendall(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
            client.shutdown(socket.SHUT_WR)
            answer = b""
            while part := client.recv(4096):
                answer += part
            assert answer.endswith(b"\r\n\r\nOK")
    archive = subprocess.run(["tar", "-c", "-C", "/bin", "busybox"], check=True, capture_output=True).stdout
    docker = ["docker", "--host", sandbox.docker_host]
    subprocess.run([*docker, "import", "-", "box"], input=archive, check=True, capture_output=True, timeout=60)
    words = [
        "run",
        "--interactive",
        "--rm",
        "--network=none",
        "box",
        "/busybox",
        "sh",
        "-c",
        "cat; echo error >&2; exit 5",
    ]
    done = subprocess.run([*docker, *words], input=b"in" * 100_000, check=False, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (5, b"in" * 100_000, b"error\n")


def test_process_1_is_the_containers_own_and_reaps_what_is_left_to_it(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes.up(data_root="memory", size="512M")
    assert sandbox.run(["cat", "/proc/1/comm"]).stdout == b"docker-init\n"
    sandbox.run(["sh", "-c", "(true &)"])
    zombies = sandbox.run(["sh", "-c", "sleep 1; grep -l '^State:.Z' /proc/[0-9]*/status || :"])
    assert zombies.stdout == b""


def test_a_command_has_variables_a_directory_and_an_end(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes.up()
    said = sandbox.run(["sh", "-c", 'echo "$A"; pwd'], environment={"A": "a b"}, cwd="/usr")
    assert said.stdout == b"a b\n/usr\n"
    assert sandbox.run(["no-such-program"]).exit_code == 127
    with pytest.raises(KataDindError):
        sandbox.run(["sleep", "4711"], timeout_seconds=1)
    wait_until(lambda: sandbox.run(["sh", "-c", "grep -l [4]711 /proc/[0-9]*/cmdline"]).exit_code != 0)
    with pytest.raises(SandboxError, match=r"^the command could not be run: the backend containerd has no way"):
        sandbox.run(["true"], where="guest")


def test_a_command_without_input_keeps_its_output(sandboxes: Sandboxes) -> None:
    """Kata's Go runtime gives up a command's output when its input is ended, so it never is where it is empty."""
    sandbox = sandboxes.up(data_root="memory")
    said = sandbox.run(["sh", "-c", "readlink /proc/self/fd/0; cat; sleep 0.5; echo late"])
    assert said.stdout == b"/dev/null\nlate\n"
    assert sandbox.run(["cat"], input=b"given").stdout == b"given"
    done = sandbox.run(["sh", "-c", "cat; sleep 1; seq 100000"], input=b"given" * 100_000)
    assert (done.exit_code, len(done.stdout)) == (0, 500_000 + 588_895)
    assert sandbox.run(["sh", "-c", "exec <&-; seq 3; exit 7"], input=b"nobody reads" * 100_000).exit_code == 7
    assert sandbox.run(["sh", "-c", "ls /dev/kata-dind.input.*"]).exit_code != 0


def test_a_share_is_seen_and_a_read_only_one_not_written(sandboxes: Sandboxes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("seen")
    sandbox = sandboxes.up(shares=[f"{tmp_path}:/rw", f"{tmp_path}:/ro:ro"])
    assert sandbox.run(["cat", "/ro/file"]).stdout == b"seen"
    assert sandbox.run(["touch", "/rw/new"]).exit_code == 0
    assert sandbox.run(["touch", "/ro/other"]).exit_code != 0
    assert (tmp_path / "new").exists()


def test_without_a_network_nothing_is_up_but_the_loopback(sandboxes: Sandboxes) -> None:
    states = "cat /sys/class/net/eth0/flags"
    assert int(sandboxes.up("with").run(["sh", "-c", states]).stdout, 16) & 1
    assert not int(sandboxes.up("without", network="none").run(["sh", "-c", states]).stdout, 16) & 1


def test_what_it_may_have_of_the_host_is_limited(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes.up(cpus=1, memory="700M")
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    assert sandbox.run(["sh", "-c", script]).stdout.strip() == str(700 << 20).encode()


# --- volumes


def test_a_volume_outlives_its_sandboxes_and_has_one_user(sandboxes: Sandboxes) -> None:
    first = sandboxes.up("first", volume="work")
    first.run(["docker", "volume", "create", "kept"])
    kill_supervisor(first)
    with pytest.raises(DataRootBusy, match="the volume 'work' is in use by the sandbox 'first'"):
        sandboxes.up("second", volume="work", data_root="auto")
    first.remove(force=True)
    second = sandboxes.up("second", volume="work", data_root="auto")
    assert second.run(["docker", "volume", "ls", "--quiet"]).stdout == b"kept\n"
    second.remove(force=True)
    require_volume("work").remove()


# --- what fails


def test_a_pod_that_somebody_removes_is_a_crash_that_says_so(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes.up()
    pod = sandboxes.pod_of(sandbox)
    with connected(sandboxes.host.address) as containerd:
        containerd.call("RuntimeService/StopPodSandbox", failing="no", pod_sandbox_id=pod.pod_id, timeout_seconds=60)
        with contextlib.suppress(ContainerdError):  # the owner may have seen the pod's end, and be removing it
            containerd.call("RuntimeService/RemovePodSandbox", failing="no", pod_sandbox_id=pod.pod_id,
                            timeout_seconds=60)  # fmt: skip
    wait_until(lambda: sandbox.state == "crashed")
    assert sandbox.inspect()["error"]["summary"].startswith(("the guest is gone", "dockerd ended"))
    assert start("demo").state == "running"


def test_a_dockerd_that_ends_is_a_crash_with_its_exit_code(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes.up()
    with contextlib.suppress(KataDindError):
        sandbox.run(["sh", "-c", "kill -TERM $(cat /var/run/docker.pid)"])
    wait_until(lambda: sandbox.state == "crashed")
    assert sandbox.inspect()["error"]["summary"] == "dockerd ended (exit 0)"
    assert sandboxes.listed("tasks").count("\n") == 1


def test_a_start_whose_guest_entrypoint_fails_says_what_that_said(sandboxes: Sandboxes) -> None:
    with pytest.raises(KataDindError) as caught:
        sandboxes.up(dockerd_args=["--no-such-flag"])
    assert (caught.value.id, "unknown flag" in caught.value.details) == ("dockerd.ended-early", True)
    assert list_sandboxes() == []


@pytest.mark.thorough
def test_a_dockerd_that_hangs_is_cut_off_and_its_data_root_checked(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes.up()
    sandbox.run(["sh", "-c", "kill -STOP $(cat /var/run/docker.pid)"])
    with pytest.raises(AbnormalShutdown, match="was cut off"):
        sandbox.stop()
    assert start("demo").state == "running"


@pytest.mark.thorough
@pytest.mark.parametrize("step", [0.1, 0.4, 0.8, "machine", "data-root", "dockerd"])
def test_a_start_that_is_killed_leaves_nothing(sandboxes: Sandboxes, step: float | str) -> None:
    """So many seconds after the supervisor has begun, or when a phase has ended."""

    def has_come(status: dict[str, Any]) -> bool:
        if isinstance(step, float):
            time.sleep(step)
            return True
        return step in [phase["name"] for phase in status.get("phases", ())]

    def kill() -> None:
        began = time.monotonic()
        while time.monotonic() < began + 60:
            status = read_json(sandboxes_directory() / "demo" / "status.json")
            if "pid" in status and has_come(status):
                os.kill(status["pid"], signal.SIGKILL)
                return
            time.sleep(0.005)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(KataDindError):
        sandboxes.up()
    thread.join()
    assert list_sandboxes() == []


@pytest.mark.thorough
@pytest.mark.parametrize("words", [["stop", "demo"], ["rm", "--force", "demo"]], ids=["stop", "rm"])
@pytest.mark.parametrize("seconds", [0.3, 0.6, 1.2, 2.4])
def test_an_end_that_is_killed_is_ended_by_the_next(sandboxes: Sandboxes, words: list[str], seconds: float) -> None:
    sandboxes.up()
    with subprocess.Popen([*KATA_DIND, "--quiet", *words]) as command:
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.wait(seconds)
        command.kill()
    for summary in list_sandboxes():
        require_sandbox(summary.name).remove(force=True)
    assert list_sandboxes() == []


@pytest.mark.thorough
def test_containerd_may_be_started_again_under_a_sandbox(private_directories: Path, dind: str) -> None:
    directory = private_directories / "again"
    directory.mkdir(mode=0o711)
    with start_host(directory) as host, host.namespaces.entered_network():
        sandboxes = Sandboxes(host, dind)
        sandbox = with_image(sandboxes.up())
        publish(sandbox, "web", "--publish=8080:80")
        assert get("127.0.0.1", 8080) == "web"
        (pid,) = (pid for pid, line in host.namespaces.processes().items() if line.startswith("containerd --config"))
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "containerd does not answer" in (sandbox.summary().problem or ""))
        with pytest.raises(SandboxError, match="nobody answers at the socket"):
            sandbox.run(["true"], timeout_seconds=5)
        wait_until(lambda: sandbox.state == "unknown")
        assert "containerd does not answer" in sandbox.inspect()["problem"]
        assert get("127.0.0.1", 8080) == "web"
        with start_containerd(host, programs=None):
            wait_until(lambda: sandbox.summary().problem is None)
            assert sandbox.state == "running"
            assert sandbox.run(["echo", "back"]).stdout == b"back\n"
            publish(sandbox, "later", "--publish=8081:80")
            assert (get("127.0.0.1", 8080), get("127.0.0.1", 8081)) == ("web", "later")
            docker(sandbox, "rm", "--force", "web")
            wait_until(lambda: not listens("127.0.0.1", 8080))
            sandbox.remove(force=True)
            wait_until_no_loop_lies_in(sandboxes_directory())


@pytest.mark.slow(minutes=10)
def test_a_hundred_sandboxes_in_turn_leave_nothing(sandboxes: Sandboxes) -> None:
    before = sandboxes.host.records()
    for _ in range(100):
        sandboxes.up(data_root="memory", memory="1G", size="256M").remove(force=True)
    assert sandboxes.host.records() == before
