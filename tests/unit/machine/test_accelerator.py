from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kata_dind.errors import KvmUnavailable
from kata_dind.host.locks import locked
from kata_dind.host.process import process_began
from kata_dind.machine.accelerator import ProbeSettings, choose_accelerator, find_kvm, find_obstacle
from kata_dind.machine.argv import qemu_binary
from kata_dind.machine.findings import FIRM_SECONDS, KvmFinding
from kata_dind.machine.probe import Outcome, Patience
from kata_dind.progress import Event
from kata_dind.vocabulary import Accelerator

HANGS = "exec sleep 60"
BOOTS = "say 'kata-dind: booted'"
BOOTS_SLOWLY = "for word in $(seq 32); do sleep 0.05; say $word; done; say 'kata-dind: booted'"
FAILS = "echo 'qemu: error: failed to set MSR 0x345' >&2; exit 1"

NOW = 1_800_000_000.0


@dataclass
class Case:
    """A host with a QEMU that does as the test says, and a /dev/kvm that opens; each call is a command of its own."""

    directory: Path
    now: float = NOW

    def qemu(self, script: str) -> None:
        program = self.directory / "programs" / qemu_binary()
        find = 'for word in "$@"; do case $word in file,id=console,*) console=${word##*path=};; esac; done'
        count = f"echo start >>{self.directory}/started"
        new = f'#!/bin/sh\n{find}\n{count}\nsay() {{ echo "$@" >>"$console"; }}\n. {self.directory}/script\n'
        if not program.exists():  # it stays one build of QEMU, whatever it does
            program.write_text(new)
            program.chmod(0o755)
        (self.directory / "script").write_text(script)

    @property
    def starts(self) -> int:
        file = self.directory / "started"
        return len(file.read_text().splitlines()) if file.exists() else 0

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    def settings(self, *, limit_seconds: float = 1.2) -> ProbeSettings:
        self.now += 10
        began = self.now - 1
        patience = Patience(limit_seconds=limit_seconds, still_seconds=0.6, start_seconds=0.6, rival_seconds=None)
        return ProbeSettings(self.directory, self.directory / "kvm", lambda: self.now, began, patience)

    def find(self, events: list[Event] | None = None, *, settings: ProbeSettings | None = None) -> KvmFinding:
        report = (events if events is not None else []).append
        return find_kvm(kernel=self.kernel, initramfs=self.kernel, settings=settings or self.settings(), report=report)

    def choose(
        self, asked: Accelerator, events: list[Event] | None = None, *, timeout_seconds: float = 30.0
    ) -> tuple[Accelerator, str]:
        return choose_accelerator(
            asked,
            kernel=self.kernel,
            initramfs=self.kernel,
            settings=self.settings(),
            timeout_seconds=timeout_seconds,
            report=(events if events is not None else []).append,
        )


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    (tmp_path / "programs").mkdir()
    (tmp_path / "kvm").touch()
    (tmp_path / "vmlinuz").write_text("a kernel")
    monkeypatch.setenv("PATH", f"{tmp_path}/programs:{os.environ['PATH']}")
    return Case(tmp_path)


def test_a_guest_that_boots_proves_kvm_once(case: Case) -> None:
    case.qemu(BOOTS)
    events: list[Event] = []
    assert case.find(events).works
    assert case.find(events).works
    assert case.starts == 1
    assert [event.message for event in events] == ["trying KVM with a first guest, which takes some seconds"]


@pytest.mark.parametrize(
    ("script", "outcome"), [(HANGS, Outcome.HUNG), (FAILS, Outcome.FAILED), (BOOTS_SLOWLY, Outcome.SLOW)]
)
def test_a_guest_that_does_not_boot_is_tried_by_two_commands_and_then_left_alone_for_a_day(
    case: Case, script: str, outcome: Outcome
) -> None:
    case.qemu(script)
    first = case.find()
    assert (first.outcome, first.is_firm) == (outcome, False)
    second = case.find()
    assert (second.outcome, second.is_firm) == (outcome, True)
    assert case.find() == second
    assert case.starts == 2
    case.now += FIRM_SECONDS
    case.qemu(BOOTS)
    assert case.find().works


def test_a_busy_moment_costs_one_command(case: Case) -> None:
    case.qemu(HANGS)
    assert not case.find().works
    case.qemu(BOOTS)
    assert case.find().works


def test_one_command_that_plans_again_tries_nothing_again(case: Case) -> None:
    case.qemu(HANGS)
    settings = case.settings()
    first = case.find(settings=settings)
    case.now += 90
    assert case.find(settings=settings) == first
    assert case.starts == 1


def test_commands_that_begin_together_try_it_once(case: Case) -> None:
    case.qemu(BOOTS_SLOWLY)
    settings = case.settings(limit_seconds=10.0)
    with ThreadPoolExecutor(4) as pool:
        findings = list(pool.map(lambda _: case.find(settings=settings), range(4)))
    assert all(finding.works for finding in findings)
    assert case.starts == 1


