"""A saved state: what makes it one, what makes it useless, and which sandboxes can have one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from kata_dind.backend.plan import StartKind, plan_from_json, plan_to_json
from kata_dind.backend.vm.plan import (
    container_request,
    machine_shape,
    require_seed_machine,
    stand_in,
    vm_plan,
    why_not_suspendable,
)
from kata_dind.backend.vm.saved import (
    NOTE_FILE,
    STATE_FILE,
    UNFINISHED,
    commit_saved,
    drop_saved,
    find_saved,
    take_saved,
)
from kata_dind.backend.vm.seeds import booted_clone_plan, resumed_plan
from kata_dind.backend.vm.start import most_state_bytes
from kata_dind.errors import SandboxError
from kata_dind.vocabulary import DataRootKind
from tests.unit.backend.test_plan import STATE, changed, plan_of
from tests.unit.backend.test_seeds import SHARE, block_plan, clone_of

DISKS = ["layer.qcow2", "data.qcow2"]
LARGE = 3 << 20


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The directory of a sandbox that was saved."""
    (tmp_path / UNFINISHED).write_bytes(os.urandom(LARGE))
    for disk in DISKS:
        (tmp_path / disk).write_bytes(b"disk")
    commit_saved(tmp_path, DISKS, {"kernel": "6.1"})
    return tmp_path


def why(directory: Path) -> str:
    state = find_saved(directory)
    assert state is not None
    return state.why_unusable()


def test_a_committed_state_has_its_name_and_what_was_known(saved: Path) -> None:
    state = find_saved(saved)
    assert state is not None
    assert (state.why_unusable(), state.facts, state.size_bytes) == ("", {"kernel": "6.1"}, LARGE)
    assert sorted(path.name for path in saved.iterdir()) == sorted([*DISKS, NOTE_FILE, STATE_FILE])


def test_a_state_is_taken_once(saved: Path) -> None:
    take_saved(saved)
    assert find_saved(saved) is None
    with pytest.raises(SandboxError, match="was used already"):
        take_saved(saved)


def test_a_state_without_its_note_does_not_count(saved: Path) -> None:
    (saved / NOTE_FILE).unlink()
    assert find_saved(saved) is None
    drop_saved(saved)
    assert sorted(path.name for path in saved.iterdir()) == sorted(DISKS)


@pytest.mark.parametrize("place", [0, LARGE - 1])
def test_a_state_that_was_written_to_at_an_end_is_damaged(saved: Path, place: int) -> None:
    with (saved / STATE_FILE).open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))
    assert why(saved) == "it is damaged"


def test_a_state_that_was_cut_is_damaged(saved: Path) -> None:
    os.truncate(saved / STATE_FILE, LARGE - 1)
    assert why(saved) == "it is damaged"


def test_a_state_that_is_gone_cannot_be_read(saved: Path) -> None:
    (saved / STATE_FILE).unlink()
    assert why(saved) == "it can't be read: No such file or directory"


@pytest.mark.parametrize("disk", DISKS)
def test_disks_that_have_moved_on_make_a_state_useless(saved: Path, disk: str) -> None:
    with (saved / disk).open("r+b") as file:
        file.write(b"more")
    os.utime(saved / disk, ns=(1, 1))
    assert why(saved) == "the sandbox's disks were written to since"


def test_another_versions_state_is_not_read(saved: Path) -> None:
    note = (saved / NOTE_FILE).read_text()
    (saved / NOTE_FILE).write_text(note.replace('"format": 1', '"format": 2'))
    assert why(saved) == "it was made by another version of kata-dind"


def test_a_state_that_cannot_be_committed_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / UNFINISHED).write_bytes(b"state")
    with pytest.raises(SandboxError, match="can't be written"):
        commit_saved(tmp_path, DISKS, {})  # there are no disks
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("start", [StartKind.RESTORE, StartKind.RESUME])
def test_a_clone_that_was_restored_or_resumed_can_be_saved(start: StartKind) -> None:
    assert why_not_suspendable(changed(clone_of(block_plan(40960)), start=start)) == ""


def test_what_was_plugged_into_a_clone_or_booted_cannot_be_saved() -> None:
    clone = clone_of(block_plan(20480))
    assert why_not_suspendable(changed(clone, shares=(SHARE,))) == ""
    for larger in (changed(clone, cpus=4), changed(clone, memory_mib=4096)):
        assert why_not_suspendable(larger).startswith("processors or memory were plugged into it")
    booted = changed(plan_of(DataRootKind.LOOP), start_reason="as asked")
    assert why_not_suspendable(booted).startswith("it has booted (as asked)")


def test_a_resumed_machine_is_the_seeds_with_memory_of_its_own() -> None:
    clone = clone_of(block_plan(20480))
    restored, resumed = machine_shape(clone, STATE), machine_shape(resumed_plan(clone, []), STATE)
    assert resumed.memory_file is None
    assert resumed._replace(memory_file=restored.memory_file) == restored


def test_a_resumed_guest_is_renewed_and_given_nothing() -> None:
    resumed = resumed_plan(clone_of(block_plan(40960)), [])  # whose data root has grown
    request = container_request(resumed, check=True)
    assert (request["kind"], request["disk_bytes"], request["cpus"], request["memory_mib"]) == ("renew", 0, 0, 0)
    assert stand_in(resumed) == ""
    assert vm_plan(plan_from_json(plan_to_json(resumed))) == resumed


def test_what_was_resumed_boots_later_like_any_clone() -> None:
    booted = booted_clone_plan(block_plan(20480), resumed_plan(clone_of(block_plan(40960)), []))
    assert (booted.start, booted.data_root_mib, booted.seed) == ("boot", 40960, "_abc")


def test_a_state_is_estimated_from_the_machines_own_pages_and_the_seeds(tmp_path: Path) -> None:
    (tmp_path / "memory").write_bytes(os.urandom(8 << 20))
    status = "Name:\tqemu\nRssAnon:\t  2048 kB\nRssFile:\t 9000 kB\nRssShmem:\t 1024 kB\nVmSwap:\t  1024 kB\n"
    clone = clone_of(block_plan(20480))
    clone = changed(
        clone, seed=clone.seed, own=replace(clone.own, seed=replace(require_seed_machine(clone), directory=tmp_path))
    )
    assert most_state_bytes(clone, status) == 12 << 20
    assert most_state_bytes(resumed_plan(clone, []), status) == 4 << 20
    assert most_state_bytes(changed(clone, memory_mib=4), status) == 4 << 20
