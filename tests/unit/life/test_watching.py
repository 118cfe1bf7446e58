"""Shares that are watched, for a guest whose files are the host's own: what it touches is seen again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from kata_dind.backend import Guest
from kata_dind.errors import SandboxError
from kata_dind.guest.agent import touching
from kata_dind.host.descriptors import list_descriptors
from kata_dind.life import watching
from kata_dind.life.status import Status
from kata_dind.life.watching import SharesWatch, Watcher
from kata_dind.progress import silent
from kata_dind.store.sandboxes import Record, create_record

QUIET_SECONDS = 0.4
"""Longer than an echo takes; what does not come within it does not come."""


class TouchedGuest:
    """Touches files of this host, as far as the host sees that: a write of no bytes is the guest's own affair."""

    def __init__(self, places: dict[str, Path]) -> None:
        self.places = places
        self.batches: asyncio.Queue[Sequence[str]] = asyncio.Queue()
        self.error = ""

    async def touch(self, guest_paths: Sequence[str]) -> None:
        if self.error:
            raise SandboxError(self.error, id="share.not-touched")
        for place, host in self.places.items():
            found = [f"{host}{path.removeprefix(place)}" for path in guest_paths if path.startswith(place)]
            for start in range(0, len(found), 32):
                touching.touch([os.fsencode(path) for path in found[start : start + 32]], None)
        self.batches.put_nowait(guest_paths)

    async def told(self) -> list[str]:
        """What the guest was told since the last time, until it is told nothing more."""
        told: list[str] = []
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(QUIET_SECONDS if told else 5):
                    told += await self.batches.get()
        return told


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    monkeypatch.setenv("KATA_DIND_STATE_DIR", str(tmp_path / "s"))
    return create_record("demo")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    (shared := tmp_path / "shared").mkdir()
    (shared / "file").write_text("first")
    return shared


class Followed:
    def __init__(self, record: Record, guest: TouchedGuest) -> None:
        self.record = record
        self.guest = guest
        self.status = Status(record, report=silent)
        self.watch = SharesWatch(record, self.status)

    def share(self, *shares: tuple[Path, str, bool], watch: bool = True) -> None:
        fields = [{"host_path": str(host), "guest_path": guest, "read_only": ro} for host, guest, ro in shares]
        self.record.write("spec.json", {"watch": watch, "shares": fields})
        self.guest.places = {guest: host for host, guest, _ in shares}
        self.watch.update()


@contextlib.asynccontextmanager
async def followed(record: Record, *shares: tuple[Path, str, bool]) -> AsyncIterator[Followed]:
    kept = Followed(record, TouchedGuest({}))
    kept.share(*shares)
    kept.watch.follow(cast(Guest, kept.guest))
    try:
        async with asyncio.timeout(30):
            await kept.watch.wait_until_watched()
            yield kept
    finally:
        await kept.watch.unfollow()


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(500):
        if is_so():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it has not come to that")


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    before, threads = list_descriptors(os.getpid()), threading.active_count()
    asyncio.run(scenario())
    assert threading.active_count() == threads
    assert list_descriptors(os.getpid()) == before


def test_each_change_is_told_once_though_its_touch_is_seen(record: Record, shared: Path) -> None:
    async def scenario() -> None:
        async with followed(record, (shared, "/app", False)) as kept:
            for text in ("second", "third"):
                (shared / "file").write_text(text)
                assert await kept.guest.told() == ["/app/file"]
            (shared / "program").write_text("#!/bin/sh\n")
            (shared / "program").chmod(0o755)
            assert {*await kept.guest.told()} == {"/app/program", "/app"}
            (shared / "program").chmod(0o700)
            assert await kept.guest.told() == ["/app/program"]
            (shared / "new").mkdir()
            (shared / "new" / "file").write_text("x")
            assert {*await kept.guest.told()} == {"/app/new/file", "/app/new", "/app"}
            (shared / "file").touch()
            assert await kept.guest.told() == ["/app/file"]
            (shared / "file").unlink()
            assert await kept.guest.told() == ["/app/file", "/app"]
            assert kept.status.warnings == []

    run(scenario)


