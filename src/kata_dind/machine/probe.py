"""Trying an accelerator: a small guest boots on it and is watched, so that a slow guest is told from one that hangs.

The registers of a processor that executes take values that they did not have before, and a guest that boots writes to
its console. Where neither happens while QEMU is busy, the guest hangs. Where QEMU is idle, the guest may be waiting, or
a busy host may not let it run, so it is given more time. A guest that makes progress is waited for; where emulation may
be used instead, not for longer than an emulated guest takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kata_dind.host.process import Daemon, daemon, describe_status, processor_seconds, tail
from kata_dind.machine.argv import TCG_CPU, qemu_binary
from kata_dind.progress import Event, Report
from kata_dind.vocabulary import Accelerator

BOOT_MARK = "kata-dind: booted"
"""The initramfs writes this to the console."""

_TURN_SECONDS = 0.05
_LOOK_SECONDS = 0.25
"""Between two looks at the registers. During each look the guest's processor stands still for a moment."""
_SPUN_SECONDS = 1.0
"""A guest seems to spin after so much processor time without progress."""
_STILL_SECONDS = 3.0
"""A guest that was slower than its rival is taken to hang after such a time without progress, else to be slow."""

_QUESTION = {"execute": "human-monitor-command", "arguments": {"command-line": "info registers"}}


class Outcome(StrEnum):
    """The result of a trial."""

    WORKS = "works"
    HUNG = "hung"
    SLOW = "slow"
    """The guest made progress, and had not booted when it should have."""
    FAILED = "failed"
    """QEMU or the guest ended, or QEMU stopped the guest."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a guest."""

    limit_seconds: float = 90.0
    """The whole time for a guest that makes progress."""
    still_seconds: float = 5.0
    """The processor time without any progress after which a guest is taken to spin."""
    idle_seconds: float = 20.0
    """The time without any progress after which a guest is given up, however little processor time it has used. On a
    busy host with an emulated KVM, a guest that booted afterwards was seen to stand still for 5 s."""
    start_seconds: float = 20.0
    """The time for QEMU itself to answer; its program may have to be read from a slow disk first."""
    rival_seconds: float | None = 5.0
    """After so long an emulated guest is started beside it, and the first one to boot wins; None for no such rival."""


@dataclass(frozen=True)
class Trial:
    """How a trial went."""

    outcome: Outcome
    reason: str
    """A part of a sentence, to follow 'no KVM'."""
    seconds: float
    qemu_version: str = ""


def try_accelerator(
    accelerator: Accelerator, *, kernel: Path, initramfs: Path, patience: Patience, report: Report
) -> Trial:
    """Boot a guest, tell how that went, and leave nothing behind. Raises ToolMissing without QEMU."""
    with contextlib.ExitStack() as stack:
        guest = stack.enter_context(_started(accelerator, kernel, initramfs, patience))
        rival: _WatchedGuest | None = None
        while True:
            if ended := guest.look():
                return ended
            if guest.seconds >= patience.limit_seconds:
                return guest.trial(Outcome.SLOW, f"a guest on it had not booted after {guest.seconds:.0f} s")
            if rival and (rivals := rival.look()) and rivals.outcome is Outcome.WORKS:
                return guest.beaten_by(rivals)
            if rival is None and guest.is_due_for_a_rival:
                report(
                    Event("accelerator", "the guest on KVM is slow; an emulated guest is started to compare it with")
                )
                rival = stack.enter_context(_started(Accelerator.TCG, kernel, initramfs, patience))
            time.sleep(_TURN_SECONDS)


