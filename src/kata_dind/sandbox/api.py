"""Sandboxes as users know them: start one, find one, run commands in it, stop it, remove it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kata_dind.errors import (
    GuestNotReady,
    KataDindError,
    NoSpace,
    SandboxError,
    SeedUnfit,
    SpecError,
    error_from_fields,
)
from kata_dind.host.disks import allocated_bytes, is_full
from kata_dind.host.locks import locked_shared
from kata_dind.host.process import tail
from kata_dind.life.standby import take_standby
from kata_dind.progress import Event, Report, silent, without
from kata_dind.store.sandboxes import Record, create_record, list_records, record_of, require_record
from kata_dind.store.volumes import Volume, hold_volume, require_volume
from kata_dind.vocabulary import Filesystem

if TYPE_CHECKING:
    from kata_dind.image.source import PackageSource
    from kata_dind.spec import SandboxSpec
    from kata_dind.wire.client import ExecResult

STOP_SECONDS = 75.0
"""How long a stop may take, in its steps: dockerd 20, the guest 8, QEMU's quit 3, and 10 to end each of 3 processes."""

Source: TypeAlias = "PackageSource | None"


@dataclass(frozen=True)
class SandboxSummary:
    """One row of `ls`."""

    name: str
    state: str
    """starting, running, stopping, stopped or crashed"""
    backend: str
    image: str
    data_root: str
    volume: str
    """The volume that holds the data root; empty for one of its own."""
    docker_version: str
    accelerator: str
    created: float
    """Seconds since the epoch."""
    uptime_seconds: float | None
    disk_bytes: int
    """What the sandbox's own disks really take: without a volume's, which `volume ls` counts."""
    problem: str | None = None
    """What a running sandbox lives with at the moment, such as a full disk of the host."""


