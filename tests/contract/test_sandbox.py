"""What goes wrong with sandboxes, and how they end, on guests that misbehave as only the fake backend's can."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from kata_dind import backend
from kata_dind.backend import Wish
from kata_dind.backend.plan import AnyPlan
from kata_dind.errors import (
    DockerdFailed,
    GuestNotReady,
    KataDindError,
    NoSpace,
    OverlayRefused,
    SandboxError,
    SpecError,
    VerdictFailed,
)
from kata_dind.progress import Event, Report
from kata_dind.proof.docker_api import DockerApi
from kata_dind.sandbox.api import Sandbox, list_sandboxes, open_sandbox, require_sandbox, start, up
from kata_dind.spec import SandboxSpec, parse_spec
from kata_dind.store.sandboxes import sandboxes_directory

pytestmark = [
    pytest.mark.usefixtures("fake_backend"),
]

UP = """
import sys
from kata_dind.sandbox.api import up
from kata_dind.spec import parse_spec
up(parse_spec(name="demo", image=sys.argv[1]))
"""


@pytest.fixture(autouse=True)
def removed_at_the_end() -> Iterator[None]:
    yield
    for summary in list_sandboxes():
        require_sandbox(summary.name).remove(force=True)


def spec_of(image: str = "healthy", *, name: str = "demo") -> SandboxSpec:
    return parse_spec(name=name, image=image)


@pytest.fixture
def planned_specs(monkeypatch: pytest.MonkeyPatch) -> list[SandboxSpec]:
    """The specs that the backend has planned."""
    planned: list[SandboxSpec] = []
    fake = backend.load_backend("vm")
    prepare = fake.prepare

    def noting(wish: Wish, *, report: Report) -> AnyPlan:
        planned.append(wish.spec)
        return prepare(wish, report=report)

    monkeypatch.setattr(fake, "prepare", noting)
    return planned


def left() -> list[str]:
    return [path.name for path in sandboxes_directory().iterdir()]


def wait_until(condition: Callable[[], bool], *, timeout_seconds: float = 10) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.01)


def supervisor_of(sandbox: Sandbox) -> int:
    status = json.loads((sandbox.directory / "status.json").read_text())
    return int(status["pid"])


# --- up


def test_up_returns_a_sandbox_that_runs_in_a_process_of_its_own() -> None:
    events: list[Event] = []
    sandbox = up(spec_of(), report=events.append)
    assert sandbox.state == "running"
    assert supervisor_of(sandbox) != os.getpid()
    assert DockerApi(sandbox.endpoint, timeout_seconds=5).version()["Version"] == "99.1"
    assert sandbox.run(["echo", "hello"], where="guest").stdout == b"hello\n"
    assert events[-1].name == "ready"
    sandbox.stop()
    assert sandbox.state == "stopped"
    assert not sandbox.endpoint.exists()


@pytest.mark.parametrize(
    ("image", "kind"),
    [("refuses-overlay", OverlayRefused), ("crashes", DockerdFailed), ("falls-to-vfs", VerdictFailed),
     ("never-answers", GuestNotReady), ("dies-early", SandboxError)],
)  # fmt: skip
def test_a_start_that_fails_is_the_error_it_was_and_leaves_nothing(image: str, kind: type[KataDindError]) -> None:
    with pytest.raises(KataDindError) as caught:
        up(spec_of(image))
    assert type(caught.value) is kind
    assert "container started" in caught.value.details or "Starting up" in caught.value.details
    assert left() == []


def test_what_cannot_be_prepared_makes_nothing() -> None:
    with pytest.raises(SpecError):
        up(spec_of("unknown"))
    assert left() == []


def test_a_supervisor_that_cannot_begin_is_told_with_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nonexistent")  # where the supervisor would find the fake
    with pytest.raises(KataDindError) as caught:
        up(spec_of())
    assert caught.value.summary
    assert left() == []


def test_of_two_starts_of_one_name_at_once_one_wins() -> None:
    results: list[str] = []

    def start_it() -> None:
        try:
            up(spec_of())
        except SpecError:
            results.append("refused")
        else:
            results.append("ran")

    threads = [threading.Thread(target=start_it) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["ran", "refused", "refused"]
    assert require_sandbox("demo").state == "running"


def test_a_start_is_seen_as_one() -> None:
    starter = subprocess.Popen([sys.executable, "-c", UP, "boots-slowly"], stderr=subprocess.DEVNULL)
    with starter:
        wait_until(lambda: [summary.state for summary in list_sandboxes()] == ["starting"])
        with pytest.raises(SpecError, match="the sandbox 'demo' is starting"):
            require_sandbox("demo").remove()
        with pytest.raises(SpecError, match="there is a sandbox 'demo' already"):
            up(spec_of())
        wait_until((sandboxes_directory() / "demo" / "guest.log").exists)  # before that there may be no supervisor
        starter.terminate()
    wait_until(lambda: left() == [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("image", ["boots-slowly", "stops-slowly-and-never-answers"])
def test_a_starter_that_ends_takes_its_start_along(number: signal.Signals, image: str) -> None:
    with subprocess.Popen([sys.executable, "-c", UP, image], stderr=subprocess.DEVNULL) as starter:
        wait_until((sandboxes_directory() / "demo" / "guest.log").exists)
        time.sleep(0.1)
        starter.send_signal(number)
    wait_until(lambda: left() == [])


def test_a_start_may_be_stopped_by_another_process() -> None:
    with subprocess.Popen([sys.executable, "-c", UP, "boots-slowly"], stderr=subprocess.PIPE, text=True) as starter:
        wait_until((sandboxes_directory() / "demo" / "guest.log").exists)
        require_sandbox("demo").stop(timeout_seconds=10)
        assert starter.stderr is not None
        assert "the supervisor ended before the sandbox was ready" in starter.stderr.read()
    assert left() == []


# --- stop, start, remove


def test_a_stopped_sandbox_starts_again_as_it_was() -> None:
    sandbox = up(spec_of())
    first = supervisor_of(sandbox)
    sandbox.stop()
    again = start("demo")
    assert again.state == "running"
    assert supervisor_of(again) != first
    assert again.spec == spec_of().model_dump(mode="json")
    assert "container started, check True" not in again.log_path("guest").read_text()


def test_a_later_start_knows_what_was_given_from_what_was_a_default(planned_specs: list[SandboxSpec]) -> None:
    asked = parse_spec(name="demo", image="healthy", cpus=2, network="none")
    sandbox = up(asked)
    assert sandbox.spec == asked.model_dump(mode="json") == sandbox.inspect()["spec"]
    sandbox.stop()
    start("demo").stop()
    assert [spec.given for spec in planned_specs] == [{"image", "cpus", "network"}] * 2
    # As an earlier version has left it, with its defaults among its wishes.
    (sandbox.directory / "spec.json").write_text(json.dumps(asked.model_dump(mode="json")))
    start("demo")
    assert planned_specs[-1].given == {"image", "network"}
    assert planned_specs[-1] == asked


def test_a_saved_sandbox_resumes_once() -> None:
    sandbox = up(spec_of())
    verdict = sandbox.inspect()["docker"]
    sandbox.stop(save=True)
    assert sandbox.state == "stopped"
    assert sandbox.inspect()["saved_state"]["size_bytes"] > 0
    events: list[Event] = []
    facts = start("demo", report=events.append).inspect()
    assert "the machine has resumed from its saved state" in [event.message for event in events]
    assert (facts["start"]["how"], facts["start"]["check_seconds"]) == ("resume", 0.1)
    assert (facts["docker"], facts["saved_state"]) == (verdict, None)
    assert facts["data_root"]["proof"] == {"mount": "passed", "whiteout": "passed"}
    sandbox.stop()
    assert start("demo").inspect()["start"]["how"] == "boot"


def test_a_sandbox_that_does_not_resume_from_its_saved_state_boots_and_says_why() -> None:
    up(spec_of("does-not-resume")).stop(save=True)
    events: list[Event] = []
    again = start("demo", report=events.append)
    warnings = [event.message for event in events if event.name == "warning"]
    assert warnings == ["the saved state is lost, so the guest boots: the saved state cannot be read"]
    assert again.inspect()["start"]["how"] == "boot"
    assert "container started, check True" in again.log_path("guest").read_text()


def test_a_start_that_is_killed_before_the_guest_moves_keeps_the_saved_state() -> None:
    sandbox = up(spec_of("is-killed-before-it-resumes"))
    sandbox.stop(save=True)
    saved = sandbox.inspect()["saved_state"]
    for _ in range(2):
        with pytest.raises(SandboxError, match="the supervisor ended before the sandbox was ready"):
            start("demo")
        assert sandbox.inspect()["saved_state"] == saved


def test_what_does_not_run_cannot_be_saved() -> None:
    sandbox = up(spec_of())
    sandbox.stop()
    with pytest.raises(SpecError, match="the sandbox 'demo' is not running"):
        sandbox.stop(save=True)


def test_a_save_that_fails_is_the_error_it_was_and_the_sandbox_runs() -> None:
    sandbox = up(spec_of("finds-no-space-to-suspend"))
    with pytest.raises(NoSpace, match="there is no space"):
        sandbox.stop(save=True)
    assert sandbox.state == "running"
    assert sandbox.run(["true"]).exit_code == 0


def test_a_save_that_takes_longer_is_not_broken_off() -> None:
    sandbox = up(spec_of("suspends-slowly"))
    with pytest.raises(GuestNotReady, match="was not saved within"):
        sandbox.stop(save=True, timeout_seconds=0.1)
    wait_until(lambda: sandbox.state == "stopped")
    assert sandbox.inspect()["saved_state"]


def test_what_runs_is_not_started_again() -> None:
    up(spec_of())
    with pytest.raises(SpecError, match="the sandbox 'demo' is running already"):
        start("demo")


def test_a_restart_that_fails_keeps_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = up(spec_of())
    sandbox.stop()
    plan = (sandbox.directory / "plan.json").read_text()
    (sandbox.directory / "plan.json").write_text(plan.replace("healthy", "crashes"))
    with pytest.raises(DockerdFailed):
        start("demo")
    assert require_sandbox("demo").state == "crashed"
    assert require_sandbox("demo").inspect()["error"]["error"] == "DockerdFailed"


def test_stopping_what_does_not_run_is_harmless() -> None:
    sandbox = up(spec_of())
    sandbox.stop()
    sandbox.stop()
    assert sandbox.state == "stopped"


def test_a_stop_that_had_to_be_forced_says_so() -> None:
    sandbox = up(spec_of("does-not-go-down"))
    events: list[Event] = []
    sandbox.stop(report=events.append)
    assert ("warning", "the guest did not go down in time and was cut off") in [
        (event.name, event.message) for event in events
    ]
    assert sandbox.state == "stopped"


# --- ends that nobody asked for


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_supervisor_is_an_orderly_stop(number: signal.Signals) -> None:
    sandbox = up(spec_of("stops-slowly"))
    os.kill(supervisor_of(sandbox), number)
    wait_until(lambda: sandbox.state == "stopped")
    assert sandbox.log_path("guest").read_text().endswith("powered off\n")


def test_a_supervisor_that_is_killed_is_a_crash_that_starts_again() -> None:
    sandbox = up(spec_of())
    os.kill(supervisor_of(sandbox), signal.SIGKILL)
    wait_until(lambda: sandbox.state == "crashed")
    assert [summary.state for summary in list_sandboxes()] == ["crashed"]
    assert not sandbox.endpoint.exists(), "the list has not swept it"
    assert start("demo").state == "running"
    assert sandbox.log_path("guest").read_text().endswith("container started, check True\n")


# --- owned here


def test_a_sandbox_of_our_own_is_gone_after_the_block() -> None:
    with open_sandbox(spec_of()) as sandbox:
        assert sandbox.state == "running"
        assert supervisor_of(sandbox) == os.getpid()
        assert DockerApi(sandbox.endpoint, timeout_seconds=5).version()["Version"] == "99.1"
        assert sandbox.run(["echo", "hello"]).stdout == b"hello\n"
    assert left() == []


@pytest.mark.parametrize("image", ["refuses-overlay", "never-boots"])
def test_a_start_of_our_own_that_fails_leaves_nothing(image: str) -> None:
    with pytest.raises(KataDindError), open_sandbox(spec_of(image)):
        pytest.fail("the block is entered")
    assert left() == []


def test_clients_that_are_still_connected_do_not_hold_up_the_end() -> None:
    with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as controller:
        with open_sandbox(spec_of()) as sandbox:
            client.connect(str(sandbox.endpoint))
            client.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            client.settimeout(5)
            answer = b""
            while not answer.endswith(b"\r\n\r\nOK"):
                answer += client.recv(4096)
            controller.connect(str(sandbox.directory / "control.sock"))
        assert client.recv(4096) == b""
    assert left() == []


def test_an_interrupt_during_the_start_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        wait_until((sandboxes_directory() / "demo" / "guest.log").exists)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt), open_sandbox(spec_of("boots-slowly")):
        pytest.fail("the block is entered")
    thread.join()
    assert left() == []


def test_an_unknown_backend_is_our_own_mistake() -> None:
    with pytest.raises(KeyError):
        backend.load_backend("podman")
