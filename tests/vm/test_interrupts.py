"""INT, TERM and KILL at every step of a start: nothing is left, and what was there before is as it was."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from kata_dind.host.directories import state_directory
from tests.vm.driver import STOP_SECONDS, Invocation, start_kata_dind, states, wait_until

pytestmark = pytest.mark.requires("qemu", "virtiofsd")

# With a share, for then there is virtiofsd as well, with mounts of its own.
_SMALL = ("--data-root", "loop", "--size", "2G")

Reached = Callable[[Invocation], bool]


def _directories() -> list[Path]:
    """The sandboxes that a test has made, whose names `run` makes up."""
    return [path for path in (state_directory() / "sandboxes").iterdir() if path.name != "shared"]


def _spawned(_: Invocation) -> bool:
    return any((directory / "lock").exists() for directory in _directories())


def _booting(_: Invocation) -> bool:
    return any((directory / "guest.log").exists() for directory in _directories())


def _guest_is_up(command: Invocation) -> bool:
    return "the guest has booted" in command.stderr


def _dockerd_answers(command: Invocation) -> bool:
    return "dockerd answers" in command.stderr


_STEPS = [_spawned, _booting, _guest_is_up, _dockerd_answers]
_VERBS = {"up": ["up", "interrupted", *_SMALL], "run": ["run", *_SMALL, "kata-dind/hello", "sleep", "100"]}


@pytest.mark.parametrize(
    "reached",
    [pytest.param(step, marks=[] if step is _booting else pytest.mark.thorough) for step in _STEPS],
    ids=lambda step: step.__name__.lstrip("_"),
)
@pytest.mark.parametrize("verb", ["up", pytest.param("run", marks=pytest.mark.thorough)])
def test_an_interrupted_start_leaves_nothing(tmp_path: Path, verb: str, reached: Reached) -> None:
    # Each verb gets each signal at two of the steps, the other verb at the other two.
    by_hand = (_STEPS.index(reached) % 2 == 0) == (verb == "up")
    with start_kata_dind(tmp_path, *_VERBS[verb]) as command:
        command.wait_until(lambda: reached(command), what="comes so far")
        if by_hand:
            command.press_ctrl_c()
        else:
            command.process.send_signal(signal.SIGTERM)
        code = command.wait(timeout_seconds=STOP_SECONDS)
        assert code == 128 + (signal.SIGINT if by_hand else signal.SIGTERM), command.stderr
        assert "Traceback" not in command.stderr
    assert _directories() == []
    assert states().keys() <= {"shared"}


@pytest.mark.parametrize("verb", ["up", pytest.param("run", marks=pytest.mark.thorough)])
def test_a_killed_start_leaves_nothing(tmp_path: Path, verb: str) -> None:
    with start_kata_dind(tmp_path, *_VERBS[verb]) as command:
        command.wait_until(lambda: _booting(command), what="boots a guest")
        command.process.kill()
        command.wait(timeout_seconds=STOP_SECONDS)
    wait_until(lambda: states().keys() <= {"shared"}, what="ls has forgotten it", timeout_seconds=STOP_SECONDS)
    assert _directories() == []


def test_a_second_signal_changes_nothing(tmp_path: Path) -> None:
    with start_kata_dind(tmp_path, *_VERBS["up"]) as command:
        command.wait_until(lambda: _booting(command), what="boots a guest")
        for _ in range(3):
            command.press_ctrl_c()
        assert command.wait(timeout_seconds=STOP_SECONDS) == 128 + signal.SIGINT
    assert _directories() == []
