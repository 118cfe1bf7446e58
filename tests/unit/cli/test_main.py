from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

import pytest

from kata_dind.errors import BootFailed, HostError, KataDindError
from tests.unit.cli.conftest import CommandLine
from tests.unit.cli.fakes import FakeSandboxes


def test_no_command_is_a_question_for_help(cli: CommandLine) -> None:
    outcome = cli()
    assert outcome == cli("--help")
    assert outcome.exit_code == 0
    assert outcome.stdout.startswith("Usage: kata-dind [OPTIONS] COMMAND")


def test_version(cli: CommandLine) -> None:
    assert cli("--version").stdout == "kata-dind 0.1.0\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["volume", "zzz"],
            "volume: no such command 'zzz' (there are: ls, inspect, resize, fsck, rm); see kata-dind volume --help",
        ),
        (["upp"], "no such command 'upp'. Did you mean 'up'?; see kata-dind --help"),
        (
            ["up", "--kernels", "1G"],
            "up: no such option: --kernels (Possible options: --kernel); see kata-dind up --help",
        ),
        (["up", "--size"], "up: option '--size' requires an argument; see kata-dind up --help"),
        (["ls", "x"], "ls: got unexpected extra argument(s) (x); see kata-dind ls --help"),
        (["stop"], "stop: missing argument 'NAME...'; see kata-dind stop --help"),
        (["image", "pull"], "image pull: missing argument 'REFERENCE'; see kata-dind image pull --help"),
        (["up", "--cpus", "two"], "--cpus: 'two' is not a whole number above zero"),
        (["up", "--timeout", "-1"], "--timeout: '-1' is not a number of seconds above zero"),
        (["stop", "demo", "--timeout", "nan"], "--timeout: 'nan' is not a number of seconds above zero"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line(cli: CommandLine, argv: list[str], message: str) -> None:
    outcome = cli(*argv)
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (2, "", f"kata-dind: {message}\n")


@pytest.mark.parametrize(
    "argv",
    [
        ["up", "no/name"],
        ["up", "--size", "-1"],
        ["up", "--size", "20"],
        ["up", "--memory", "0"],
        ["up", "--memory", "20X"],
        ["up", "--backend", "kubernetes"],
        ["up", "--backend", "xen"],
        ["up", "--data-root", "9p"],
        ["up", "--accel", "hvf"],
        ["up", "--network", "host"],
        ["up", "--image", "two words"],
        ["up", "--share", "/a:"],
        ["up", "--share", "/a:/x", "--share", "/b:/x/y"],
        ["up", "--suite", "../x"],
        ["up", "--mirror", "nowhere"],
        ["up", "--apt-option", "x"],
        ["start", "demo", "--suite", "Trixie"],
        ["image", "build", "--suite", "a b"],
        ["run", "--size", "20", "alpine"],
        ["run", "--env", "=x", "alpine"],
        ["run", "--", "-x"],
        ["run", ""],
        ["start", "unknown"],
        ["stop", "demo", "unknown"],
        ["rm", "--force", "demo", "unknown"],
        ["inspect", "unknown"],
        ["env", "unknown"],
        ["env", "demo", "--shell", "csh"],
        ["docker", "unknown", "--", "ps"],
        ["exec", "unknown", "--", "ls"],
        ["exec", "demo"],
        ["exec", "demo", "--"],
        ["shell", "unknown"],
        ["logs", "unknown"],
        ["logs", "demo", "--source", "kernel"],
        ["logs", "demo", "--lines", "0"],
        ["image", "rm", "unknown"],
        ["image", "pull", "No Reference"],
    ],
)
def test_bad_input_exits_2_with_one_line_and_nothing_is_done(
    cli: CommandLine, sandboxes: FakeSandboxes, argv: list[str]
) -> None:
    demo = sandboxes.add("demo")
    outcome = cli(*argv)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("kata-dind: ")
    assert outcome.stderr.count("\n") == 1
    assert not sandboxes.specs
    assert not demo.stopped_within
    assert not demo.removed
    assert not demo.attached


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (BootFailed("no", id="vm.boot-failed", details="qemu.log: x", hint="do"), 4),
        (HostError("no", id="host.no-space"), 3),
    ],
)
def test_an_error_exits_as_its_class_says(
    cli: CommandLine, sandboxes: FakeSandboxes, error: KataDindError, exit_code: int
) -> None:
    sandboxes.on_start = raising(error)
    outcome = cli("up", "--quiet")
    expected = ["kata-dind: no", *([error.details] if error.details else []), *(["hint: do"] if error.hint else [])]
    assert (outcome.exit_code, outcome.stderr.splitlines()) == (exit_code, expected)


def test_an_error_shows_the_last_lines_of_each_log_and_verbose_shows_all(
    cli: CommandLine, sandboxes: FakeSandboxes
) -> None:
    logs = {name: [f"{name} {number}" for number in range(20)] for name in ("qemu.log", "console.log")}
    details = [
        "qemu is running",
        "command: qemu-system-x86_64",
        *(line for name in logs for line in (f"--- {name}", *logs[name])),
    ]
    error = HostError("no", id="host.no-space", details="\n".join([*details, "--- short.log", "one line"]), hint="do")
    error.add_note("the logs are in /logs")
    sandboxes.on_start = raising(error)
    assert cli("up", "--quiet").stderr.splitlines() == [
        "kata-dind: no",
        "qemu is running",
        "command: qemu-system-x86_64",
        "--- qemu.log",
        "(12 earlier lines; --verbose shows them)",
        *logs["qemu.log"][-8:],
        "--- console.log",
        "(12 earlier lines; --verbose shows them)",
        *logs["console.log"][-8:],
        "--- short.log",
        "one line",
        "note: the logs are in /logs",
        "hint: do",
    ]
    verbose = cli("up", "--verbose").stderr
    assert "\n".join(["kata-dind: no", error.details, "note: the logs are in /logs", "hint: do"]) in verbose
    assert json.loads(cli("up", "--json").stderr)["details"] == f"{error.details}\nnote: the logs are in /logs"


