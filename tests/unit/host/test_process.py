from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from kata_dind.errors import CommandFailed, CommandTimedOut, ToolMissing
from kata_dind.host.process import (
    daemon,
    describe_status,
    find_tool,
    require_tool,
    run,
    scrubbed_environment,
    tail,
)
from tests.memory_limit import memory_limit


def is_running(pid: int) -> bool:
    """A zombie has ended, although it may not have been reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_ended(pid: int, *, timeout_seconds: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.01)


def wait_for_number(path: Path, *, timeout_seconds: float = 5.0) -> int:
    deadline = time.monotonic() + timeout_seconds
    while not (path.exists() and path.read_text(encoding="utf-8").endswith("\n")):
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.01)
    return int(path.read_text(encoding="utf-8"))


def test_run_returns_both_outputs() -> None:
    completed = run(["sh", "-c", "echo out; echo err >&2"], timeout_seconds=5)
    assert (completed.stdout, completed.stderr) == ("out\n", "err\n")
    assert completed.argv == ("sh", "-c", "echo out; echo err >&2")


def test_run_replaces_bytes_that_are_no_text() -> None:
    assert run(["printf", r"a\377b"], timeout_seconds=5).stdout == "a\N{REPLACEMENT CHARACTER}b"


def test_run_reads_more_than_a_pipe_holds_from_both_outputs() -> None:
    script = "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2"
    completed = run(["sh", "-c", script], timeout_seconds=10)
    assert (len(completed.stdout), len(completed.stderr)) == (1_000_000, 1_000_000)


def test_run_feeds_a_file_and_otherwise_closes_stdin(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"hello")
    with source.open("rb") as file:
        assert run(["cat"], timeout_seconds=5, stdin=file).stdout == "hello"
    assert run(["cat"], timeout_seconds=5).stdout == ""


def test_a_failed_command_carries_argv_status_and_output() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "echo because >&2; exit 3"], timeout_seconds=5)
    assert caught.value.summary == "sh failed (exit 3)"
    assert caught.value.details == "command: sh -c 'echo because >&2; exit 3'\nstatus: exit 3\nbecause"


def test_a_killed_command_names_the_signal() -> None:
    with pytest.raises(CommandFailed, match="SIGSEGV"):
        run(["sh", "-c", "kill -SEGV $$"], timeout_seconds=5)


def test_with_a_log_both_outputs_and_the_evidence_come_from_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run(["sh", "-c", "echo out; echo err >&2"], timeout_seconds=5, log=log).stdout == ""
    assert log.read_text(encoding="utf-8") == "out\nerr\n"
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "echo because; exit 1"], timeout_seconds=5, log=log)
    assert caught.value.details.endswith("out\nerr\nbecause")


def test_a_deadline_ends_the_command_and_keeps_what_it_had_said() -> None:
    began = time.monotonic()
    with pytest.raises(CommandTimedOut) as caught:
        run(["sh", "-c", "echo started; sleep 60"], timeout_seconds=0.3)
    assert caught.value.summary == "sh did not end within 0.3 s"
    assert caught.value.details.endswith("started")
    assert time.monotonic() - began < 10


def test_a_deadline_gives_the_command_time_to_clean_up(tmp_path: Path) -> None:
    script = f"trap 'rm {tmp_path}/left; exit 1' TERM; touch {tmp_path}/left; while :; do sleep 0.05; done"
    with pytest.raises(CommandTimedOut):
        run(["sh", "-c", script], timeout_seconds=0.5)
    assert not (tmp_path / "left").exists()


def test_a_command_that_ignores_term_is_killed(tmp_path: Path) -> None:
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done"
    with pytest.raises(CommandTimedOut):
        run(["sh", "-c", script], timeout_seconds=0.3)
    assert not is_running(wait_for_number(tmp_path / "pid"))


def test_run_waits_for_the_command_and_not_for_what_it_left_behind(tmp_path: Path) -> None:
    began = time.monotonic()
    completed = run(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; echo done"], timeout_seconds=30)
    assert completed.stdout == "done\n"
    assert time.monotonic() - began < 10
    wait_until_ended(wait_for_number(tmp_path / "pid"))


def test_a_missing_program_is_an_error_of_the_host() -> None:
    with pytest.raises(ToolMissing) as caught:
        run(["kata-dind-no-such-program"], timeout_seconds=5)
    assert caught.value.exit_code == 3
    with pytest.raises(ToolMissing) as caught:
        require_tool("kata-dind-no-such-program", package="qemu-utils")
    assert caught.value.hint == "sudo apt-get install qemu-utils"


def test_tools_in_sbin_are_found_though_the_path_lacks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_tool("losetup") is not None
    assert find_tool("kata-dind-no-such-program") is None


def test_the_environment_is_scrubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///elsewhere")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("LC_ALL", "de_DE")
    environment = scrubbed_environment({"KATA_DIND_EXTRA": "1"})
    assert "DOCKER_HOST" not in environment
    assert environment["https_proxy"] == "http://127.0.0.1:9"
    assert environment["LC_ALL"] == "C.UTF-8"
    assert environment["KATA_DIND_EXTRA"] == "1"
    assert run(["sh", "-c", "echo ${DOCKER_HOST-unset}"], timeout_seconds=5).stdout == "unset\n"


def test_a_daemon_lives_as_long_as_its_block(tmp_path: Path) -> None:
    with daemon(["sh", "-c", "echo up; sleep 60"], name="sleeper", log=tmp_path / "log") as process:
        assert not process.ended()
        assert process.returncode() is None
        assert process.describe_state() == "sleeper still runs"
        pid = process.pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_daemon_s_group_does_not_outlive_the_block(tmp_path: Path) -> None:
    script = f"sh -c 'trap \"\" TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done' & sleep 60"
    with daemon(["sh", "-c", script], name="parent", log=tmp_path / "log", rung_seconds=1):
        child = wait_for_number(tmp_path / "pid")
    wait_until_ended(child)


def test_a_daemon_that_ignores_term_is_killed(tmp_path: Path) -> None:
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done"
    with daemon(["sh", "-c", script], name="deaf", log=tmp_path / "log", rung_seconds=0.3) as process:
        wait_for_number(tmp_path / "pid")
        pid = process.pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_daemon_that_ended_by_itself_tells_how(tmp_path: Path) -> None:
    with daemon(["sh", "-c", "echo no disk >&2; exit 4"], name="qemu", log=tmp_path / "log") as process:
        assert process.ended(within_seconds=5)
        assert process.returncode() == 4
        assert process.describe_end() == ("qemu ended (exit 4)\ncommand: sh -c 'echo no disk >&2; exit 4'\nno disk")


def test_a_daemon_in_wrappers_tells_the_command_that_explains_something(tmp_path: Path) -> None:
    wrapped = ["sh", "-c", 'exec "$@"', "sh", "false"]
    with daemon(wrapped, name="qemu", log=tmp_path / "log", command=["false"]) as process:
        assert process.ended(within_seconds=5)
        assert process.describe_end() == "qemu ended (exit 1)\ncommand: false"


def test_a_daemon_may_be_stopped_before_its_block_ends(tmp_path: Path) -> None:
    with daemon(["sleep", "60"], name="sleeper", log=tmp_path / "log") as process:
        process.stop(rung_seconds=5)
        assert process.returncode() == -signal.SIGTERM
        assert process.describe_state() == "sleeper ended (SIGTERM)"
        process.stop(rung_seconds=5)


def test_a_daemon_inherits_only_the_descriptors_it_is_given(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    script = f"ls /proc/self/fd | wc -l; echo hello > /proc/self/fd/{writer}"
    try:
        with daemon(["sh", "-c", script], name="w", log=tmp_path / "log", pass_fds=[writer]) as process:
            assert process.ended(within_seconds=5)
            assert process.returncode() == 0, process.describe_end()
        assert os.read(reader, 16) == b"hello\n"
        # The three standard ones, ours, and the one with which `ls` reads the directory.
        assert (tmp_path / "log").read_text(encoding="utf-8") == "5\n"
    finally:
        os.close(reader)
        os.close(writer)


def test_the_body_s_error_passes_through_a_daemon(tmp_path: Path) -> None:
    with pytest.raises(KeyError), daemon(["sleep", "60"], name="sleeper", log=tmp_path / "log") as process:
        pid = process.pid
        raise KeyError("body")
    assert not Path(f"/proc/{pid}").exists()


def test_a_daemon_dies_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    parent = f"""
from pathlib import Path
from kata_dind.host.process import daemon
import time
with daemon(["sh", "-c", "echo $$ > {tmp_path}/pid; exec sleep 60"], name="d", log=Path("{tmp_path}/log")):
    time.sleep(60)
