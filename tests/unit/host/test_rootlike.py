from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata_dind.errors import CommandFailed
from kata_dind.host.rootlike import remove_tree, rootlike_argv, run_rootlike


def test_root_gets_mounts_of_its_own() -> None:
    assert rootlike_argv(["tar", Path("/tmp/a b")], as_root=True) == ["unshare", "--mount", "--", "tar", "/tmp/a b"]


def test_an_ordinary_user_becomes_root_with_its_subordinate_ids() -> None:
    assert rootlike_argv(["rm", "-rf", "x"], as_root=False) == [
        "unshare", "--user", "--map-root-user", "--map-auto", "--mount", "--", "rm", "-rf", "x",
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
