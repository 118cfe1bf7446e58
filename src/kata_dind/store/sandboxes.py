"""A sandbox's directory: what was asked, planned and done. The lock in it says whether the sandbox is owned.

lock          the owner has it for as long as the sandbox runs; no other file tells whether there is an owner
spec.json     what the user asked for        plan.json   what the last start did, and why
status.json   phases, timings, error of the last start, and the last verdict that passed
docker.sock   the endpoint                   control.sock   exec and stop, for our own commands
lasting       there while a guest may run that outlives its owner
unclean       there while the guest runs: a start that finds it must check the data root; a volume has one of its own
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_dind.errors import HostError, SandboxError
from kata_dind.host.directories import make_private, state_directory
from kata_dind.host.json_files import read_json, write_json, write_passing_json
from kata_dind.host.locks import is_locked_exclusively
from kata_dind.store.shelf import ErrorIds, Shelf, delete, set_aside, used_alone

SOCKET_PATH_LIMIT = 107
"""How long a path in sockaddr_un may be, without its closing zero. Source: unix(7)."""

_SOCKET_NAME_LIMIT = 16
"""How long the name of a socket in the directory may be; the vm backend has `virtiofsd.sock`."""

_KEPT_FAILURES = 5
"""How many sandboxes whose start failed have their logs kept."""


@dataclass(frozen=True)
class Record:
    """The directory of one sandbox."""

    name: str
    directory: Path

    @property
    def endpoint(self) -> Path:
        """The Docker API's socket."""
        return self.directory / "docker.sock"

    @property
    def control(self) -> Path:
        """The socket for our own commands."""
        return self.directory / "control.sock"

    @property
    def owner_log(self) -> Path:
        """The log of the process that owns the sandbox."""
        return self.directory / "supervisor.log"

    def is_owned(self) -> bool:
        """Tell whether a process owns the sandbox."""
        return is_locked_exclusively(self.directory / "lock")

    def owned(self, *, timeout_seconds: float = 1.0) -> contextlib.AbstractContextManager[int]:
        """Own the sandbox for the length of the block. Raises SandboxError when another process owns it.

        Yields the lock's descriptor: a process that inherits it owns the sandbox as well, and still does after us. The
        default waits a moment, since `ls` takes the lock briefly when it looks at it.
        """
        busy = SandboxError(f"the sandbox '{self.name}' is running or starting already", id="sandbox.already-running")
        return used_alone(self.directory / "lock", timeout_seconds=timeout_seconds, busy=lambda: busy)

    def read(self, file: str) -> dict[str, Any]:
        """Return one of the JSON files; empty when it is absent or unreadable."""
        return read_json(self.directory / file)

    def write(self, file: str, value: dict[str, Any]) -> None:
        """Replace one of the JSON files in one step."""
        write_json(self.directory / file, value)

    def write_status(self, value: dict[str, Any]) -> None:
        """Replace status.json in one step."""
        write_passing_json(self.directory / "status.json", value)

    @property
    def ephemeral(self) -> Path:
        """A mark that is there while the sandbox may be swept: it is one of `run`, or was never ready."""
        return self.directory / "ephemeral"

    @property
    def lasting(self) -> Path:
        """A mark that is there while a guest that outlives its owner may run; whether it does, the backend tells."""
        return self.directory / "lasting"

    @property
    def unclean(self) -> Path:
        """A mark that is there while the guest runs; a start that finds it must check the data root."""
        return self.directory / "unclean"

    def sweep(self) -> None:
        """Remove the sockets that a killed owner has left."""
        sockets = [path for path in self.directory.glob("*.sock") if path.is_socket()]
        if sockets:
            with contextlib.suppress(SandboxError, HostError), self.owned(timeout_seconds=0):
                for path in sockets:
                    path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the directory and all in it."""
        delete(set_aside(self.directory))


def sandboxes_directory() -> Path:
    """Return where sandboxes live, made when absent."""
    return make_private(state_directory() / "sandboxes")


def keep_shares(record: Record, change: Callable[[list[Any]], list[Any]]) -> None:
    """Change the shares that a sandbox's later starts have; the caller must own the sandbox."""
    _keep(record, "shares", change(record.read("spec.json").get("shares") or []))


