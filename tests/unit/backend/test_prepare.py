"""The checks that need the host; `prepare` as a whole builds images and is tried where those are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kata_dind.backend.plan import plan_to_json
from kata_dind.backend.vm.prepare import (
    require_host_tools,
    with_seeds_machine,
)
from kata_dind.errors import SpecError, ToolMissing
from kata_dind.spec import SandboxSpec, parse_spec, spec_to_json
from kata_dind.store.seeds import Seed
from kata_dind.vocabulary import DataRootKind, NetworkMode
from tests.unit.backend.test_plan import changed, plan_of


def test_a_missing_tool_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing) as caught:
        require_host_tools(network=NetworkMode.NONE, shares=False)
    assert "apt-get install qemu-system-x86" in caught.value.hint


def test_what_a_clone_of_a_named_seed_has_at_a_later_boot(tmp_path: Path) -> None:
    made_of = parse_spec(
        name="seed", memory="768M", size="5G", image="dind:bookworm", network="none", dockerd_args=["--debug"]
    )
    seed = Seed("web", tmp_path, {"spec": spec_to_json(made_of)})
    asked = parse_spec(name="demo", seed="web", image="0" * 64, shares=[f"{tmp_path}:/src:ro"], timeout_seconds=170)
    before = changed(plan_of(DataRootKind.BLOCK), cpus=4, memory_mib=1024, data_root_mib=40960)
    booted = with_seeds_machine(asked, seed, before)
    assert (booted.cpus, booted.memory_bytes >> 20, booted.size_bytes >> 20) == (4, 1024, 40960)
    assert (booted.network, booted.dockerd_args) == ("none", ("--debug",))
    kept = ("name", "seed", "image", "shares", "timeout_seconds")
    assert [getattr(booted, field) for field in kept] == [getattr(asked, field) for field in kept]
    assert not booted.volume


# --- a new clone of a seed with a name


def seed_of(tmp_path: Path, **fields: Any) -> Seed:
    """A seed of four processors and 1 GiB that has no network, with more fields of what it was made of."""
    made_of = parse_spec(**{"name": "seed", "cpus": 4, "memory": "1G", "network": "none", **fields})
    plan = changed(plan_of(DataRootKind.BLOCK), cpus=4, memory_mib=1024, data_root_mib=made_of.size_bytes >> 20,
                   filesystem=made_of.filesystem, network=NetworkMode.NONE)  # fmt: skip
    return Seed("web", tmp_path, {"spec": spec_to_json(made_of), "plan": plan_to_json(plan)})


def clone_of(seed: Seed, **asked: Any) -> SandboxSpec:
    return with_seeds_machine(parse_spec(name="demo", seed="web", **asked), seed, None)


def test_a_clone_that_asks_for_nothing_has_the_machine_of_its_seed(tmp_path: Path) -> None:
    clone = clone_of(seed_of(tmp_path, size="5G", dockerd_args=["--debug"], fallback="vfs"))
    assert (clone.cpus, clone.memory_bytes >> 20, clone.size_bytes >> 30) == (4, 1024, 5)
    assert (clone.network, clone.dockerd_args, clone.fallback) == ("none", ("--debug",), "vfs")
    assert clone.given == {"seed"}


@pytest.mark.parametrize(
    "asked",
    [
        {"cpus": 4},
        {"cpus": 6},
        {"memory": "1G"},
        {"memory": "2G"},
        {"size": "20G"},
        {"size": "40G"},
        {"network": "none"},
        {"data_root": "block"},
        {"data_root": "auto"},
        {"accelerator": "tcg"},
        {"accelerator": "auto"},
        {"filesystem": "ext4"},
        {"image": "dind:bookworm"},
        {"fallback": "none"},
        {"timeout_seconds": 180, "allow_link_local": True},
    ],
    ids=str,
)
def test_what_the_seed_has_may_be_asked_for_and_so_may_what_can_be_added(tmp_path: Path, asked: dict[str, Any]) -> None:
    clone, wished = clone_of(seed_of(tmp_path), **asked), parse_spec(name="demo", **asked)
    for field in {"cpus", "timeout_seconds", "allow_link_local"} & asked.keys():
        assert getattr(clone, field) == asked[field]
    if "memory" in asked:
        assert clone.memory_bytes == wished.memory_bytes
    if "size" in asked:
        assert clone.size_bytes == wished.size_bytes


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"cpus": 2}, "--cpus: a clone of the seed 'web', which has 4, can't have 2; leave out --cpus"),
        (
            {"memory": "512M"},
            "--memory: a clone of the seed 'web', which has 1024M, can't have '512M'; leave out --memory",
        ),
        ({"size": "10G"}, "--size: a clone of the seed 'web', which has 20480M, can't have '10G'; leave out --size"),
        ({"network": "nat"}, "--network: 'nat' is not what the seed 'web' has ('none'); leave it out"),
        ({"data_root": "memory"}, "--data-root: 'memory' is not what the seed 'web' has ('block'); leave it out"),
        ({"accelerator": "kvm"}, "--accel: 'kvm' is not what the seed 'web' has ('tcg'); leave it out"),
        ({"filesystem": "xfs"}, "--filesystem: 'xfs' is not what the seed 'web' has ('ext4'); leave it out"),
        ({"fallback": "vfs"}, "--fallback: 'vfs' is not what the seed 'web' has ('none'); leave it out"),
        ({"virtiofs_xattr": False}, "--virtiofs-xattr: off is not what the seed 'web' has (on); leave it out"),
        (
            {"image": "docker:28-dind"},
            "--image: 'docker:28-dind' is not what the seed 'web' has ('dind:bookworm'); leave it out",
        ),
        ({"dockerd_args": ["--debug"]}, "--dockerd-arg: '--debug' is not what the seed 'web' has (none); leave it out"),
    ],
    ids=str,
)
def test_what_differs_from_the_seed_is_refused_also_where_it_is_a_default(
    tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        clone_of(seed_of(tmp_path), **asked)
    assert caught.value.summary == message


def test_a_seed_of_an_earlier_version_has_all_its_fields_written_out(tmp_path: Path) -> None:
    seed = seed_of(tmp_path)
    seed.facts["spec"].pop("given")
    assert clone_of(seed, network="none").cpus == 4
    with pytest.raises(SpecError, match="--network: 'nat' is not what the seed 'web' has"):
        clone_of(seed, network="nat")
