"""Programs that write down how they were called, in the place of those that would change this host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


class Stubs:
    """Stub programs, first on PATH; `calls` is what they were called with, in order."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = directory.with_name("calls")

    def add(self, name: str, script: str = "") -> None:
        """Add a program: it logs its arguments, and then runs a script."""
        path = self._directory / name
        path.write_text(f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >>{self._log}\n{script}\n')
        path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """A line for each call."""
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stubs:
    """No stub programs at first."""
    directory = tmp_path / "stubs"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return Stubs(directory)
