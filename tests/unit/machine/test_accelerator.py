from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kata_dind.errors import KvmUnavailable
from kata_dind.machine import accelerator
from kata_dind.machine.accelerator import KvmFinding, choose_accelerator, find_kvm, probe_argv
from kata_dind.machine.argv import qemu_binary
from kata_dind.progress import Event
from kata_dind.vocabulary import Accelerator

HANGS = "exec sleep 60"
BOOTS = 'for word in "$@"; do case $word in file,id=console,*) echo "kata-dind: booted" >"${word##*path=}";; esac; done'
ENDS_SILENTLY = "exit 0"
FAILS = "echo 'qemu: error: failed to set MSR 0x345' >&2; exit 1"


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_text("a kernel")
    return path


Qemu = Callable[[str], None]


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qemu:
    """A QEMU that does as the test says, and a /dev/kvm that opens; `started` counts its starts."""
    programs = tmp_path / "programs"
    programs.mkdir()
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accelerator, "_KVM", device)
    monkeypatch.setattr(accelerator, "PROBE_SECONDS", 0.3)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def behave(script: str) -> None:
        program = programs / qemu_binary()
        count = f'[ "$1" = --version ] && {{ echo "QEMU 9"; exit; }}; echo start >>{tmp_path}/started'
        program.write_text(f"#!/bin/sh\n{count}\n{script}\n")
        program.chmod(0o755)

    return behave


def starts(tmp_path: Path) -> int:
    file = tmp_path / "started"
    return len(file.read_text().splitlines()) if file.exists() else 0


def find(tmp_path: Path, kernel: Path, events: list[Event]) -> KvmFinding:
    return find_kvm(kernel=kernel, initramfs=kernel, cache=tmp_path, report=events.append)


def test_the_argv_of_the_probe() -> None:
    assert probe_argv(Path("/k,1"), Path("/i,1"), Path("/tmp/a,b/console")) == [
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
    ]  # fmt: skip


def test_a_guest_that_boots_proves_kvm_once(tmp_path: Path, kernel: Path, qemu: Qemu) -> None:
    qemu(BOOTS)
    events: list[Event] = []
    assert find(tmp_path, kernel, events) == KvmFinding(works=True, reason="a guest has booted")
    assert find(tmp_path, kernel, events).works
    assert starts(tmp_path) == 1
    assert [event.name for event in events] == ["accelerator"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (HANGS, "/dev/kvm opens, but a guest hung on it for 0.3 s"),
        (ENDS_SILENTLY, "a guest ended on it without having booted"),
        (FAILS, "QEMU failed on it: qemu: error: failed to set MSR 0x345"),
    ],
    ids=["hangs", "ends", "fails"],
)
def test_anything_else_disproves_it_and_costs_its_seconds_once(
    tmp_path: Path, kernel: Path, qemu: Qemu, script: str, reason: str
) -> None:
    qemu(script)
    assert find(tmp_path, kernel, []) == KvmFinding(works=False, reason=reason)
    assert find(tmp_path, kernel, []).reason == reason
    assert starts(tmp_path) == 1


def test_another_kernel_is_another_question(tmp_path: Path, kernel: Path, qemu: Qemu) -> None:
    qemu(BOOTS)
    find(tmp_path, kernel, [])
    kernel.write_text("another kernel")
    find(tmp_path, kernel, [])
    assert starts(tmp_path) == 2


@pytest.mark.parametrize("content", ["", "no JSON", "[]", json.dumps({"unknown": 1}), json.dumps({"works": True})])
def test_a_cached_finding_that_cannot_be_read_is_found_anew(
    tmp_path: Path, kernel: Path, qemu: Qemu, content: str
) -> None:
    qemu(BOOTS)
    find(tmp_path, kernel, [])
    (cached,) = tmp_path.glob("kvm-*.json")
    cached.write_text(content)
    assert find(tmp_path, kernel, []).works
    assert starts(tmp_path) == 2


def test_without_a_device_nothing_is_started(
    tmp_path: Path, kernel: Path, qemu: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu(BOOTS)
    monkeypatch.setattr(accelerator, "_KVM", tmp_path / "absent")
    assert find(tmp_path, kernel, []) == KvmFinding(works=False, reason=f"{tmp_path}/absent does not exist")
    assert starts(tmp_path) == 0


def choose(asked: Accelerator, tmp_path: Path, kernel: Path, events: list[Event]) -> tuple[Accelerator, str]:
    return choose_accelerator(asked, kernel=kernel, initramfs=kernel, cache=tmp_path, report=events.append)


def test_tcg_as_asked_tries_nothing(tmp_path: Path, kernel: Path, qemu: Qemu) -> None:
    qemu(BOOTS)
    assert choose(Accelerator.TCG, tmp_path, kernel, []) == (Accelerator.TCG, "as asked")
    assert starts(tmp_path) == 0


@pytest.mark.parametrize("asked", [Accelerator.AUTO, Accelerator.KVM])
def test_kvm_where_it_works(tmp_path: Path, kernel: Path, qemu: Qemu, asked: Accelerator) -> None:
    qemu(BOOTS)
    assert choose(asked, tmp_path, kernel, []) == (Accelerator.KVM, "a guest has booted on KVM here")


def test_auto_falls_to_tcg_and_says_so_in_one_line(tmp_path: Path, kernel: Path, qemu: Qemu) -> None:
    qemu(FAILS)
    events: list[Event] = []
    chosen, reason = choose(Accelerator.AUTO, tmp_path, kernel, events)
    assert chosen is Accelerator.TCG
    assert events[-1].message == f"no KVM ({reason}); using TCG emulation, about ten times slower"


def test_kvm_that_was_asked_for_and_does_not_work_is_an_error(tmp_path: Path, kernel: Path, qemu: Qemu) -> None:
    qemu(HANGS)
    with pytest.raises(KvmUnavailable, match="KVM does not work here: /dev/kvm opens, but a guest hung") as caught:
        choose(Accelerator.KVM, tmp_path, kernel, [])
    assert "--accel tcg" in caught.value.hint
