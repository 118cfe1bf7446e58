"""What `kata_dind.backend` asks of a backend, tried on each through sandboxes as users have them.

A backend joins with a `Subject` among the fixture's parameters. One that needs a service of the session's own has a
module that imports these tests and has fixtures of the same names: tests/containerd/test_contract.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from kata_dind.errors import BackendError, DockerdFailed, GuestNotReady, SandboxError, SpecError
from kata_dind.host.json_files import read_json
from kata_dind.progress import Event
from kata_dind.proof.docker_api import DockerApi
from kata_dind.sandbox.api import Sandbox, list_sandboxes, open_sandbox, require_sandbox, start, up
from kata_dind.sandbox.volumes import list_volumes
from kata_dind.spec import SandboxSpec, parse_spec
from kata_dind.store.sandboxes import sandboxes_directory
from tests.contract.conftest import UseFake
from tests.contract.fake_lasting import unreachable


class Subject(Protocol):
    """A backend under test."""

    @property
    def outlives_owner(self) -> bool:
        """Whether its guests run on when their owner ends."""

    @property
    def can_suspend(self) -> bool:
        """Whether it can keep a guest's memory."""

    def spec(self) -> SandboxSpec:
        """What to start: the backend's defaults, by the name of `demo`."""

    def kill_guest(self, sandbox: Sandbox) -> None:
        """End a sandbox's guest by surprise."""


@dataclass(frozen=True)
class FakeSubject:
    """A fake backend, by its module."""

    module: str
    outlives_owner: bool = False
    can_suspend: bool = False

    def spec(self) -> SandboxSpec:
        return parse_spec(name="demo", image="healthy")

    def kill_guest(self, sandbox: Sandbox) -> None:
        with pytest.raises(GuestNotReady):
            sandbox.run(["die"], where="guest")


class VmSubject:
    """The real vm backend."""

    outlives_owner = False
    can_suspend = True

    def spec(self) -> SandboxSpec:
        return parse_spec(name="demo")

    def kill_guest(self, sandbox: Sandbox) -> None:
        with contextlib.suppress(GuestNotReady):  # Linux powers the machine off at once
            sandbox.run(["sh", "-c", "echo o >/proc/sysrq-trigger"], where="guest", timeout_seconds=30)


@pytest.fixture(
    params=[
        pytest.param(FakeSubject("fake_backend", can_suspend=True), id="snapshotting"),
        pytest.param(FakeSubject("fake_plain"), id="plain"),
        pytest.param(FakeSubject("fake_lasting", outlives_owner=True), id="lasting"),
        pytest.param(VmSubject(), id="vm", marks=[pytest.mark.vm, pytest.mark.requires("qemu", "mmdebstrap")]),
    ]
)
def subject(request: pytest.FixtureRequest, use_fake: UseFake) -> Iterator[Subject]:
    if isinstance(request.param, FakeSubject):
        use_fake(request.param.module)
    yield request.param
    remove_all()


@pytest.fixture
def lasting(use_fake: UseFake) -> Iterator[Subject]:
    """The backend whose guests outlive their owner."""
    use_fake("fake_lasting")
    yield FakeSubject("fake_lasting", outlives_owner=True)
    remove_all()


def remove_all() -> None:
    for summary in list_sandboxes():
        require_sandbox(summary.name).remove(force=True)
    assert [*sandboxes_directory().iterdir()] == []


def supervisor_of(sandbox: Sandbox) -> int:
    return int(json.loads((sandbox.directory / "status.json").read_text())["pid"])


def wait_until(condition: Callable[[], bool], *, timeout_seconds: float = 30) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.02)


@contextlib.contextmanager
def killing_the_supervisor() -> Iterator[None]:
    """Kill the supervisor of `demo` as soon as its guest has begun, beside the block."""

    def kill() -> None:
        status = sandboxes_directory() / "demo" / "status.json"
        while not over.is_set():
            with contextlib.suppress(OSError, ValueError, KeyError, ProcessLookupError):
                os.kill(int(json.loads(status.read_text())["pid"]), signal.SIGKILL)
                return
            time.sleep(0.001)

    over = threading.Event()
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def sockets_of(sandbox: Sandbox) -> list[Path]:
    return [path for path in sandbox.directory.iterdir() if path.is_socket()]


