"""What users do with sandboxes: start one, own one for a block, list them, find one by its name."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

from kata_dind.backend.plan import AnyPlan, StartKind
from kata_dind.backend.plan_file import earlier_plan, may_need, write_plan
from kata_dind.errors import KataDindError, SandboxError, SpecError, error_from_fields
from kata_dind.host.process import tail
from kata_dind.life.guests import guest_outlives_owner, remove_sandbox, swept_records
from kata_dind.life.standby import take_standby
from kata_dind.progress import Event, Report, silent
from kata_dind.sandbox.handle import STOP_SECONDS, Sandbox
from kata_dind.sandbox.planning import plan_start, used_volume
from kata_dind.sandbox.view import SandboxSummary
from kata_dind.sandbox.volumes import require_volume
from kata_dind.store.sandboxes import (
    Record,
    create_record,
    keep_logs,
    list_records,
    record_of,
    require_free,
    require_record,
)

if TYPE_CHECKING:
    from kata_dind.backend import UsedVolume
    from kata_dind.image.source import PackageSource
    from kata_dind.spec import SandboxSpec

__all__ = [
    "Sandbox",
    "SandboxSummary",
    "list_sandboxes",
    "open_sandbox",
    "random_name",
    "require_sandbox",
    "sandboxes_with_image",
    "start",
    "up",
]

logger = logging.getLogger(__name__)

Source: TypeAlias = "PackageSource | None"


def up(spec: SandboxSpec, *, report: Report = silent, source: Source = None) -> Sandbox:
    """Start a new sandbox under a supervisor of its own and return it when it is proven.

    Raises SpecError, with nothing created, for a spec that can't be met; else the error that made the start fail. Of
    such a start only the logs stay, and the error's details say where.
    """
    with _created(spec, report=report, source=source) as (record, _, locks):
        _supervise(record, locks, report)
    return Sandbox(record)


def start(name: str, *, report: Report = silent, source: Source = None) -> Sandbox:
    """Start a stopped or crashed sandbox again, with its image, its layer and its data root as they were left.

    A sandbox whose state was saved resumes. A guest that has outlived its owner is served again.
    """
    sandbox = require_sandbox(name)
    record = record_of(name)
    if record.is_owned():
        raise SpecError(f"the sandbox '{name}' is {sandbox.state} already", id="sandbox.still-running")
    if guest_outlives_owner(record):
        with record.owned() as lock:
            _supervise(record, [lock], report)
        return sandbox
    before = earlier_plan(record.directory)
    spec = _spec_of(record, before)
    with used_volume(spec) as volume:
        plan_again = functools.partial(_plan, spec, volume, before=before, report=report, source=source)
        try:
            plan = plan_again()
        except SpecError as error:
            if error.id in ("share.missing", "share.unreadable"):  # it was there when it was given
                error.hint = f"make it again, or see kata-dind share ls {name}, and kata-dind share rm {name} PATH"
            raise
        with record.owned() as lock:
            write_plan(record.directory, plan)
            try:
                _supervise(record, [lock, *(volume.locks if volume else ())], report)
            except SandboxError as error:
                if plan.start is not StartKind.RESUME or sandbox.saved_state is not None:
                    raise
                report(Event("warning", f"the saved state is lost, so the guest boots: {error.summary}"))
                write_plan(record.directory, plan_again())
                _supervise(record, [lock, *(volume.locks if volume else ())], report)
    return sandbox


@contextlib.contextmanager
def open_sandbox(spec: SandboxSpec, *, report: Report = silent, source: Source = None) -> Iterator[Sandbox]:
    """Own a sandbox in this process for the length of the block; it is removed at its end.

    An empty name gets a random one. Raises what `up` raises.
    """
    from kata_dind.backend import load_backend
    from kata_dind.life.owner_thread import own_in_thread

    if not spec.name:
        spec = spec.settled(name=random_name())
    with _created(spec, report=report, source=source) as (record, plan, (_, *volume_locks)):
        backend = load_backend(plan.backend)
        # Other sandboxes will use the volume, so dockerd stops in order and writes everything to it.
        begin = functools.partial(backend.begin, plan, ephemeral=not spec.volume, locks=volume_locks)
        try:
            with own_in_thread(record, plan, backend, begin=begin, report=report):
                yield Sandbox(record)
        finally:
            remove_sandbox(record)


def random_name() -> str:
    """Return a name for a sandbox whose user will not type it."""
    return f"run-{secrets.token_hex(4)}"


def list_sandboxes() -> list[SandboxSummary]:
    """Return all sandboxes of this user, by name."""
    return [Sandbox(record).summary() for record in swept_records()]


def require_sandbox(name: str) -> Sandbox:
    """Return a sandbox by its name. Raises SpecError for an unknown one, naming those that exist."""
    return Sandbox(require_record(name))


def sandboxes_with_image(image_id: str) -> list[str]:
    """Return the names of the sandboxes, running or not, whose layer was written over an image, or may have been."""
    records = list_records()
    return [
        record.name for record in records if may_need(record.directory, lambda plan: plan.image.image_id == image_id)
    ]


def _spec_of(record: Record, before: AnyPlan | None) -> SandboxSpec:
    """Return the spec of a sandbox's next start."""
    from kata_dind.spec import spec_from_json

    spec = spec_from_json(record.read("spec.json"))
    if before:
        # The reference may name another image by now, but the sandbox's layer was written over this one.
        spec = spec.settled(image=before.image.image_id)
    if spec.volume:
        require_volume(spec.volume)
        # The volume decides both, and may have grown since.
        spec = spec.without("size", "filesystem")
    return spec


