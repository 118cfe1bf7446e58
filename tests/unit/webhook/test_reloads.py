"""Files that are swapped while they are read."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kata_dind.errors import HostError
from kata_dind.webhook.logs import log_to, logger
from kata_dind.webhook.metrics import Metrics
from kata_dind.webhook.reloads import Followed
from tests.webhook.pairs import Mounted

_hooks: list[Callable[[str], None]] = []


def _audit(what: str, arguments: tuple[Any, ...]) -> None:
    if what == "open" and _hooks and isinstance(arguments[0], str | os.PathLike):
        _hooks[-1](os.fspath(arguments[0]))


sys.addaudithook(_audit)  # it stays for the life of the process, and does nothing when there is nobody to tell


@contextlib.contextmanager
def before_opening(path: Path, act: Callable[[], None]) -> Iterator[None]:
    """Act each time that a file is about to be opened."""

    def hook(opened: str) -> None:
        if opened == str(path):
            act()

    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)


def pair(number: int) -> dict[str, bytes]:
    return {"tls.crt": b"certificate %d" % number, "tls.key": b"key %d" % number}


def fitting(certificate: bytes, key: bytes) -> bytes:
    if certificate.split()[-1] != key.split()[-1]:
        raise HostError("the key belongs to another certificate", id="webhook.certificate-unfit")
    return certificate


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    log_to(stream)
    yield stream
    logger.handlers.clear()


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    return Mounted(tmp_path / "mounted", pair(0))


def followed(mounted: Mounted) -> Followed[bytes]:
    files = [str(mounted.directory / name) for name in ("tls.crt", "tls.key")]
    return Followed("certificate", files, fitting, Metrics().certificate)


def events(log: io.StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in log.getvalue().splitlines()]


def swaps(mounted: Mounted, numbers: Iterator[int]) -> Callable[[], None]:
    def swap() -> None:
        for number in itertools.islice(numbers, 1):
            mounted.swap(pair(number))

    return swap


def test_a_pair_that_is_swapped_between_its_two_files_is_read_again(mounted: Mounted, log: io.StringIO) -> None:
    certificate = followed(mounted)
    with before_opening(mounted.directory / "tls.key", swaps(mounted, iter([1]))):
        asyncio.run(certificate.look())
    assert (certificate.current, certificate.error) == (b"certificate 1", "")
    assert events(log) == ["certificate-reloaded"]


def test_it_is_no_mistake_at_the_start_either(mounted: Mounted) -> None:
    with before_opening(mounted.directory / "tls.key", swaps(mounted, iter([1]))):
        assert followed(mounted).current == b"certificate 1"


def test_a_pair_that_never_rests_keeps_the_old_one_and_is_looked_at_again(mounted: Mounted, log: io.StringIO) -> None:
    certificate = followed(mounted)
    with before_opening(mounted.directory / "tls.key", swaps(mounted, itertools.count(1))):
        asyncio.run(certificate.look())
    assert (certificate.current, certificate.error) == (b"certificate 0", "the key belongs to another certificate")
    asyncio.run(certificate.look())
    assert certificate.error == ""
    assert certificate.current != b"certificate 0"
    assert events(log) == ["certificate-kept", "certificate-reloaded"]
