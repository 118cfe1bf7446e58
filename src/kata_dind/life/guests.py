"""Tells whether a sandbox's guest runs, and ends one whose owner may be gone, for every backend.

Where a guest ends with its owner, the sandbox's lock tells. Where it outlives its owner, only the backend can tell.
"""

from __future__ import annotations

import logging
import signal

from kata_dind.backend import Backend, KnownVolume, Lasting, load_backend
from kata_dind.backend.plan import AnyPlan
from kata_dind.backend.plan_file import find_plan
from kata_dind.errors import BackendError, SandboxError
from kata_dind.host.process import signal_process
from kata_dind.store.sandboxes import Record, list_records

logger = logging.getLogger(__name__)


def guest_runs(record: Record) -> bool:
    """Tell whether a sandbox's guest runs, is being started or is being stopped. Raises BackendError."""
    return record.is_owned() or guest_outlives_owner(record)


def guest_outlives_owner(record: Record) -> bool:
    """Tell whether a sandbox's guest runs although no process of this host owns it. Raises BackendError."""
    found = _find_lasting(record)
    return found is not None and not record.is_owned() and found[0].runs(found[1], record.directory)


def find_guest_without_owner(record: Record) -> bool | None:
    """Do as `guest_outlives_owner`, but return None where the backend does not answer, so that others can be listed."""
    try:
        return guest_outlives_owner(record)
    except BackendError as error:
        logger.warning("it is not known whether the guest of '%s' runs: %s", record.name, error.summary)
        return None


def stop_lasting_guest(record: Record, *, timeout_seconds: float) -> None:
    """End a guest whose owner is gone; harmless where it has ended. Raises BackendError, AbnormalShutdown."""
    found = _find_lasting(record)
    if found is None:
        return
    lasting, plan = found
    lasting.stop(plan, record.directory, timeout_seconds=timeout_seconds)
    (volume_of(plan, load_backend(plan.backend)) or record).unclean.unlink(missing_ok=True)
    record.lasting.unlink(missing_ok=True)
    record.write_status({**record.read("status.json"), "state": "stopped"})


def remove_sandbox(record: Record, *, timeout_seconds: float = 60.0) -> None:
    """Remove a sandbox that no process owns any more; its guest is ended first."""
    stop_lasting_guest(record, timeout_seconds=timeout_seconds)
    record.remove()


def swept_records() -> list[Record]:
    """Return all sandboxes' records by name, after removing ephemeral sandboxes whose owner was killed."""
    records = list_records()
    for record in records:
        if record.ephemeral.exists() and record.lasting.exists() and not record.is_owned():
            _sweep_guest(record)
    return [record for record in records if record.directory.exists()]


def _sweep_guest(record: Record) -> None:
    """Remove a sandbox whose start was killed, with its guest; what can't be done now is done at another look."""
    try:
        with record.owned(timeout_seconds=0):
            remove_sandbox(record)
    except (BackendError, SandboxError) as error:
        logger.warning("the guest of '%s', whose start was killed, is not removed yet: %s", record.name, error.summary)


def signal_supervisor(record: Record, number: signal.Signals) -> None:
    """Signal the supervisor that owns a sandbox; any other program that owns one is left alone."""
    pid = int(record.read("status.json").get("pid") or 0)
    if record.is_owned():
        signal_process(pid, number, word="kata_dind.life.supervisor", has_open=record.directory / "lock")


def volume_of(plan: AnyPlan, backend: Backend) -> KnownVolume | None:
    """Return the volume that holds the data root of a plan; None when that is the sandbox's own."""
    return backend.volumes.named(plan.volume) if plan.volume and backend.volumes else None


def _find_lasting(record: Record) -> tuple[Lasting, AnyPlan] | None:
    # The mark is looked at first: most sandboxes have none, and `ls` is to be quick.
    plan = find_plan(record.directory) if record.lasting.exists() else None
    if plan is None or not plan.outlives_owner:
        return None
    lasting = load_backend(plan.backend).lasting
    return (lasting, plan) if lasting is not None else None
