"""What the agent does first."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata_dind.guest.agent import __main__ as agent
from kata_dind.guest.agent import spawn, system


class _LoadsModules(Exception):
    """The first other process would run now."""


def test_the_cgroup_is_there_before_another_process_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = tmp_path / "kata-dind"

    def load_modules() -> None:
        assert cgroup.is_dir()
        raise _LoadsModules

    monkeypatch.setattr(spawn, "CONTAINER_CGROUP", str(cgroup))
    monkeypatch.setattr(system, "load_modules", load_modules)
    with pytest.raises(_LoadsModules):
        agent.main()