class Sandbox:
    """A sandbox that exists, running or not."""

    def __init__(self, record: Record) -> None:
        self._record = record

    @property
    def name(self) -> str:
        """Its name."""
        return self._record.name

    @property
    def directory(self) -> Path:
        """Where its state lies."""
        return self._record.directory

    @property
    def endpoint(self) -> Path:
        """The Unix socket that speaks the Docker API while the sandbox runs."""
        return self._record.endpoint

    @property
    def docker_host(self) -> str:
        """The endpoint as DOCKER_HOST."""
        return f"unix://{self.endpoint}"

    @property
    def spec(self) -> dict[str, Any]:
        """What was asked for."""
        return self._record.read("spec.json")

    @property
    def state(self) -> str:
        """starting, running or stopping while a process owns the sandbox, else stopped or crashed."""
        state = str(self._record.read("status.json").get("state", "starting"))
        if self._record.is_owned():
            return state if state in {"starting", "running", "stopping"} else "starting"
        return "stopped" if state == "stopped" else "crashed"

    def inspect(self) -> dict[str, Any]:
        """Return all that is known of the sandbox: spec, plan, phases, verdict, disk use, error."""
        status, plan = self._record.read("status.json"), self._record.read("plan.json")
        verdict = status.get("verdict") or {}
        planned = plan.get("plan") or {}
        return {
            "name": self.name,
            "state": self.state,
            "directory": str(self.directory),
            "docker_host": self.docker_host,
            "spec": self.spec,
            "backend": plan.get("backend"),
            "accelerator": planned.get("accelerator"),
            "accelerator_reason": planned.get("accelerator_reason"),
            "kernel": status.get("kernel") or planned.get("kernel_version"),
            "image": {"reference": planned.get("image_reference"), "id": planned.get("image_id")},
            "data_root": {
                **(status.get("data_root") or {}),
                "kind": planned.get("data_root"),
                "reason": planned.get("data_root_reason"),
                "size_mib": planned.get("data_root_mib") or None,
                "volume": self.spec.get("volume") or None,
            },
            "docker": {
                "version": verdict.get("docker_version"),
                "storage": verdict.get("storage"),
                "native_diff": verdict.get("native_diff"),
            },
            "start": {
                "how": planned.get("start"),
                "reason": planned.get("start_reason"),
                "seed": planned.get("seed") or None,
                "check_seconds": status.get("check_seconds"),
            },
            "phases": status.get("phases", []),
            "timings": status.get("timings", {}),
            "warnings": status.get("warnings", []),
            "problem": self._problem(status),
            "error": status.get("error"),
            "created": self._created(),
            "uptime_seconds": self._uptime(status),
            "saved_state": self._saved_state(plan.get("backend")),
            "disk_bytes": allocated_bytes(self.directory),
        }

    def summary(self) -> SandboxSummary:
        """Return the sandbox's row of `ls`."""
        status, plan = self._record.read("status.json"), self._record.read("plan.json")
        planned = plan.get("plan") or {}
        return SandboxSummary(
            name=self.name,
            state=self.state,
            backend=str(plan.get("backend") or ""),
            image=str(planned.get("image_reference") or ""),
            data_root=str(planned.get("data_root") or ""),
            volume=str(self.spec.get("volume") or ""),
            docker_version=str((status.get("verdict") or {}).get("docker_version") or ""),
            accelerator=str(planned.get("accelerator") or ""),
            created=self._created(),
            uptime_seconds=self._uptime(status),
            disk_bytes=allocated_bytes(self.directory),
            problem=self._problem(status),
        )

    def environment(self) -> dict[str, str]:
        """Return what points Docker clients and testcontainers at this sandbox."""
        # Ryuk bind-mounts the socket as the daemon sees it, not as the client does.
        return {"DOCKER_HOST": self.docker_host, "TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE": "/var/run/docker.sock"}

    def log_path(self, source: str) -> Path:
        """Return the log of dockerd, guest or vmm. Raises SpecError for another source."""
        try:
            return self._record.log_path(source)
        except KeyError as error:
            raise SpecError(f"--source: '{source}' is not a log; use dockerd, guest or vmm") from error

    def attach(
        self,
        argv: Sequence[str],
        *,
        where: str = "container",
        tty: bool,
        environment: dict[str, str] | None = None,
        cwd: str = "",
    ) -> int:
        """Run a command on our own standard descriptors and return its exit code.

        `where` is container or guest. Raises GuestNotReady when the sandbox does not run, or ends meanwhile.
        """
        from kata_dind.wire.client import attach, exec_request

        self._require_running()
        return attach(self._record.control, exec_request(argv, where, environment, cwd), terminal=tty)

    def run(
        self,
        argv: Sequence[str],
        *,
        where: str = "container",
        input: bytes = b"",
        environment: dict[str, str] | None = None,
        cwd: str = "",
        timeout_seconds: float = 600.0,
    ) -> ExecResult:
        """Run a command to its end and return its exit code and what it printed."""
        from kata_dind.wire.client import capture, exec_request

        self._require_running()
        request = exec_request(argv, where, environment, cwd)
        return capture(self._record.control, request, stdin=input, timeout_seconds=timeout_seconds)

    def stop(self, *, save: bool = False, timeout_seconds: float = STOP_SECONDS, report: Report = silent) -> None:
        """Stop the sandbox in order: dockerd, its file systems, the machine. Harmless when it does not run.

        With `save` nothing in it ends: its memory goes to the disk, and its next start goes on from there. Raises
        SpecError for a sandbox that can't be saved, NoSpace or SandboxError for one that could not; then it runs on.

        Raises SandboxError when the owner does not end in time; `remove(force=True)` ends it anyway.
        """
        if save:
            self._suspend(timeout_seconds=timeout_seconds, report=report)
        else:
            self._end({"kind": "stop"}, timeout_seconds=timeout_seconds, report=report)

    def _suspend(self, *, timeout_seconds: float, report: Report) -> None:
        from kata_dind.wire.client import ask

        if not self._record.is_owned():
            raise SpecError(f"--save: the sandbox '{self.name}' is not running", hint=f"kata-dind start {self.name}")
        started = time.monotonic()
        report(Event("save", f"saving {self.name}"))
        late = f"the sandbox '{self.name}' was not saved within {timeout_seconds:g} s; that goes on"
        request = {"kind": "stop", "save": True}
        answer = ask(self._record.control, request, timeout_seconds=timeout_seconds, late=late)
        if "error" in answer:
            raise error_from_fields(answer)
        if not self._wait_until_free(timeout_seconds):
            raise SandboxError(
                f"the sandbox '{self.name}' is saved, but does not end", hint=f"kata-dind rm --force {self.name}"
            )
        report(Event("save", f"{self.name} is stopped, with its state saved", time.monotonic() - started))

    def _end(self, request: dict[str, Any], *, timeout_seconds: float, report: Report) -> None:
        from kata_dind.wire.client import connect

        if not self._record.is_owned():
            return
        report(Event("stop", f"stopping {self.name}"))
        try:
            with connect(self._record.control) as control:
                control.open(request)
        except GuestNotReady:
            # Not serving yet: the owner is at the very beginning, or at the end.
            self._signal_owner(signal.SIGTERM)
        if not self._wait_until_free(timeout_seconds):
            raise SandboxError(
                f"the sandbox '{self.name}' did not stop within {timeout_seconds:g} s",
                hint=f"kata-dind rm --force {self.name}",
            )
        error = self._record.read("status.json").get("error") or {}
        if error.get("error") == "AbnormalShutdown":
            report(Event("warning", str(error["summary"])))

    def remove(self, *, force: bool = False, report: Report = silent) -> None:
        """Delete the sandbox and its own data root; a volume stays. Raises SpecError when it runs, unless `force`."""
        if self._record.is_owned():
            if not force:
                raise SpecError(
                    f"the sandbox '{self.name}' is {self.state}",
                    hint=f"kata-dind stop {self.name}, or kata-dind rm --force {self.name}",
                )
            self._force_stop(report)
        if not self.directory.exists():
            return
        with self._record.owned():  # so that nobody starts it meanwhile
            self._record.remove()

    def _force_stop(self, report: Report) -> None:
        try:
            # Its disks go with it, so nobody waits for what is not written to them yet.
            self._end({"kind": "stop", "discard": True}, timeout_seconds=STOP_SECONDS, report=report)
        except SandboxError:
            self._signal_owner(signal.SIGKILL)
            if not self._wait_until_free(10.0):
                raise

    def _signal_owner(self, number: signal.Signals) -> None:
        """Signal the process that holds the lock; the status names it, and a pidfd keeps the name true."""
        pid = int(self._record.read("status.json").get("pid") or 0)
        try:
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError):
            return
        try:
            if self._record.is_owned() and _supervises(pid, self.directory / "lock"):
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)

    def _wait_until_free(self, timeout_seconds: float) -> bool:
        try:
            with locked_shared(self.directory / "lock", timeout_seconds=timeout_seconds):
                return True
        except KataDindError:
            return not self.directory.exists()

    def _require_running(self) -> None:
        if not self._record.is_owned():
            raise GuestNotReady(f"the sandbox '{self.name}' is not running", hint=f"kata-dind start {self.name}")

    def _created(self) -> float:
        try:
            return (self.directory / "spec.json").stat().st_mtime
        except OSError:
            return 0.0

    def _problem(self, status: dict[str, Any]) -> str | None:
        if self.state != "running":
            return None
        if is_full(self.directory):  # the owner can't write its status either
            return f"the file system of {self.directory} is full"
        return status.get("problem")

    def _saved_state(self, backend: str | None) -> dict[str, Any] | None:
        return _saved_state(self._record, backend) if backend and not self._record.is_owned() else None

    def _uptime(self, status: dict[str, Any]) -> float | None:
        return time.time() - float(status["started_at"]) if self.state == "running" else None


