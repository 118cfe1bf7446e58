"""The commands that people type, on a sandbox that runs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import stat
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.driver import COMMAND_SECONDS, KATA_DIND, SandboxDriver, kata_dind, start_kata_dind, states, succeed

pytestmark = pytest.mark.requires("qemu", "virtiofsd")


def test_up_answers_with_what_the_sandbox_is(answer_of_up: dict[str, Any], sandbox: SandboxDriver) -> None:
    assert answer_of_up["state"] == "running"
    assert answer_of_up["docker_host"] == sandbox.docker_host
    assert answer_of_up["accelerator"] in ("kvm", "tcg")
    assert answer_of_up["accelerator_reason"]
    assert answer_of_up["kernel"] == sandbox.succeed("uname -r").strip()
    assert answer_of_up["docker"]["storage"] == "overlay2 on extfs"
    assert answer_of_up["docker"]["native_diff"] is True
    assert [phase["name"] for phase in answer_of_up["phases"]] == [
        "machine",
        "shares",
        "renewal",
        "dockerd",
        "proof",
    ]
    timings = answer_of_up["timings"]
    # In milliseconds; a clone's part of the proof is made before dockerd is asked, so that ready can be the same one.
    assert 0 < timings["boot_seconds"] < timings["docker_seconds"] <= timings["ready_seconds"]


def test_inspect_says_the_same_later(answer_of_up: dict[str, Any], sandbox: SandboxDriver) -> None:
    changing = {"uptime_seconds", "disk_bytes"}
    inspected = json.loads(succeed("inspect", sandbox.name, "--json"))
    assert {key: value for key, value in inspected.items() if key not in changing} == {
        key: value for key, value in answer_of_up.items() if key not in changing
    }
    assert inspected["uptime_seconds"] > answer_of_up["uptime_seconds"]
    assert f"docker_host:        {sandbox.docker_host}" in succeed("inspect", sandbox.name)


def test_ls_lists_it(sandbox: SandboxDriver) -> None:
    (row,) = json.loads(succeed("ls", "--json"))
    assert row["name"] == sandbox.name
    assert row["state"] == "running"
    assert row["data_root"] == "block"
    assert 0 < row["disk_bytes"] < 1 << 30
    header, line = succeed("ls").splitlines()
    assert header.split()[:3] == ["NAME", "STATE", "DOCKER"]
    assert line.split()[:3] == [row["name"], "running", row["docker_version"]]


def test_env_points_a_shell_at_it(sandbox: SandboxDriver) -> None:
    exports = succeed("env", sandbox.name)
    script = f'{exports}\nprintf %s "$DOCKER_HOST"'
    assert (
        subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == sandbox.docker_host
    )
    assert json.loads(succeed("env", sandbox.name, "--json"))["DOCKER_HOST"] == sandbox.docker_host


def test_its_sockets_are_for_their_owner_alone(sandbox: SandboxDriver) -> None:
    directory = sandbox.sandbox.directory
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in ("control.sock", "docker.sock"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600


def test_a_used_name_is_refused(sandbox: SandboxDriver) -> None:
    refused = kata_dind("up", sandbox.name)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"kata-dind: there is a sandbox '{sandbox.name}' already\n")
    assert kata_dind("start", sandbox.name).returncode == 2
    assert kata_dind("rm", sandbox.name).returncode == 2
    assert states() == {sandbox.name: "running"}


@pytest.mark.parametrize("verb", ["inspect", "env", "docker", "exec", "shell", "logs", "stop", "start", "rm"])
def test_an_unknown_name_is_bad_input(sandbox: SandboxDriver, verb: str) -> None:
    refused = kata_dind(verb, "nosuch", *(["--", "true"] if verb == "exec" else []))
    assert refused.returncode == 2
    assert "there is no sandbox 'nosuch'" in refused.stderr
    assert sandbox.name in refused.stderr


# --- exec and docker


def test_exec_keeps_stdout_and_stderr_apart_and_the_exit_code(sandbox: SandboxDriver) -> None:
    done = kata_dind("exec", sandbox.name, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


@pytest.mark.parametrize("where", [[], ["--guest"]])
def test_exec_ends_as_a_shell_would(sandbox: SandboxDriver, where: list[str]) -> None:
    assert kata_dind("exec", *where, sandbox.name, "--", "/no/such/program").returncode == 127
    assert kata_dind("exec", *where, sandbox.name, "--", "/etc/passwd").returncode == 126
    assert kata_dind("exec", *where, sandbox.name, "--", "sh", "-c", "kill -9 $$").returncode == 128 + 9


def test_exec_passes_stdin_on_to_its_end(sandbox: SandboxDriver) -> None:
    text = "".join(f"line {number}\n" for number in range(20000))
    done = kata_dind("exec", sandbox.name, "--", "wc", "-l", input=text)
    assert (done.returncode, done.stdout) == (0, "20000\n")
    assert succeed("exec", sandbox.name, "--", "cat", input=text) == text


def test_exec_takes_variables_and_a_directory(sandbox: SandboxDriver) -> None:
    words = [
        "exec",
        "--env",
        "COLOUR=blue",
        "--workdir",
        "/usr/lib",
        sandbox.name,
        "--",
        "sh",
        "-c",
        "echo $COLOUR; pwd",
    ]
    assert succeed(*words) == "blue\n/usr/lib\n"


def test_exec_sees_the_guest_or_the_container(sandbox: SandboxDriver) -> None:
    assert "dockerd" in succeed("exec", sandbox.name, "--", "cat", "/proc/1/cmdline")
    assert "agent" in succeed("exec", "--guest", sandbox.name, "--", "cat", "/proc/1/cmdline")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_exec_passes_signals_on(sandbox: SandboxDriver, tmp_path: Path, number: signal.Signals) -> None:
    script = "trap 'echo caught; exit 9' TERM INT; echo ready; while :; do sleep 0.1; done"
    with start_kata_dind(tmp_path, "exec", sandbox.name, "--", "sh", "-c", script) as command:
        command.wait_until_it_says("ready")
        command.process.send_signal(number)
        assert command.wait(timeout_seconds=COMMAND_SECONDS) == 9
        assert command.stdout == "ready\ncaught\n"


def test_what_exec_runs_ends_with_it(sandbox: SandboxDriver, tmp_path: Path) -> None:
    with start_kata_dind(tmp_path, "exec", sandbox.name, "--", "sh", "-c", "echo ready; exec sleep 987654") as command:
        command.wait_until_it_says("ready")
        sandbox.succeed("pgrep -f '^sleep 98765[4]'")
    sandbox.wait_until_succeeds("! pgrep -f '^sleep 98765[4]'")


def test_docker_speaks_to_its_daemon(sandbox: SandboxDriver) -> None:
    version = succeed("docker", sandbox.name, "--", "version", "--format", "{{.Server.Version}}").strip()
    assert version == sandbox.sandbox.inspect()["docker"]["version"]
    missing = kata_dind("docker", sandbox.name, "--", "inspect", "nosuch")
    assert missing.returncode == 1
    assert "no such object" in missing.stderr.lower()


def test_docker_runs_the_built_in_image(sandbox: SandboxDriver) -> None:
    done = kata_dind("docker", sandbox.name, "--", "run", "--rm", "-i", "kata-dind/hello", "cat", input="in and out\n")
    assert (done.returncode, done.stdout) == (0, "in and out\n")


# --- shell, on a terminal


_PROMPT = "# "


class Terminal:
    """Our side of a pseudo-terminal that a command runs on."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> None:
        """Wait until the command has printed a text after what was waited for before."""
        deadline = time.monotonic() + COMMAND_SECONDS
        while text.encode() not in self._seen:
            assert select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0], self._seen
            self._seen += os.read(self._master, 65536)
        self._seen = self._seen.partition(text.encode())[2]

    def answer(self, question: str, text: str) -> None:
        """Type a command at the prompt and wait for its answer: a text that the question, which is echoed, lacks."""
        self.wait_for(_PROMPT)
        self.type(f"{question}\n")
        self.wait_for(text)

    def wait_for_the_end(self, process: subprocess.Popen[bytes]) -> int:
        """Wait until the command has ended; return its exit code."""
        deadline = time.monotonic() + COMMAND_SECONDS
        while process.poll() is None:  # it waits, in turn, until all that it printed is read
            assert time.monotonic() < deadline, self._seen
            if select.select([self._master], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    self._seen += os.read(self._master, 65536)
        return int(process.returncode)


@pytest.fixture
def shell(sandbox: SandboxDriver) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    master, slave = os.openpty()
    terminal = Terminal(master)
    terminal.resize(30, 100)
    argv = ["setsid", "--ctty", *KATA_DIND, "shell", sandbox.name]
    process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm"})
    os.close(slave)
    try:
        yield terminal, process
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_a_shell_has_a_terminal_that_resizes(shell: tuple[Terminal, subprocess.Popen[bytes]]) -> None:
    terminal, process = shell
    terminal.type("stty size\n")  # typed ahead
    terminal.wait_for("30 100")
    terminal.answer("echo $TERM in $((40 + 2))", "xterm in 42")
    terminal.resize(41, 123)
    # A signal tells of the new size, which what is typed may overtake.
    terminal.answer("until stty size | grep '41 12''3'; do sleep 0.1; done", "41 123")
    # Said by what is to be interrupted: before that, the terminal's foreground is the shell's.
    terminal.answer("sh -c 'echo slee''ping; exec sleep 1000'", "sleeping")
    terminal.type("\x03")
    terminal.answer("echo woke $((6 * 7))", "woke 42")
    terminal.wait_for(_PROMPT)
    terminal.type("exit 3\n")
    assert terminal.wait_for_the_end(process) == 3


# --- logs


def test_logs_shows_dockerd_the_guest_and_the_machine(sandbox: SandboxDriver) -> None:
    assert "API listen on /var/run/docker.sock" in succeed("logs", sandbox.name)
    assert len(succeed("logs", sandbox.name, "-n", "3").splitlines()) == 3
    for source in ("guest", "vmm"):
        path = sandbox.sandbox.log_path(source)
        assert succeed("logs", sandbox.name, "--source", source) == path.read_text()


def test_the_guest_console_has_no_complaint(sandbox: SandboxDriver) -> None:
    console = succeed("logs", sandbox.name, "--source", "guest")
    assert [line for line in console.splitlines() if "BUG" in line or "Traceback" in line or "error" in line] == []


def test_logs_follows(sandbox: SandboxDriver, tmp_path: Path) -> None:
    with start_kata_dind(tmp_path, "logs", sandbox.name, "--follow", "-n", "1") as command:
        command.wait_until(lambda: command.stdout, what="shows the last line")
        sandbox.fail("docker pull 127.0.0.1:1/nosuch")
        command.wait_until_it_says("127.0.0.1:1")
        command.process.send_signal(signal.SIGINT)
        assert command.wait(timeout_seconds=COMMAND_SECONDS) == 128 + signal.SIGINT
