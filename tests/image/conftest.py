"""An ordinary user to build as, for the session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import users


@pytest.fixture(scope="session")
def ordinary_user(private_directories: Path) -> Iterator[users.OrdinaryUser]:
    with users.ordinary_user(private_directories) as user:
        yield user
