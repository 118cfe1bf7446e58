"""The fake backends, known to this process and to the supervisors that it starts as the `vm` one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kata_dind import backend

_HERE = Path(__file__).parent
_MODULE = "KATA_DIND_TEST_BACKEND"

UseFake = Callable[[str], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to `make test-all` what takes emulated machines two minutes, but for a whole life of one."""
    for item in items:
        if (
            item.path == _HERE / "test_every_backend.py"
            and item.name.endswith("[vm]")
            and item.name != "test_a_life[vm]"
        ):
            item.add_marker(pytest.mark.thorough)


@pytest.fixture
def use_fake(monkeypatch: pytest.MonkeyPatch) -> UseFake:
    """Put a module of this directory in the place of the `vm` backend: `use_fake("fake_lasting")`."""

    def use(module: str) -> None:
        paths = [str(_HERE / "site"), str(_HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setitem(backend._MODULES, "vm", f"tests.contract.{module}")
        monkeypatch.setenv(_MODULE, f"tests.contract.{module}")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    return use


@pytest.fixture
def fake_backend(use_fake: UseFake) -> None:
    """The fake that can keep a guest's memory."""
    use_fake("fake_backend")
