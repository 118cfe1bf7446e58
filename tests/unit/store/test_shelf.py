from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_dind.errors import ImageError, SandboxError, SpecError
from kata_dind.host.locks import is_locked, locked
from kata_dind.store.shelf import ErrorIds, Shelf, delete, set_aside, used_alone

_WORK = """
import sys
from pathlib import Path
from kata_dind.store.shelf import ErrorIds, Shelf
with Shelf(Path(sys.argv[1]), "thing", ids=ErrorIds("", "", ""), lock="in-use").workshop() as directory:
    (directory / "half").touch()
    print(directory, flush=True)
    sys.stdin.read()
"""

IDS = ErrorIds(name_taken="thing.name-taken", unknown="thing.unknown", in_use="thing.in-use")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "things").mkdir()
    hints = {"make_hint": "make {}", "free_hint": "free {0} or {0}"}
    return Shelf(tmp_path / "things", "thing", ids=IDS, lock="in-use", unmissed="new", **hints)


@pytest.fixture
def maker(shelf: Shelf) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process that is at work on a thing, and its workshop."""
    argv = [sys.executable, "-c", _WORK, str(shelf.directory)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workshop = Path(process.stdout.readline().strip())
        try:
            yield process, workshop
        finally:
            process.kill()


def make(shelf: Shelf, name: str, *, file: str = "file") -> Path:
    with shelf.workshop() as directory:
        (directory / file).touch()
        with shelf.changing():
            return shelf.place(directory, name)


def left(shelf: Shelf) -> list[str]:
    return sorted(path.name for path in shelf.directory.iterdir())


# --- coming


def test_a_thing_has_no_name_until_it_is_whole(shelf: Shelf) -> None:
    with shelf.workshop() as directory:
        assert directory.stat().st_mode & 0o777 == 0o700
        assert shelf.paths() == []
        (directory / "file").touch()
        with shelf.changing():
            home = shelf.place(directory, "a")
    assert shelf.paths() == [home] == [shelf.path("a")]
    assert sorted(path.name for path in home.iterdir()) == ["file", "in-use"]


def test_a_thing_that_is_in_use_when_it_gets_its_name_stays_in_use(shelf: Shelf) -> None:
    with shelf.workshop() as directory:
        with shelf.changing():
            home = shelf.place(directory, "a")
        assert is_locked(home / "in-use")
    assert not is_locked(home / "in-use")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_no_workshop(shelf: Shelf, error: type[BaseException]) -> None:
    with pytest.raises(error), shelf.workshop() as directory:
        (directory / "half").touch()
        raise error
    assert left(shelf) == []


def test_a_taken_name_is_refused_and_its_thing_stays(shelf: Shelf) -> None:
    make(shelf, "a", file="first")
    with pytest.raises(SpecError, match=r"^there is a thing 'a' already$") as caught:
        make(shelf, "a", file="second")
    assert (caught.value.id, caught.value.hint) == ("thing.name-taken", "free a or a")
    assert (shelf.path("a") / "first").exists()
    assert left(shelf) == ["a"]


def test_of_many_that_are_given_a_name_at_once_one_gets_it(shelf: Shelf) -> None:
    refused: list[SpecError] = []

    def give() -> None:
        try:
            make(shelf, "a")
        except SpecError as error:
            refused.append(error)

    threads = [threading.Thread(target=give) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert left(shelf) == ["a"]


def test_more_may_be_at_work_than_there_are_short_names(shelf: Shelf) -> None:
    for number in range(256):
        shelf.path(f".w{number:02x}").mkdir()
    assert len(shelf.new_nameless().name) > len(".w00")


def test_names_are_ordered_and_files_and_nameless_directories_do_not_count(shelf: Shelf) -> None:
    for name in ("b", "a"):
        make(shelf, name)
    (shelf.directory / "note.txt").touch()
    (shelf.directory / ".locks").mkdir()
    with shelf.workshop():
        assert [path.name for path in shelf.paths()] == ["a", "b"]


def test_a_shelf_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "none", "thing", ids=IDS)
    shelf.sweep()
    assert shelf.paths() == []
    assert [*tmp_path.iterdir()] == []


# --- use


def test_those_who_share_a_thing_do_not_wait_for_each_other(shelf: Shelf) -> None:
    home = make(shelf, "a")
    gone = ImageError("it is gone", id="thing.gone")
    with shelf.shared("a", gone=gone), shelf.shared("a", gone=gone) as descriptor:
        assert os.path.samestat(os.fstat(descriptor), (home / "in-use").stat())
        assert is_locked(home / "in-use")
    assert not is_locked(home / "in-use")


def test_a_removed_thing_is_not_used_and_not_made_again(shelf: Shelf) -> None:
    make(shelf, "a")
    with shelf.removing("a"):
        pass
    with (
        pytest.raises(ImageError, match="it is gone"),
        shelf.shared("a", gone=ImageError("it is gone", id="thing.gone")),
    ):
        pytest.fail("the block is entered")
    assert left(shelf) == []


def test_a_thing_is_used_alone_by_one_and_the_next_hears_why(tmp_path: Path) -> None:
    def busy() -> SandboxError:
        return SandboxError("another has it", id="thing.busy")

    lock = tmp_path / "lock"
    with used_alone(lock, timeout_seconds=0, busy=busy) as descriptor:
        assert os.path.samestat(os.fstat(descriptor), lock.stat())
        with pytest.raises(SandboxError, match="another has it"), used_alone(lock, timeout_seconds=0, busy=busy):
            pytest.fail("the block is entered")
    with used_alone(lock, timeout_seconds=0, busy=busy):
        pass


def test_an_unknown_name_is_refused_with_the_known_ones(shelf: Shelf) -> None:
    assert shelf.require("a", {"a": 1}) == 1
    with pytest.raises(SpecError, match=r"^there is no thing 'b' \(there are: a, c\)$") as caught:
        shelf.require("b", {"a": 1, "c": 2})
    assert (caught.value.id, caught.value.hint) == ("thing.unknown", "make b")
    with pytest.raises(SpecError, match=r"\(there are: none\)$"):
        shelf.require("b", {})


@pytest.mark.parametrize(("users", "said"), [(["one"], "the sandbox one"), (["one", "two"], "the sandboxes one, two")])
def test_the_refusal_names_the_sandboxes_that_need_a_thing(shelf: Shelf, users: list[str], said: str) -> None:
    shelf.require_unused("a", [])
    with pytest.raises(SpecError, match=f"^the thing 'a' is used by {said}$") as caught:
        shelf.require_unused("a", users)
    assert (caught.value.id, caught.value.hint) == ("thing.in-use", f"kata-dind rm {' '.join(users)}")


# --- going


def test_a_thing_loses_its_name_at_once_and_with_all_its_content(shelf: Shelf) -> None:
    home = make(shelf, "a")
    (home / "below").mkdir()
    doomed = set_aside(home)
    assert (shelf.paths(), (doomed / "below").is_dir()) == ([], True)
    again = set_aside(make(shelf, "a"))
    delete(doomed)
    assert left(shelf) == [again.name]


def test_an_error_before_a_removal_keeps_the_thing(shelf: Shelf) -> None:
    make(shelf, "a")
    with pytest.raises(ValueError, match="no"), shelf.removing("a"):
        raise ValueError("no")
    assert left(shelf) == ["a"]


def test_no_process_begins_to_use_a_thing_that_is_about_to_be_removed(shelf: Shelf) -> None:
    make(shelf, "a")
    used: list[bool] = []

    def use() -> None:
        try:
            with shelf.shared("a", gone=ImageError("it is gone", id="thing.gone")):
                used.append(True)
        except ImageError:
            used.append(False)

    with shelf.removing("a"):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert used == []
    thread.join()
    assert used == [False]


# --- what is swept


def test_a_living_maker_keeps_its_workshop_and_a_killed_one_does_not(
    shelf: Shelf, maker: tuple[subprocess.Popen[str], Path]
) -> None:
    process, workshop = maker
    shelf.sweep()
    assert (workshop / "half").exists()
    process.kill()
    process.wait()
    shelf.sweep()
    assert left(shelf) == []


@pytest.mark.parametrize("name", [".w3f", ".removed-a-1", ".new-0123456789ab", ".new-removed-01234567"])
def test_leftovers_of_this_version_and_of_earlier_ones_are_swept(shelf: Shelf, name: str) -> None:
    home = make(shelf, "a")
    (shelf.directory / name / "below").mkdir(parents=True)
    (shelf.directory / ".locks").mkdir()
    (shelf.directory / ".lock").touch()
    shelf.sweep()
    assert left(shelf) == [".lock", ".locks", home.name]


def test_of_the_things_that_may_be_swept_only_unused_ones_are(shelf: Shelf) -> None:
    for name in ("in-use", "killed", "missed"):
        make(shelf, name)
    for name in ("in-use", "killed"):
        (shelf.path(name) / "new").touch()
    with locked(shelf.path("in-use") / "in-use", timeout_seconds=0):
        shelf.sweep()
        assert left(shelf) == ["in-use", "missed"]
    shelf.sweep()
    assert left(shelf) == ["missed"]


def test_a_sweep_with_nothing_to_do_writes_nothing(shelf: Shelf, tmp_path: Path) -> None:
    shelf.path("a").mkdir()
    shelf.sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["things"]


def test_no_sweep_takes_a_workshop_from_its_maker(shelf: Shelf) -> None:
    stop = threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            shelf.sweep()

    sweepers = [threading.Thread(target=sweep) for _ in range(3)]
    for sweeper in sweepers:
        sweeper.start()
    deadline = time.monotonic() + 1
    try:
        while time.monotonic() < deadline:
            with shelf.workshop() as directory:
                (directory / "half").touch()
                assert is_locked(directory / "in-use")
    finally:
        stop.set()
        for sweeper in sweepers:
            sweeper.join()
    assert left(shelf) == []
