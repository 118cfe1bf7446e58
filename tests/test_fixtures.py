"""The fixtures that guard all tests are tested, too: each test here runs a pytest of its own with our conftest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough  # they are about the tests, and each is a session of its own

_REPOSITORY = Path(__file__).parent.parent

_PRELUDE = """
import os, socket, subprocess, tempfile, threading
from pathlib import Path
import pytest

kept = []

def orphan():
    "Start a process whose parent ends at once."
    subprocess.run(["sh", "-c", "setsid sleep 60 >/dev/null 2>&1 &"], check=True)

def child_of_a_lasting_thread():
    started = threading.Event()

    def start():
        kept.append(subprocess.Popen(["sleep", "60"]))
        started.set()
        threading.Event().wait()

    threading.Thread(target=start, daemon=True).start()
    started.wait()

def bound(directory):
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(directory / "s"))
    return listening

def loop_device(directory):
    disk = directory / "disk"
    disk.write_bytes(bytes(1 << 20))
    subprocess.run(["losetup", "--find", "--show", str(disk)], check=True)

def mount(directory):
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "kata-dind-test", str(directory)], check=True)
"""


def run_pytest(directory: Path, body: str, *options: str) -> str:
    """Run tests in a session of their own and return what it printed."""
    (directory / "test_inner.py").write_text(_PRELUDE + body, encoding="utf-8")
    config = ["-c", str(_REPOSITORY / "pyproject.toml"), "--rootdir", str(directory), "-p", "tests.conftest"]
    config += ["-p", "no:cacheprovider", "--basetemp", str(directory / "base"), "-o", "leak_grace_seconds=0.3"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *config, "-q", *options, str(directory)],
        cwd=_REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "leak"),
    [
        ("process", "orphan()"),
        ("process", "child_of_a_lasting_thread()"),
        ("open descriptor", "kept.append(os.open('/dev/null', os.O_RDONLY))"),
        ("bound socket", "kept.append(bound(tmp_path))"),
        ("left-over entry", "tempfile.mkdtemp()"),
    ],
)
def test_a_test_that_leaks_is_caught_and_named(tmp_path: Path, kind: str, leak: str) -> None:
    output = run_pytest(tmp_path, f"def test_leaks(tmp_path):\n    {leak}\n\ndef test_is_clean():\n    pass\n")
    assert f"left behind:\n  {kind} " in output
    assert "ERROR at teardown of test_leaks" in output
    assert "2 passed, 1 error" in output


@pytest.mark.requires("root", "loop")
def test_a_left_loop_device_is_caught(tmp_path: Path) -> None:
    try:
        output = run_pytest(tmp_path, "def test_leaks(tmp_path):\n    loop_device(tmp_path)\n")
    finally:
        for device in _loop_devices_below(tmp_path):
            subprocess.run(["losetup", "--detach", device], check=True)
    assert "left behind:\n  loop device loop" in output


@pytest.mark.requires("root")
def test_a_left_mount_is_caught(tmp_path: Path) -> None:
    try:
        output = run_pytest(tmp_path, "def test_leaks(tmp_path):\n    mount(tmp_path / 'm')\n")
    finally:
        subprocess.run(["umount", str(tmp_path / "base" / "test_leaks0" / "m")], check=True)
    assert "left behind:\n  mount " in output


def test_a_left_process_is_ended_so_that_it_fails_one_test_alone(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        """
def test_leaks():
    orphan()

def test_after():
    with os.popen(f"pgrep -P {os.getpid()} sleep") as orphans:
        assert orphans.read() == ""
""",
    )
    assert "2 passed, 1 error" in output


def test_what_a_wider_fixture_starts_is_shared(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        """
@pytest.fixture(scope="session")
def machine():
    with subprocess.Popen(["sleep", "60"]) as popen:
        yield popen
        popen.kill()

def test_starts_it_late(request):
    assert request.getfixturevalue("machine").poll() is None

def test_finds_it_running(machine):
    assert machine.poll() is None
""",
    )
    assert "2 passed" in output
    assert "error" not in output


def test_what_a_wider_fixture_leaves_fails_the_session(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        '@pytest.fixture(scope="session")\ndef machine():\n    orphan()\n\ndef test_uses_it(machine):\n    pass\n',
    )
    assert "left behind:\n  process " in output
    assert "1 passed, 1 error" in output


def test_a_missing_requirement_skips_and_says_why(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, *_WITHOUT_QEMU)
    assert "1 skipped" in output
    assert "requires qemu: qemu is away" in output


def test_require_turns_that_skip_into_a_failure(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, *_WITHOUT_QEMU, "--require=root,qemu")
    assert "--require=qemu: qemu is away" in output
    assert "1 error" in output
    assert "SKIPPED" not in output


def test_require_of_something_else_does_not(tmp_path: Path) -> None:
    assert "1 skipped" in run_pytest(tmp_path, *_WITHOUT_QEMU, "--require=busybox")


def test_an_unknown_requirement_is_an_error_in_both_places(tmp_path: Path) -> None:
    assert "known are aarch64, " in run_pytest(tmp_path, "def test_it():\n    pass\n", "--require=qemo")
    body = '@pytest.mark.requires("qemo")\ndef test_it():\n    pass\n'
    assert "tests/requirements.py has no such probe" in run_pytest(tmp_path, body)


def test_a_failure_shows_the_logs_of_what_it_used(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_text("Kernel panic\n", encoding="utf-8")
    output = run_pytest(
        tmp_path,
        f"""