def test_a_life(subject: Subject) -> None:
    sandbox = up(subject.spec())
    assert sandbox.state == "running"
    assert sandbox.endpoint.stat().st_mode & 0o777 == 0o600
    assert DockerApi(sandbox.endpoint, timeout_seconds=30).version()["ApiVersion"]
    result = sandbox.run(["sh", "-c", "cat; echo err >&2; exit 3"], input=b"in", timeout_seconds=60)
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"in", b"err\n")
    assert sandbox.inspect()["docker"]["storage"]
    assert sandbox.inspect()["data_root"]["filesystem"]
    with pytest.raises(SpecError, match="already"):
        up(subject.spec())

    sandbox.stop()
    assert (sandbox.state, sandbox.inspect()["error"]) == ("stopped", None)
    assert sockets_of(sandbox) == []
    with pytest.raises(GuestNotReady, match="is not running"):
        sandbox.run(["true"])

    assert start("demo").state == "running"
    with pytest.raises(SpecError, match="is running"):
        sandbox.remove()
    sandbox.remove(force=True)
    assert list_sandboxes() == []


def test_a_guest_that_dies_is_a_crash_with_evidence_that_starts_again(subject: Subject) -> None:
    sandbox = up(subject.spec())
    subject.kill_guest(sandbox)
    wait_until(lambda: sandbox.state == "crashed")
    error = sandbox.inspect()["error"]
    assert error["summary"].startswith("the guest is gone")
    assert error["details"]
    assert sockets_of(sandbox) == []
    assert start("demo").state == "running"


def test_an_owner_that_dies_takes_its_guest_along_or_leaves_it_running(subject: Subject) -> None:
    sandbox = up(subject.spec())
    os.kill(supervisor_of(sandbox), signal.SIGKILL)
    if subject.outlives_owner:
        wait_until(lambda: sandbox.summary().problem == "no process serves its endpoint; run kata-dind start demo")
        assert sandbox.state == "running"
        with pytest.raises(GuestNotReady, match="is running, but no process serves it"):
            sandbox.run(["true"])
    else:
        wait_until(lambda: sandbox.state == "crashed")
    assert start("demo").state == "running"
    assert sandbox.run(["echo", "back"], timeout_seconds=60).stdout == b"back\n"


def test_a_signal_to_the_owner_ends_the_guest_in_order_or_leaves_it_running(subject: Subject) -> None:
    sandbox = up(subject.spec())
    os.kill(supervisor_of(sandbox), signal.SIGTERM)
    wait_until(lambda: sockets_of(sandbox) == [])
    wait_until(lambda: sandbox.state == ("running" if subject.outlives_owner else "stopped"))
    assert sandbox.inspect()["error"] is None


def test_what_runs_without_an_owner_is_served_again_as_it_was_or_stopped_or_removed(lasting: Subject) -> None:
    sandbox = up(lasting.spec())
    verdict, started = sandbox.inspect()["docker"], read_json(sandbox.directory / "status.json")["started_at"]
    for end in (signal.SIGKILL, signal.SIGTERM):
        os.kill(supervisor_of(sandbox), end)
        wait_until(lambda: sandbox.summary().problem is not None)
        events: list[Event] = []
        start("demo", report=events.append)
        assert "the guest is found" in [event.message for event in events]
        assert (sandbox.inspect()["docker"], sandbox.summary().problem) == (verdict, None)
        assert read_json(sandbox.directory / "status.json")["started_at"] == started
        assert DockerApi(sandbox.endpoint, timeout_seconds=30).version()["ApiVersion"]

    os.kill(supervisor_of(sandbox), signal.SIGKILL)
    wait_until(lambda: sandbox.summary().problem is not None)
    with pytest.raises(SpecError, match="the sandbox 'demo' is running"):
        sandbox.remove()
    sandbox.stop()
    assert (sandbox.state, sandbox.inspect()["error"]) == ("stopped", None)
    assert start("demo").state == "running"
    os.kill(supervisor_of(sandbox), signal.SIGKILL)
    wait_until(lambda: sandbox.summary().problem is not None)
    sandbox.remove(force=True)
    assert list_sandboxes() == []


