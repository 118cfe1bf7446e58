"""A sandbox that exists: look at it, run commands in it, stop it, remove it."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kata_dind.backend import load_backend
from kata_dind.backend.plan_file import find_plan
from kata_dind.errors import GuestNotReady, KataDindError, SandboxError, SpecError, error_from_fields
from kata_dind.host.disks import allocated_bytes, is_full
from kata_dind.host.locks import locked_shared
from kata_dind.life.guests import (
    find_guest_without_owner,
    guest_outlives_owner,
    guest_runs,
    remove_sandbox,
    signal_supervisor,
    stop_lasting_guest,
)
from kata_dind.progress import Event, Report, silent
from kata_dind.sandbox import view
from kata_dind.sandbox.view import Facts, SandboxSummary
from kata_dind.store.sandboxes import Record

if TYPE_CHECKING:
    from kata_dind.wire.client import ExecResult

STOP_SECONDS = 75.0
"""How long all steps of a stop take at most: dockerd 20, the guest 8, QEMU's quit 3, and 10 for each of 3 processes."""

_KILLED_SECONDS = 10.0


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
        """The directory that its state lies in."""
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
        """What was asked for: every field, with its default where nothing was given."""
        return {field: value for field, value in self._record.read("spec.json").items() if field != "given"}

    @property
    def state(self) -> str:
        """starting, running, stopping, stopped, crashed, or unknown while its backend does not answer."""
        status, owned = self._record.read("status.json"), self._record.is_owned()
        return view.state_of(status, is_owned=owned, guest_runs=not owned and find_guest_without_owner(self._record))

    def inspect(self) -> dict[str, Any]:
        """Return all that is known of the sandbox: spec, plan, phases, verdict, disk use, error."""
        return view.inspection(self._facts(with_saved_state=True))

    def summary(self) -> SandboxSummary:
        """Return the sandbox's row of `ls`."""
        return view.summary(self._facts())

    def environment(self) -> dict[str, str]:
        """Return the environment variables that point Docker clients and testcontainers at this sandbox."""
        # Ryuk bind-mounts the socket as the daemon sees it, not as the client does.
        variables = {"DOCKER_HOST": self.docker_host, "TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE": "/var/run/docker.sock"}
        # On localhost another sandbox may have the number: clones of one seed draw the same ones.
        address = self._record.read("status.json").get("address")
        return {**variables, "TESTCONTAINERS_HOST_OVERRIDE": str(address)} if address else variables

    @property
    def ports(self) -> list[Mapping[str, Any]]:
        """The published ports of a running sandbox: protocol, port, addresses of this host, warnings."""
        return list(view.published(self._record.read("status.json"), is_owned=self._record.is_owned()))

    @property
    def logs(self) -> Mapping[str, Path]:
        """The sandbox's logs by their sources, such as `dockerd`; a file may not exist yet."""
        plan = find_plan(self.directory)
        names = load_backend(plan.backend).logs if plan else {}
        return {source: self.directory / name for source, name in names.items()}

    def log_path(self, source: str) -> Path:
        """Return one of the logs. Raises SpecError for a source that the sandbox's backend does not have."""
        logs = self.logs
        if source not in logs:
            raise SpecError(
                f"--source: this sandbox has no log {source!r}; its logs are {', '.join(logs) or 'none'}",
                id="sandbox.unknown-log",
            )
        return logs[source]

    @property
    def saved_state(self) -> dict[str, Any] | None:
        """The size and the time of the state from which a stopped sandbox would resume; None if none is saved."""
        plan = find_plan(self.directory)
        if plan is None or self._record.is_owned():
            return None
        snapshots = load_backend(plan.backend).snapshots
        return snapshots.suspended(self.directory) if snapshots else None

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

        `where` is container or guest. Raises GuestNotReady when the sandbox is not running, or ends meanwhile.
        """
        from kata_dind.wire.client import attach, exec_request

        self._require_served()
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

        self._require_served()
        request = exec_request(argv, where, environment, cwd)
        return capture(self._record.control, request, stdin=input, timeout_seconds=timeout_seconds)

    def stop(self, *, save: bool = False, timeout_seconds: float = STOP_SECONDS, report: Report = silent) -> None:
        """Stop the sandbox in order: dockerd, its file systems, the guest. Harmless when it is not running.

        With `save` it is suspended: nothing in it ends, and its next start resumes from its memory, which is written to
        the disk. Raises SpecError for a sandbox that can't be suspended, NoSpace or SandboxError when it fails; the
        sandbox then continues to run.

        Raises SandboxError when the owner does not end in time; `remove(force=True)` ends it anyway.
        """
        if save:
            self._suspend(timeout_seconds=timeout_seconds, report=report)
        else:
            self._end({"kind": "stop"}, timeout_seconds=timeout_seconds, report=report)

    def remove(self, *, force: bool = False, report: Report = silent) -> None:
        """Delete the sandbox and its own data root; a volume stays. Raises SpecError when it runs, unless `force`."""
        if guest_runs(self._record):
            if not force:
                raise SpecError(
                    f"the sandbox '{self.name}' is {self.state}",
                    id="sandbox.still-running",
                    hint=f"kata-dind stop {self.name}, or kata-dind rm --force {self.name}",
                )
            self._force_stop(report)
        if not self.directory.exists():
            return
        with self._record.owned():  # so that it can't be started meanwhile
            remove_sandbox(self._record)

    def _suspend(self, *, timeout_seconds: float, report: Report) -> None:
        from kata_dind.wire.client import ask

        if not self._record.is_owned():
            raise SpecError(
                f"--save: the sandbox '{self.name}' is not running",
                id="sandbox.not-running-to-save",
                hint=f"kata-dind start {self.name}",
            )
        started = time.monotonic()
        report(Event("save", f"saving {self.name}"))
        late = f"the sandbox '{self.name}' was not saved within {timeout_seconds:g} s; the save continues"
        request = {"kind": "stop", "save": True}
        answer = ask(self._record.control, request, timeout_seconds=timeout_seconds, late=late)
        if "error" in answer:
            raise error_from_fields(answer)
        if not self._wait_until_free(timeout_seconds):
            raise SandboxError(
                f"the sandbox '{self.name}' is saved, but its supervisor does not end",
                id="sandbox.stop-timed-out",
                hint=f"kata-dind rm --force {self.name}",
            )
        report(Event("save", f"{self.name} is stopped, with its state saved", time.monotonic() - started))

    def _end(self, request: dict[str, Any], *, timeout_seconds: float, report: Report) -> None:
        """Let the owner end, if there is one; then the guest, where that outlives its owner."""
        if not guest_runs(self._record):
            return
        report(Event("stop", f"stopping {self.name}"))
        if self._record.is_owned():
            self._end_owner(request, timeout_seconds=timeout_seconds, report=report)
        if guest_outlives_owner(self._record):
            with self._record.owned():  # so that no owner serves it meanwhile
                stop_lasting_guest(self._record, timeout_seconds=timeout_seconds)

    def _end_owner(self, request: dict[str, Any], *, timeout_seconds: float, report: Report) -> None:
        from kata_dind.wire.client import connect

        try:
            with connect(self._record.control) as client:
                client.open(request)
        except GuestNotReady:
            # The owner does not serve: it has only just begun, or is about to end.
            signal_supervisor(self._record, signal.SIGTERM)
        if not self._wait_until_free(timeout_seconds):
            raise SandboxError(
                f"the sandbox '{self.name}' did not stop within {timeout_seconds:g} s",
                id="sandbox.stop-timed-out",
                hint=f"kata-dind rm --force {self.name}",
            )
        error = self._record.read("status.json").get("error") or {}
        if error.get("error") == "AbnormalShutdown":
            report(Event("warning", str(error["summary"])))

    def _force_stop(self, report: Report) -> None:
        try:
            # The disks are removed with the sandbox, so the guest need not write to them what it still has.
            self._end({"kind": "stop", "discard": True}, timeout_seconds=STOP_SECONDS, report=report)
        except SandboxError:
            signal_supervisor(self._record, signal.SIGKILL)
            if not self._wait_until_free(_KILLED_SECONDS):
                raise

    def _wait_until_free(self, timeout_seconds: float) -> bool:
        try:
            with locked_shared(self.directory / "lock", timeout_seconds=timeout_seconds):
                return True
        except KataDindError:
            return not self.directory.exists()

    def _require_served(self) -> None:
        if not self._record.is_owned():
            hint = f"kata-dind start {self.name}"
            if guest_outlives_owner(self._record):
                raise GuestNotReady(
                    f"the sandbox '{self.name}' is running, but no process serves it",
                    id="sandbox.not-served",
                    hint=hint,
                )
            raise GuestNotReady(f"the sandbox '{self.name}' is not running", id="sandbox.not-running", hint=hint)

    def _facts(self, *, with_saved_state: bool = False) -> Facts:
        owned = self._record.is_owned()
        return Facts(
            name=self.name,
            directory=str(self.directory),
            docker_host=self.docker_host,
            spec=self.spec,
            plan=find_plan(self.directory),
            status=self._record.read("status.json"),
            is_owned=owned,
            guest_runs=not owned and find_guest_without_owner(self._record),
            is_full=is_full(self.directory),
            created=self._created(),
            now=time.time(),
            disk_bytes=allocated_bytes(self.directory),
            saved_state=self.saved_state if with_saved_state else None,
        )

    def _created(self) -> float:
        try:
            return (self.directory / "spec.json").stat().st_mtime
        except OSError:
            return 0.0
