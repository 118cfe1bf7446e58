"""Guests of a few bytes on a real QEMU, which boot, hang or are slow; and programs in its place."""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kata_dind.machine.argv import TCG_CPU, qemu_binary
from kata_dind.machine.probe import BOOT_MARK, Outcome, Patience, Trial, probe_argv, try_accelerator
from kata_dind.progress import Event, silent
from kata_dind.vocabulary import Accelerator

PATIENCE = Patience(limit_seconds=60.0, still_seconds=1.0, idle_seconds=1.2, start_seconds=20.0, rival_seconds=None)

SPIN = b"\xeb\xfe"  # jmp to itself
HALT = b"\xfa\xf4"  # cli, hlt
RESET = b"\xb0\xfe\xe6\x64" + SPIN  # to the keyboard's controller; -no-reboot ends QEMU
# Three changes of the clock's second: from 2 to 3 s on any host. Every turn of the inner loop counts one up.
WAIT = (
    b"\xb3\x03"
    + b"\xb0\x00\xe6\x70\xe4\x71\x88\xc7"
    + b"\x41\xb0\x00\xe6\x70\xe4\x71\x38\xf8\x74\xf5"
    + b"\xfe\xcb\x75\xe9"
)
COUNT_FOR_EVER = b"\x41\xeb\xfd"
TRAP = b"\x0f\x0b"  # an invalid instruction, without a table of handlers


def say(text: str) -> bytes:
    """Code that writes text to the first serial line."""
    return b"\x66\xba\xf8\x03" + b"".join(b"\xb0" + bytes([letter]) + b"\xee" for letter in text.encode())


BOOT = say(f"{BOOT_MARK}\n")


@pytest.fixture
def kernel(tmp_path: Path) -> Callable[[bytes], Path]:
    """Makes a kernel of 32-bit code, as the Multiboot specification has them."""

    def make(code: bytes) -> Path:
        magic, flags, base = 0x1BADB002, 0x10000, 0x100000
        header = struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, base, base, 0, 0, base + 32)
        path = tmp_path / "kernel"
        path.write_bytes(header + code)
        return path

    return make


def try_tcg(kernel: Path, patience: Patience = PATIENCE) -> Trial:
    return try_accelerator(Accelerator.TCG, kernel=kernel, initramfs=kernel, patience=patience, report=silent)


def test_the_argv_of_a_trial() -> None:
    def argv(accelerator: Accelerator) -> list[str]:
        return probe_argv(
            accelerator, kernel=Path("/k,1"), initramfs=Path("/i,1"), console=Path("/tmp/a,b/console"), qmp_fd=7
        )

    assert argv(Accelerator.KVM) == [
        qemu_binary(),
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        "-no-reboot",
        "-machine", "q35,accel=kvm",
        "-cpu", "host",
        "-m", "256M",
        "-kernel", "/k,1",
        "-initrd", "/i,1",
        "-append", "console=ttyS0 quiet panic=-1 kata_dind.probe",
        "-chardev", "file,id=console,path=/tmp/a,,b/console",
        "-serial", "chardev:console",
        "-chardev", "socket,id=qmp,fd=7",
        "-mon", "chardev=qmp,mode=control",
    ]  # fmt: skip
    assert set(argv(Accelerator.TCG)) - set(argv(Accelerator.KVM)) == {"q35,accel=tcg", TCG_CPU}


@pytest.mark.requires("qemu")
@pytest.mark.parametrize("rest", [RESET, SPIN, HALT], ids=["ends", "spins", "halts"])
def test_a_guest_that_says_so_has_booted_whatever_it_does_then(kernel: Callable[[bytes], Path], rest: bytes) -> None:
    trial = try_tcg(kernel(BOOT + rest))
    assert (trial.outcome, trial.reason) == (Outcome.WORKS, "a guest has booted")


@pytest.mark.requires("qemu")
def test_a_trial_knows_the_qemu_that_it_used(kernel: Callable[[bytes], Path]) -> None:
    assert try_tcg(kernel(SPIN)).qemu_version[0].isdigit()


