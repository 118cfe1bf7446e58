"""What `kata_dind.backend` asks of a backend, tried on each through sandboxes as users have them.

A backend joins with a `Subject` among the fixture's parameters.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from kata_dind.errors import GuestNotReady, SandboxError, SpecError
from kata_dind.proof.docker_api import DockerApi
from kata_dind.sandbox.api import Sandbox, list_sandboxes, open_sandbox, require_sandbox, start, up
from kata_dind.spec import SandboxSpec, parse_spec
from kata_dind.store.sandboxes import sandboxes_directory


class Subject(Protocol):
    """A backend under test."""

    def spec(self) -> SandboxSpec:
        """What to start: the backend's defaults, by the name of `demo`."""

    def kill_guest(self, sandbox: Sandbox) -> None:
        """End a sandbox's guest as nobody has planned it."""


class FakeSubject:
    """The fake backend."""

    def spec(self) -> SandboxSpec:
        return parse_spec(name="demo", image="healthy")

    def kill_guest(self, sandbox: Sandbox) -> None:
        with pytest.raises(GuestNotReady):
            sandbox.run(["die"], where="guest")


@pytest.fixture(params=[pytest.param(FakeSubject(), id="fake")])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    if isinstance(request.param, FakeSubject):
        request.getfixturevalue("fake_backend")
    yield request.param
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


def test_an_owner_that_dies_is_a_crash_that_starts_again(subject: Subject) -> None:
    sandbox = up(subject.spec())
    os.kill(supervisor_of(sandbox), signal.SIGKILL)
    wait_until(lambda: sandbox.state == "crashed")
    assert start("demo").state == "running"


def test_an_orderly_stop_by_a_signal(subject: Subject) -> None:
    sandbox = up(subject.spec())
    os.kill(supervisor_of(sandbox), signal.SIGTERM)
    wait_until(lambda: sandbox.state == "stopped")
    assert sandbox.inspect()["error"] is None


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
