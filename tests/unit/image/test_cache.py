from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kata_dind.errors import ImageError, NoSpace
from kata_dind.host.locks import is_locked
from kata_dind.image.cache import content_key, files_key, require_built
from kata_dind.image.workspace import Goal, Workspace, open_workspace, sweep_workspaces

_BUILD_SLOWLY = """
import sys
from pathlib import Path
from kata_dind.image.cache import require_built
from kata_dind.image.workspace import Goal

def build(workspace, product):
    product.write_text("half")
    print("building", flush=True)
    workspace.run("sleep", "60")

cache = Path(sys.argv[1])
require_built(cache / "things" / "key", build, cache=cache, goal=Goal("build a thing", 0))
"""

_GOAL = Goal("build a thing", needs_mib=0)


def _leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "tmp").iterdir() if path.name != "sweep.lock")


def test_a_thing_is_built_once(tmp_path: Path) -> None:
    builds: list[Path] = []

    def build(workspace: Workspace, product: Path) -> None:
        builds.append(product)
        product.write_text("whole")

    for _ in range(2):
        path = require_built(tmp_path / "things" / "key", build, cache=tmp_path, goal=_GOAL)
        assert path.read_text() == "whole"
    assert len(builds) == 1
    assert _leftovers(tmp_path) == []


def test_two_builders_at_once_give_one_build(tmp_path: Path) -> None:
    builds: list[Path] = []

    def build(workspace: Workspace, product: Path) -> None:
        builds.append(product)
        time.sleep(0.2)
        product.mkdir()
        (product / "file").write_text("whole")

    def require() -> None:
        require_built(tmp_path / "things" / "key", build, cache=tmp_path, goal=_GOAL)

    builders = [threading.Thread(target=require) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(timeout=10)
    assert len(builds) == 1
    assert (tmp_path / "things" / "key" / "file").read_text() == "whole"


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def test_a_failed_build_publishes_nothing_and_says_what_it_was_for(tmp_path: Path) -> None:
    def build(workspace: Workspace, product: Path) -> None:
        product.write_text("half")
        workspace.run("sh", "-c", "echo the reason >&2; exit 3")

    with pytest.raises(ImageError, match=r"^could not build a thing: sh failed \(exit 3\)") as caught:
        require_built(tmp_path / "things" / "key", build, cache=tmp_path, goal=_GOAL)
    assert "the reason" in caught.value.details
    assert not (tmp_path / "things" / "key").exists()
    assert _leftovers(tmp_path) == []


def test_a_full_disk_is_reported_as_such(tmp_path: Path) -> None:
    def build(workspace: Workspace, product: Path) -> None:
        workspace.run("sh", "-c", "echo write error: No space left on device >&2; seq 100; exit 1")

    with pytest.raises(NoSpace, match=f"the disk under {tmp_path} is full") as caught:
        require_built(tmp_path / "things" / "key", build, cache=tmp_path, goal=_GOAL)
    assert "KATA_DIND_CACHE_DIR" in caught.value.hint


def test_a_build_without_the_space_that_it_needs_is_not_begun(tmp_path: Path) -> None:
    goal = Goal("build a thing", needs_mib=1 << 40)
    with pytest.raises(
        NoSpace, match=r"could not build a thing: the disk under .* has \d+ MiB left, and 1099511627776"
    ):
        require_built(tmp_path / "things" / "key", lambda _, product: None, cache=tmp_path, goal=goal)
    assert _leftovers(tmp_path) == []


def test_our_own_writes_notice_a_full_disk_too(tmp_path: Path) -> None:
    def build(workspace: Workspace, product: Path) -> None:
        Path("/dev/full").write_text("x")

    with pytest.raises(NoSpace):
        require_built(tmp_path / "things" / "key", build, cache=tmp_path, goal=_GOAL)


def test_a_killed_builder_leaves_nothing_that_is_used_and_the_next_one_sweeps(tmp_path: Path) -> None:
    target = tmp_path / "things" / "key"
    with subprocess.Popen([sys.executable, "-c", _BUILD_SLOWLY, str(tmp_path)], stdout=subprocess.PIPE) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == b"building\n"
        assert len(_leftovers(tmp_path)) == 2
        sweep_workspaces(tmp_path)
        assert len(_leftovers(tmp_path)) == 2, "a living builder's directory was swept"
        builder.kill()
        builder.wait(timeout=5)
    assert not target.exists()
    require_built(target, lambda _, product: _write(product, "whole"), cache=tmp_path, goal=_GOAL)
    assert target.read_text() == "whole"
    assert _leftovers(tmp_path) == []


def test_a_workspace_is_locked_while_it_lives(tmp_path: Path) -> None:
    with open_workspace(tmp_path, _GOAL) as workspace:
        assert is_locked(workspace.directory.with_name(workspace.directory.name + ".lock"))
    assert not workspace.directory.exists()


def test_keys_follow_names_and_contents() -> None:
    keys = {files_key({"a": b"1"}), files_key({"b": b"1"}), files_key({"a": b"1", "b": b"1"}), files_key({"a": b"2"})}
    assert len(keys) == 4
    assert files_key({"b": b"2", "a": b"1"}) == files_key({"a": b"1", "b": b"2"})
    assert content_key("a", ("b",)) != content_key("a", "b")
