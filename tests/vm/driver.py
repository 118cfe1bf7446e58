"""How the VM tests speak to sandboxes: the command line as a user runs it, and commands inside that have to succeed.

Deadlines are for an emulated guest on a busy machine of two cores; what works is much quicker, and what hangs fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from kata_dind.errors import KataDindError
from kata_dind.host.process import tail
from kata_dind.sandbox.api import Sandbox, require_sandbox

KATA_DIND = (sys.executable, "-m", "kata_dind.entry")

COMMAND_SECONDS = 120.0
"""For anything that talks to a guest."""

START_SECONDS = 300.0
"""For a start to its end, good or bad; the product's own limit is shorter."""

STOP_SECONDS = 60.0
"""For a sandbox to be gone, in order or by force."""

Where = Literal["container", "guest"]


class SandboxDriver:
    """A running sandbox; its logs' ends are attached to the failures of tests that use it."""

    def __init__(self, name: str) -> None:
        self.sandbox: Sandbox = require_sandbox(name)
        self.name = name

    @property
    def kata_dind_logs(self) -> list[Path]:
        names = ("dockerd.log", "guest.log", "vmm.log", "network.log", "virtiofsd.log", "supervisor.log")
        return [self.sandbox.directory / name for name in names]

    @property
    def docker_host(self) -> str:
        return self.sandbox.docker_host

    @property
    def disk_checks(self) -> int:
        """How often a start has checked the data root's file system, by what the entrypoint said."""
        return len(re.findall(r'"checking [^"]+ in full"', self.sandbox.log_path("dockerd").read_text()))

    @property
    def supervisor_pid(self) -> int:
        return int(json.loads((self.sandbox.directory / "status.json").read_text())["pid"])

    def process_of(self, program: str) -> int:
        """Return the process of the sandbox that runs a program."""
        for pid in _descendants_of(self.supervisor_pid):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if Path(os.fsdecode(words[0])).name.startswith(program):
                    return pid
        raise AssertionError(f"no {program} belongs to {self.sandbox.directory}")

    def succeed(
        self,
        *commands: str,
        where: Where = "container",
        input: bytes = b"",
        timeout_seconds: float = COMMAND_SECONDS,
    ) -> str:
        """Run shell commands that must succeed, beside dockerd or in the guest OS; return what they printed."""
        output = ""
        for command in commands:
            result = self._run(command, where, input, timeout_seconds)
            assert result.exit_code == 0, f"{command!r} failed ({result.exit_code}):\n{_printed(result)}"
            output += result.stdout.decode()
        return output

    def fail(self, command: str, *, where: Where = "container", timeout_seconds: float = COMMAND_SECONDS) -> str:
        """Run a shell command that must fail; return all that it printed."""
        result = self._run(command, where, b"", timeout_seconds)
        assert result.exit_code != 0, f"{command!r} succeeded:\n{_printed(result)}"
        return _printed(result)

    def wait_until_succeeds(
        self, command: str, *, where: Where = "container", timeout_seconds: float = COMMAND_SECONDS
    ) -> str:
        """Repeat a shell command until it succeeds; return what it printed then."""
        deadline = time.monotonic() + timeout_seconds
        while (result := self._run(command, where, b"", timeout_seconds)).exit_code != 0:
            assert time.monotonic() < deadline, f"{command!r} goes on failing:\n{_printed(result)}"
            time.sleep(0.2)
        return str(result.stdout.decode())

    def python(self, code: str, *arguments: str, where: Where = "guest") -> str:
        """Run a Python program that must succeed in the guest OS, which has the standard library."""
        result = self.sandbox.run(["python3", "-c", code, *arguments], where=where, timeout_seconds=COMMAND_SECONDS)
        assert result.exit_code == 0, f"python failed ({result.exit_code}):\n{_printed(result)}"
        return result.stdout.decode()

    def _run(self, command: str, where: Where, input: bytes, timeout_seconds: float) -> Any:
        try:
            return self.sandbox.run(["sh", "-c", command], where=where, input=input, timeout_seconds=timeout_seconds)
        except KataDindError as error:
            # The fixture that fails here has no value yet, whose logs would be attached.
            for log in self.kata_dind_logs:
                error.add_note(f"--- {log}\n{tail(log, lines=30)}")
            raise


def kata_dind(
    *arguments: str,
    input: str | None = None,
    prefix: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    timeout_seconds: float = START_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end; `prefix` is what it is run by, such as `ip netns exec NAME`."""
    return subprocess.run(
        [*prefix, *KATA_DIND, *arguments],
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
        timeout=timeout_seconds,
    )


def succeed(*arguments: str, **options: Any) -> str:
    """Run a command line that must succeed; return its answer."""
    done = kata_dind(*arguments, **options)
    assert done.returncode == 0, (
        f"kata-dind {' '.join(arguments)} exited {done.returncode}:\n{done.stdout}{done.stderr}"
    )
    return done.stdout


def states() -> dict[str, str]:
    """Return what `ls` says: the state of each sandbox."""
    return {row["name"]: row["state"] for row in json.loads(succeed("ls", "--json"))}


class Invocation:
    """A running command line, in a process group of its own, as a shell starts it."""

    def __init__(self, process: subprocess.Popen[bytes], stdout: Path, stderr: Path) -> None:
        self.process = process
        self._stdout = stdout
        self._stderr = stderr

    @property
    def kata_dind_logs(self) -> list[Path]:
        return [self._stdout, self._stderr]

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def wait_until_it_says(self, text: str, *, timeout_seconds: float = START_SECONDS) -> None:
        self.wait_until(
            lambda: text in self.stdout + self.stderr, what=f"says {text!r}", timeout_seconds=timeout_seconds
        )

    def wait_until(self, condition: Callable[[], object], *, what: str, timeout_seconds: float = START_SECONDS) -> None:
        def holds() -> bool:
            ended = self.process.poll() is not None
            if condition():
                return True
            assert not ended, f"it ended ({self.process.returncode}) before it {what}:\n{self.stdout}{self.stderr}"
            return False

        wait_until(holds, what=f"the command {what}", timeout_seconds=timeout_seconds)

    def press_ctrl_c(self) -> None:
        """Interrupt the process group, as a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self, *, timeout_seconds: float = START_SECONDS) -> int:
        try:
            return self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.stdout}{self.stderr}") from None


@contextlib.contextmanager
def start_kata_dind(
    directory: Path, *arguments: str, stdin: IO[bytes] | int = subprocess.DEVNULL
) -> Iterator[Invocation]:
    """Start the command line; what it prints goes to files in a directory. It does not outlive the block."""
    stdout, stderr = directory / "stdout", directory / "stderr"
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(
            [*KATA_DIND, *arguments], stdin=stdin, stdout=out, stderr=err, process_group=0
        )  # fmt: skip
    try:
        yield Invocation(process, stdout, stderr)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_until(condition: Callable[[], object], *, what: str, timeout_seconds: float = COMMAND_SECONDS) -> None:
    """Wait until something holds; fail when it does not in time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to that in {timeout_seconds:g} s: {what}"
        time.sleep(0.05)


@contextlib.contextmanager
def mounted_tmpfs(place: Path, *, size: str) -> Iterator[Path]:
    """A host's small file system, for the length of the block; it needs root."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "kata-dind-test", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _printed(result: Any) -> str:
    return str((result.stdout + result.stderr).decode(errors="replace"))


def _descendants_of(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from _descendants_of(child)