def probe_argv(accelerator: Accelerator, *, kernel: Path, initramfs: Path, console: Path, qmp_fd: int) -> list[str]:
    """Compute the smallest machine that shows whether a kernel boots on an accelerator."""
    return [
        qemu_binary(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", f"q35,accel={accelerator}", "-cpu", "host" if accelerator is Accelerator.KVM else TCG_CPU,
        "-m", "256M",
        "-kernel", str(kernel), "-initrd", str(initramfs), "-append", "console=ttyS0 quiet panic=-1 kata_dind.probe",
        "-chardev", f"file,id=console,path={str(console).replace(',', ',,')}", "-serial", "chardev:console",
        "-chardev", f"socket,id=qmp,fd={qmp_fd}", "-mon", "chardev=qmp,mode=control",
    ]  # fmt: skip


@contextlib.contextmanager
def _started(accelerator: Accelerator, kernel: Path, initramfs: Path, patience: Patience) -> Iterator[_WatchedGuest]:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kata-dind-kvm-")))
        qmp_socket, its_qmp = socket.socketpair()
        stack.enter_context(qmp_socket)
        qmp_socket.setblocking(False)
        console = directory / "console"
        with its_qmp:  # afterwards only QEMU has it
            fd = its_qmp.fileno()
            argv = probe_argv(accelerator, kernel=kernel, initramfs=initramfs, console=console, qmp_fd=fd)
            started = daemon(argv, name="qemu", log=directory / "log", pass_fds=[fd], rung_seconds=2.0)
            process = stack.enter_context(started)
        yield _WatchedGuest(process, qmp_socket, console, patience)


class _WatchedGuest:
    """A guest that boots: `look` returns the result once there is one, and takes note of progress until then."""

    def __init__(self, process: Daemon, qmp_socket: socket.socket, console: Path, patience: Patience) -> None:
        self._process = process
        self._monitor = _Monitor(qmp_socket)
        self._console = console
        self._patience = patience
        self._began = self._last_turn = time.monotonic()
        self._console_bytes = 0
        self._still_seconds = 0.0
        self._spun_before = 0.0

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self._began

    @property
    def is_due_for_a_rival(self) -> bool:
        """Whether it has been slow for a while and does not seem to spin; a guest that spins is soon told anyway."""
        after_seconds = self._patience.rival_seconds
        if after_seconds is None or self.seconds < after_seconds:
            return False
        return self._spun_seconds() < _SPUN_SECONDS

    def trial(self, outcome: Outcome, reason: str) -> Trial:
        """Make a trial's result of what was seen."""
        return Trial(outcome, reason, round(self.seconds, 3), self._monitor.qemu_version)

    def beaten_by(self, rivals: Trial) -> Trial:
        """Return how it went when an emulated guest has booted before it."""
        if self._still_seconds >= _STILL_SECONDS:
            return self._hung()
        slow = f"a guest on it had not booted after {self.seconds:.0f} s, an emulated one needs {rivals.seconds:.0f} s"
        return self.trial(Outcome.SLOW, slow)

    def look(self) -> Trial | None:
        """Return how it went when that is clear, and None while the guest is to be waited for."""
        ended = self._process.ended()  # asked first, so that the last words of a QEMU that has ended are read
        if BOOT_MARK in tail(self._console):
            return self.trial(Outcome.WORKS, "a guest has booted")
        if ended:
            code = self._process.returncode()
            if code == 0:
                return self.trial(Outcome.FAILED, "a guest ended on it without having booted")
            words = tail(self._process.log, lines=1).removeprefix(f"{qemu_binary()}: ")
            words = words or describe_status(code or 0)
            return self.trial(Outcome.FAILED, f"QEMU failed on it: {words}")
        moved = self._monitor.look() | self._console_grew()
        if self._monitor.was_stopped:
            return self.trial(Outcome.FAILED, f"QEMU stopped a guest on it: {_first_error(tail(self._process.log))}")
        return self._still(moved)

    def _console_grew(self) -> bool:
        try:
            size_bytes = self._console.stat().st_size
        except FileNotFoundError:  # QEMU makes it
            return False
        grew, self._console_bytes = size_bytes > self._console_bytes, size_bytes
        return grew

    def _still(self, moved: bool) -> Trial | None:
        now = time.monotonic()
        # A long turn counts as a short one: while we did not run, on a busy or a stopped host, we saw nothing.
        turn_seconds = min(now - self._last_turn, 4 * _TURN_SECONDS)
        self._last_turn, self._still_seconds = now, 0.0 if moved else self._still_seconds + turn_seconds
        if moved:
            self._spun_before = processor_seconds(self._process.pid)
        patience = self._patience
        if not self._monitor.qemu_version:
            return self._hung("QEMU hung on it for") if self._still_seconds >= patience.start_seconds else None
        # The lesser of the two, since several threads may have spent the processor time, or one long turn.
        spins = min(self._still_seconds, self._spun_seconds()) >= patience.still_seconds
        return self._hung() if spins or self._still_seconds >= patience.idle_seconds else None

    def _spun_seconds(self) -> float:
        return processor_seconds(self._process.pid) - self._spun_before

    def _hung(self, what: str = "a guest hung on it: no progress for") -> Trial:
        return self.trial(Outcome.HUNG, f"/dev/kvm opens, but {what} {self._still_seconds:.0f} s")


class _Monitor:
    """QEMU's QMP socket, which is read without ever waiting."""

    def __init__(self, qmp_socket: socket.socket) -> None:
        self._qmp = qmp_socket
        self._received = b""
        self._seen: set[bytes] = set()
        self._asked_at: float | None = None
        self._is_asking = True
        self.qemu_version = ""
        """Empty until QEMU has answered."""
        self.was_stopped = False
        """Whether QEMU has stopped the guest, as it does for an internal error of KVM."""

    def look(self) -> bool:
        """Tell whether the guest's registers are ones that it did not have before, or QEMU has just come up."""
        moved = False
        for message in self._messages():
            moved |= self._heard(message)
        if not self._is_asking and (self._asked_at is None or time.monotonic() - self._asked_at >= _LOOK_SECONDS):
            self._ask(_QUESTION)
        return moved

    def _heard(self, message: dict[str, Any]) -> bool:
        if "QMP" in message:
            version = message["QMP"]["version"]
            numbers = ".".join(str(version["qemu"][part]) for part in ("major", "minor", "micro"))
            self.qemu_version = f"{numbers} {version['package']}".strip()
            self._ask({"execute": "qmp_capabilities"})
            return True
        if "event" in message:
            self.was_stopped |= message["event"] == "STOP"
            return False
        self._is_asking = False
        if not isinstance(registers := message.get("return"), str):
            return False
        digest = hashlib.sha256(registers.encode()).digest()
        is_new = digest not in self._seen
        self._seen.add(digest)
        return is_new

    def _ask(self, command: dict[str, Any]) -> None:
        self._asked_at, self._is_asking = time.monotonic(), True
        with contextlib.suppress(OSError):  # QEMU is ending
            self._qmp.send(json.dumps(command).encode() + b"\n")

    def _messages(self) -> Iterator[dict[str, Any]]:
        with contextlib.suppress(OSError):  # nothing there, or QEMU is ending
            while data := self._qmp.recv(65536):
                self._received += data
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            yield json.loads(line)


def _first_error(log: str) -> str:
    lines = [line for line in log.splitlines() if "warning:" not in line]
    return lines[0].removeprefix(f"{qemu_binary()}: ") if lines else "it gave no reason"