def up(spec: SandboxSpec, *, report: Report = silent, source: Source = None) -> Sandbox:
    """Start a new sandbox under a supervisor of its own and return it when it is proven.

    Raises SpecError for what can't be, with nothing created; else what made the start fail, with nothing left.
    """
    with _created(spec, report=report, source=source) as (record, locks):
        _supervise(record, locks, report)
    return Sandbox(record)


def start(name: str, *, report: Report = silent, source: Source = None) -> Sandbox:
    """Start a stopped or crashed sandbox again, with its image, its layer and its data root as they were left.

    One whose state was saved goes on where it was.
    """
    from kata_dind.spec import parse_spec

    sandbox = require_sandbox(name)
    record = record_of(name)
    if record.is_owned():
        raise SpecError(f"the sandbox '{name}' is {sandbox.state} already")
    # The layer was written over one image, so the reference may have moved on, but the sandbox may not.
    image = (record.read("plan.json").get("plan") or {}).get("image_id") or sandbox.spec.get("image", "")
    spec = parse_spec(**{**sandbox.spec, "image": image})
    if spec.volume:
        require_volume(spec.volume)
        # The volume has both, and may have grown since.
        spec = spec.model_copy(update={"size": None, "filesystem": Filesystem.EXT4})
    with _held_volume(spec) as (volume, volume_locks):
        before = record.read("plan.json").get("plan")
        plan = _prepare(spec, volume, before=before, report=report, source=source)
        with record.owned() as lock:
            record.write("plan.json", plan)
            try:
                _supervise(record, [lock, *volume_locks], report)
            except SandboxError as error:
                if plan["plan"].get("start") != "resume" or _saved_state(record, plan["backend"]):
                    raise
                report(Event("warning", f"the saved state is lost, so the guest boots: {error.summary}"))
                record.write("plan.json", _prepare(spec, volume, before=before, report=report, source=source))
                _supervise(record, [lock, *volume_locks], report)
    return sandbox


