"""One invocation's settings for its commands, and the seam through which they reach sandboxes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from kata_dind.image.source import PackageSource
    from kata_dind.progress import Report
    from kata_dind.sandbox.api import Sandbox, SandboxSummary
    from kata_dind.spec import SandboxSpec


class Sandboxes(Protocol):
    """What commands need of the sandbox room; the module `kata_dind.sandbox.api` is one."""

    def up(self, spec: SandboxSpec, *, report: Report, source: PackageSource | None) -> Sandbox:
        """Start a sandbox that outlives us."""

    def start(self, name: str, *, report: Report, source: PackageSource | None) -> Sandbox:
        """Start a stopped sandbox again."""

    def open_sandbox(
        self, spec: SandboxSpec, *, report: Report, source: PackageSource | None
    ) -> AbstractContextManager[Sandbox]:
        """Own a sandbox for the length of a `with` block."""

    def list_sandboxes(self) -> list[SandboxSummary]:
        """Return a row for every sandbox of this user."""

    def require_sandbox(self, name: str) -> Sandbox:
        """Find a sandbox by its name."""


def _real_sandboxes() -> Sandboxes:
    from kata_dind.sandbox import api

    return api


@dataclass
class Session:
    """One invocation: how to print for the user, and which command was parsed."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    program: str = "kata-dind"
    """How the user called us: also `kubectl kata-dind`."""
    context: typer.Context | None = None
    """The parsed command, once there is one."""
    config_file: Path | None = None
    """The file that gave defaults, once it is read."""
    _sandboxes: Sandboxes | None = field(default=None, repr=False)

    @property
    def sandboxes(self) -> Sandboxes:
        """The sandbox room, imported on first use."""
        if self._sandboxes is None:
            self._sandboxes = _real_sandboxes()
        return self._sandboxes


def session_of(context: typer.Context) -> Session:
    """Return the invocation that a parsed command belongs to."""
    session = context.find_object(Session)
    assert session is not None
    return session
