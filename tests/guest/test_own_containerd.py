"""dockerd's own containerd, which the entrypoint starts first: with what, for how long, and when it does not."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from tests.guest.conftest import Shell
from tests.guest.test_dockerd import Dockerd, run_docker, started

pytestmark = pytest.mark.requires("root")

# As much of containerd as the entrypoint sees: it says how it was started, and listens.
STUB = f"""#!{sys.executable}
import os, pathlib, re, socket, sys, time
here = pathlib.Path(__file__).parent
with (here / "starts").open("a") as starts:
    print(*sys.argv[1:], os.environ.get("NOTIFY_SOCKET"), file=starts)
time.sleep(float((here / "delay").read_text()))
if (here / "fails").exists():
    sys.exit("containerd: it fails")
(here / "config.toml").write_text(pathlib.Path(sys.argv[2]).read_text())
(here / "pid").write_text(str(os.getpid()))
with socket.socket(socket.AF_UNIX) as listener:
    pathlib.Path(sys.argv[-1]).unlink(missing_ok=True)
    listener.bind(sys.argv[-1])
    listener.listen()
    time.sleep(60)
"""


@pytest.fixture
def stubs(shell: Shell) -> Path:
    """A directory with a containerd, and a dockerd that says how it was started."""
    directory = shell.directory / "stubs"
    directory.mkdir()
    (directory / "delay").write_text("0")
    for name, text in {
        "containerd": STUB,
        "dockerd": '#!/bin/sh\nprintf "%s\\n" "$@"\n',
    }.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return directory


def run(shell: Shell, stubs: Path, *command: str, before: str = "", **variables: str) -> tuple[list[str], list[str]]:
    """Return dockerd's arguments, and the warnings."""
    told = {"PATH": str(shell.directory / "docker"), "DATA_ROOT": "memory", "SIZE": "64M", "CONTAINERD": "auto"}
    before = f"mount -t tmpfs run /run\n{before}"
    ended = shell.entrypoint(*command, tools=str(stubs), before=before, **{**told, **variables})
    assert ended.code == 0, ended.stderr
    return ended.stdout.splitlines(), ended.said("warning")


def test_it_gets_what_dockerd_would_tell_it(shell: Shell, stubs: Path) -> None:
    """Its root, so that either finds what the other has stored, and the usual address."""
    state = "/run/docker/containerd"
    arguments, warnings = run(shell, stubs, "dockerd", "--debug", before="export NOTIFY_SOCKET=/x")
    assert arguments == ["--debug", f"--containerd={state}/containerd.sock"]
    assert warnings == []
    assert (stubs / "starts").read_text() == (
        f"-c containerd.toml --root {shell.directory}/docker/containerd/daemon --state {state}/daemon"
        f" -a {state}/containerd.sock None\n"
    )
    assert tomllib.loads((stubs / "config.toml").read_text()) == {
        "version": 2,
        "disabled_plugins": ["io.containerd.grpc.v1.cri"],
        "debug": {"address": ""},
    }


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        (["dockerd", "--containerd=/run/x.sock"], {}),
        (["dockerd", "--containerd", "/run/x.sock"], {}),
        (["dockerd", "--cri-containerd"], {}),
        (["dockerd", "--feature=embedded-containerd"], {}),
        (["dockerd", "--feature", "embedded-containerd=true"], {}),
        (["dockerd"], {"CONTAINERD": "none"}),
    ],
)
def test_it_is_left_to_dockerd(shell: Shell, stubs: Path, command: list[str], variables: dict[str, str]) -> None:
    arguments, warnings = run(shell, stubs, *command, **variables)
    assert (arguments or [""], warnings) == (command[1:] or [""], [])
    assert not (stubs / "starts").exists()


def test_it_is_waited_for(shell: Shell, stubs: Path) -> None:
    (stubs / "delay").write_text("2")
    arguments, _ = run(shell, stubs, "dockerd")
    assert arguments[-1].startswith("--containerd=")


def test_what_an_earlier_one_left_is_not_taken_for_it(shell: Shell, stubs: Path) -> None:
    (stubs / "delay").write_text("1")
    state = "/run/docker/containerd"
    leftovers = (
        f"mkdir -p {state}; {sys.executable} -c 'import socket; socket.socket(1).bind(\"{state}/containerd.sock\")'"
    )
    arguments, _ = run(
        shell, stubs, "dockerd",
        before=f"{leftovers}; mkfifo {state}/pipe; : >{state}/starting",
    )  # fmt: skip
    assert arguments[-1] == f"--containerd={state}/containerd.sock"
    assert (stubs / "pid").exists()  # it was there before dockerd