@pytest.mark.requires("qemu")
@pytest.mark.parametrize("code", [SPIN, HALT, say("Linux") + SPIN], ids=["spins", "halts", "spins after a word"])
def test_a_guest_whose_processor_and_console_stand_still_hangs(kernel: Callable[[bytes], Path], code: bytes) -> None:
    trial = try_tcg(kernel(code))
    assert trial.outcome is Outcome.HUNG
    assert trial.reason == "/dev/kvm opens, but a guest hung on it: no progress for 1 s"
    assert PATIENCE.still_seconds < trial.seconds < PATIENCE.limit_seconds


@pytest.mark.requires("qemu")
def test_a_guest_that_makes_progress_is_waited_for(kernel: Callable[[bytes], Path]) -> None:
    trial = try_tcg(kernel(WAIT + BOOT + RESET))
    assert trial.outcome is Outcome.WORKS
    assert trial.seconds > PATIENCE.still_seconds  # or this test has shown nothing


@pytest.mark.requires("qemu")
def test_but_not_for_ever(kernel: Callable[[bytes], Path]) -> None:
    trial = try_tcg(kernel(COUNT_FOR_EVER), Patience(limit_seconds=1.5, still_seconds=1.0, rival_seconds=None))
    assert trial.outcome is Outcome.SLOW
    assert trial.reason.startswith("a guest on it had not booted after ")


@pytest.mark.requires("qemu")
@pytest.mark.parametrize("code", [RESET, TRAP], ids=["resets", "crashes"])
def test_a_guest_that_ends_has_not_booted(kernel: Callable[[bytes], Path], code: bytes) -> None:
    trial = try_tcg(kernel(code))
    assert (trial.outcome, trial.reason) == (Outcome.FAILED, "a guest ended on it without having booted")


@pytest.mark.requires("qemu")
def test_a_kernel_that_qemu_refuses_fails_with_its_words(tmp_path: Path) -> None:
    trial = try_tcg(tmp_path / "absent")
    assert trial.outcome is Outcome.FAILED
    assert trial.reason.startswith("QEMU failed on it: ")
    assert "absent" in trial.reason


Program = Callable[[str], None]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a shell script in QEMU's place; in it, `say WORDS` writes to the console."""
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    def put(script: str) -> None:
        find = 'for word in "$@"; do case $word in file,id=console,*) console=${word##*path=};; esac; done'
        file = directory / qemu_binary()
        file.write_text(f'#!/bin/sh\n{find}\nsay() {{ echo "$@" >>"$console"; }}\n{script}\n')
        file.chmod(0o755)

    return put


def try_kvm(patience: Patience, events: list[Event]) -> Trial:
    nothing = Path("/dev/null")
    return try_accelerator(Accelerator.KVM, kernel=nothing, initramfs=nothing, patience=patience, report=events.append)


def test_a_guest_that_writes_makes_progress(program: Program) -> None:
    program("for word in $(seq 18); do sleep 0.1; say $word; done; say 'kata-dind: booted'")
    trial = try_kvm(Patience(still_seconds=0.9, start_seconds=0.9, rival_seconds=None), [])
    assert trial.outcome is Outcome.WORKS
    assert trial.seconds > 1.8


def test_a_guest_that_is_slower_than_an_emulated_one_is_of_no_use(program: Program) -> None:
    program(
        "case $* in *accel=tcg*) sleep 0.5; say 'kata-dind: booted'; exec sleep 60;; esac\n"
        "while :; do sleep 0.2; say slow; done"
    )
    events: list[Event] = []
    trial = try_kvm(Patience(still_seconds=2.0, start_seconds=2.0, rival_seconds=1.0), events)
    assert trial.outcome is Outcome.SLOW
    assert re.fullmatch(r"a guest on it had not booted after \d+ s, an emulated one needs \d+ s", trial.reason)
    assert [event.name for event in events] == ["accelerator"]