def test_a_backend_that_does_not_answer_keeps_nobody_from_looking(lasting: Subject) -> None:
    sandbox = up(lasting.spec())
    os.kill(supervisor_of(sandbox), signal.SIGKILL)
    wait_until(lambda: sandbox.summary().problem is not None)
    unreachable().touch()
    try:
        (row,) = list_sandboxes()
        assert (row.state, row.problem) == (
            "unknown", "its backend does not answer, so that nobody can tell whether its guest runs"
        )  # fmt: skip
        for change in (sandbox.stop, sandbox.remove, lambda: start("demo")):
            with pytest.raises(BackendError, match="the fake cluster does not answer"):
                change()
    finally:
        unreachable().unlink()
    assert sandbox.state == "running"


def test_an_owner_does_not_claim_to_know_of_a_guest_whose_backend_is_silent_and_lets_go_of_it_in_the_end(
    lasting: Subject,
) -> None:
    sandbox = up(lasting.spec())
    unreachable().touch()
    try:
        wait_until(lambda: sandbox.state == "unknown")
        assert sandbox.summary().problem == "the fake cluster does not answer"
        unreachable().unlink()
        wait_until(lambda: sandbox.state == "running")
        assert sandbox.summary().problem is None
        unreachable().write_text("for good")
        wait_until(lambda: sockets_of(sandbox) == [])
        assert (sandbox.state, sandbox.inspect()["error"]) == ("unknown", None)
    finally:
        unreachable().unlink(missing_ok=True)
    wait_until(lambda: sandbox.summary().problem == "no process serves its endpoint; run kata-dind start demo")
    assert start("demo").state == "running"


def test_a_volume_is_refused_where_the_backend_has_none(lasting: Subject) -> None:
    with pytest.raises(SpecError, match="--volume: the backend vm has no named volumes"):
        up(parse_spec(name="demo", image="healthy", volume="work"))
    assert list_volumes() == []


def test_a_guest_that_dies_without_an_owner_is_a_crash(lasting: Subject) -> None:
    sandbox = up(lasting.spec())
    lasting.kill_guest(sandbox)
    wait_until(lambda: sandbox.state == "crashed")
    sandbox.remove()
    assert list_sandboxes() == []


def test_a_state_is_saved_where_the_backend_can_keep_one_and_else_refused(subject: Subject) -> None:
    sandbox = up(subject.spec())
    if subject.can_suspend:
        sandbox.stop(save=True)
        assert sandbox.saved_state is not None
        assert start("demo").inspect()["start"]["how"] == "resume"
    else:
        with pytest.raises(SpecError, match=f"the backend {subject.spec().backend} can't keep a guest's memory"):
            sandbox.stop(save=True)
        assert (sandbox.state, sandbox.saved_state) == ("running", None)


def test_the_logs_are_those_that_the_backend_names(subject: Subject) -> None:
    sandbox = up(subject.spec())
    assert sandbox.log_path("dockerd").read_text()
    with pytest.raises(SpecError, match=f"its logs are {', '.join(sandbox.logs)}"):
        sandbox.log_path("none of these")


@pytest.mark.parametrize("module", ["fake_backend", "fake_lasting"])
@pytest.mark.parametrize("kill", [False, True], ids=["fails", "is killed"])
def test_a_start_that_ends_before_it_is_ready_leaves_no_guest(module: str, kill: bool, use_fake: UseFake) -> None:
    use_fake(module)
    spec = parse_spec(name="demo", image="crashes")
    if kill:
        with pytest.raises(SandboxError), killing_the_supervisor():
            up(spec)
    else:
        with pytest.raises(DockerdFailed):
            up(spec)
    assert list_sandboxes() == []
    assert [*sandboxes_directory().iterdir()] == []


def test_a_sandbox_of_our_own_leaves_nothing(subject: Subject) -> None:
    with pytest.raises(ZeroDivisionError), open_sandbox(subject.spec()) as sandbox:
        assert sandbox.run(["echo", "hello"], timeout_seconds=60).stdout == b"hello\n"
        _ = 1 / 0
    assert [*sandboxes_directory().iterdir()] == []


def test_a_guest_of_our_own_that_dies_is_told_at_the_end(subject: Subject) -> None:
    with pytest.raises(SandboxError, match="the guest is gone"), open_sandbox(subject.spec()) as sandbox:
        subject.kill_guest(sandbox)
        wait_until(lambda: not sandbox.endpoint.exists())
    assert [*sandboxes_directory().iterdir()] == []
