"""A webhook that answers the tests which do it no harm; the others start their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.webhook.pairs import Pair, make_pair
from tests.webhook.process import Webhook, start_webhook


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """Some certificates."""
    directory = tmp_path_factory.mktemp("pairs")
    return [make_pair(directory) for _ in range(3)]


@pytest.fixture(scope="session")
def webhook(pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhook]:
    """A webhook with the default policy."""
    with start_webhook(tmp_path_factory.mktemp("webhook"), pairs[0]) as started:
        yield started


@pytest.fixture
def impatient(pairs: list[Pair], tmp_path: Path) -> Iterator[Webhook]:
    """A webhook that waits a moment where others wait for seconds."""
    limits = {"head_seconds": 0.4, "body_seconds": 0.8, "idle_seconds": 1.2, "linger_seconds": 0.2, "connections": 64}
    with start_webhook(tmp_path, pairs[0], limits=limits, drain_seconds=0.2) as started:
        yield started
