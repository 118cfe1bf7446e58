"""Tells whether a sandbox's guest runs, and ends one whose owner may be gone, for every backend.

Where a guest ends with its owner, the sandbox's lock tells. Where it outlives its owner, only the backend can tell.
"""

from __future__ import annotations

import signal

from kata_dind.backend import Lasting, load_backend
from kata_dind.backend.plan import AnyPlan, find_plan
from kata_dind.host.process import signal_process
from kata_dind.store.sandboxes import Record, list_records
from kata_dind.store.volumes import find_volume_of


def guest_runs(record: Record) -> bool:
    """Tell whether a sandbox's guest runs, is being started or is being stopped. Raises BackendError."""
    return record.is_owned() or guest_outlives_owner(record)


def guest_outlives_owner(record: Record) -> bool:
    """Tell whether a sandbox's guest runs although no process of this host owns it. Raises BackendError."""
    found = _find_lasting(record)
    return found is not None and not record.is_owned() and found[0].runs(found[1], record.directory)


def stop_lasting_guest(record: Record, *, timeout_seconds: float) -> None:
    """End a guest whose owner is gone; harmless where it has ended. Raises BackendError, AbnormalShutdown."""
    found = _find_lasting(record)
    if found is None:
        return
    lasting, plan = found
    lasting.stop(plan, record.directory, timeout_seconds=timeout_seconds)
    (find_volume_of(record) or record).unclean.unlink(missing_ok=True)
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
            with record.owned():
                remove_sandbox(record)
    return [record for record in records if record.directory.exists()]


def signal_supervisor(record: Record, number: signal.Signals) -> None:
    """Signal the supervisor that owns a sandbox; any other program that owns one is left alone."""
    pid = int(record.read("status.json").get("pid") or 0)
    if record.is_owned():
        signal_process(pid, number, word="kata_dind.life.supervisor", has_open=record.directory / "lock")


def _find_lasting(record: Record) -> tuple[Lasting, AnyPlan] | None:
    # The mark is looked at first: most sandboxes have none, and `ls` is to be quick.
    plan = find_plan(record.directory) if record.lasting.exists() else None
    if plan is None or not plan.outlives_owner:
        return None
    lasting = load_backend(plan.backend).lasting
    return (lasting, plan) if lasting is not None else None
