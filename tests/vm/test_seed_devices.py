"""What a clone gets beside its seed while it runs: shares, processors, memory, and a larger data root."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import SharedPaths
from tests.vm.driver import SandboxDriver, kata_dind, states, succeed

pytestmark = pytest.mark.requires("qemu", "virtiofsd")

NAME = "plugged"


@pytest.fixture(scope="module")
def clone(shared_paths: SharedPaths, private_directories: Path) -> Iterator[SandboxDriver]:
    """A clone with shares of every kind and with more of everything than the seed has."""
    succeed("up", NAME, "--size", "40G", "--cpus", "3", "--memory", "3G", *shared_paths.options)
    try:
        yield SandboxDriver(NAME)
    finally:
        kata_dind("rm", "--force", NAME)


def facts_of(name: str) -> Any:
    return json.loads(succeed("inspect", name, "--json"))


def test_it_went_on_from_a_seed_and_says_what_it_was_given(clone: SandboxDriver) -> None:
    facts = facts_of(NAME)
    assert facts["start"]["how"] == "restore"
    phases = [phase["name"] for phase in facts["phases"]]
    assert phases[:6] == ["machine", "memory", "processors", "shares", "growth", "renewal"]
    assert facts["data_root"]["size_mib"] == 40960
    assert 38 << 30 < facts["data_root"]["size_bytes"] < 40 << 30


def test_its_shares_are_written_from_both_sides(clone: SandboxDriver, shared_paths: SharedPaths) -> None:
    inside = shared_paths.guest_writable
    (shared_paths.writable / "of the host").write_text("host\n")
    clone.succeed(f"cat '{inside}/of the host' >{inside}/copy && rm '{inside}/of the host'")
    assert [path.name for path in shared_paths.writable.iterdir()] == ["copy"]
    assert (shared_paths.writable / "copy").read_text() == "host\n"
    (shared_paths.writable / "copy").unlink()


@pytest.mark.thorough
def test_a_container_gets_a_share_as_a_volume(clone: SandboxDriver, shared_paths: SharedPaths) -> None:
    volume = f"{shared_paths.guest_writable}:/volume"
    succeed("docker", NAME, "--", "run", "--rm", "-v", volume, "kata-dind/hello", "sh", "-c", "echo c >/volume/file")
    assert (shared_paths.writable / "file").read_text() == "c\n"
    (shared_paths.writable / "file").unlink()


def test_what_is_read_only_stays_so_and_a_file_is_shared_alone(clone: SandboxDriver, shared_paths: SharedPaths) -> None:
    place = shared_paths.guest_read_only
    assert clone.succeed(f"cat {place}/given '{shared_paths.guest_file}'") == "from the host\na note\n"
    clone.succeed(f"mount -o remount,rw {place} || true")
    assert "Read-only file system" in clone.fail(f"echo more >{place}/new")
    assert "Read-only file system" in clone.fail(f"echo more >'{shared_paths.guest_file}'")


@pytest.mark.thorough
def test_a_share_serves_more_files_than_virtiofsd_may_have_open(shared_paths: SharedPaths) -> None:
    few, many = 2000, 5000
    # Root's virtiofsd would raise its limit again.
    humble = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"] if os.geteuid() == 0 else []
    succeed("up", "crowd", *shared_paths.options, prefix=[*humble, "prlimit", f"--nofile={few}:{few}"])
    crowd = SandboxDriver("crowd")
    try:
        assert resource.prlimit(crowd.process_of("virtiofsd"), resource.RLIMIT_NOFILE) == (few, few)
        make = f"i=0; while [ $i -lt {many} ]; do : >$i || exit 1; i=$((i+1)); done"
        crowd.succeed(f"cd {shared_paths.guest_writable} && {make}", timeout_seconds=60)
    finally:
        kata_dind("rm", "--force", "crowd")
        made = [*shared_paths.writable.iterdir()]
        for file in made:
            file.unlink()
    assert len(made) == many


def test_its_memory_is_not_a_file_of_the_host(clone: SandboxDriver) -> None:
    assert not (clone.sandbox.directory / "memory").exists()


def test_its_data_root_has_the_size_that_was_asked_for(clone: SandboxDriver) -> None:
    kib = int(clone.succeed("df -k /var/lib/docker").splitlines()[-1].split()[1])
    assert 38 << 20 < kib < 40 << 20
    # Beyond the end of the seed's data root.
    clone.succeed("fallocate -l 21G /var/lib/docker/large && rm /var/lib/docker/large")


def test_docker_and_containers_have_the_processors_and_the_memory_that_were_asked_for(clone: SandboxDriver) -> None:
    facts = json.loads(succeed("docker", NAME, "--", "info", "--format", "{{json .}}"))
    assert facts["NCPU"] == 3
    assert 2800 << 20 < facts["MemTotal"] <= 3072 << 20
    command = "nproc && grep -c ^processor /proc/cpuinfo && free -m"
    for words in (("exec", NAME, "--"), ("docker", NAME, "--", "run", "--rm", "kata-dind/hello")):
        processors, listed, _, memory = succeed(*words, "sh", "-c", command).splitlines()[:4]
        assert (processors, listed) == ("3", "3")
        assert 2800 < int(memory.split()[1]) <= 3072


@pytest.mark.thorough
def test_the_same_seed_serves_the_default_shape(clone: SandboxDriver) -> None:
    seed = facts_of(NAME)["start"]["seed"]
    succeed("up", "plain")
    try:
        facts = facts_of("plain")
        assert (facts["start"]["seed"], facts["data_root"]["size_mib"]) == (seed, 20480)
        assert [phase["name"] for phase in facts["phases"]][:2] == ["machine", "renewal"]
        assert SandboxDriver("plain").succeed("nproc") == "2\n"
    finally:
        succeed("rm", "--force", "plain")


@pytest.mark.thorough
def test_a_share_that_the_container_has_no_place_for_ends_the_start(shared_paths: SharedPaths) -> None:
    done = kata_dind("up", "misplaced", "--share", f"{shared_paths.writable}:/etc/hostname/below")
    assert done.returncode == 4
    assert "the guest refused: /etc/hostname/below: Not a directory" in done.stderr
    assert "misplaced" not in states()


@pytest.mark.thorough
def test_a_later_boot_keeps_all_of_it_and_nothing_stays_after_it(
    clone: SandboxDriver, shared_paths: SharedPaths
) -> None:
    succeed("stop", NAME)
    succeed("start", NAME)
    facts = facts_of(NAME)
    assert (facts["start"]["how"], facts["data_root"]["size_mib"], facts["warnings"]) == ("boot", 40960, [])
    assert 38 << 30 < facts["data_root"]["size_bytes"] < 40 << 30
    clone.succeed(f"test -d {shared_paths.guest_writable} && test $(nproc) = 3")
    succeed("rm", "--force", NAME)
    assert NAME not in states()
    assert not clone.sandbox.directory.exists()
    assert str(clone.sandbox.directory) not in Path("/proc/self/mountinfo").read_text()