def test_a_slow_guest_that_is_faster_than_an_emulated_one_has_proven_kvm(program: Program) -> None:
    program(
        "case $* in *accel=tcg*) while :; do sleep 0.2; say slow; done;; esac\n"
        "for word in 1 2 3 4 5 6 7; do sleep 0.3; say $word; done; say 'kata-dind: booted'; exec sleep 60"
    )
    events: list[Event] = []
    trial = try_kvm(Patience(still_seconds=2.0, start_seconds=2.0, rival_seconds=1.0), events)
    assert trial.outcome is Outcome.WORKS
    assert len(events) == 1  # the other one did run


@pytest.mark.requires("qemu")
def test_a_guest_that_halts_has_a_rival_as_well(kernel: Callable[[bytes], Path]) -> None:
    patience, events = Patience(still_seconds=1.0, idle_seconds=2.0, rival_seconds=1.0), list[Event]()
    file = kernel(HALT)
    trial = try_accelerator(Accelerator.TCG, kernel=file, initramfs=file, patience=patience, report=events.append)
    assert (trial.outcome, len(events)) == (Outcome.HUNG, 1)


@pytest.mark.requires("qemu")
def test_a_guest_that_halts_may_be_waiting(kernel: Callable[[bytes], Path]) -> None:
    trial = try_tcg(kernel(HALT), Patience(still_seconds=0.5, idle_seconds=2.0, rival_seconds=None))
    assert (trial.outcome, trial.seconds > 2.0) == (Outcome.HUNG, True)


def test_a_guest_that_stands_still_when_an_emulated_one_has_booted_hangs(program: Program) -> None:
    program("case $* in *accel=tcg*) sleep 1; say 'kata-dind: booted';; *) say Linux;; esac; exec sleep 60")
    trial = try_kvm(Patience(start_seconds=30.0, rival_seconds=3.0), [])
    assert trial.outcome is Outcome.HUNG
    assert re.fullmatch("/dev/kvm opens, but a guest hung on it: no progress for \\d+ s", trial.reason)


def test_a_rival_that_fails_decides_nothing(program: Program) -> None:
    program(
        "case $* in *accel=tcg*) exit 1;; esac\n"
        "for word in 1 2 3 4 5 6; do sleep 0.3; say $word; done; say 'kata-dind: booted'"
    )
    assert try_kvm(Patience(still_seconds=2.0, start_seconds=2.0, rival_seconds=0.5), []).outcome is Outcome.WORKS


def test_a_qemu_that_never_answers_hangs(program: Program) -> None:
    program("exec sleep 60")
    trial = try_kvm(Patience(still_seconds=0.1, start_seconds=0.7, rival_seconds=None), [])
    assert (trial.outcome, trial.reason) == (Outcome.HUNG, "/dev/kvm opens, but QEMU hung on it for 1 s")


def test_a_guest_that_kvm_gives_up_has_its_reason(program: Program) -> None:
    greeting = '{"QMP": {"version": {"qemu": {"major": 9, "minor": 2, "micro": 0}, "package": ""}}}'
    send = "import socket, sys; socket.socket(fileno=int(sys.argv[1])).sendall(sys.argv[2].encode())"
    program(
        'for word in "$@"; do case $word in socket,id=qmp,fd=*) fd=${word##*=};; esac; done\n'
        "echo 'qemu: warning: a feature is missing' >&2; echo 'KVM internal error. Suberror: 1' >&2; echo 'RAX=0' >&2\n"
        f"{sys.executable} -c '{send}' "
        f'$fd \'{greeting}\n{{"event": "STOP"}}\n\'\nexec sleep 60'
    )
    trial = try_kvm(Patience(still_seconds=30.0, rival_seconds=None), [])
    assert trial.outcome is Outcome.FAILED
    assert trial.reason == "QEMU stopped a guest on it: KVM internal error. Suberror: 1"
    assert trial.qemu_version == "9.2.0"


def test_a_qemu_that_fails_says_why(program: Program) -> None:
    program(f"echo '{qemu_binary()}: error: failed to set MSR 0x345' >&2; exit 1")
    trial = try_kvm(PATIENCE, [])
    assert (trial.outcome, trial.reason) == (
        Outcome.FAILED, "QEMU failed on it: error: failed to set MSR 0x345"
    )  # fmt: skip
