"""Directories that are watched by a real inotify."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_dind.host import tree_watch
from kata_dind.host.tree_watch import Change, TreeWatch


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "node_modules" / "package").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / "file").write_text("first")
    return root


@pytest.fixture
def watch(root: Path) -> Iterator[TreeWatch]:
    watch = TreeWatch(root)
    watch.fill()
    yield watch
    watch.close()


def changed(watch: TreeWatch) -> list[str]:
    return [change.path for change in watch.read()]


def test_only_directories_are_watched_that_programs_wait_for(watch: TreeWatch, root: Path) -> None:
    assert len(watch) == 3  # the root, a, and a/b
    (root / "node_modules" / "package" / "file").write_text("x")
    (root / ".git" / "index").write_text("x")
    assert changed(watch) == []


def test_environments_and_caches_are_left_out(root: Path) -> None:
    for name, mark in (("env", "pyvenv.cfg"), ("target", "CACHEDIR.TAG")):
        (root / name / "below" / "deeper").mkdir(parents=True)
        (root / name / mark).write_text("x")
    watch = TreeWatch(root)
    watch.fill()
    try:
        assert len(watch) == 5  # env and target, too
        (root / "env" / "later" / "deep").mkdir(parents=True)
        assert changed(watch) == ["env/later", "env"]
        assert len(watch) == 5
    finally:
        watch.close()


def test_a_change_of_each_kind_is_told_once(watch: TreeWatch, root: Path) -> None:
    (root / "file").write_text("second")
    assert watch.read() == [Change("file", is_sure=True)]
    (root / "a" / "b" / "new").write_text("x")
    assert watch.read() == [Change("a/b/new", is_sure=True), Change("a/b", is_sure=True)]
    (root / "a" / "b" / "new").rename(root / "a" / "moved")
    assert changed(watch) == ["a/b/new", "a/b", "a/moved", "a"]
    (root / "a" / "moved").unlink()
    assert changed(watch) == ["a/moved", "a"]
    assert changed(watch) == []


def test_what_may_be_an_echo_is_not_sure(watch: TreeWatch, root: Path) -> None:
    file, before = root / "file", watch.signature("file")
    os.close(os.open(file, os.O_WRONLY))
    assert watch.read() == [Change("file", is_sure=False)]
    os.chown(file, os.getuid(), -1)
    assert watch.read() == [Change("file", is_sure=False)]
    assert watch.signature("file") == before
    file.touch()
    assert watch.read() == [Change("file", is_sure=False)]
    assert watch.signature("file") != before
    file.unlink()
    assert watch.signature("file") is None


def test_new_directories_are_watched_with_what_was_made_in_them(watch: TreeWatch, root: Path) -> None:
    (root / "new" / "deep" / "deeper").mkdir(parents=True)
    (root / "new" / "deep" / "file").write_text("x")
    assert {"new", "new/deep", "new/deep/file", "new/deep/deeper"} <= {*changed(watch)}
    (root / "new" / "deep" / "deeper" / "later").write_text("x")
    assert changed(watch) == ["new/deep/deeper/later", "new/deep/deeper"]


def test_a_directory_that_is_moved_is_watched_at_its_new_place_only(watch: TreeWatch, root: Path) -> None:
    (root / "a").rename(root / "c")
    assert {"a", "c", "c/b"} <= {*changed(watch)}
    (root / "c" / "b" / "file").write_text("x")
    assert changed(watch) == ["c/b/file", "c/b"]
    (root / "c").rename(root.parent / "outside")
    changed(watch)
    (root.parent / "outside" / "b" / "file").write_text("y")
    assert changed(watch) == []
    assert len(watch) == 1


def test_a_directory_that_was_moved_twice_before_anybody_looked(watch: TreeWatch, root: Path) -> None:
    (root / "new").mkdir()
    (root / "a").rename(root / "new" / "a")
    (root / "new").rename(root / "newer")
    changed(watch)
    changed(watch)
    (root / "newer" / "a" / "b" / "file").write_text("x")
    assert changed(watch) == ["newer/a/b/file", "newer/a/b"]
    assert len(watch) == 4


def test_the_root_may_be_renamed_and_removed(watch: TreeWatch, root: Path) -> None:
    moved = root.rename(root.parent / "renamed")
    (moved / "file").write_text("second")
    assert "file" in changed(watch)
    shutil.rmtree(moved)
    assert {"file", "a/b", "a"} <= {*changed(watch)}
    assert changed(watch) == []


def test_links_are_not_followed(watch: TreeWatch, root: Path, tmp_path: Path) -> None:
    (outside := tmp_path / "outside").mkdir()
    (root / "link").symlink_to(outside)
    assert changed(watch) == ["link", ""]
    (outside / "file").write_text("x")
    assert changed(watch) == []


def test_a_file_is_watched_alone(root: Path) -> None:
    watch = TreeWatch(root / "file")
    watch.fill()
    try:
        (root / "file").write_text("second")
        (root / "other").write_text("x")
        assert watch.read() == [Change("", is_sure=True)]
        assert watch.signature("") is not None
    finally:
        watch.close()


def test_names_may_be_any_bytes(watch: TreeWatch, root: Path) -> None:
    name = os.fsdecode(b"\xff new\nline")
    (root / name).write_text("x")
    assert changed(watch) == [name, ""]


def test_after_lost_events_the_directories_are_looked_through(watch: TreeWatch, root: Path) -> None:
    old = time.time() - 3600
    (root / "a" / "old").write_text("x")
    changed(watch)
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    (root / "one").write_text("x")
    (root / "two").write_text("x")
    (root / "late" / "deep").mkdir(parents=True)
    first = [os.open(root / name, os.O_WRONLY) for name in ("one", "two")]
    for _ in range(most // 2 + 1):
        for fd in first:  # in turn, since two equal events become one
            os.pwrite(fd, b"y", 0)
    for fd in first:
        os.close(fd)
    (root / "late" / "deep" / "lost").write_text("x")
    (root / "a" / "lost").write_text("x")
    os.utime(root / "a" / "lost", (old, old))
    found = changed(watch)
    assert len(found) == len({*found})
    assert {"one", "two", "late/deep/lost", "a/lost"} <= {*found}
    (root / "late" / "deep" / "lost").write_text("again")
    assert changed(watch) == ["late/deep/lost"]


def test_a_limit_of_directories_is_told_and_the_others_are_watched(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_watch, "MOST_DIRECTORIES", 2)
    watch = TreeWatch(root)
    watch.fill()
    try:
        assert len(watch) == 2
        assert watch.full == "kata-dind watches at most 2 directories; share fewer"
        (root / "file").write_text("second")
        assert changed(watch) == ["file"]
    finally:
        watch.close()


LIMITED = """
import sys
from pathlib import Path
from kata_dind.host.tree_watch import Full, TreeWatch

Path(f"/proc/sys/user/max_inotify_{sys.argv[2]}").write_text(sys.argv[3])
try:
    watch = TreeWatch(Path(sys.argv[1]))
    watch.fill()
    print(len(watch), watch.full)
except Full as full:
    print(full)
"""


@pytest.mark.requires("userns")
@pytest.mark.parametrize(
    ("what", "limit", "said"),
    [
        ("watches", 2, "2 this host's limit fs.inotify.max_user_watches is reached; as root, raise it: "
                       "sysctl fs.inotify.max_user_watches=524288"),
        ("instances", 0, "this host's limit fs.inotify.max_user_instances is reached; as root, raise it: "
                         "sysctl fs.inotify.max_user_instances=1024"),
    ],
)  # fmt: skip
def test_the_hosts_limit_is_told_with_the_line_that_raises_it(root: Path, what: str, limit: int, said: str) -> None:
    # A user namespace has limits of its own.
    in_namespace = ["unshare", "--user", "--map-root-user", sys.executable, "-c", LIMITED, str(root), what, str(limit)]
    assert subprocess.run(in_namespace, capture_output=True, text=True, check=True, timeout=60).stdout == f"{said}\n"
