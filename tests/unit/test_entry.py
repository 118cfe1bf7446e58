"""The console script, as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kata_dind import __version__

COMMAND = [sys.executable, "-m", "kata_dind.entry"]


def test_what_was_printed_has_been_written_at_the_end(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:  # a file is written in blocks, not by the line
        subprocess.run([*COMMAND, "--version"], stdout=out, check=True)
    assert __version__ in (tmp_path / "out").read_text()


@pytest.mark.parametrize(("words", "exit_code"), [(["ls"], 0), (["up", "--size", "x"], 2), (["inspect", "nobody"], 2)])
def test_it_ends_with_the_exit_code_of_the_command(words: list[str], exit_code: int) -> None:
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)
    assert done.returncode == exit_code
    assert ("kata-dind: " in done.stderr) is (exit_code > 0)
    assert "Traceback" not in done.stderr


def test_an_output_that_is_full_is_an_error() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*COMMAND, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert "no space is left" in done.stderr
