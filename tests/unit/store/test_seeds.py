from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kata_dind.errors import SeedUnfit, SpecError
from kata_dind.store.seeds import (
    build_lock,
    internal_id,
    list_seeds,
    load_seed,
    new_seed_directory,
    remove_seed,
    require_seed,
    seeds_directory,
    use_seed,
)
from tests.unit.store.conftest import MakeSeed


def test_seeds_are_listed_by_name_and_the_internal_ones_come_last(make_seed: MakeSeed) -> None:
    for seed_id in (internal_id("0123"), "web", "db"):
        make_seed(seed_id)
    assert [(seed.seed_id, seed.name) for seed in list_seeds()] == [("db", "db"), ("web", "web"), ("_0123", "")]
    assert require_seed("db").facts["name"] == "db"


@pytest.mark.parametrize("name", ["other", "", "../web", ".locks", "web/../web"])
def test_an_unknown_name_is_refused_with_the_known_ones(make_seed: MakeSeed, name: str) -> None:
    make_seed()
    with pytest.raises(SpecError, match=r"there is no seed '.*' \(there are: web\)"):
        require_seed(name)


def test_a_half_seed_is_never_seen_and_goes_with_its_maker() -> None:
    with new_seed_directory() as directory:
        (directory / "memory").write_bytes(b"half")
        assert list_seeds() == []
        assert directory.exists(), "its maker lives"
    assert not directory.exists()


def test_an_error_leaves_no_half_seed() -> None:
    with pytest.raises(ValueError, match="no"), new_seed_directory() as directory:
        raise ValueError("no")
    assert not directory.exists()


def test_what_a_killed_maker_has_left_is_swept() -> None:
    code = (
        "from kata_dind.store.seeds import new_seed_directory\n"
        "with new_seed_directory() as directory:\n"
        "    (directory / 'memory').write_bytes(b'half'); print(directory, flush=True); input()"
    )
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        left = Path(maker.stdout.readline().strip())
        assert list_seeds() == []
        assert left.exists()
        maker.send_signal(signal.SIGKILL)
    assert list_seeds() == []
    assert not left.exists()


def test_a_taken_name_is_refused_and_the_first_seed_stays(make_seed: MakeSeed) -> None:
    make_seed(memory=b"first")
    with pytest.raises(SpecError, match="there is a seed 'web' already") as caught:
        make_seed(memory=b"second")
    assert caught.value.hint == "kata-dind seed rm web"
    assert (require_seed("web").directory / "memory").read_bytes() == b"first"
    assert sorted(path.name for path in seeds_directory().iterdir()) == ["web"]


def test_a_seed_with_broken_facts_is_not_found(make_seed: MakeSeed) -> None:
    (make_seed().directory / "seed.json").write_text("{")
    assert load_seed("web") is None
    assert list_seeds() == []


@pytest.mark.parametrize("harm", ["truncate", "replace", "overwrite", "remove"])
def test_a_changed_file_is_found_before_a_clone_is_made(make_seed: MakeSeed, harm: str) -> None:
    memory = make_seed().directory / "memory"
    match harm:
        case "truncate":
            os.truncate(memory, 3)
        case "replace":
            memory.with_name("other").write_bytes(b"Memory")
            memory.with_name("other").replace(memory)
        case "overwrite":
            memory.write_bytes(b"mEmory")
        case "remove":
            memory.unlink()
    with (
        pytest.raises(SeedUnfit, match="the seed 'web' is damaged: the file memory has changed") as caught,
        use_seed("web"),
    ):
        pytest.fail("it is used")
    assert caught.value.hint == "kata-dind seed rm web, then build it again"
    assert not require_seed("web").is_in_use


def test_a_copied_seed_heals_by_the_full_hash(make_seed: MakeSeed) -> None:
    directory = make_seed().directory
    before = json.loads((directory / "seed.json").read_text())["files"]
    shutil.copytree(directory, directory.with_name("copy"))
    shutil.rmtree(directory)
    directory.with_name("copy").rename(directory)
    with use_seed("web") as seed:
        assert seed.is_in_use
    healed = json.loads((directory / "seed.json").read_text())["files"]
    assert healed["memory"]["inode"] != before["memory"]["inode"]
    assert {name: mark["sha256"] for name, mark in healed.items()} == {
        name: mark["sha256"] for name, mark in before.items()
    }


def test_a_seed_of_another_version_is_not_used(make_seed: MakeSeed) -> None:
    directory = make_seed().directory
    facts = json.loads((directory / "seed.json").read_text())
    (directory / "seed.json").write_text(json.dumps({**facts, "format": 0}))
    with pytest.raises(SeedUnfit, match="another version of kata-dind"), use_seed("web"):
        pytest.fail("it is used")


def test_two_may_use_a_seed_and_it_is_not_removed_meanwhile(make_seed: MakeSeed) -> None:
    seed = make_seed()
    with use_seed("web"):
        with use_seed("web"):
            assert seed.is_in_use
        with pytest.raises(SpecError, match="the seed 'web' is used by a sandbox that is being made"):
            remove_seed(seed, references=[])
    with pytest.raises(SpecError, match="the seed 'web' is used by the sandboxes one, two") as caught:
        remove_seed(seed, references=["one", "two"])
    assert caught.value.hint == "kata-dind rm one two"
    remove_seed(seed, references=[])
    assert list_seeds() == []
    with pytest.raises(SeedUnfit, match="the seed 'web' has been removed"), use_seed("web"):
        pytest.fail("it is used")


def test_the_last_use_is_remembered(make_seed: MakeSeed) -> None:
    seed = make_seed()
    os.utime(seed.directory / "in-use.lock", (0, 0))
    assert seed.used_at == 0.0
    with use_seed("web"):
        pass
    assert seed.used_at > 1e9


def test_builders_of_one_seed_wait_for_each_other_and_others_do_not() -> None:
    entered = threading.Event()

    def build() -> None:
        with build_lock("web"):
            entered.set()

    with build_lock("web"):
        second = threading.Thread(target=build)
        second.start()
        with build_lock("db"):
            assert not entered.wait(0.1)
    second.join(5)
    assert entered.is_set()
    assert list_seeds() == [], "a lock is no seed"