def test_verbose_tells_the_id_of_an_error(cli: CommandLine, sandboxes: FakeSandboxes) -> None:
    sandboxes.on_start = raising(HostError("no", id="host.no-space"))
    assert cli("up", "--verbose").stderr.splitlines()[-2:] == ["kata-dind: no", "error id: host.no-space"]


@pytest.mark.parametrize(
    "argv", [["up", "--json", "--size", "3"], ["up", "--size", "3", "--json"], ["up", "--cpus", "x", "--json"]]
)
def test_errors_as_json(cli: CommandLine, argv: list[str]) -> None:
    outcome = cli(*argv)
    fields = json.loads(outcome.stderr)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert fields.keys() == {"error", "id", "summary", "details", "hint", "exit_code"}
    assert (fields["error"], fields["exit_code"]) == ("SpecError", 2)


def test_errors_of_the_parser_as_json(cli: CommandLine) -> None:
    assert json.loads(cli("up", "--sizes", "3", "--json").stderr)["summary"].startswith("up: no such option: --sizes")


def test_a_bug_leaves_one_line_and_a_traceback_in_a_file(
    cli: CommandLine, sandboxes: FakeSandboxes, home: Path
) -> None:
    sandboxes.on_start = raising(ZeroDivisionError("oh\nno"))
    outcome = cli("up", "--quiet")
    [log] = (home / "state" / "kata-dind" / "bugs").iterdir()
    assert outcome.exit_code == 1
    assert (
        outcome.stderr == f"kata-dind: this is a bug of kata-dind: ZeroDivisionError: oh; the traceback is in {log}\n"
    )
    assert "Traceback" in log.read_text()
    assert "kata-dind up" in log.read_text()


def test_a_bug_without_a_state_directory_prints_its_traceback(
    cli: CommandLine, sandboxes: FakeSandboxes, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").touch()
    monkeypatch.setenv("KATA_DIND_STATE_DIR", str(home / "file"))
    sandboxes.on_start = raising(ZeroDivisionError("oh"))
    assert "Traceback" in cli("up", "--quiet").stderr


@pytest.fixture
def interruptible() -> Iterator[None]:
    """No signal is ignored, as from a terminal; these tests may run under nohup, or in the background of a shell."""
    previous = [
        (signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler)),
        (signal.SIGTERM, signal.signal(signal.SIGTERM, signal.SIG_DFL)),
        (signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_DFL)),
    ]
    yield
    for number, handler in previous:
        signal.signal(number, handler)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("name", "exit_code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_first_signal_raises_and_further_ones_are_ignored(
    cli: CommandLine, sandboxes: FakeSandboxes, name: str, exit_code: int
) -> None:
    torn_down = []

    def interrupted() -> None:
        try:
            kill_ourselves(signal.Signals[name])
        finally:
            kill_ourselves(signal.SIGTERM)
            torn_down.append(True)

    sandboxes.on_start = interrupted
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    outcome = cli("up")
    assert outcome.exit_code == exit_code
    assert outcome.stderr.splitlines()[-1] == f"kata-dind: ended by {name}"
    assert torn_down
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


@pytest.mark.usefixtures("interruptible")
def test_an_error_of_the_teardown_does_not_hide_the_signal(cli: CommandLine, sandboxes: FakeSandboxes) -> None:
    def interrupted() -> None:
        try:
            kill_ourselves(signal.SIGTERM)
        finally:
            raise BootFailed("the guest had to be forced", id="vm.boot-failed")

    sandboxes.on_start = interrupted
    outcome = cli("up", "--quiet")
    assert (outcome.exit_code, outcome.stderr) == (143, "kata-dind: the guest had to be forced\n")


def test_a_signal_that_is_ignored_at_the_start_stays_ignored(cli: CommandLine, sandboxes: FakeSandboxes) -> None:
    sandboxes.on_start = lambda: kill_ourselves(signal.SIGHUP)
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert cli("up", "--quiet").exit_code == 0
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_a_reader_that_went_away_is_no_error() -> None:
    with Popen([sys.executable, "-m", "kata_dind", "up", "--help"], stdout=PIPE, stderr=PIPE, stdin=DEVNULL) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_an_answer_that_cannot_be_written_is_an_error() -> None:
    with (
        Path("/dev/full").open("wb") as full,
        Popen([sys.executable, "-m", "kata_dind", "--help"], stdout=full, stderr=PIPE, stdin=DEVNULL) as process,
    ):
        assert process.stderr
        assert process.stderr.read() == b"kata-dind: no space is left where the answer is written\n"
    assert process.returncode == 3


def raising(error: Exception) -> Callable[[], None]:
    def on_start() -> None:
        raise error

    return on_start


def kill_ourselves(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # the handler runs between two bytecodes
