from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kata_dind.image.entrypoint import entrypoint_script
from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
from kata_dind.pod.model import Copy, Program
from kata_dind.vocabulary import DataRootKind, Filesystem
from tests.unit.cli.conftest import CommandLine


def test_the_script_is_printed_as_it_is_shipped(cli: CommandLine) -> None:
    outcome = cli("entrypoint")
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (0, entrypoint_script(), "")


def test_an_argument_is_refused_and_nothing_is_printed(cli: CommandLine) -> None:
    outcome = cli("entrypoint", "loop")
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert "unexpected extra argument" in outcome.stderr


def test_what_is_written_to_a_file_can_be_run(home: Path) -> None:
    """In any locale: the file has the script's bytes, and without a command it says how it is used."""
    program = "import sys; from kata_dind.__main__ import main; sys.argv[0] = 'kata-dind'; sys.exit(main())"
    file = home / "entrypoint.sh"
    with file.open("wb") as stdout:
        subprocess.run([sys.executable, "-c", program, "entrypoint"], stdout=stdout, env={"LC_ALL": "C"}, check=True)
    assert file.read_bytes() == entrypoint_script().encode("ascii")
    done = subprocess.run(["sh", file], capture_output=True, text=True, check=False)
    assert (done.returncode, "usage: entrypoint.sh [--] COMMAND [ARGS...]" in done.stderr) == (64, True)


def test_a_kind_is_printed_alone(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = cli("entrypoint", "--kind", "loop")
    assert (outcome.exit_code, outcome.stdout) == (0, entrypoint_for_pods(Copy(DataRootKind.LOOP)))
    monkeypatch.setenv("KATA_DIND_ENTRYPOINT_KIND", "loop")
    assert cli("entrypoint").stdout == outcome.stdout


def test_a_kind_that_does_not_exist_is_told_in_one_line(cli: CommandLine) -> None:
    outcome = cli("entrypoint", "--kind", "cloud")
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr == "kata-dind: --kind: 'cloud' is not one of auto, memory, loop, block, virtiofs\n"


def test_a_copy_is_for_what_is_asked(cli: CommandLine) -> None:
    outcome = cli("entrypoint", "--kind=block", "--program=dagger", "--filesystem=xfs", "--fallback", "--containerd")
    copy = Copy(DataRootKind.BLOCK, Program.DAGGER, Filesystem.XFS, fallback=True, containerd=True)
    assert (outcome.exit_code, outcome.stdout) == (0, entrypoint_for_pods(copy))


@pytest.mark.parametrize("option", ["--program=podman", "--filesystem=btrfs"])
def test_what_no_copy_is_for_is_refused(cli: CommandLine, option: str) -> None:
    outcome = cli("entrypoint", "--kind=loop", option)
    name, value = option.split("=")
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith(f"kata-dind: {name}: {value!r} is not one of ")


@pytest.mark.parametrize("option", ["--program=dockerd", "--filesystem=ext4", "--fallback", "--containerd"])
def test_without_a_kind_nothing_is_left_out(cli: CommandLine, option: str) -> None:
    outcome = cli("entrypoint", option)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert "--kind" in outcome.stderr