@contextlib.contextmanager
def open_sandbox(spec: SandboxSpec, *, report: Report = silent, source: Source = None) -> Iterator[Sandbox]:
    """Own a sandbox in this process for the length of the block; it is removed at its end.

    An empty name gets a random one. Raises what `up` raises.
    """
    from kata_dind.backend import load_backend
    from kata_dind.life.owner_thread import own_in_thread

    if not spec.name:
        spec = spec.model_copy(update={"name": random_name()})
    with _created(spec, report=report, source=source) as (record, (_, *volume_locks)):
        try:
            # What is written to a volume is for others to find: dockerd stops in order.
            plan = record.read("plan.json")
            launch = load_backend(plan["backend"]).launch(plan["plan"], ephemeral=not spec.volume, locks=volume_locks)
            with own_in_thread(record, launch, report=report):
                yield Sandbox(record)
        finally:
            record.remove()


def _saved_state(record: Record, backend: str) -> dict[str, Any] | None:
    from kata_dind.backend import load_backend

    return load_backend(backend).saved_state(record.directory)


def random_name() -> str:
    """Return a name for a sandbox that nobody will type."""
    return f"run-{secrets.token_hex(4)}"


def list_sandboxes() -> list[SandboxSummary]:
    """Return all sandboxes of this user, by name."""
    return [Sandbox(record).summary() for record in list_records()]


def require_sandbox(name: str) -> Sandbox:
    """Return a sandbox by its name. Raises SpecError for an unknown one, naming those that exist."""
    return Sandbox(require_record(name))


def sandboxes_with_image(image_id: str) -> list[str]:
    """Return the names of the sandboxes, running or not, whose layer was written over an image."""
    plans = {record.name: record.read("plan.json").get("plan") or {} for record in list_records()}
    return [name for name, plan in plans.items() if plan.get("image_id") == image_id]


def _require_free(name: str) -> None:
    if record_of(name).directory.exists():
        raise SpecError(
            f"name: '{name}' is used by a sandbox already",
            hint=f"kata-dind start {name}, or kata-dind rm {name}, or use another name",
        )


@contextlib.contextmanager
def _created(spec: SandboxSpec, *, report: Report, source: Source) -> Iterator[tuple[Record, list[int]]]:
    """Plan and make a sandbox, and hold it and its volume for the length of the block; an error removes it again.

    Yields the descriptors of the locks, too: the sandbox's, then the volume's if there is one.
    """
    _require_free(spec.name)
    with _held_volume(spec) as (volume, volume_locks):
        plan = _prepare(spec, volume, report=report, source=source)
        record = create_record(spec.name)
        try:
            with record.owned() as lock:
                record.ephemeral.touch()
                record.write("spec.json", spec.model_dump(mode="json"))
                record.write("plan.json", plan)
                yield record, [lock, *volume_locks]
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # the supervisor may have removed it
                record.remove()
            raise


@contextlib.contextmanager
def _held_volume(spec: SandboxSpec) -> Iterator[tuple[Volume | None, list[int]]]:
    """Hold the volume that a spec names, if it does, for the length of the block; yields its lock's descriptor, too."""
    if not spec.volume:
        yield None, []
        return
    with hold_volume(spec.volume, asked=spec.data_root) as (volume, lock):
        yield volume, [lock]


