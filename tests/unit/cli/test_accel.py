"""`kata-dind accel`, on findings that are written down as a start does."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kata_dind.host.directories import cache_directory
from kata_dind.machine import accelerator
from kata_dind.machine.argv import qemu_binary
from kata_dind.machine.findings import KvmFinding, keep_finding, new_finding, this_place
from kata_dind.machine.probe import Outcome, Trial
from tests.unit.cli.conftest import CommandLine

HUNG = Trial(Outcome.HUNG, "a guest hung on it", 5.04, "9.2.0")
WORKS = Trial(Outcome.WORKS, "a guest has booted", 0.61, "9.2.0")


@pytest.fixture(autouse=True)
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with a KVM that opens and a QEMU; and a guest kernel."""
    program, kernel, device = tmp_path / qemu_binary(), tmp_path / "vmlinuz", tmp_path / "kvm"
    for file in (program, kernel, device):
        file.touch()
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(accelerator, "DEVICE", device)
    return kernel


def find(kernel: Path, trial: Trial, *, ago_seconds: float, agreeing: int = 1) -> KvmFinding:
    now = time.time() - ago_seconds
    finding = new_finding(trial, this_place(kernel), before=None, began=now, now=now)
    finding = replace(finding, agreeing=agreeing)
    keep_finding(finding, cache=cache_directory())
    return finding


def rows(text: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.splitlines() if line)


def test_nothing_is_known_before_the_first_start(cli: CommandLine) -> None:
    assert cli("accel").stdout == "kvm:    unknown\nreason: the next start boots a guest on KVM to find out\n"


def test_what_was_found_once(cli: CommandLine, kernel: Path) -> None:
    finding = find(kernel, HUNG, ago_seconds=120)
    told = {key: value.strip() for key, value in rows(cli("accel").stdout).items()}
    assert told == {
        "kvm": "hung",
        "reason": "a guest hung on it",
        "guest kernel": str(kernel),
        "host kernel": finding.place.host_kernel,
        "qemu": f"{finding.place.qemu} 9.2.0",
        "found": "hung (a guest hung on it)",
        "tried": "2m ago, in 5.0 s",
        "sure": "no, the next start tries again",
        "remembered": "for another 24h",
    }


def test_what_was_found_twice_is_forgotten_after_a_day(cli: CommandLine, kernel: Path) -> None:
    find(kernel, HUNG, ago_seconds=4 * 3600, agreeing=2)
    told = cli("accel").stdout
    assert "yes, it was found twice" in told
    assert "for another 20h" in told
    find(kernel, HUNG, ago_seconds=25 * 3600, agreeing=2)
    assert "unknown" in cli("accel").stdout


def test_what_works(cli: CommandLine, kernel: Path) -> None:
    find(kernel, WORKS, ago_seconds=5 * 86400)
    told = cli("accel").stdout
    assert told.startswith("kvm:    works\n")
    assert "until the host boots again" in told


def test_json(cli: CommandLine, kernel: Path) -> None:
    finding = find(kernel, HUNG, ago_seconds=60)
    answer = json.loads(cli("accel", "--json").stdout)
    assert answer == {"kvm": "hung", "reason": "a guest hung on it", "findings": [finding.as_fields()]}


def test_to_forget(cli: CommandLine, kernel: Path) -> None:
    find(kernel, HUNG, ago_seconds=60, agreeing=2)
    assert cli("accel", "--forget", "--quiet").stdout == ""
    assert json.loads(cli("accel", "--json").stdout)["findings"] == []
    assert "the next start boots a guest" in cli("accel", "--forget").stdout


def test_a_host_without_kvm(cli: CommandLine, kernel: Path) -> None:
    find(kernel, WORKS, ago_seconds=60)
    device = kernel.parent / "kvm"
    device.unlink()
    told = cli("accel").stdout
    assert told.startswith("kvm:    absent\n")
    assert f"{device} does not exist" in told


def test_it_takes_no_argument(cli: CommandLine) -> None:
    outcome = cli("accel", "kvm")
    assert (outcome.exit_code, outcome.stdout) == (2, "")
