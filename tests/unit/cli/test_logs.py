from __future__ import annotations

import io
from pathlib import Path

import pytest

from kata_dind.cli.logs import follow_log, show
from tests.unit.cli.conftest import CommandLine
from tests.unit.cli.fakes import FakeSandboxes


@pytest.fixture
def log(sandboxes: FakeSandboxes, tmp_path: Path) -> Path:
    """The log of a sandbox's dockerd."""
    sandboxes.add("default")
    path = tmp_path / "dockerd.log"
    path.write_bytes(b"one\ntwo\nthree")
    return path


def test_logs(cli: CommandLine, log: Path) -> None:
    assert cli("logs").stdout == "one\ntwo\nthree"
    assert cli("logs", "-n", "2").stdout == "two\nthree"
    assert cli("logs", "-n", "20").stdout == "one\ntwo\nthree"
    log.with_name("vmm.log").write_text("qemu")
    assert cli("logs", "--source", "vmm").stdout == "qemu"


def test_a_log_that_is_not_there_yet_is_empty(cli: CommandLine, log: Path) -> None:
    outcome = cli("logs", "--source", "guest")
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (0, "", "")


def test_following_ends_with_the_sandbox_after_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    written = io.BytesIO()
    steps = iter([(True, b"a"), (True, b"b\n"), (False, b"last")])

    def lives() -> bool:
        alive, addition = next(steps)
        with log.open("ab") as file:
            file.write(addition)
        return alive

    follow_log(log, show(log, lines=None, write=written.write), write=written.write, lives=lives)
    assert written.getvalue() == b"ab\nlast"


def test_following_begins_anew_with_a_new_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"old and long")
    written = io.BytesIO()
    steps = iter([True, False])

    def lives() -> bool:
        log.write_bytes(b"new")
        return next(steps)

    follow_log(log, 12, write=written.write, lives=lives)
    assert written.getvalue() == b"new"


def test_logs_follow(cli: CommandLine, sandboxes: FakeSandboxes, log: Path) -> None:
    sandboxes.known["default"].fake_state = "stopped"
    assert cli("logs", "-f", "-n", "1").stdout == "three"


def test_escape_sequences_do_not_reach_a_terminal(
    cli: CommandLine, log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write_bytes("\x1b[2Jä\ttab\r\n".encode())
    assert cli("logs").stdout == "\x1b[2Jä\ttab\r\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert cli("logs").stdout == "?[2Jä\ttab\n"