@pytest.mark.thorough
def test_ten_thousand_changes_at_once_are_told_and_nothing_is_kept_of_them(
    record: Record, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_ECHO_SECONDS", 0.2)

    async def scenario() -> None:
        async with followed(record, (shared, "/app", False)) as kept:
            for number in range(100):
                (shared / f"{number}").mkdir()
                for name in range(100):
                    (shared / f"{number}" / f"{name}").write_text("x")
            told = {*await kept.guest.told()}
            assert {f"/app/{number}/{name}" for number in range(100) for name in range(100)} <= told
            await until(lambda: not cast(Watcher, kept.watch._watcher)._told)
            assert not kept.watch._pending

    run(scenario)


def test_beyond_a_limit_only_directories_are_told(
    record: Record, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MOST_PENDING", 3)

    async def scenario() -> None:
        async with followed(record, (shared, "/app", False)) as kept:
            (shared / "deep").mkdir()
            await kept.guest.told()
            for number in range(20):
                (shared / "deep" / f"{number}").write_text("x")
            kept.watch._changed("/app", [f"deep/{number}" for number in range(20)])
            assert len(kept.watch._pending) <= 4
            assert "/app/deep" in await kept.guest.told()

    run(scenario)


def test_shares_come_and_go(record: Record, shared: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        (other := tmp_path / "other").mkdir()
        async with followed(record) as kept:
            kept.share((shared, "/app", False), (other, "/other", False))
            await kept.watch.wait_until_watched()
            (other / "file").write_text("x")
            assert await kept.guest.told() == ["/other/file", "/other"]
            kept.share((shared, "/app", False))
            await kept.watch.wait_until_watched()
            (other / "file").write_text("y")
            (shared / "file").write_text("y")
            assert await kept.guest.told() == ["/app/file"]

    run(scenario)


def test_a_share_of_one_file(record: Record, shared: Path) -> None:
    async def scenario() -> None:
        async with followed(record, (shared / "file", "/etc/app.conf", False)) as kept:
            (shared / "file").write_text("second")
            assert await kept.guest.told() == ["/etc/app.conf"]

    run(scenario)


def test_what_can_not_be_watched_is_said_once(record: Record, shared: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        gone = tmp_path / "gone"
        async with followed(record, (gone, "/gone", False), (shared, "/app", True)) as kept:
            kept.watch.update()
            await kept.watch.wait_until_watched()
            assert {*kept.status.warnings} == {
                f"--watch: containers are not told of changes in '{shared}', since its share is read-only; share it "
                "without :ro, and mount it read-only in containers: docker run -v /app:/PLACE:ro",
                f"--watch: changes in '{gone}' are not seen: No such file or directory",
            }
            assert record.read("status.json")["warnings"] == kept.status.warnings
            kept.share((gone, "/gone", False))
            await kept.watch.wait_until_watched()
            assert kept.status.warnings == [f"--watch: changes in '{gone}' are not seen: No such file or directory"]
            kept.status.warnings.append("of another thing")
        assert kept.status.warnings == record.read("status.json")["warnings"] == ["of another thing"]

    run(scenario)


def test_a_guest_that_can_not_touch_is_left_alone(record: Record, shared: Path) -> None:
    async def scenario() -> None:
        async with followed(record, (shared, "/app", False)) as kept:
            kept.guest.error = "the guest can't report changes: unknown request"
            (shared / "file").write_text("second")
            await until(lambda: bool(kept.status.warnings))
            assert kept.status.warnings == [
                "--watch: changes are not passed on any more: the guest can't report changes: unknown request"
            ]

    run(scenario)


def test_without_watch_there_is_no_thread(record: Record, shared: Path) -> None:
    async def scenario() -> None:
        kept = Followed(record, TouchedGuest({}))
        kept.share((shared, "/app", False), watch=False)
        threads = threading.active_count()
        kept.watch.follow(cast(Guest, kept.guest))
        await kept.watch.wait_until_watched()
        assert threading.active_count() == threads
        await kept.watch.unfollow()

    run(scenario)