def keep_watch(record: Record, *, on: bool) -> None:
    """Change whether a sandbox's later starts tell its containers of changes; the caller must own the sandbox."""
    _keep(record, "watch", on)


def _keep(record: Record, field: str, value: Any) -> None:
    spec = record.read("spec.json")
    given = {*spec.get("given", ()), field}
    record.write("spec.json", {**spec, field: value, "given": sorted(given if value else given - {field})})


def _shelf() -> Shelf:
    free_hint = "kata-dind start {0}, or kata-dind rm {0}, or use another name"
    return Shelf(
        sandboxes_directory(),
        "sandbox",
        ids=ErrorIds(name_taken="sandbox.name-taken", unknown="sandbox.unknown", in_use="sandbox.in-use"),
        unmissed="ephemeral",
        kept_by="lasting",
        make_hint="kata-dind up {}",
        free_hint=free_hint,
    )


def record_of(name: str) -> Record:
    """Return the record that a name has or would have.

    Raises HostError when the state directory's path is too long for a socket in the sandbox's directory.
    """
    record = Record(name, sandboxes_directory() / name)
    limit = SOCKET_PATH_LIMIT - len("/") - _SOCKET_NAME_LIMIT
    if len(os.fsencode(record.directory)) > limit:
        raise HostError(
            f"the path {record.directory} is too long for a socket in it (at most {limit} bytes)",
            id="host.state-path-too-long",
            hint="set KATA_DIND_STATE_DIR to a shorter path",
        )
    return record


def require_free(name: str) -> None:
    """Raise SpecError when a sandbox has this name, and HostError as `record_of` does."""
    record_of(name)
    _shelf().require_free(name)


def create_record(name: str) -> Record:
    """Take a free name. Raises SpecError when it is used.

    The directory is empty at first, since a sandbox exists from the beginning of its first start: its owner fills it.
    """
    record, shelf = record_of(name), _shelf()
    with shelf.changing():
        shelf.require_free(name)
        record.directory.mkdir(mode=0o700)
    return record


@contextlib.contextmanager
def new_workshop() -> Iterator[Record]:
    """Make and own a record without a name, for a sandbox that users never see; it is removed after the block."""
    with _shelf().workshop() as directory:
        yield record_of(directory.name)


def list_records() -> list[Record]:
    """Return all sandboxes' records by name, and sweep the leftovers of killed owners and removals."""
    shelf = _shelf()
    shelf.sweep()
    records = [Record(path.name, path) for path in shelf.paths()]
    for record in records:
        with contextlib.suppress(FileNotFoundError):  # another process removes it this moment
            record.sweep()
    return [record for record in records if record.directory.exists()]


def require_record(name: str) -> Record:
    """Return the record of a sandbox that exists. Raises SpecError for an unknown one, naming those that exist."""
    return _shelf().require(name, {record.name: record for record in list_records()})


def keep_logs(record: Record) -> Path | None:
    """Keep the logs of a sandbox that is about to be removed, in place of those of an earlier one of its name.

    Returns the directory; None where there are no logs, or no space for them. The last few directories stay.
    """
    logs = [path for path in record.directory.glob("*.log") if path.stat().st_size]
    kept = make_private(state_directory() / "failed") / record.name
    try:
        if kept.exists():
            shutil.rmtree(kept)
        if not logs:
            return None
        kept.mkdir(mode=0o700)
        for log in logs:
            shutil.copyfile(log, kept / log.name)
    except OSError:
        return None  # the error that is on its way is worth more
    failed = sorted(kept.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in failed[_KEPT_FAILURES:]:
        shutil.rmtree(old, ignore_errors=True)
    return kept
