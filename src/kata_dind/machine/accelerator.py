"""KVM or TCG. KVM counts once a guest has booted on it: a /dev/kvm that opens and creates a VM may hang every guest."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from kata_dind.errors import KvmUnavailable, LockBusy
from kata_dind.host.locks import locked
from kata_dind.host.process import process_began
from kata_dind.machine.findings import KvmFinding, keep_finding, load_finding, new_finding, this_place
from kata_dind.machine.probe import Patience, Trial, try_accelerator
from kata_dind.progress import Event, Report
from kata_dind.vocabulary import Accelerator

logger = logging.getLogger(__name__)

DEVICE = Path("/dev/kvm")

Clock = Callable[[], float]
"""Returns seconds since the epoch."""


@dataclass(frozen=True)
class ProbeSettings:
    """The way in which KVM is tried; tests try other accelerators and devices."""

    cache: Path
    """The directory in which findings are kept."""
    device: Path = field(default_factory=lambda: DEVICE)
    clock: Clock = time.time
    began: float | None = None
    """The time at which this command began; None for the process's start."""
    patience: Patience = field(default_factory=Patience)
    accelerator: Accelerator = Accelerator.KVM
    """The accelerator that is tried."""


class Obstacle(NamedTuple):
    """The reason why KVM can't be used."""

    state: str
    """absent, not-permitted or no-guest-boots"""
    id: str
    """The id of the error for it."""
    reason: str


def choose_accelerator(
    asked: Accelerator,
    *,
    kernel: Path,
    initramfs: Path,
    settings: ProbeSettings,
    timeout_seconds: float,
    report: Report,
) -> tuple[Accelerator, str]:
    """Return KVM or TCG, and the reason in one sentence.

    When KVM was asked for, a guest that makes progress may take `timeout_seconds`, and earlier failures don't count.
    Raises KvmUnavailable when no guest boots then.
    """
    if asked is Accelerator.TCG:
        return Accelerator.TCG, "as asked"
    obstacle, again = find_obstacle(settings.device), ""
    if obstacle is None:
        finding = find_kvm(
            kernel=kernel, initramfs=initramfs, settings=settings,
            insist_seconds=timeout_seconds if asked is Accelerator.KVM else None, report=report,
        )  # fmt: skip
        if finding.works:
            return Accelerator.KVM, "a guest has booted on KVM here"
        obstacle = Obstacle("no-guest-boots", id="kvm.no-guest-boots", reason=finding.reason)
        again = "" if finding.is_firm else "; the next start tries again"
    if asked is Accelerator.KVM:
        raise KvmUnavailable(
            f"KVM does not work here: {obstacle.reason}",
            id=obstacle.id,
            hint="use --accel tcg, which is about ten times slower; kata-dind accel shows what was found",
        )
    told = f"no KVM ({obstacle.reason}{again}); using TCG emulation, about ten times slower; see kata-dind accel"
    report(Event("accelerator", told))
    return Accelerator.TCG, obstacle.reason


def find_obstacle(device: Path | None = None) -> Obstacle | None:
    """Return why this user has no KVM to try; None where there is one."""
    device = device or DEVICE
    if os.access(device, os.R_OK | os.W_OK):
        return None
    if not device.exists():
        return Obstacle("absent", id="kvm.absent", reason=f"{device} does not exist")
    return Obstacle(
        "not-permitted", id="kvm.not-permitted", reason=f"this user may not open {device}: join the group kvm"
    )


def find_kvm(
    *, kernel: Path, initramfs: Path, settings: ProbeSettings, insist_seconds: float | None = None, report: Report
) -> KvmFinding:
    """Find out whether a guest boots on KVM: from an earlier finding, or by booting one.

    `insist_seconds` ignores earlier failures, and waits so long for a guest that makes progress.
    """
    place = this_place(kernel)
    began = process_began() if settings.began is None else settings.began

    def known() -> KvmFinding | None:
        finding = load_finding(place, cache=settings.cache)
        if finding is None or finding.works:
            return finding
        return finding if insist_seconds is None and finding.holds(began=began, now=settings.clock()) else None

    if finding := known():
        return finding
    with _one_at_a_time(settings, insist_seconds):
        if finding := known():  # another command has tried it meanwhile
            return finding
        trial = _try(kernel, initramfs, settings=settings, insist_seconds=insist_seconds, report=report)
        before = load_finding(place, cache=settings.cache)
        finding = new_finding(trial, place, before=before, began=began, now=settings.clock())
        keep_finding(finding, cache=settings.cache)
    return finding


@contextlib.contextmanager
def _one_at_a_time(settings: ProbeSettings, insist_seconds: float | None) -> Iterator[None]:
    """Let commands that begin together try KVM once; one that has waited as long as a trial takes makes its own."""
    wait_seconds = settings.patience.limit_seconds if insist_seconds is None else insist_seconds
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(settings.cache / "kvm.lock", timeout_seconds=wait_seconds))
        except LockBusy as error:
            logger.warning("another command tries KVM at the same time: %s", error.summary)
        yield


def _try(
    kernel: Path, initramfs: Path, *, settings: ProbeSettings, insist_seconds: float | None, report: Report
) -> Trial:
    patience = settings.patience
    if insist_seconds is not None:
        patience = replace(patience, limit_seconds=insist_seconds, rival_seconds=None)
    report(Event("accelerator", "trying KVM with a first guest, which takes some seconds"))
    return try_accelerator(settings.accelerator, kernel=kernel, initramfs=initramfs, patience=patience, report=report)
