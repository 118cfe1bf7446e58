"""A guest that is started early: when it is adopted, and when it is cut off; and the supervisor on standby with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kata_dind.backend.plan import AnyPlan
from kata_dind.host.directories import state_directory
from kata_dind.life.early import EarlyStart, remember, start_early
from kata_dind.life.owner import Begin, Owner
from kata_dind.progress import Event
from kata_dind.sandbox.api import list_sandboxes, require_sandbox
from kata_dind.store.sandboxes import Record, sandboxes_directory
from tests.contract.fake_backend import BACKEND, fake_plan

pytestmark = pytest.mark.usefixtures("fake_backend")

WORDS = ["up", "demo", "--cpus", "2"]


@pytest.fixture(autouse=True)
def removed_at_the_end() -> Iterator[None]:
    yield
    for summary in list_sandboxes():
        require_sandbox(summary.name).remove(force=True)
    assert left() == []
    memory().unlink(missing_ok=True)


def memory() -> Path:
    return state_directory() / "last-start.json"


def left() -> list[str]:
    return sorted(path.name for path in sandboxes_directory().iterdir())


def plan_of(image: str, directory: Path = Path("/nowhere")) -> AnyPlan:
    return fake_plan(image, directory)


def remembered(words: Sequence[str] = WORDS, image: str = "is-restored") -> None:
    remember(words, plan_of(image))


def run(work: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await work

    asyncio.run(limited())


@contextlib.asynccontextmanager
async def early_start(words: Sequence[str]) -> AsyncIterator[EarlyStart | None]:
    early = start_early(words)
    if early:
        early.meet()
    try:
        yield early
    finally:
        if early:
            await early.end()
        assert left() == []


async def is_under_way() -> None:
    while not left():  # noqa: ASYNC110 - a directory appears
        await asyncio.sleep(0.005)


async def is_practised() -> None:
    await is_under_way()
    (directory,) = sandboxes_directory().iterdir()
    log = directory / "guest.log"
    while not log.exists() or "container" not in log.read_text():  # noqa: ASYNC110 - a line appears
        await asyncio.sleep(0.005)


async def life_of(tmp_path: Path, begin: Begin | None) -> list[str]:
    """Own a sandbox from its start to a stop as soon as it is ready; return what its guest went through."""
    record = Record("demo", tmp_path)
    plan = plan_of("is-restored", tmp_path)

    def report(event: Event) -> None:
        if event.name == "ready":
            owner.request_stop()

    owner = Owner(record, plan, BACKEND, begin=begin, report=report)
    await owner.run()
    assert record.read("status.json")["verdict"]["storage"]
    return (tmp_path / "guest.log").read_text().splitlines()


@pytest.mark.parametrize(
    "words", [WORDS, ["up", "other", "--cpus", "2"], ["up", "--cpus", "2"]], ids=["same", "other name", "no name"]
)
@pytest.mark.parametrize("late", [True, False], ids=["late", "at once"])
def test_the_same_command_adopts_the_guest(tmp_path: Path, words: list[str], late: bool) -> None:
    remembered()

    async def scenario() -> None:
        async with early_start(words) as early:
            if late:
                await is_practised()
            assert early is not None
            story = await life_of(tmp_path, await early.take(plan_of("is-restored")))
        practice = ["container started, check False", "container followed"]
        containers = practice if late else practice[:1]
        assert story == ["booting", "booted", *containers, "powering off", "powered off"]

    run(scenario())


@pytest.mark.parametrize(
    "words",
    [
        ["up", "demo"],
        ["up", "demo", "--cpus", "4"],
        ["start", "demo", "--cpus", "2"],
        ["up", "demo", "--cpus", "2", "x"],
        [],
    ],
)
def test_another_command_starts_nothing(tmp_path: Path, words: list[str]) -> None:
    remembered()

    async def scenario() -> None:
        async with early_start(words) as early:
            await asyncio.sleep(0.05)
            assert left() == []
            assert early is None

    run(scenario())


@pytest.mark.parametrize("image", ["healthy", "is-restored-slowly"])
def test_a_guest_that_is_not_adopted_is_cut_off(image: str) -> None:
    remembered()

    async def scenario() -> None:
        async with early_start(WORDS) as early:
            await is_under_way()
            assert early is not None
            assert await early.take(plan_of(image)) is None
            assert left() == []

    run(scenario())


def test_a_command_that_ends_without_a_sandbox_cuts_it_off() -> None:
    remembered(image="is-restored-slowly")

    async def scenario() -> None:
        async with early_start(WORDS):
            await is_under_way()

    run(scenario())


def test_a_guest_that_fails_early_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    remembered(image="is-restored-in-vain")

    async def scenario() -> None:
        async with early_start(WORDS) as early:
            await is_under_way()
            assert early is not None
            assert await early.take(plan_of("is-restored-in-vain")) is None

    run(scenario())
    assert "the early start has failed" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"words": ["up"]}', b'{"words": ["up"], "plan": 3}'])
def test_a_memory_that_is_damaged_starts_nothing(content: bytes) -> None:
    memory().write_bytes(content)

    async def scenario() -> None:
        async with early_start(["up"]) as early:
            assert early is None

    run(scenario())


def test_what_is_remembered_is_written_when_it_has_changed() -> None:
    remembered(image="healthy")  # which boots
    remembered(words=[])
    assert not memory().exists()
    remembered()
    first = memory().stat().st_ino
    remembered(words=["up", "--cpus", "2"])  # for a name that was made up
    assert memory().stat().st_ino == first
    remembered(words=["up", "--cpus", "4"])
    assert json.loads(memory().read_text())["words"] == ["up", "--cpus", "4"]


# --- the supervisor that waits


def supervisors() -> set[int]:
    """Those that have our state directory; others may test beside us."""
    ours, found = f"KATA_DIND_STATE_DIR={state_directory()}".encode(), set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words, variables = ((process / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
            if b"kata_dind.life.supervisor" in words and ours in variables:
                found.add(int(process.name))
    return found


def kata_dind(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "kata_dind.entry", *words]
    return subprocess.run(argv, text=True, capture_output=True, timeout=30, check=False)


def test_the_command_line_adopts_a_guest_that_was_started_meanwhile() -> None:
    for name, adopted in (("one", False), ("two", True), ("three", True)):
        before = supervisors()
        done = kata_dind("up", name, "--image", "is-restored")
        assert done.returncode == 0, done.stderr
        log = (require_sandbox(name).directory / "supervisor.log").read_text()
        assert ("the guest that was started early is adopted" in log) == adopted
        (supervisor,) = supervisors() - before
        # What was typed may be nobody else's business.
        assert b"is-restored" not in Path(f"/proc/{supervisor}/cmdline").read_bytes()


@pytest.mark.parametrize(
    "words", [["up", "--help"], ["up", "--no-such-option"], ["up", "Bad_Name"], ["up", "one", "--image", "none"]]
)
def test_a_command_that_starts_nothing_leaves_no_supervisor(words: list[str]) -> None:
    before = supervisors()
    kata_dind("up", "one", "--image", "is-restored-slowly", "--timeout", "x")
    kata_dind(*words)
    assert supervisors() - before == set()


def test_a_command_line_may_be_long() -> None:
    labels = [f"--dockerd-arg=--label={'x' * 100}={number}" for number in range(1000)]
    for _ in range(2):
        done = kata_dind("up", "one", "--image", "is-restored", *labels)
        assert done.returncode == 0, done.stderr
        log = (require_sandbox("one").directory / "supervisor.log").read_text()
        require_sandbox("one").remove(force=True)
    assert "the guest that was started early is adopted" in log
