"""Requests to a guest, and the stream on which it answers; how they travel is the backend's business. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

# Named tuples, since this module is imported before QEMU starts: see machine/shape.py.


class Where(StrEnum):
    """On which side of the container's wall a command runs."""

    CONTAINER = "container"
    """Beside dockerd."""
    GUEST = "guest"
    """In the guest OS."""


class Docker(NamedTuple):
    """A connection to dockerd's socket."""


class Container(NamedTuple):
    """The dind container: the guest starts it, or connects to it again when it runs already.

    Its output comes back: that of dockerd and, on standard error, that of the guest entrypoint.
    """

    check: bool = False
    """Whether the data root's file system must be checked first, since the last start did not end in order."""


class Terminal(NamedTuple):
    """The size of a command's terminal."""

    rows: int
    columns: int


class Exec(NamedTuple):
    """A command."""

    argv: tuple[str, ...]
    where: Where = Where.CONTAINER
    environment: tuple[tuple[str, str], ...] = ()
    cwd: str = ""
    """Empty for the image's own."""
    terminal: Terminal | None = None


class PublishedPorts(NamedTuple):
    """The ports that the guest's containers publish, and want to publish; see `wire.ports` for what is said then."""


Request = Docker | Container | Exec | PublishedPorts


class Output(NamedTuple):
    """Some bytes that the guest has sent."""

    data: bytes
    is_error: bool = False
    """Whether they are a command's standard error."""


class End(NamedTuple):
    """The guest sends no more, but may still receive."""


class Result(NamedTuple):
    """How a stream ended."""

    exit_code: int | None = None
    """None when the stream was not that of a command, or the exit code was lost."""
    error: str = ""
    """Why the guest could not serve the request; empty when it could."""


class StreamLost(Exception):
    """The guest is gone, or has begun anew and does not know the stream any more."""


class Stream(Protocol):
    """One request that is being served."""

    @property
    def result(self) -> Result | None:
        """How it ended; None while it is open."""

    async def receive(self) -> Output | End | None:
        """Return the next part, None when the stream has ended. Raises StreamLost."""

    async def send(self, data: bytes) -> None:
        """Send bytes, waiting until the guest takes them; drop them when the stream has ended. Raises StreamLost."""

    def end(self) -> None:
        """Say that no more bytes follow; receiving continues."""

    def resize(self, terminal: Terminal) -> None:
        """Give a command's terminal another size."""

    def signal(self, number: int) -> None:
        """Send a command a signal."""

    def close(self) -> None:
        """End both directions; harmless when the stream has ended."""


def exec_to_json(command: Exec) -> dict[str, Any]:
    """Return a command as JSON values."""
    terminal = command.terminal
    size = {"tty": True, "rows": terminal.rows, "columns": terminal.columns} if terminal else {}
    return {"kind": "exec", "argv": list(command.argv), "where": str(command.where),
            "environment": dict(command.environment), "cwd": command.cwd, **size}  # fmt: skip


def exec_from_json(values: Mapping[str, Any]) -> Exec:
    """Rebuild a command. Raises KeyError, TypeError or ValueError when the values don't make one."""
    terminal = Terminal(int(values.get("rows", 24)), int(values.get("columns", 80))) if values.get("tty") else None
    environment = tuple((str(key), str(value)) for key, value in (values.get("environment") or {}).items())
    return Exec(tuple(map(str, values["argv"])), Where(values.get("where", Where.CONTAINER)), environment,
                str(values.get("cwd") or ""), terminal)  # fmt: skip


def result_to_json(result: Result | None) -> dict[str, Any]:
    """Return how a stream ended as JSON values; empty where that is not known."""
    if result is None:
        return {}
    if result.error:
        return {"error": result.error}
    return {} if result.exit_code is None else {"exit_code": result.exit_code}


def result_from_json(values: Mapping[str, Any]) -> Result:
    """Rebuild how a stream ended."""
    code = values.get("exit_code")
    return Result(code if type(code) is int else None, str(values.get("error") or ""))
