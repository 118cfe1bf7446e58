"""`kata-dind fix --in-place`: a file is the old one or the new one at every moment, and keeps what it was."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kata_dind.pod.repair import repair
from tests.unit.cli.conftest import CommandLine
from tests.unit.cli.manifests import DIND, HOST_PATH, PLAIN, SERVICE, deployment

_PROGRAM = "import sys; from kata_dind.__main__ import main; sys.argv[0] = 'kata-dind'; sys.exit(main())"


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a directory of the test's own."""
    directory = home / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def test_the_file_gets_what_yaml_would_print(cli: CommandLine, here: Path) -> None:
    (here / "all.yaml").write_text(f"{DIND}---\n{SERVICE}")
    expected = cli("fix", "all.yaml").stdout
    outcome = cli("fix", "--in-place", "-f", "all.yaml")
    assert (outcome.exit_code, (here / "all.yaml").read_text()) == (0, expected)
    assert outcome.stdout.startswith("all.yaml:2: Pod build/ci: ")
    assert [path.name for path in here.iterdir()] == ["all.yaml"]
    again = cli("fix", "-i", "all.yaml")
    assert (again.exit_code, again.stdout, (here / "all.yaml").read_text()) == (0, "", expected)


def test_a_file_that_needs_nothing_is_not_written(cli: CommandLine, here: Path) -> None:
    (here / "web.yaml").write_text(PLAIN)
    before = (here / "web.yaml").stat()
    assert cli("fix", "--in-place", "web.yaml").exit_code == 0
    after = (here / "web.yaml").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_what_can_not_be_repaired_is_named(cli: CommandLine, here: Path) -> None:
    (here / "pod.yaml").write_text(HOST_PATH)
    outcome = cli("fix", "--in-place", "pod.yaml")
    assert (outcome.exit_code, (here / "pod.yaml").read_text()) == (0, HOST_PATH)
    assert "hostPath" in outcome.stdout
    assert "1 not to be repaired here" in outcome.stderr


def test_mode_and_attributes_stay_and_a_link_is_followed(cli: CommandLine, here: Path) -> None:
    (here / "sub").mkdir()
    target = here / "sub" / "real.yaml"
    target.write_text(DIND)
    target.chmod(0o640)
    has_attributes = True
    try:
        os.setxattr(target, "user.note", b"mine")
    except OSError:
        has_attributes = False
    (here / "link.yaml").symlink_to("sub/real.yaml")
    assert cli("fix", "--in-place", "link.yaml").exit_code == 0
    assert (here / "link.yaml").is_symlink()
    assert target.read_text() != DIND
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert not has_attributes or os.getxattr(target, "user.note") == b"mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_stays(cli: CommandLine, here: Path) -> None:
    (here / "pod.yaml").write_text(DIND)
    os.chown(here / "pod.yaml", 1234, 2345)
    assert cli("fix", "--in-place", "pod.yaml").exit_code == 0
    after = (here / "pod.yaml").stat()
    assert (after.st_uid, after.st_gid, (here / "pod.yaml").read_text() != DIND) == (1234, 2345, True)


def test_what_changed_meanwhile_is_left_alone(cli: CommandLine, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "pod.yaml").write_text(DIND)

    def slow(*arguments: object, **more: object) -> object:
        (here / "pod.yaml").write_text("# somebody else's\n")
        return repair(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("kata_dind.fixing.mend.repair", slow)
    outcome = cli("fix", "--in-place", "pod.yaml")
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("kata-dind: pod.yaml: it was changed while it was read")
    assert [(path.name, path.read_text()) for path in here.iterdir()] == [("pod.yaml", "# somebody else's\n")]


def test_a_broken_file_is_left_alone(cli: CommandLine, here: Path) -> None:
    text = f"{DIND}---\na: [\n"
    (here / "pod.yaml").write_text(text)
    assert cli("fix", "--in-place", "pod.yaml").exit_code == 2
    assert [(path.name, path.read_text()) for path in here.iterdir()] == [("pod.yaml", text)]


def test_a_pipe_is_refused(cli: CommandLine, here: Path) -> None:
    os.mkfifo(here / "pipe.yaml")
    outcome = cli("fix", "--in-place", "pipe.yaml")
    assert (outcome.exit_code, "not a regular file" in outcome.stderr) == (2, True)


def test_json_names_the_changed_files(cli: CommandLine, here: Path) -> None:
    (here / "a.yaml").write_text(DIND)
    (here / "b.yaml").write_text(PLAIN)
    answer = json.loads(cli("fix", "--in-place", "--json", "a.yaml", "b.yaml").stdout)
    assert answer["summary"]["changed_files"] == ["a.yaml"]


def test_a_killed_run_leaves_the_old_file_or_the_new_one(here: Path) -> None:
    text = "---\n".join(map(deployment, range(60)))
    file = here / "all.yaml"
    file.write_text(text)
    argv = [sys.executable, "-c", _PROGRAM, "fix", "--quiet", "--in-place", "all.yaml"]
    began = time.monotonic()
    subprocess.run(argv, check=True, capture_output=True)
    took_seconds = time.monotonic() - began
    new = file.read_text()
    assert new != text
    seen: set[bool] = set()
    chance = random.Random(16)
    for _ in range(12):
        file.write_text(text)
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as program:
            time.sleep(chance.uniform(0.3, 1.1) * took_seconds)
            program.send_signal(signal.SIGKILL)
        assert file.read_text() in (text, new)
        seen.add(program.returncode == 0)
    leftover = [path for path in here.iterdir() if path != file]
    assert all(path.name.startswith(".all.yaml.") for path in leftover), "what is left over is hidden"
    assert False in seen, "no run was killed"


def test_an_ended_run_leaves_nothing_behind(here: Path) -> None:
    text = "---\n".join(map(deployment, range(400)))
    file = here / "all.yaml"
    file.write_text(text)
    argv = [sys.executable, "-c", _PROGRAM, "fix", "--quiet", "--in-place", "all.yaml"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as program:
        while len([*here.iterdir()]) == 1 and program.poll() is None:
            time.sleep(0.005)
        program.terminate()
    assert program.returncode == 128 + signal.SIGTERM
    assert [(path, path.read_text() == text) for path in here.iterdir()] == [(file, True)]
