"""Findings about KVM on this host from trials: how sure they are, how long they hold, and where they are kept.

A finding belongs to one host kernel, one boot of the host, one QEMU build and one guest kernel. It holds for as long as
none of these changes when a guest has booted. When none has, the first finding is preliminary, since the host may have
been busy at the moment, and the next command tries again. The second one is firm, and forgotten after FIRM_SECONDS.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kata_dind.host.disks import file_mark
from kata_dind.host.json_files import read_json, write_passing_json
from kata_dind.host.process import require_tool
from kata_dind.machine.argv import qemu_binary
from kata_dind.machine.probe import Outcome, Trial

FIRM_SECONDS = 24 * 3600.0
"""After this time KVM is tried again where it did not work; the page Troubleshooting says so to users."""

PRELIMINARY_SECONDS = 600.0
"""After this time a long-lived process that starts many sandboxes tries again."""


@dataclass(frozen=True)
class Place:
    """The host and the files of a trial, on which alone its result depends."""

    host_kernel: str
    host_boot: str
    qemu: str
    qemu_mark: str
    """It changes when the program is replaced."""
    guest_kernel: str
    guest_kernel_mark: str

    @property
    def fingerprint(self) -> str:
        """Return a name for the place that can be a part of a file's name."""
        return hashlib.sha256("\n".join(asdict(self).values()).encode()).hexdigest()[:16]

    @property
    def is_as_it_was(self) -> bool:
        """Whether a trial with the same files would take place here now."""
        try:
            return _place(Path(self.qemu), Path(self.guest_kernel)) == self
        except OSError:
            return False


@dataclass(frozen=True)
class KvmFinding:
    """Whether a guest boots on KVM at a place, and if not, why."""

    outcome: Outcome
    reason: str
    place: Place
    qemu_version: str
    trial_seconds: float
    """How long the last trial took."""
    tried_at: float
    """When it ended, in seconds since the epoch."""
    agreeing: int
    """How many trials in a row, each by a command of its own, have found that KVM works, or that it doesn't."""

    @property
    def works(self) -> bool:
        """Whether a guest has booted."""
        return self.outcome is Outcome.WORKS

    @property
    def is_firm(self) -> bool:
        """Whether it holds for a while."""
        return self.works or self.agreeing > 1

    @property
    def forgotten_at(self) -> float | None:
        """When it ceases to count, in seconds since the epoch; None for one that holds until the host boots again."""
        return None if self.works else self.tried_at + FIRM_SECONDS

    def is_forgotten(self, *, now: float) -> bool:
        """Tell whether it is too old, or dated in the future, as after the clock was set back."""
        return not self.works and not 0 <= now - self.tried_at < FIRM_SECONDS

    def holds(self, *, began: float, now: float) -> bool:
        """Tell whether it holds for a command that began at `began`; else that command tries again."""
        if self.is_forgotten(now=now):
            return False
        # A finding that is younger than the command is its own, or that of another command at the same moment.
        return self.is_firm or (self.tried_at >= began and now - self.tried_at < PRELIMINARY_SECONDS)

    def as_fields(self) -> dict[str, Any]:
        """Return it as `kata-dind accel --json` has it."""
        return {
            "outcome": str(self.outcome),
            "reason": self.reason,
            "firm": self.is_firm,
            "tried_at": self.tried_at,
            "trial_seconds": self.trial_seconds,
            "forgotten_at": self.forgotten_at,
            "host_kernel": self.place.host_kernel,
            "qemu": self.place.qemu,
            "qemu_version": self.qemu_version,
            "guest_kernel": self.place.guest_kernel,
        }


def new_finding(trial: Trial, place: Place, *, before: KvmFinding | None, began: float, now: float) -> KvmFinding:
    """Make a finding of a trial; an equal finding from before `began` makes it firm, unless that is forgotten."""
    agreeing = 1
    works = trial.outcome is Outcome.WORKS
    if before and before.works is works and not before.is_forgotten(now=now):
        agreeing = before.agreeing + (before.tried_at < began)
    return KvmFinding(trial.outcome, trial.reason, place, trial.qemu_version, trial.seconds, now, agreeing)


def this_place(kernel: Path) -> Place:
    """Return where a trial with a guest kernel would take place now. Raises ToolMissing without QEMU."""
    # By the file's mark: to ask QEMU for its version takes longer than all other work before a restore.
    return _place(require_tool(qemu_binary(), package="qemu-system-x86").resolve(), kernel)


def load_finding(place: Place, *, cache: Path) -> KvmFinding | None:
    """Return what is known of a place; None where nothing is known or the file can't be read."""
    return _read(_file(place, cache))


def keep_finding(finding: KvmFinding, *, cache: Path) -> None:
    """Write a finding down, and remove those of a host or of files that have changed since."""
    for file in _files(cache):
        other = _read(file)
        if other is None or not other.place.is_as_it_was:
            file.unlink(missing_ok=True)
    write_passing_json(_file(finding.place, cache), asdict(finding))


def list_findings(*, cache: Path, now: float) -> list[KvmFinding]:
    """Return what still counts on this host, the latest first."""
    known = [finding for finding in map(_read, _files(cache)) if finding and not finding.is_forgotten(now=now)]
    here = [finding for finding in known if finding.place.is_as_it_was]
    return sorted(here, key=lambda finding: finding.tried_at, reverse=True)


def forget_findings(*, cache: Path) -> None:
    """Remove all findings."""
    for file in _files(cache):
        file.unlink(missing_ok=True)


def _files(cache: Path) -> list[Path]:
    return sorted(cache.glob("kvm-*.json"))


def _file(place: Place, cache: Path) -> Path:
    return cache / f"kvm-{place.fingerprint}.json"


def _read(file: Path) -> KvmFinding | None:
    try:
        fields = read_json(file)
        return KvmFinding(
            **{**fields, "outcome": Outcome(fields["outcome"]), "place": Place(**fields["place"])},
        )
    except (KeyError, TypeError, ValueError):
        return None


def _place(qemu: Path, kernel: Path) -> Place:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Place(os.uname().release, boot, str(qemu), file_mark(qemu), str(kernel), file_mark(kernel))