class Machine:
    kata_dind_logs = [Path({str(log)!r}), Path("/nonexistent")]

@pytest.fixture
def machine():
    return Machine()

def test_fails(machine):
    raise AssertionError
""",
    )
    assert f"the end of {log}" in output
    assert "Kernel panic" in output


# --- the account of a session


_OF_ALL_KINDS = """
from tests import requirements

requirements.PROBES["qemu"] = lambda: "qemu is away"

@pytest.mark.slow(minutes=5)
def test_slow():
    pass

@pytest.mark.thorough
def test_thorough():
    pass

def test_short():
    pass

@pytest.mark.requires("qemu")
@pytest.mark.parametrize("number", range(3))
def test_of_a_machine(number):
    pass

@pytest.mark.requires("qemu")
@pytest.mark.thorough
def test_of_a_machine_too():
    pass

def test_of_another_kind():
    pytest.skip("nobody is here")
"""


def account_of(output: str) -> list[str]:
    """Return what a session told at its end, without pytest's closing line, which is the last."""
    lines = output.splitlines()
    (begin,) = [number for number, line in enumerate(lines) if line.strip("= ") == "what ran"]
    assert " in " in lines[-1]
    return lines[begin + 1 : -1]


def test_a_session_tells_what_ran_and_what_was_skipped_by_reason(tmp_path: Path) -> None:
    assert account_of(run_pytest(tmp_path, _OF_ALL_KINDS)) == [
        "3 tests ran: 3 passed",
        "5 tests skipped on this machine:",
        "      4  requires qemu: qemu is away",
        "      1  nobody is here",
    ]


def test_a_quick_session_tells_what_it_has_left_to_another(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, _OF_ALL_KINDS, "--quick")
    assert account_of(output) == [
        "1 test ran: 1 passed",
        "4 tests skipped on this machine:",
        "      3  requires qemu: qemu is away",
        "      1  nobody is here",
        "3 tests left to `make test-all`",
    ]
    assert output.splitlines()[-1].startswith("1 passed, 4 skipped, 3 deselected in ")


def test_what_others_have_chosen_is_not_what_a_quick_session_has_left(tmp_path: Path) -> None:
    assert account_of(run_pytest(tmp_path, _OF_ALL_KINDS, "--quick", "-k", "short or slow")) == [
        "1 test ran: 1 passed",
        "0 tests skipped on this machine",
        "1 test left to `make test-all`",
        "6 tests left out by what was chosen (-m, -k, --rest)",
    ]


def test_the_rest_is_what_a_quick_session_leaves(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, _OF_ALL_KINDS, "--rest", "-vv")
    assert "test_inner.py::test_thorough PASSED" in output
    assert "test_inner.py::test_slow PASSED" in output
    assert "2 passed, 1 skipped, 5 deselected" in output
    assert "--quick and --rest leave nothing together" in run_pytest(tmp_path, _OF_ALL_KINDS, "--rest", "--quick")


def test_a_session_that_has_to_end_in_time_begins_with_the_short_and_tells_what_it_did_not_begin(
    tmp_path: Path,
) -> None:
    output = run_pytest(tmp_path, _OF_ALL_KINDS, "--minutes=3.5", "-vv")
    assert account_of(output)[0] == "2 tests ran: 2 passed"
    assert output.index("test_short PASSED") < output.index("test_slow SKIPPED")
    assert [line for line in account_of(output)[5:] if "NOT RUN" not in line] == [
        "1 test not begun, since the 3.5 minutes of this session were used up:",
        "      1  test_inner.py",
        "`make test-all` runs them",
    ]
    assert "!! NOT RUN, for want of time !!" in output
    assert "NOT RUN" not in run_pytest(tmp_path, _OF_ALL_KINDS, "--minutes=9")


def test_failures_and_errors_are_counted_by_the_test(tmp_path: Path) -> None:
    body = """
@pytest.fixture
def broken():
    raise OSError

def test_fails():
    raise AssertionError

def test_has_a_broken_fixture(broken):
    pass

def test_passes_and_leaks():
    tempfile.mkdtemp()
"""
    assert account_of(run_pytest(tmp_path, body))[0] == "3 tests ran: 1 passed, 1 failed, 2 with an error"


_WITHOUT_QEMU = (
    """
from tests import requirements

requirements.PROBES["qemu"] = lambda: "qemu is away"

@pytest.mark.requires("qemu")
def test_it():
    pass
""",
)


def _loop_devices_below(directory: Path) -> list[str]:
    listed = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"], capture_output=True, text=True, check=True
    )
    rows = (line.split(maxsplit=1) for line in listed.stdout.splitlines())
    return [name for name, file in rows if file.startswith(str(directory))]
