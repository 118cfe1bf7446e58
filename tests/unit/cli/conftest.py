"""The command line, run in this process on fake sandboxes, with a state and a configuration of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kata_dind.__main__ import execute
from kata_dind.cli.session import Session
from tests.unit.cli.fakes import FakeSandboxes


@dataclass(frozen=True)
class Outcome:
    """What a command line came to."""

    exit_code: int
    stdout: str
    stderr: str


CommandLine = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's own variables, configuration, state and cache out of the tests."""
    for name in [name for name in os.environ if name.startswith(("KATA_DIND_", "_KATA_DIND_", "XDG_"))]:
        monkeypatch.delenv(name)
    for name in ("state", "cache", "config"):
        monkeypatch.setenv(f"XDG_{name.upper()}_HOME", str(tmp_path / name))
    return tmp_path


@pytest.fixture
def sandboxes(tmp_path: Path) -> FakeSandboxes:
    """Fake sandboxes, none at first."""
    return FakeSandboxes(tmp_path)


@pytest.fixture
def cli(sandboxes: FakeSandboxes, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Run a command line: `cli("up", "--size", "1G")`."""

    def run(*argv: str) -> Outcome:
        exit_code = execute(argv, session=Session(_sandboxes=sandboxes))
        captured = capsys.readouterr()
        return Outcome(exit_code, captured.out, captured.err)

    return run
