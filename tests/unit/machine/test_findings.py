"""The life of a finding: preliminary, firm, forgotten, replaced; with the clock handed in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kata_dind.machine.argv import qemu_binary
from kata_dind.machine.findings import (
    FIRM_SECONDS,
    PRELIMINARY_SECONDS,
    KvmFinding,
    Place,
    forget_findings,
    keep_finding,
    list_findings,
    load_finding,
    new_finding,
    this_place,
)
from kata_dind.machine.probe import Outcome, Trial

NOW = 1_800_000_000.0
PLACE = Place("6.1.0", "boot", "/usr/bin/qemu", "qemu 1", "/vmlinuz", "kernel 1")
HUNG = Trial(Outcome.HUNG, "a guest hung", 5.1, "9.2.0")
SLOW = Trial(Outcome.SLOW, "a guest was slow", 20.0, "9.2.0")
WORKS = Trial(Outcome.WORKS, "a guest has booted", 0.6, "9.2.0")


def found(trial: Trial, *, at: float, began: float | None = None, before: KvmFinding | None = None) -> KvmFinding:
    return new_finding(trial, PLACE, before=before, began=at - 10 if began is None else began, now=at)


def test_a_guest_that_booted_is_proof_at_once_until_the_host_boots_again() -> None:
    finding = found(WORKS, at=NOW)
    assert (finding.works, finding.is_firm, finding.forgotten_at) == (True, True, None)
    assert finding.holds(began=NOW + 1e6, now=NOW + 1e6)


def test_one_that_did_not_is_lived_with_by_its_own_command_only() -> None:
    finding = found(HUNG, at=NOW)
    assert (finding.works, finding.is_firm) == (False, False)
    assert finding.holds(began=NOW - 10, now=NOW + 60)
    assert not finding.holds(began=NOW + 1, now=NOW + 60)
    assert not finding.holds(began=NOW - 10, now=NOW + PRELIMINARY_SECONDS)  # a process that lives long


@pytest.mark.parametrize("second", [HUNG, SLOW], ids=["the same", "another one"])
def test_a_second_one_makes_it_firm_for_a_day(second: Trial) -> None:
    finding = found(second, at=NOW + 100, before=found(HUNG, at=NOW))
    assert finding.is_firm
    assert finding.reason == second.reason
    assert finding.forgotten_at == NOW + 100 + FIRM_SECONDS
    assert finding.holds(began=NOW + 5000, now=NOW + 5000)
    assert finding.holds(began=NOW + FIRM_SECONDS, now=NOW + 99 + FIRM_SECONDS)
    assert not finding.holds(began=NOW + FIRM_SECONDS, now=NOW + 100 + FIRM_SECONDS)


def test_two_commands_of_one_moment_are_one_finding() -> None:
    first = found(HUNG, at=NOW)
    finding = found(HUNG, at=NOW + 5, began=NOW - 1, before=first)
    assert not finding.is_firm


def test_what_is_forgotten_counts_no_more() -> None:
    first = found(HUNG, at=NOW)
    assert not found(HUNG, at=NOW + FIRM_SECONDS, before=first).is_firm


def test_a_guest_that_boots_replaces_what_was_firm_and_the_other_way_round() -> None:
    firm = found(HUNG, at=NOW + 100, before=found(HUNG, at=NOW))
    works = found(WORKS, at=NOW + 200, before=firm)
    assert (works.works, works.agreeing) == (True, 1)
    assert not found(HUNG, at=NOW + 300, before=works).is_firm


def test_a_finding_of_a_time_to_come_is_forgotten() -> None:
    firm = found(HUNG, at=NOW + 100, before=found(HUNG, at=NOW))
    assert not firm.holds(began=NOW - 1000, now=NOW - 1000)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place whose files exist."""
    (tmp_path / "bin").mkdir()
    program, kernel = tmp_path / "bin" / qemu_binary(), tmp_path / "vmlinuz"
    for file in (program, kernel):
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return this_place(kernel)


def at(place: Place, trial: Trial, seconds: float) -> KvmFinding:
    return replace(found(trial, at=seconds), place=place)


def test_it_is_kept_as_it_is(tmp_path: Path, place: Place) -> None:
    finding = at(place, HUNG, NOW)
    assert load_finding(place, cache=tmp_path) is None
    keep_finding(finding, cache=tmp_path)
    assert load_finding(place, cache=tmp_path) == finding
    assert list_findings(cache=tmp_path, now=NOW + 1) == [finding]


@pytest.mark.parametrize("content", ["", "no JSON", "[]", "{}", json.dumps({"works": False, "reason": "hung"})])
def test_what_cannot_be_read_is_not_known(tmp_path: Path, place: Place, content: str) -> None:
    keep_finding(at(place, HUNG, NOW), cache=tmp_path)
    (file,) = tmp_path.glob("kvm-*.json")
    file.write_text(content)
    assert load_finding(place, cache=tmp_path) is None
    assert list_findings(cache=tmp_path, now=NOW) == []
    keep_finding(at(place, WORKS, NOW), cache=tmp_path)
    assert load_finding(place, cache=tmp_path)


def test_another_qemu_and_another_kernel_are_other_places(tmp_path: Path, place: Place) -> None:
    keep_finding(at(place, HUNG, NOW), cache=tmp_path)
    kernel = tmp_path / "other"
    kernel.write_text("another kernel")
    other = this_place(kernel)
    assert load_finding(other, cache=tmp_path) is None
    keep_finding(at(other, WORKS, NOW + 5), cache=tmp_path)
    assert [finding.outcome for finding in list_findings(cache=tmp_path, now=NOW + 6)] == [Outcome.WORKS, Outcome.HUNG]

    Path(place.qemu).write_text("#!/bin/sh\n# another build\n")
    assert load_finding(this_place(kernel), cache=tmp_path) is None
    assert list_findings(cache=tmp_path, now=NOW + 6) == []
    keep_finding(at(this_place(kernel), WORKS, NOW + 7), cache=tmp_path)
    assert len(list(tmp_path.glob("kvm-*.json"))) == 1  # the others are of no use any more


def test_what_a_command_forgets_is_gone(tmp_path: Path, place: Place) -> None:
    keep_finding(at(place, HUNG, NOW), cache=tmp_path)
    forget_findings(cache=tmp_path)
    forget_findings(cache=tmp_path)
    assert load_finding(place, cache=tmp_path) is None


def test_what_is_too_old_is_not_listed(tmp_path: Path, place: Place) -> None:
    keep_finding(at(place, HUNG, NOW), cache=tmp_path)
    assert list_findings(cache=tmp_path, now=NOW + FIRM_SECONDS) == []


def test_the_fields_of_a_finding(place: Place) -> None:
    assert at(place, HUNG, NOW).as_fields() == {
        "outcome": "hung",
        "reason": "a guest hung",
        "firm": False,
        "tried_at": NOW,
        "trial_seconds": 5.1,
        "forgotten_at": NOW + FIRM_SECONDS,
        "host_kernel": place.host_kernel,
        "qemu": place.qemu,
        "qemu_version": "9.2.0",
        "guest_kernel": place.guest_kernel,
    }