def test_one_that_has_waited_for_another_for_too_long_tries_it_itself(case: Case) -> None:
    case.qemu(BOOTS)
    with locked(case.directory / "kvm.lock", timeout_seconds=1):
        assert case.find().works


def test_another_kernel_is_another_question(case: Case) -> None:
    case.qemu(BOOTS)
    case.find()
    case.kernel.write_text("another kernel")
    case.find()
    assert case.starts == 2


@pytest.mark.parametrize("asked", [Accelerator.AUTO, Accelerator.KVM])
def test_without_a_device_nothing_is_started(case: Case, asked: Accelerator) -> None:
    case.qemu(BOOTS)
    (case.directory / "kvm").unlink()
    if asked is Accelerator.AUTO:
        assert case.choose(asked) == (Accelerator.TCG, f"{case.directory}/kvm does not exist")
    else:
        with pytest.raises(KvmUnavailable, match=r"KVM does not work here: .*/kvm does not exist") as caught:
            case.choose(asked)
        assert caught.value.id == "kvm.absent"
    assert case.starts == 0


def test_what_stands_in_the_way_of_kvm(case: Case) -> None:
    device = case.directory / "kvm"
    assert find_obstacle(device) is None
    device.unlink()
    assert find_obstacle(device) == ("absent", "kvm.absent", f"{device} does not exist")


def test_tcg_as_asked_tries_nothing(case: Case) -> None:
    case.qemu(BOOTS)
    assert case.choose(Accelerator.TCG) == (Accelerator.TCG, "as asked")
    assert case.starts == 0


@pytest.mark.parametrize("asked", [Accelerator.AUTO, Accelerator.KVM])
def test_kvm_where_it_works(case: Case, asked: Accelerator) -> None:
    case.qemu(BOOTS)
    assert case.choose(asked) == (Accelerator.KVM, "a guest has booted on KVM here")
    assert case.choose(asked) == (Accelerator.KVM, "a guest has booted on KVM here")
    assert case.starts == 1


def test_auto_falls_to_tcg_and_says_so_in_one_line(case: Case) -> None:
    case.qemu(FAILS)
    told = []
    for _ in range(3):
        events: list[Event] = []
        chosen, reason = case.choose(Accelerator.AUTO, events)
        assert chosen is Accelerator.TCG
        assert reason == "QEMU failed on it: qemu: error: failed to set MSR 0x345"
        told.append(events[-1].message)
    end = "using TCG emulation, about ten times slower; see kata-dind accel"
    assert told == [
        f"no KVM ({reason}; the next start tries again); {end}",
        f"no KVM ({reason}); {end}",
        f"no KVM ({reason}); {end}",
    ]


def test_kvm_that_was_asked_for_and_does_not_work_is_an_error(case: Case) -> None:
    case.qemu(HANGS)
    with pytest.raises(KvmUnavailable, match="KVM does not work here: /dev/kvm opens, but QEMU hung") as caught:
        case.choose(Accelerator.KVM)
    assert caught.value.id == "kvm.no-guest-boots"
    assert "--accel tcg" in caught.value.hint
    assert "kata-dind accel" in caught.value.hint


def test_kvm_that_was_asked_for_is_tried_though_it_is_known_not_to_work(case: Case) -> None:
    case.qemu(HANGS)
    for _ in range(2):
        case.choose(Accelerator.AUTO)
    with pytest.raises(KvmUnavailable):
        case.choose(Accelerator.KVM)
    assert case.starts == 3
    case.qemu(BOOTS)
    assert case.choose(Accelerator.KVM)[0] is Accelerator.KVM
    assert case.choose(Accelerator.AUTO)[0] is Accelerator.KVM  # what it found counts for all
    assert case.starts == 4


def test_kvm_that_was_asked_for_waits_as_long_as_the_start_may(case: Case) -> None:
    case.qemu(BOOTS_SLOWLY)
    assert case.choose(Accelerator.AUTO)[0] is Accelerator.TCG
    assert case.choose(Accelerator.KVM)[0] is Accelerator.KVM
    assert case.starts == 2


def test_and_no_longer(case: Case) -> None:
    case.qemu(BOOTS_SLOWLY)
    with pytest.raises(KvmUnavailable, match="a guest on it had not booted after 1 s"):
        case.choose(Accelerator.KVM, timeout_seconds=1.2)


@pytest.mark.requires("qemu")
def test_an_emulated_guest_is_tried_with_the_real_qemu(tmp_path: Path) -> None:
    """A file that is no kernel: all the way through a real QEMU, which refuses it."""
    device, kernel = tmp_path / "kvm", tmp_path / "kernel"
    device.touch()
    kernel.touch()
    settings = replace(ProbeSettings(tmp_path, device), accelerator=Accelerator.TCG)
    finding = find_kvm(kernel=kernel, initramfs=kernel, settings=settings, report=lambda _: None)
    assert finding.outcome is Outcome.FAILED
    assert process_began() < finding.tried_at < time.time()


def test_a_process_knows_when_it_began() -> None:
    assert 0 < time.time() - process_began() < 3600
    assert process_began() == pytest.approx(process_began(), abs=0.05)