@contextlib.contextmanager
def _created(spec: SandboxSpec, *, report: Report, source: Source) -> Iterator[tuple[Record, AnyPlan, list[int]]]:
    """Plan and make a sandbox, and own it and its volume for the length of the block; an error removes it again.

    Yields the descriptors of the locks, too: the sandbox's, then the volume's if there is one.
    """
    from kata_dind.spec import spec_to_json

    require_free(spec.name)
    with used_volume(spec) as volume:
        plan = _plan(spec, volume, report=report, source=source)
        record = create_record(spec.name)
        try:
            with record.owned() as lock:
                record.ephemeral.touch()
                record.write("spec.json", spec_to_json(spec))
                write_plan(record.directory, plan)
                yield record, plan, [lock, *(volume.locks if volume else ())]
        except BaseException as error:
            with contextlib.suppress(FileNotFoundError):  # the supervisor may have removed it
                if isinstance(error, KataDindError) and (kept := keep_logs(record)):
                    error.add_note(f"the logs of this start are kept in {kept}")
                remove_sandbox(record)
            raise


def _plan(
    spec: SandboxSpec, volume: UsedVolume | None, *, before: AnyPlan | None = None, report: Report, source: Source
) -> AnyPlan:
    directory = record_of(spec.name).directory
    return plan_start(spec, directory, volume, before=before, packages=source, report=report)


def _supervise(record: Record, locks: list[int], report: Report) -> None:
    """Hand the sandbox to a supervisor and follow its start until it is ready; an interrupt ends the supervisor."""
    supervisor = take_standby()
    verbose = logging.getLogger("kata_dind").isEnabledFor(logging.DEBUG)
    try:
        with supervisor.hand_over(record.directory, locks, verbose=verbose) as events:
            for line in events:
                fields = json.loads(line)
                if "error" in fields:
                    raise error_from_fields(fields)
                if "log" in fields:
                    logger.debug("%s", fields["log"])
                    continue
                report(Event(fields["name"], fields["message"], seconds=fields["seconds"]))
                if fields["name"] == "ready":
                    break
            else:
                raise SandboxError(
                    "the supervisor ended before the sandbox was ready",
                    id="sandbox.supervisor-ended",
                    details=tail(record.owner_log),
                )
        supervisor.close()
    except BaseException:
        supervisor.end(rung_seconds=STOP_SECONDS)
        raise
