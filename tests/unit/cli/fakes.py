"""Sandboxes without machines: they remember what was asked of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kata_dind.errors import SpecError
from kata_dind.image.source import PackageSource
from kata_dind.progress import Event, Report, silent
from kata_dind.sandbox.api import Sandbox, SandboxSummary
from kata_dind.spec import SandboxSpec
from kata_dind.wire.client import ExecResult

INSPECTED = {
    "name": "demo",
    "state": "running",
    "accelerator": "tcg",
    "data_root": {"kind": "block", "filesystem": "ext4"},
    "docker": {"version": "20.10.24", "storage": "overlay2 on extfs"},
    "phases": [{"name": "boot", "seconds": 3.25}, {"name": "docker", "seconds": 6.0}],
    "timings": {"boot_seconds": 3.21, "docker_seconds": 6.04, "ready_seconds": 7.5, "proof_seconds": 1.2},
    "error": None,
}


@dataclass(frozen=True)
class Attached:
    """One call of `attach`."""

    argv: list[str]
    where: str
    tty: bool
    environment: dict[str, str]
    cwd: str


class FakeSandbox(Sandbox):
    """A sandbox that does nothing but answer."""

    def __init__(self, name: str, directory: Path) -> None:
        self._name = name
        self._directory = directory
        self.fake_state = "running"
        self.problem: str | None = None
        self.fake_ports: list[dict[str, Any]] = []
        self.exit_code = 0
        self.attached: list[Attached] = []
        self.ran: list[list[str]] = []
        self.run_result = ExecResult(0, b"", b"")
        self.stopped_within: list[float] = []
        self.saved: list[bool] = []
        self.removed: list[bool] = []

    @property
    def name(self) -> str:
        return self._name

    @property
    def directory(self) -> Path:
        return self._directory

    @property
    def state(self) -> str:
        return self.fake_state

    @property
    def ports(self) -> list[Mapping[str, Any]]:
        return list(self.fake_ports)

    def inspect(self) -> dict[str, Any]:
        return {**INSPECTED, "name": self._name}

    def environment(self) -> dict[str, str]:
        return {
            "DOCKER_HOST": f"unix:///run/it's here/{self._name}.sock",
            "TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE": "/var/run/docker.sock",
        }

    def log_path(self, source: str) -> Path:
        if source not in ("dockerd", "guest", "vmm"):
            raise SpecError(
                f"--source: this sandbox has no log {source!r}; its logs are dockerd, guest, vmm",
                id="sandbox.unknown-log",
            )
        return self._directory / f"{source}.log"

    def attach(
        self,
        argv: Sequence[str],
        *,
        where: str = "container",
        tty: bool,
        environment: dict[str, str] | None = None,
        cwd: str = "",
    ) -> int:
        self.attached.append(Attached(list(argv), where, tty, environment or {}, cwd))
        return self.exit_code

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
        self.ran.append(list(argv))
        return self.run_result

    def stop(self, *, save: bool = False, timeout_seconds: float = 45.0, report: Report = silent) -> None:
        self.stopped_within.append(timeout_seconds)
        self.saved.append(save)
        self.fake_state = "stopped"

    def remove(self, *, force: bool = False, report: Report = silent) -> None:
        self.removed.append(force)


@dataclass
class FakeSandboxes:
    """The sandbox room, with fakes in it."""

    directory: Path
    known: dict[str, FakeSandbox] = field(default_factory=dict)
    specs: list[SandboxSpec] = field(default_factory=list)
    sources: list[PackageSource | None] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    on_start: Callable[[], None] = lambda: None
    """What happens in the middle of a start."""

    def add(self, name: str) -> FakeSandbox:
        """Make a sandbox that exists already."""
        self.known[name] = FakeSandbox(name, self.directory)
        return self.known[name]

    def up(self, spec: SandboxSpec, *, report: Report, source: PackageSource | None) -> Sandbox:
        self.specs.append(spec)
        self.sources.append(source)
        report(Event("boot", "booting"))
        self.on_start()
        report(Event("ready", "ready", 7.5))
        return self.add(spec.name)

    def start(self, name: str, *, report: Report, source: PackageSource | None) -> Sandbox:
        self.started.append(name)
        return self.require_sandbox(name)

    @contextlib.contextmanager
    def open_sandbox(self, spec: SandboxSpec, *, report: Report, source: PackageSource | None) -> Iterator[Sandbox]:
        self.specs.append(spec)
        self.on_start()
        try:
            yield self.known.get("ephemeral") or self.add("ephemeral")
        finally:
            self.closed.append(spec.name)

    def list_sandboxes(self) -> list[SandboxSummary]:
        return [summary(name, problem=sandbox.problem) for name, sandbox in self.known.items()]

    def require_sandbox(self, name: str) -> Sandbox:
        if name not in self.known:
            raise SpecError(f"there is no sandbox '{name}'", id="sandbox.unknown")
        return self.known[name]


def summary(name: str, **fields: Any) -> SandboxSummary:
    """Return a row of `ls`."""
    usual = {
        "state": "running",
        "backend": "vm",
        "image": "kata-dind/bookworm",
        "data_root": "block",
        "volume": "",
        "docker_version": "20.10.24",
        "accelerator": "tcg",
        "created": 1700000000.0,
        "uptime_seconds": 125.0,
        "disk_bytes": 327155712,
    }
    return SandboxSummary(name=name, **{**usual, **fields})