def _prepare(
    spec: SandboxSpec,
    volume: Volume | None,
    *,
    before: dict[str, Any] | None = None,
    report: Report,
    source: Source,
) -> dict[str, Any]:
    """Return the plan of a start as plan.json holds it; the seed that it needs is made when absent."""
    from kata_dind.backend import StoredRoot, load_backend
    from kata_dind.image.source import default_source

    backend = load_backend(spec.backend.value)
    directory = record_of(spec.name).directory
    source, stored = source or default_source(), None
    if volume:
        facts = volume.facts
        stored = StoredRoot(
            volume.name, volume.directory, str(facts.get("docker_version", "")), str(facts.get("storage", ""))
        )
        spec = _on_volume(spec, volume, report=report)

    def prepare(report: Report) -> dict[str, Any]:
        return backend.prepare(spec, directory, source, stored=stored, before=before, report=report)

    plan = prepare(report)
    # A seed's machine is planned like this one, and this one anew when the seed is there; what the first plan has said
    # of the accelerator holds for both.
    further = without(report, "accelerator")
    if plan["seed_key"] and not plan["seed"] and _make_seed(plan, spec, source, report=further):
        plan = prepare(further)
    if volume:
        volume.grow(spec.size_bytes)
    return {"backend": spec.backend.value, "plan": plan}


def _make_seed(plan: dict[str, Any], spec: SandboxSpec, source: PackageSource, *, report: Report) -> bool:
    """Make the seed that a start wants; False where there can be none, as for want of room, so that the guest boots."""
    from kata_dind.seeding.making import require_internal_seed

    spec = spec.model_copy(update={"cpus": plan["seed_cpus"], "memory": f"{plan['seed_memory_mib']}M"})
    if spec.size:
        spec = spec.model_copy(update={"size": f"{plan['seed_root_mib']}M"})
    try:
        require_internal_seed(plan["seed_key"], spec, source, accelerator=plan["accelerator"], report=report)
    except (NoSpace, SeedUnfit) as error:
        report(Event("warning", f"no seed could be made, so the guest boots: {error.summary}"))
        return False
    return True


def _on_volume(spec: SandboxSpec, volume: Volume, *, report: Report) -> SandboxSpec:
    """Return a spec with the kind, the size and the file system that its volume will have."""

    def warn(message: str) -> None:
        report(Event("warning", message))

    update: dict[str, Any] = {"data_root": volume.kind}
    if spec.size and volume.disk is None:
        warn(f"--size: the volume '{volume.name}' is of the kind {volume.kind}, which takes what the host has")
    if present := volume.size_bytes:
        if spec.size and spec.size_bytes < present:
            warn(f"--size: the volume '{volume.name}' keeps its {present >> 20}M; a volume only grows")
        update["size"] = f"{max(present, spec.size_bytes if spec.size else 0) >> 20}M"
    if found := volume.filesystem:
        if spec.filesystem not in (found, Filesystem.EXT4):  # ext4 may be nobody's wish
            warn(
                f"--filesystem: the volume '{volume.name}' keeps its {found}; only a new one can have {spec.filesystem}"
            )
        update["filesystem"] = Filesystem(found)
    return spec.model_copy(update=update)


def _supervise(record: Record, locks: list[int], report: Report) -> None:
    """Give a supervisor the sandbox and follow it until that is ready; end it again when we are interrupted."""
    supervisor = take_standby()
    try:
        with supervisor.hand_over(record.directory, locks) as events:
            for line in events:
                fields = json.loads(line)
                if "error" in fields:
                    raise error_from_fields(fields)
                report(Event(fields["name"], fields["message"], seconds=fields["seconds"]))
                if fields["name"] == "ready":
                    break
            else:
                raise SandboxError("the supervisor ended before the sandbox was ready", details=tail(record.owner_log))
        supervisor.close()
    except BaseException:
        supervisor.end(rung_seconds=STOP_SECONDS)
        raise


def _supervises(pid: int, lock: Path) -> bool:
    """Tell whether a process is a supervisor with this lock; another program that owns a sandbox is not ours to end."""
    try:
        is_supervisor = b"kata_dind.life.supervisor" in Path(f"/proc/{pid}/cmdline").read_bytes()
        return is_supervisor and any(fd.readlink() == lock.resolve() for fd in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
