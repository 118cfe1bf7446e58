"""Which seed a plan is restored from, and what of the plan is only given to the clone."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata_dind.backend.plan import plan_to_json
from kata_dind.backend.vm.plan import PlannedShare, VmPlan, container_request, machine_shape
from kata_dind.backend.vm.seeds import (
    booted_clone_plan,
    can_grow,
    choose_start,
    internal_key,
    restored_plan,
    seed_cpus,
    seed_memory_mib,
    seed_root_mib,
)
from kata_dind.machine.shape import MemoryFile
from kata_dind.store.seeds import Seed
from kata_dind.vocabulary import DataRootKind, Filesystem
from tests.unit.backend.test_plan import STATE, changed, plan_of

SEED_DIRECTORY = Path("/state/seeds/_abc")
SHARE = PlannedShare("share-0", Path("/src"), "/srv", read_only=True)


def block_plan(size_mib: int, filesystem: Filesystem = Filesystem.EXT4) -> VmPlan:
    plan = plan_of(DataRootKind.BLOCK)
    told = (*plan.own.environment, f"KATA_DIND_SIZE={size_mib}M")
    return changed(plan, data_root_mib=size_mib, filesystem=filesystem, environment=told)


def clone_of(plan: VmPlan) -> VmPlan:
    seed = Seed("_abc", SEED_DIRECTORY, {"plan": plan_to_json(block_plan(20480))})
    return restored_plan(plan, seed, "as a test")


@pytest.mark.parametrize(
    ("size_mib", "filesystem", "seed_mib"),
    [
        (10240, "ext4", 10240),
        (20480, "ext4", 20480),
        (40960, "ext4", 20480),
        (1 << 20, "ext4", 20480),
        (2 << 20, "ext4", 2 << 20),
        (40960, "xfs", 40960),
    ],
)
def test_an_ext4_that_clones_can_grow_has_a_seed_of_the_default_size(
    size_mib: int, filesystem: str, seed_mib: int
) -> None:
    assert seed_root_mib(block_plan(size_mib, Filesystem(filesystem))) == seed_mib


def test_a_data_root_in_memory_has_the_size_that_was_asked_for() -> None:
    assert (
        seed_root_mib(changed(plan_of(DataRootKind.MEMORY), data_root_mib=40960, filesystem=Filesystem.EXT4)) == 40960
    )


@pytest.mark.parametrize(("cpus", "seeds"), [(1, 1), (2, 2), (3, 2), (8, 2), (9, 9)])
def test_further_processors_are_plugged_into_the_machine_of_the_default_seed(cpus: int, seeds: int) -> None:
    assert seed_cpus(changed(block_plan(20480), cpus=cpus)) == seeds


@pytest.mark.parametrize(
    ("memory_mib", "seeds_mib"),
    [(1024, 1024), (2048, 2048), (2176, 2048), (2100, 2100), (65536, 2048), (65664, 65664)],
    ids=["less", "the default", "a block more", "no whole block", "the most", "too much"],
)
def test_so_is_further_memory_in_the_blocks_that_linux_takes(memory_mib: int, seeds_mib: int) -> None:
    assert seed_memory_mib(changed(block_plan(20480), memory_mib=memory_mib)) == seeds_mib


def test_a_kernel_of_the_users_own_and_a_data_root_in_memory_get_a_seed_for_their_shape() -> None:
    larger = changed(block_plan(20480), cpus=4, memory_mib=4096)
    for plan in (changed(larger, modules=None), changed(larger, data_disk=False)):
        assert (seed_cpus(plan), seed_memory_mib(plan)) == (4, 4096)


def test_the_machine_of_a_clone_is_the_seeds_until_it_is_given_more() -> None:
    larger = changed(block_plan(20480), cpus=4, memory_mib=4096)
    clone = machine_shape(clone_of(larger), STATE)
    assert (clone.cpus, clone.memory_mib, clone.most_cpus, clone.most_memory_mib) == (2, 2048, 8, 65536)
    booted = machine_shape(larger, STATE)
    assert (booted.cpus, booted.memory_mib, booted.most_cpus, booted.most_memory_mib) == (4, 4096, 0, 0)


@pytest.mark.parametrize(
    ("made_mib", "to_mib", "filesystem", "can"),
    [
        (20480, 20480, "ext4", True),
        (20480, 40960, "ext4", True),
        (20480, 10240, "ext4", False),
        (20480, 2 << 20, "ext4", False),
        (20480, 40960, "xfs", False),
    ],
)
def test_a_seeds_data_root_becomes_larger_and_never_smaller(
    made_mib: int, to_mib: int, filesystem: str, can: bool
) -> None:
    assert can_grow(block_plan(made_mib, Filesystem(filesystem)), to_mib=to_mib) == can


def test_a_clone_that_boots_later_keeps_the_size_that_it_has_grown_to() -> None:
    before = clone_of(block_plan(40960))
    booted = booted_clone_plan(block_plan(20480), before)
    assert (booted.start, booted.data_root_mib, booted.seed) == ("boot", 40960, "_abc")


@pytest.mark.requires("qemu")
def test_the_sizes_that_one_seed_serves_have_one_key(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.touch()

    def key(size_mib: int, filesystem: Filesystem = Filesystem.EXT4) -> str:
        return internal_key(changed(block_plan(size_mib, filesystem), vmlinuz=kernel), cache=tmp_path)

    larger = changed(block_plan(20480), vmlinuz=kernel, cpus=4, memory_mib=4096, host_ports=(5432,))
    assert key(20480) == key(40960) == key(1 << 20) == internal_key(larger, cache=tmp_path)
    assert len({key(20480), key(10240), key(20480, Filesystem.XFS), key(40960, Filesystem.XFS)}) == 4


def test_a_clone_maps_the_seeds_memory_unless_another_process_must_see_it() -> None:
    clone = clone_of(block_plan(20480))
    alone, sharing = machine_shape(clone, STATE), machine_shape(changed(clone, shares=(SHARE,)), STATE)
    assert (alone.memory_file, alone.shared_directory) == (MemoryFile(SEED_DIRECTORY / "memory", written=False), False)
    assert (sharing.memory_file, sharing.shared_directory) == (None, True)


def test_a_clone_is_asked_for_what_it_is_given_beside_its_seed() -> None:
    plain = container_request(clone_of(block_plan(20480)), check=False)
    assert (plain["kind"], plain["shares"]) == ("renew", [])
    assert (plain["cpus"], plain["memory_mib"], plain["disk_bytes"]) == (0, 0, 0)
    larger = changed(block_plan(40960), shares=(SHARE,), cpus=4, memory_mib=4096)
    given = container_request(clone_of(larger), check=False)
    assert given["shares"] == ["share-0 /srv"]
    assert (given["cpus"], given["memory_mib"], given["disk_bytes"]) == (4, 4096, 40960 << 20)


@pytest.mark.parametrize(
    ("kind", "stored", "cold", "reason"),
    [
        ("loop", False, False, "a loop data root lies on a share, which a seed's machine can't have"),
        ("virtiofs", False, False, "a virtiofs data root lies on a share, which a seed's machine can't have"),
        ("block", True, False, "its data root is a volume, and a seed brings its own"),
        ("block", False, True, "as asked"),
    ],
)
def test_what_has_to_boot_says_why(tmp_path: Path, kind: str, stored: bool, cold: bool, reason: str) -> None:
    plan = choose_start(
        plan_of(DataRootKind(kind)), before=None, stored=stored, cold=cold, to_snapshot=False, cache=tmp_path
    )
    assert (plan.start, plan.start_reason, plan.wanted_seed) == ("boot", reason, None)
