"""The fake backend, known to this process and to the supervisors that it starts as the `vm` one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata_dind import backend

_HERE = Path(__file__).parent


@pytest.fixture
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(_HERE / "site"), str(_HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setitem(backend._MODULES, "vm", "tests.contract.fake_backend")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