def test_dockerd_starts_it_when_it_does_not_start_here(shell: Shell, stubs: Path) -> None:
    (stubs / "fails").touch()
    arguments, warnings = run(shell, stubs, "dockerd", "--debug")
    assert arguments == ["--debug"]
    assert warnings == ["containerd did not start, so dockerd will start one"]
    assert len((stubs / "starts").read_text().splitlines()) == 1


def test_dockerd_starts_it_where_nothing_can_be_written(shell: Shell, stubs: Path) -> None:
    arguments, warnings = run(shell, stubs, "dockerd", "--debug", before="mount -o remount,ro /run")
    assert (arguments, warnings) == (["--debug"], ["cannot write to /run/docker/containerd"])


def test_it_ends_with_dockerd_wherever_that_runs(shell: Shell, stubs: Path) -> None:
    """Without a process namespace that would end it."""
    pid = stubs / "pid"
    (stubs / "dockerd").write_text(f'#!/bin/sh\necho "$$" >{stubs}/dockerd.pid\nexec sleep 50\n')
    environment = {
        "PATH": f"{stubs}:{shell.tools}", "KATA_DIND_PATH": f"{shell.directory}/docker",
        "KATA_DIND_STATUS_DIR": f"{shell.directory}/status", "KATA_DIND_DATA_ROOT": "memory", "KATA_DIND_SIZE": "64M",
    }  # fmt: skip
    command = [*shell.argv, str(shell.script), "dockerd"]
    cover = 'mount -t tmpfs cover /sys/fs/cgroup; mount -t tmpfs run /run; exec "$@"'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", cover, "sh", *command]
    with subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL, process_group=0) as process:
        wait_for((stubs / "dockerd.pid").exists)
        containerd = int(pid.read_text())
        os.kill(containerd, signal.SIGKILL)
        wait_for(lambda: int(pid.read_text() or containerd) != containerd)
        containerd = int(pid.read_text())
        assert os.getsid(containerd) != os.getsid(process.pid)
        process.kill()
    wait_for(lambda: not Path(f"/proc/{containerd}/exe").exists())


def wait_for(condition: object, *, seconds: float = 30) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- real ones


@pytest.mark.requires("docker", "docker-cli", "fuse", "loop", "netns")
def test_dockerd_works_with_it_and_after_its_end(tmp_path: Path) -> None:
    with started(tmp_path, SIZE="1G") as dockerd:
        dockerd.wait_until_it_answers()
        assert " --containerd=/run/docker/containerd/containerd.sock" in command_line(dockerd)
        assert run_docker(dockerd, "volume", "create", "kept") == "kept\n"
        (killed,) = containerds_of(dockerd)
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: containerds_of(dockerd) - {killed})
        wait_for(lambda: re.search(r"containerd version: *\S", run_docker(dockerd, "info")))
        assert dockerd.stop() == 0


@pytest.mark.thorough
@pytest.mark.requires("docker", "fuse", "loop", "netns")
def test_a_containerd_that_takes_longer_than_dockerd_waits(tmp_path: Path) -> None:
    slow = tmp_path / "bin" / "containerd"
    slow.parent.mkdir()
    slow.write_text('#!/bin/sh\nsleep 20\nexec /usr/bin/containerd "$@"\n')
    slow.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
        with started(tmp_path, SIZE="1G", CONTAINERD="none") as dockerd:
            assert dockerd.process.wait(60) != 0
            assert "timeout waiting for containerd to start" in dockerd.log
        with started(tmp_path, SIZE="1G") as dockerd:
            dockerd.wait_until_it_answers()


def command_line(dockerd: Dockerd) -> str:
    (child,) = Path(f"/proc/{dockerd.process.pid}/task/{dockerd.process.pid}/children").read_text().split()
    return Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")


def containerds_of(dockerd: Dockerd) -> set[int]:
    """Return the process that is its containerd, if there is one."""
    namespace = Path(f"/proc/{dockerd.process.pid}/ns/pid_for_children").readlink()
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "ns/pid").readlink() == namespace:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                found |= {int(entry.name)} if words[0].endswith(b"containerd") else set()
    return found