"""
    with daemon([sys.executable, "-c", parent], name="parent", log=tmp_path / "parent.log") as process:
        child = wait_for_number(tmp_path / "pid", timeout_seconds=20)
        os.kill(process.pid, signal.SIGKILL)
        wait_until_ended(child)


@pytest.mark.requires("root", "memory-limit")
def test_a_daemon_that_was_killed_because_memory_ran_out_says_so(tmp_path: Path) -> None:
    hungry = "b'x' * (200 << 20)"
    with memory_limit(32) as members:
        argv = ["sh", "-c", f'echo $$ >{members}; exec "$0" -c "$1"', sys.executable, hungry]
        with daemon(argv, name="hungry", log=tmp_path / "log") as process:
            assert process.ended(within_seconds=20)
            assert process.describe_state() == (
                "hungry ended (SIGKILL: this host, or the control group that it is in, has run out of memory)"
            )


def test_a_daemon_that_was_killed_otherwise_does_not_blame_memory(tmp_path: Path) -> None:
    with daemon(["sleep", "60"], name="sleeper", log=tmp_path / "log") as process:
        os.kill(process.pid, signal.SIGKILL)
        assert process.ended(within_seconds=20)
        assert process.describe_state() == "sleeper ended (SIGKILL)"


def test_statuses_are_said_in_words() -> None:
    assert describe_status(3) == "exit 3"
    assert describe_status(-9) == "SIGKILL"


def test_tail_gives_the_last_lines_of_a_log_or_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == ""
    log.write_text("".join(f"line {number}\n" for number in range(10_000)), encoding="utf-8")
    assert tail(log, lines=2) == "line 9998\nline 9999"
