from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kata_dind.errors import CommandFailed
from kata_dind.host.rootlike import remove_tree, rootlike_argv, run_rootlike

_RUN_STUBBORNLY = """
import sys
from kata_dind.host.rootlike import run_rootlike
script = 'trap "" TERM; echo > "$0"; (sleep 98) & sleep 99'
run_rootlike(["sh", "-c", script, sys.argv[1]], timeout_seconds=60)
"""


def test_root_gets_mounts_of_its_own() -> None:
    assert rootlike_argv(["tar", Path("/tmp/a b")], as_root=True) == [
        "setpriv", "--pdeathsig", "KILL", "--",
        "unshare", "--mount", "--pid", "--kill-child", "--", "tar", "/tmp/a b",
    ]  # fmt: skip


def test_an_ordinary_user_becomes_root_with_its_subordinate_ids() -> None:
    assert rootlike_argv(["rm", "-r", "x"], as_root=False) == [
        "setpriv", "--pdeathsig", "KILL", "--",
        "unshare", "--user", "--map-root-user", "--map-auto", "--mount", "--pid", "--kill-child", "--", "rm", "-r", "x",
    ]  # fmt: skip


@pytest.mark.requires("root")
def test_a_failure_names_the_command_and_not_its_wrapper() -> None:
    with pytest.raises(CommandFailed, match=r"^false failed"):
        run_rootlike(["false"], timeout_seconds=10)


def test_a_tree_is_removed_with_what_is_in_it(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "deep" / "link").symlink_to("/etc/passwd")
    remove_tree(tree)
    remove_tree(tree)
    assert os.listdir(tmp_path) == []  # noqa: PTH208, for the list is what is compared


@pytest.mark.requires("root")
def test_all_processes_of_a_command_end_when_its_caller_is_killed(tmp_path: Path) -> None:
    started = tmp_path / "started"
    with subprocess.Popen([sys.executable, "-c", _RUN_STUBBORNLY, str(started)]) as caller:
        deadline = time.monotonic() + 10
        while not started.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        caller.kill()
    # The leak check of every test sees to it that none of them is left.
