"""One start of one sandbox: what its record says, what its sockets serve, and how it ends, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kata_dind.backend.plan import StartKind
from kata_dind.errors import (
    AbnormalShutdown,
    BootFailed,
    DataRootError,
    DockerdFailed,
    GuestNotReady,
    KataDindError,
    NoSpace,
    OverlayRefused,
    SandboxError,
    VerdictFailed,
)
from kata_dind.life.owner import Owner
from kata_dind.progress import Event, Report, silent
from kata_dind.proof.docker_api import DockerApi
from kata_dind.store.sandboxes import Record
from kata_dind.wire.client import ExecResult, ask, capture, connect
from tests.contract.fake_backend import BACKEND, DATA_ROOT, fake_plan


@dataclass
class Start:
    """An owner of a record, and what it reported."""

    record: Record
    owner: Owner
    events: list[Event] = field(default_factory=list)

    @property
    def status(self) -> dict[str, Any]:
        return self.record.read("status.json")

    @property
    def story(self) -> list[str]:
        """What the guest went through."""
        return (self.record.directory / "guest.log").read_text().splitlines()

    async def wait_until_ready(self) -> None:
        while not any(event.name == "ready" for event in self.events):  # noqa: ASYNC110 - events come by a callback
            await asyncio.sleep(0.005)

    async def exec(self, *argv: str, where: str = "guest", stdin: bytes = b"") -> ExecResult:
        request = {"kind": "exec", "where": where, "argv": [*argv]}
        return await asyncio.to_thread(capture, self.record.control, request, stdin=stdin, timeout_seconds=10)


def start_of(tmp_path: Path, behaviour: str) -> Start:
    events: list[Event] = []
    record = Record("demo", tmp_path)
    owner = Owner(record, fake_plan(behaviour, tmp_path), BACKEND, report=events.append)
    return Start(record, owner, events)


@contextlib.asynccontextmanager
async def running(start: Start) -> AsyncIterator[asyncio.Task[None]]:
    """The owner's life beside the block, from ready on; the block's end waits for its own."""
    life = asyncio.ensure_future(start.owner.run())
    try:
        ready = asyncio.ensure_future(start.wait_until_ready())
        await asyncio.wait([life, ready], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if life.done():
            await life
        yield life
    finally:
        start.owner.request_stop()
        await asyncio.wait([life])


def run(work: Coroutine[Any, Any, None], *, timeout_seconds: float = 20) -> None:
    async def limited() -> None:
        async with asyncio.timeout(timeout_seconds):
            await work

    asyncio.run(limited())


def failure_of(start: Start) -> KataDindError:
    with pytest.raises(KataDindError) as caught:
        run(start.owner.run())
    return caught.value


def assert_nothing_is_left(start: Start) -> None:
    names = {path.name for path in start.record.directory.iterdir()}
    assert names <= {"status.json", "dockerd.log", "guest.log", "unclean"}


def assert_fails(start: Start, kind: type[KataDindError], summary: str) -> None:
    error = failure_of(start)
    assert type(error) is kind
    assert error.summary.startswith(summary)
    assert start.status["state"] == "crashed"
    assert start.status["error"]["error"] == kind.__name__
    assert start.status["error"]["summary"] == error.summary
    assert not any(event.name == "ready" for event in start.events)
    assert_nothing_is_left(start)


# --- a life


def test_a_life_from_start_to_stop(tmp_path: Path) -> None:
    start = start_of(tmp_path, "healthy")

    async def scenario() -> None:
        async with running(start):
            assert start.status["state"] == "running"
            assert start.status["pid"] == os.getpid()
            assert start.status["kernel"] == "9.9-fake"
            assert start.status["data_root"] == DATA_ROOT
            assert start.status["verdict"]["storage"] == "overlay2 on extfs"
            assert (tmp_path / "unclean").exists()

    run(scenario())
    assert start.status["state"] == "stopped"
    assert start.status["ended_at"] >= start.status["started_at"]
    assert "error" not in start.status
    assert start.story == [
        "booting",
        "booted",
        "container started, check False",
        "powering off",
        "powered off",
    ]
    assert_nothing_is_left(start)
    assert not (tmp_path / "unclean").exists()
    assert start.events[-1].name == "ready"
    assert [event.name for event in start.events if event.name in ("boot", "dockerd", "proof")] == [
        "boot",
        "dockerd",
        "proof",
    ]


@pytest.mark.parametrize(
    ("behaviour", "problem", "told"),
    [
        ("runs-short", "/host has 9 MiB left", [("warning", "/host has 9 MiB left")]),
        ("heals", None, [("warning", "/host has 9 MiB left"), ("notice", "/host has space again")]),
    ],
)
def test_a_problem_is_told_and_stands_in_the_status_until_it_is_over(
    tmp_path: Path, behaviour: str, problem: str | None, told: list[tuple[str, str]]
) -> None:
    start = start_of(tmp_path, behaviour)

    async def scenario() -> None:
        async with running(start):
            assert (start.status["state"], start.status["problem"]) == ("running", problem)

    run(scenario())
    assert [(event.name, event.message) for event in start.events if event.name in ("warning", "notice")] == told


def test_a_status_that_does_not_fit_on_the_disk_is_written_when_it_does(tmp_path: Path) -> None:
    in_the_way = tmp_path / "status.json"
    in_the_way.mkdir()
    start = start_of(tmp_path, "runs-short")

    async def scenario() -> None:
        async with running(start):
            assert start.status == {}
            in_the_way.rmdir()
            while not start.status:  # noqa: ASYNC110 - a file appears
                await asyncio.sleep(0.05)
            assert (start.status["state"], start.status["problem"]) == ("running", "/host has 9 MiB left")

    run(scenario())


def test_a_start_whose_guest_is_paused_ends_at_once(tmp_path: Path) -> None:
    start = start_of(tmp_path, "is-paused")
    failure = failure_of(start)
    assert isinstance(failure, NoSpace)
    assert failure.summary == "/host is full"
    assert (start.status["state"], start.status["error"]["error"]) == ("crashed", "NoSpace")
    assert_nothing_is_left(start)


def test_a_start_that_fails_while_space_is_short_fails_for_want_of_it(tmp_path: Path) -> None:
    failure = failure_of(start_of(tmp_path, "fails-for-want-of-space"))
    assert isinstance(failure, NoSpace)
    assert failure.summary == "/host has 9 MiB left"
    assert failure.details.startswith("dockerd ended before it answered (exit 1)")


def test_the_phases_add_up_to_the_whole_start(tmp_path: Path) -> None:
    start = start_of(tmp_path, "healthy")

    async def scenario() -> None:
        async with running(start):
            pass

    run(scenario())
    timings, phases = start.status["timings"], start.status["phases"]
    assert timings["boot_seconds"] <= timings["docker_seconds"] <= timings["ready_seconds"]
    assert sum(phase["seconds"] for phase in phases) == pytest.approx(timings["ready_seconds"], abs=0.01)
    assert timings["proof_seconds"] == phases[-1]["seconds"]
    assert all(phase["seconds"] >= 0 for phase in phases)


def test_the_endpoint_speaks_docker_to_its_owner_alone(tmp_path: Path) -> None:
    start = start_of(tmp_path, "healthy")

    async def scenario() -> None:
        async with running(start):
            assert start.record.endpoint.stat().st_mode & 0o777 == 0o600
            assert start.record.control.stat().st_mode & 0o777 == 0o600
            api = DockerApi(start.record.endpoint, timeout_seconds=5)
            assert (await asyncio.to_thread(api.version))["Version"] == "99.1"

    run(scenario())


def test_commands_run_over_the_control_socket(tmp_path: Path) -> None:
    start = start_of(tmp_path, "healthy")

    async def scenario() -> None:
        async with running(start):
            result = await start.exec("sh", "-c", "wc -c; echo err >&2; exit 3", stdin=bytes(1 << 20))
            assert result == ExecResult(3, b"1048576\n", b"err\n")
            with pytest.raises(SandboxError, match="could not be run: FileNotFoundError"):
                await start.exec("/no/such/program")

    run(scenario())


def test_fifty_commands_at_once(tmp_path: Path) -> None:
    start = start_of(tmp_path, "healthy")

    async def scenario() -> None:
        async with running(start):
            results = await asyncio.gather(*(start.exec("echo", str(number)) for number in range(50)))
            assert [int(result.stdout) for result in results] == [*range(50)]

    run(scenario())


def test_what_dockerd_says_is_in_its_log(tmp_path: Path) -> None:
    start = start_of(tmp_path, "warns")

    async def scenario() -> None:
        async with running(start):
            pass

    run(scenario())
    assert 'level=info msg="Starting up"' in (start.record.directory / "dockerd.log").read_text()
    assert start.status["warnings"] == ["writes are slow"]
    assert ("warning", "writes are slow") in [(event.name, event.message) for event in start.events]


def test_a_fallback_that_was_asked_for_is_proven_and_what_it_lacks_is_said(tmp_path: Path) -> None:
    start = start_of(tmp_path, "is-proven-with-vfs")

    async def scenario() -> None:
        async with running(start):
            pass

    run(scenario())
    assert (start.status["verdict"]["storage"], start.status["verdict"]["file_capabilities"]) == ("vfs", False)
    (warning,) = start.status["warnings"]
    assert warning.startswith("the data root keeps no file capabilities")
    assert ("warning", warning) in [(event.name, event.message) for event in start.events]


@pytest.mark.parametrize("behaviour", ["answers-late", "babbles"])
def test_what_is_merely_odd_becomes_ready(tmp_path: Path, behaviour: str) -> None:
    start = start_of(tmp_path, behaviour)

    async def scenario() -> None:
        async with running(start):
            assert start.status["state"] == "running"

    run(scenario())


# --- failed starts


@pytest.mark.parametrize(
    ("behaviour", "kind", "summary"),
    [
        ("refuses-overlay", OverlayRefused, "overlay does not work on fuse"),
        ("finds-no-data-root", DataRootError, "/dev/vdb is not blank"),
        ("gets-bad-input", DataRootError, "KATA_DIND_SIZE is 'x'"),
        ("crashes", DockerdFailed, "dockerd ended before it answered (exit 1)"),
        ("never-answers", GuestNotReady, "dockerd was not ready within 1.2 s"),
        ("is-silent", GuestNotReady, "dockerd was not ready within 1.2 s"),
        ("falls-silent", GuestNotReady, "dockerd was not ready within 1.2 s"),
        ("is-full", VerdictFailed, "the proof failed at load: "),
        ("falls-to-vfs", VerdictFailed, "dockerd fell back to the storage driver vfs, which copies every layer"),
        ("never-boots", BootFailed, "the guest did not answer"),
        ("dies-early", SandboxError, "the guest is gone"),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path, behaviour: str, kind: type[KataDindError], summary: str
) -> None:
    assert_fails(start_of(tmp_path, behaviour), kind, summary)


@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [
        ("refuses-overlay", "dataroot.overlay-refused"),
        ("finds-no-data-root", "dataroot.unusable"),
        ("gets-bad-input", "dataroot.bad-input"),
        ("crashes", "dockerd.ended-early"),
        ("never-answers", "dockerd.not-ready"),
        ("dies-early", "guest.gone"),
    ],
)
def test_a_start_that_fails_names_its_cause_for_programs(tmp_path: Path, behaviour: str, cause: str) -> None:
    start = start_of(tmp_path, behaviour)
    assert failure_of(start).id == start.status["error"]["id"] == cause


def test_a_data_root_that_has_filled_up_is_started_again_so_that_it_can_be_pruned(tmp_path: Path) -> None:
    statuses: list[dict[str, Any]] = []

    async def scenario(start: Start) -> None:
        async with running(start):
            statuses.append(start.status)

    run(scenario(start_of(tmp_path, "healthy")))
    assert isinstance(failure_of(start_of(tmp_path, "crashes")), DockerdFailed)  # by which nothing is forgotten
    run(scenario(start_of(tmp_path, "is-full")))
    proven, full = statuses
    assert (full["state"], full["verdict"]) == ("running", {**proven["verdict"], "seconds": 0.0})
    assert full["phases"][-1]["name"] == "proof"
    assert full["warnings"] == ["the data root is full, so it was not proven again: docker system prune"]


@pytest.mark.parametrize("behaviour", ["refuses-overlay", "crashes", "never-answers", "falls-to-vfs"])
def test_the_evidence_has_dockerds_last_words(tmp_path: Path, behaviour: str) -> None:
    assert "Starting up" in failure_of(start_of(tmp_path, behaviour)).details


def test_the_guest_entrypoints_hint_is_the_errors(tmp_path: Path) -> None:
    assert failure_of(start_of(tmp_path, "refuses-overlay")).hint == "set KATA_DIND_DATA_ROOT to block"


def test_a_failed_start_goes_down_in_order(tmp_path: Path) -> None:
    start = start_of(tmp_path, "falls-to-vfs")
    failure_of(start)
    assert start.story[-1] == "powered off"


# --- stopping


@pytest.mark.parametrize(("behaviour", "booted"), [("boots-slowly", False), ("stops-slowly-and-never-answers", True)])
def test_a_stop_breaks_off_a_start(tmp_path: Path, behaviour: str, booted: bool) -> None:
    start = start_of(tmp_path, behaviour)

    async def scenario() -> None:
        life = asyncio.ensure_future(start.owner.run())
        await asyncio.sleep(0.2)
        start.owner.request_stop()
        with pytest.raises(asyncio.CancelledError):
            await life

    run(scenario())
    assert start.status["state"] == "stopped"
    assert start.story[-1] == ("powered off" if booted else "cut off")
    assert_nothing_is_left(start)


def test_further_stops_do_not_break_off_the_order_of_the_first(tmp_path: Path) -> None:
    start = start_of(tmp_path, "stops-slowly-and-never-answers")

    async def scenario() -> None:
        life = asyncio.ensure_future(start.owner.run())
        await asyncio.sleep(0.2)
        for _ in range(3):
            start.owner.request_stop()
            await asyncio.sleep(0.05)
        with pytest.raises(asyncio.CancelledError):
            await life

    run(scenario())
    assert start.story[-1] == "powered off"


def test_a_stop_does_not_break_off_the_order_in_which_a_failed_start_goes_down(tmp_path: Path) -> None:
    start = start_of(tmp_path, "fails-and-stops-slowly")

    async def scenario() -> None:
        life = asyncio.ensure_future(start.owner.run())
        while not (tmp_path / "guest.log").exists() or "powering off" not in start.story:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.01)
        start.owner.request_stop()
        with pytest.raises(VerdictFailed):
            await life

    run(scenario())
    assert start.story[-1] == "powered off"


def test_a_stop_before_the_start_is_not_forgotten(tmp_path: Path) -> None:
    start = start_of(tmp_path, "healthy")
    start.owner.request_stop()
    with pytest.raises(asyncio.CancelledError):
        run(start.owner.run(), timeout_seconds=5)
    assert start.status["state"] == "stopped"


def test_a_client_may_ask_for_the_stop(tmp_path: Path) -> None:
    start = start_of(tmp_path, "healthy")

    def ask() -> None:
        with connect(start.record.control) as control:
            control.open({"kind": "stop"})

    async def scenario() -> None:
        async with running(start) as life:
            await asyncio.to_thread(ask)
            await life

    run(scenario())
    assert start.status["state"] == "stopped"


def test_a_discarded_guest_goes_down_without_writing_its_disks_out(tmp_path: Path) -> None:
    start = start_of(tmp_path, "healthy")

    def ask() -> None:
        with connect(start.record.control) as control:
            control.open({"kind": "stop", "discard": True})

    async def scenario() -> None:
        async with running(start) as life:
            await asyncio.to_thread(ask)
            await life

    run(scenario())
    assert start.story[-3:] == ["discarded", "powering off", "powered off"]


def test_a_client_may_break_off_a_start(tmp_path: Path) -> None:
    start = start_of(tmp_path, "stops-slowly-and-never-answers")

    def ask() -> None:
        with connect(start.record.control) as control:
            control.open({"kind": "stop"})

    async def scenario() -> None:
        life = asyncio.ensure_future(start.owner.run())
        await asyncio.sleep(0.2)
        await asyncio.to_thread(ask)
        with pytest.raises(asyncio.CancelledError):
            await life

    run(scenario())
    assert (start.status["state"], start.story[-1]) == ("stopped", "powered off")


def test_connections_that_are_open_at_the_stop_are_ended(tmp_path: Path) -> None:
    start = start_of(tmp_path, "healthy")

    async def scenario() -> None:
        async with running(start) as life:
            reader, writer = await asyncio.open_unix_connection(start.record.endpoint)
            command = asyncio.ensure_future(start.exec("sleep", "60"))
            await asyncio.sleep(0.1)
            start.owner.request_stop()
            await life
            assert await reader.read() == b""
            writer.close()
            with pytest.raises(GuestNotReady, match="the sandbox"):
                await command

    run(scenario())
    assert_nothing_is_left(start)


# --- stop --save


def suspension_of(start: Start) -> dict[str, Any]:
    """Ask for it as a client does; the answer."""
    return ask(start.record.control, {"kind": "stop", "save": True}, timeout_seconds=10, late="late")


async def suspended(start: Start) -> None:
    async with running(start) as life:
        assert await asyncio.to_thread(suspension_of, start) == {}
        await life


def resumed_start_of(tmp_path: Path, behaviour: str, report: Report = silent) -> Start:
    """A start of a guest that resumes where a healthy one was suspended."""
    run(suspended(start_of(tmp_path, "healthy")))
    events: list[Event] = []

    def heard(event: Event) -> None:
        events.append(event)
        report(event)

    plan = fake_plan(behaviour, tmp_path, start=StartKind.RESUME)
    record = Record("demo", tmp_path)
    return Start(record, Owner(record, plan, BACKEND, report=heard), events)


def test_clients_of_a_resumed_guest_are_let_in_before_dockerd_has_answered(tmp_path: Path) -> None:
    let_in: dict[str, bool] = {}

    def report(event: Event) -> None:
        let_in[event.name] = (tmp_path / "docker.sock").exists()

    start = resumed_start_of(tmp_path, "answers-late", report)

    async def scenario() -> None:
        async with running(start):
            assert start.status["data_root"] == DATA_ROOT

    run(scenario())
    assert (let_in["renewal"], let_in["dockerd"], let_in["ready"]) == (False, True, True)
    assert "boot" not in let_in


@pytest.mark.parametrize(
    ("behaviour", "kind", "summary"),
    [
        ("dies-early", SandboxError, "the guest is gone"),
        ("crashes", DockerdFailed, "dockerd ended before it answered (exit 1)"),
        ("never-answers", GuestNotReady, "dockerd was not ready within 1.2 s"),
    ],
)
def test_a_resumed_guest_whose_dockerd_does_not_answer_is_a_start_that_fails(
    tmp_path: Path, behaviour: str, kind: type[KataDindError], summary: str
) -> None:
    assert_fails(resumed_start_of(tmp_path, behaviour), kind, summary)


def test_a_client_may_ask_for_the_state_to_be_saved(tmp_path: Path) -> None:
    start = start_of(tmp_path, "healthy")
    run(suspended(start))
    assert (start.status["state"], start.status.get("error"), start.story[-1]) == ("stopped", None, "suspended")
    saved = tmp_path / "suspended.json"
    facts = json.loads(saved.read_text())
    saved.unlink()
    assert facts["verdict"] == start.status["verdict"]
    assert facts["data_root"]["proof"] == DATA_ROOT["proof"]
    assert (facts["kernel"], facts["warnings"]) == ("9.9-fake", [])
    assert start.record.unclean.exists()  # should the sandbox boot after all, its file systems were mounted
    assert_nothing_is_left(start)


@pytest.mark.parametrize(
    ("behaviour", "error", "summary"),
    [
        ("has-shares", "SpecError", "--save: the state of 'demo' can't be saved: it has shares"),
        ("finds-no-space-to-suspend", "NoSpace", "there is no space"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_stopped(
    tmp_path: Path, behaviour: str, error: str, summary: str
) -> None:
    start = start_of(tmp_path, behaviour)

    async def scenario() -> None:
        async with running(start):
            command = asyncio.ensure_future(start.exec("sh", "-c", "sleep 0.5; echo done"))
            await asyncio.sleep(0.1)
            answer = await asyncio.to_thread(suspension_of, start)
            assert (answer["error"], answer["summary"]) == (error, summary)
            assert start.status["state"] == "running"
            assert (await command).stdout == b"done\n"

    run(scenario())
    assert start.story[-1] == "powered off"


def test_an_ephemeral_sandbox_is_not_saved(tmp_path: Path) -> None:
    start = start_of(tmp_path, "healthy")
    start.record.ephemeral.touch()

    async def scenario() -> None:
        async with running(start):
            answer = await asyncio.to_thread(suspension_of, start)
            assert answer["summary"].endswith("can't be saved: it is removed when its owner ends")

    run(scenario())


def test_a_start_cannot_be_saved(tmp_path: Path) -> None:
    start = start_of(tmp_path, "never-answers")

    async def scenario() -> None:
        life = asyncio.ensure_future(start.owner.run())
        await asyncio.sleep(0.2)
        answer = await asyncio.to_thread(suspension_of, start)
        assert (answer["error"], answer["summary"]) == ("SandboxError", "the sandbox 'demo' is starting")
        start.owner.request_stop()
        with pytest.raises(asyncio.CancelledError):
            await life

    run(scenario())


@pytest.mark.parametrize(
    ("behaviour", "error"), [("runs-out-of-space-when-suspended", "NoSpace"), ("cannot-be-suspended", "SandboxError")]
)
def test_a_guest_that_could_not_be_suspended_runs_on(tmp_path: Path, behaviour: str, error: str) -> None:
    start = start_of(tmp_path, behaviour)

    async def scenario() -> None:
        async with running(start) as life:
            data_root = start.status["data_root"]
            for _ in range(2):
                assert (await asyncio.to_thread(suspension_of, start))["error"] == error
                assert (start.status["state"], start.status["data_root"]) == ("running", data_root)
                assert (await start.exec("echo", "heard")).stdout == b"heard\n"
                assert await asyncio.to_thread(
                    lambda: DockerApi(start.record.endpoint, timeout_seconds=10).info()["ServerVersion"]
                )
            assert start.story.count("container followed") == 2
            # What happens to the container is heard of again.
            with pytest.raises(GuestNotReady):
                await start.exec("kill-dockerd")
            with pytest.raises(DockerdFailed):
                await life

    run(scenario())
    assert start.status["state"] == "crashed"


def test_a_guest_that_can_neither_be_suspended_nor_run_on_is_stopped_and_that_is_said(tmp_path: Path) -> None:
    start = start_of(tmp_path, "is-lost-when-suspended")

    async def scenario() -> None:
        async with running(start) as life:
            answer = await asyncio.to_thread(suspension_of, start)
            assert (answer["error"], answer["summary"]) == ("AbnormalShutdown", "it was not suspended and can't run on")
            await life

    with pytest.raises(AbnormalShutdown):
        run(scenario())
    assert (start.status["state"], start.story[-1]) == ("stopped", "cut off")
    assert start.record.unclean.exists()


def test_clients_are_hung_up_on_and_turned_away_while_a_guest_is_saved(tmp_path: Path) -> None:
    start = start_of(tmp_path, "cannot-be-suspended")

    async def scenario() -> None:
        async with running(start):
            reader, writer = await asyncio.open_unix_connection(start.record.endpoint)
            command = asyncio.ensure_future(start.exec("sleep", "60"))
            await asyncio.sleep(0.1)
            suspension = asyncio.ensure_future(asyncio.to_thread(suspension_of, start))
            assert await reader.read() == b""
            writer.close()
            with pytest.raises(GuestNotReady, match="the sandbox ended before the command did"):
                await command
            assert start.status["state"] == "stopping"
            with pytest.raises(SandboxError, match="the sandbox is being saved"):
                await start.exec("true")
            reader, writer = await asyncio.open_unix_connection(start.record.endpoint)
            assert await reader.read() == b""
            writer.close()
            assert (await asyncio.to_thread(suspension_of, start))["summary"] == "the sandbox 'demo' is stopping"
            assert (await suspension)["error"] == "SandboxError"

    run(scenario())


def test_a_stop_lets_a_save_come_to_its_end(tmp_path: Path) -> None:
    start = start_of(tmp_path, "suspends-slowly")

    async def scenario() -> None:
        async with running(start) as life:
            suspension = asyncio.ensure_future(asyncio.to_thread(suspension_of, start))
            await asyncio.sleep(0.2)
            assert start.status["state"] == "stopping"
            start.owner.request_stop()
            await life
            assert await suspension == {}

    run(scenario())
    assert start.story[-1] == "suspended"


def test_a_guest_that_does_not_go_down_is_told_and_checked_at_the_next_start(tmp_path: Path) -> None:
    start = start_of(tmp_path, "does-not-go-down")

    async def scenario() -> None:
        async with running(start) as life:
            start.owner.request_stop()
            with pytest.raises(AbnormalShutdown):
                await life

    run(scenario())
    assert start.status["error"]["error"] == "AbnormalShutdown"
    assert start.story[-1] == "cut off"
    assert (tmp_path / "unclean").exists()

    again = start_of(tmp_path, "healthy")

    async def second() -> None:
        async with running(again):
            pass

    run(second())
    assert "container started, check True" in again.story
    assert not (tmp_path / "unclean").exists()


# --- sudden ends


def test_a_guest_that_dies_is_a_crash_with_evidence(tmp_path: Path) -> None:
    start = start_of(tmp_path, "healthy")

    async def scenario() -> None:
        async with running(start) as life:
            with pytest.raises(GuestNotReady, match="the sandbox"):
                await start.exec("die")
            with pytest.raises(SandboxError, match="the guest is gone"):
                await life

    run(scenario())
    assert start.status["state"] == "crashed"
    assert "died" in start.status["error"]["details"]
    assert (tmp_path / "unclean").exists()
    assert_nothing_is_left(start)


def test_a_dockerd_that_dies_is_a_crash_and_the_guest_goes_down_in_order(tmp_path: Path) -> None:
    start = start_of(tmp_path, "healthy")

    async def scenario() -> None:
        async with running(start) as life:
            killer = asyncio.ensure_future(start.exec("kill-dockerd"))
            with pytest.raises(DockerdFailed, match=r"dockerd ended \(exit 137\)"):
                await life
            with pytest.raises(GuestNotReady):
                await killer

    run(scenario())
    assert start.status["state"] == "crashed"
    assert start.story[-1] == "powered off"
