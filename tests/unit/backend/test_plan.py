from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.backend.dockerd import ASKS_FOR_PORTS
from kata_dind.backend.plan import Plan, PlannedImage, StartKind, plan_from_json, plan_to_json
from kata_dind.backend.vm.plan import (
    Asked,
    Capabilities,
    DataRootChoice,
    Machine,
    PlannedShare,
    RunsOn,
    SeedMachine,
    VmPlan,
    can_plug_share,
    container_request,
    kept_shares,
    machine_shape,
    make_plan,
    plan_shares,
    vm_plan,
    why_no_ports,
    with_machine,
)
from kata_dind.dataroot.kinds import KINDS
from kata_dind.errors import PlanOutdated
from kata_dind.image.kernel import GuestKernel
from kata_dind.image.store import DindImage
from kata_dind.machine.shape import Disk, MachineShape
from kata_dind.spec import parse_spec
from kata_dind.vocabulary import Accelerator, DataRootKind, Fallback, Filesystem, NetworkMode

IMAGE = DindImage(
    reference="dind:bookworm",
    image_id="sha256:abc",
    disk=Path("/cache/images/abc/disk.erofs"),
    entrypoint=(),
    command=("dockerd",),
    environment=("PATH=/usr/sbin:/usr/bin",),
    docker_version="20.10.24",
    created="2026-01-01T00:00:00Z",
    size_bytes=1,
    origin="packages of bookworm",
)
KERNEL = GuestKernel(
    version="6.1.0-cloud",
    vmlinuz=Path("/cache/kernel/vmlinuz"),
    initramfs=Path("/cache/kernel/initramfs"),
    modules=Path("/cache/kernel/modules.erofs"),
    origin="packages of bookworm",
)
CAPABILITIES = Capabilities(Accelerator.TCG, "/dev/kvm does not exist", Path("/cache/guest.erofs"), KERNEL, IMAGE)
STATE = Path("/state/sandboxes/demo")


def plan_of(
    kind: DataRootKind,
    *,
    shares: tuple[PlannedShare, ...] = (),
    dockerd_args: tuple[str, ...] = (),
    virtiofs_xattr: bool = True,
    capabilities: Capabilities = CAPABILITIES,
) -> VmPlan:
    spec = parse_spec(
        name="demo", filesystem="xfs", fallback="vfs", dockerd_args=dockerd_args, virtiofs_xattr=virtiofs_xattr
    )
    return make_plan(spec, DataRootChoice(KINDS[kind], "as asked", STATE), shares, capabilities)


def changed(plan: VmPlan, **changes: Any) -> VmPlan:
    """Return a plan with other values in some fields, wherever in it they stand."""
    for name, value in changes.items():
        if name in Plan.__dataclass_fields__:
            plan = replace(plan, **{name: value})
        elif name in Machine.__dataclass_fields__:
            plan = with_machine(plan, **{name: value})
        elif name in RunsOn.__dataclass_fields__:
            plan = with_machine(plan, runs_on=replace(plan.own.runs_on, **{name: value}))
        else:
            plan = with_machine(plan, asked=replace(plan.own.asked, **{name: value}))
    return plan


# --- the container's command

HOST = "--host=unix:///var/run/docker.sock"


def test_flags_that_were_asked_for_follow_ours() -> None:
    """One that lacks its value must not take our word for it."""
    plan = plan_of(DataRootKind.BLOCK, dockerd_args=("--debug", "--dns=198.18.0.3"))
    assert plan.own.argv == ("dockerd", HOST, ASKS_FOR_PORTS, "--debug", "--dns=198.18.0.3")


@pytest.mark.parametrize(
    ("flags", "other"),
    [
        ((), ""),
        (("--userland-proxy", "--userland-proxy=true"), ""),
        (("--userland-proxy=false",), "--userland-proxy=false"),
        (("--userland-proxy=false", "--userland-proxy=true"), ""),
        (("--userland-proxy-path=/bin/mine", "--debug"), "--userland-proxy-path=/bin/mine"),
    ],
)
def test_flags_by_which_dockerd_tells_nobody_of_its_ports_are_told(flags: tuple[str, ...], other: str) -> None:
    why = why_no_ports(plan_of(DataRootKind.BLOCK, dockerd_args=flags))
    assert why == (f"--dockerd-arg: with '{other}' published ports can't be reached from this host" if other else "")


def test_a_seed_of_an_earlier_version_has_a_dockerd_that_tells_nobody_of_its_ports() -> None:
    earlier = replace(with_machine(plan_of(DataRootKind.BLOCK), argv=("dockerd", HOST)), seed="mine")
    assert why_no_ports(earlier) == (
        "published ports can't be reached from this host, since the seed 'mine' was made by an earlier version of "
        "kata-dind"
    )


# --- the plan


def test_a_plan_says_everything_a_start_needs() -> None:
    assert plan_of(DataRootKind.BLOCK) == Plan(
        backend="vm",
        name="demo",
        image=PlannedImage("dind:bookworm", "sha256:abc"),
        accelerator="tcg",
        accelerator_reason="/dev/kvm does not exist",
        kernel_version="6.1.0-cloud",
        cpus=2,
        memory_mib=2048,
        data_root=DataRootKind.BLOCK,
        data_root_reason="as asked",
        data_root_mib=20480,
        fallback=Fallback.VFS,
        timeout_seconds=180.0,
        own=Machine(
            runs_on=RunsOn(
                guest_os=Path("/cache/guest.erofs"),
                vmlinuz=Path("/cache/kernel/vmlinuz"),
                initramfs=Path("/cache/kernel/initramfs"),
                modules=Path("/cache/kernel/modules.erofs"),
                image_disk=Path("/cache/images/abc/disk.erofs"),
            ),
            kernel_origin="packages of bookworm",
            asked=Asked(filesystem=Filesystem.XFS, network=NetworkMode.NAT, allow_link_local=False),
            argv=("dockerd", HOST, ASKS_FOR_PORTS),
            environment=(
                "PATH=/usr/sbin:/usr/bin",
                "KATA_DIND_DATA_ROOT=block",
                "KATA_DIND_SIZE=20480M",
                "KATA_DIND_PATH=/var/lib/docker",
                "KATA_DIND_FILESYSTEM=xfs",
                "KATA_DIND_FALLBACK=vfs",
                "KATA_DIND_EXCLUSIVE=1",
            ),
            data_disk=True,
            data_directory=STATE,
            shares=(),
            xattr=False,
        ),
    )


def test_shares_are_named_by_number_and_the_kinds_on_one_add_their_own() -> None:
    asked = [(Path("/src"), "/work/src", True), (Path("/out"), "/work/out", False)]
    assert plan_shares(asked, KINDS[DataRootKind.BLOCK], STATE) == (
        PlannedShare("share-0", Path("/src"), "/work/src", read_only=True),
        PlannedShare("share-1", Path("/out"), "/work/out", read_only=False),
    )
    assert plan_shares([], KINDS[DataRootKind.LOOP], STATE) == (
        PlannedShare("data-root", STATE / "data-root", "/var/lib/kata-dind", read_only=False),
    )
    assert plan_shares([], KINDS[DataRootKind.VIRTIOFS], STATE) == (
        PlannedShare("data-root", STATE / "data-root", "/var/lib/docker", read_only=False),
    )


def test_only_the_virtiofs_kind_has_extended_attributes_on_shares_and_no_size_of_its_own() -> None:
    plans = {kind: plan_of(kind) for kind in KINDS}
    assert [kind for kind, plan in plans.items() if plan.own.xattr] == [DataRootKind.VIRTIOFS]
    assert [kind for kind, plan in plans.items() if plan.data_root_mib != 20480] == [DataRootKind.VIRTIOFS]
    assert plans[DataRootKind.VIRTIOFS].data_root_mib == 0
    assert not any(pair.startswith("KATA_DIND_SIZE=") for pair in plans[DataRootKind.VIRTIOFS].own.environment)
    assert not plan_of(DataRootKind.VIRTIOFS, virtiofs_xattr=False).own.xattr


# --- the machine


def test_the_machine_of_a_block_data_root() -> None:
    assert machine_shape(plan_of(DataRootKind.BLOCK), STATE) == MachineShape(
        name="demo",
        accelerator=Accelerator.TCG,
        cpus=2,
        memory_mib=2048,
        kernel=Path("/cache/kernel/vmlinuz"),
        initramfs=Path("/cache/kernel/initramfs"),
        disks=(
            Disk("guest-os", Path("/cache/guest.erofs"), read_only=True),
            Disk("modules", Path("/cache/kernel/modules.erofs"), read_only=True),
            Disk("image", Path("/cache/images/abc/disk.erofs"), read_only=True),
            Disk("layer", STATE / "layer.img"),
            Disk("data", STATE / "data.img"),
        ),
        network=True,
        shared_directory=True,
    )


def test_only_the_block_kind_has_a_disk() -> None:
    memory = machine_shape(plan_of(DataRootKind.MEMORY), STATE)
    loop = machine_shape(plan_of(DataRootKind.LOOP, shares=plan_shares([], KINDS[DataRootKind.LOOP], STATE)), STATE)
    assert [disk.serial for disk in memory.disks] == [disk.serial for disk in loop.disks]
    assert "data" not in [disk.serial for disk in memory.disks]


def test_the_memory_of_a_machine_that_boots_or_has_shares_can_be_seen_by_virtiofsd() -> None:
    booted = plan_of(DataRootKind.BLOCK)
    shares = plan_shares([(Path("/a"), "/a", False)], KINDS[DataRootKind.BLOCK], STATE)
    clone = replace(with_machine(booted, seed=SeedMachine(STATE, 2, 2048, 0)), start=StartKind.RESTORE)
    for plan, seen in ((booted, True), (clone, False), (with_machine(clone, shares=shares), True)):
        assert (machine_shape(plan, STATE).shared_directory, can_plug_share(plan)) == (seen, seen)


def test_shares_that_a_resumed_machine_had_keep_their_names() -> None:
    before = (PlannedShare("share-0", Path("/a"), "/a", False), PlannedShare("share-3", Path("/b"), "/b", True))
    kept = kept_shares(before, [(Path("/c"), "/c", False), (Path("/b"), "/b", True), (Path("/d"), "/d", False)])
    assert [(share.name, share.guest_path) for share in kept] == [
        ("share-4", "/c"), ("share-3", "/b"), ("share-5", "/d"),
    ]  # fmt: skip


def test_a_kernel_with_everything_built_in_needs_no_disk_of_modules() -> None:
    kernel = CAPABILITIES._replace(kernel=replace(KERNEL, modules=None))
    shape = machine_shape(plan_of(DataRootKind.MEMORY, capabilities=kernel), STATE)
    assert [disk.serial for disk in shape.disks] == ["guest-os", "image", "layer"]


def test_only_the_sandboxs_own_disks_are_writable() -> None:
    for disk in machine_shape(plan_of(DataRootKind.BLOCK), STATE).disks:
        assert disk.read_only != disk.path.is_relative_to(STATE)


# --- the container


def test_the_request_for_a_container() -> None:
    assert container_request(plan_of(DataRootKind.BLOCK), check=False) == {
        "kind": "container",
        "argv": ["dockerd", HOST, ASKS_FOR_PORTS],
        "environment": {
            "PATH": "/usr/sbin:/usr/bin",
            "KATA_DIND_DATA_ROOT": "block",
            "KATA_DIND_SIZE": "20480M",
            "KATA_DIND_PATH": "/var/lib/docker",
            "KATA_DIND_FILESYSTEM": "xfs",
            "KATA_DIND_FALLBACK": "vfs",
            "KATA_DIND_EXCLUSIVE": "1",
        },
        "hostname": "demo",
        "network": {"address": "198.18.1.15/24", "gateway": "198.18.1.2", "nameserver": "198.18.0.3"},
        "shares": [],
    }


def test_the_request_of_a_loop_data_root_with_a_share_and_no_network() -> None:
    shares = plan_shares([(Path("/src"), "/work/my src", True)], KINDS[DataRootKind.LOOP], STATE)
    request = container_request(
        changed(plan_of(DataRootKind.LOOP, shares=shares), network=NetworkMode.NONE), check=True
    )
    assert request["network"] is None
    assert request["shares"] == ["share-0 /work/my src", "data-root /var/lib/kata-dind"]
    assert request["environment"]["KATA_DIND_DIR"] == "/var/lib/kata-dind"
    assert request["environment"]["KATA_DIND_CHECK"] == "1"


def test_a_guest_that_may_reach_ports_of_the_host_asks_us_for_names() -> None:
    asked = changed(plan_of(DataRootKind.BLOCK), host_ports=(5432,))
    assert container_request(asked, check=False)["network"]["nameserver"] == "198.18.1.2"


def test_an_images_variables_keep_what_follows_their_first_equals_sign_and_ours_win() -> None:
    image = replace(IMAGE, environment=("OPTIONS=a=b=c", "EMPTY=", "KATA_DIND_DATA_ROOT=vfs", "KATA_DIND_LOG=error"))
    plan = plan_of(DataRootKind.BLOCK, capabilities=CAPABILITIES._replace(image=image))
    environment = container_request(plan, check=False)["environment"]
    assert (environment["OPTIONS"], environment["EMPTY"]) == ("a=b=c", "")
    assert environment["KATA_DIND_DATA_ROOT"] == "block"
    assert environment.get("KATA_DIND_LOG") != "error"


def test_an_image_may_say_what_starts_its_containerd() -> None:
    image = replace(IMAGE, environment=("KATA_DIND_CONTAINERD=none", "KATA_DIND_CONTAINERDS=none"))
    plan = plan_of(DataRootKind.BLOCK, capabilities=CAPABILITIES._replace(image=image))
    environment = container_request(plan, check=False)["environment"]
    assert environment["KATA_DIND_CONTAINERD"] == "none"
    assert "KATA_DIND_CONTAINERDS" not in environment


def test_the_data_root_of_a_volume_lies_in_its_directory() -> None:
    volume = Path("/state/volumes/db")
    shape = machine_shape(changed(plan_of(DataRootKind.BLOCK), data_directory=volume), STATE)
    paths = {disk.serial: disk.path for disk in shape.disks}
    assert (paths["data"], paths["layer"]) == (volume / "data.img", STATE / "layer.img")


# --- JSON

paths = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1).map(
    lambda text: Path("/") / text
)
words = st.text(max_size=20)
machines = st.builds(
    Machine,
    runs_on=st.builds(
        RunsOn, guest_os=paths, vmlinuz=paths, initramfs=paths, image_disk=paths, modules=st.none() | paths
    ),
    asked=st.builds(Asked, filesystem=st.sampled_from(Filesystem), network=st.sampled_from(NetworkMode)),
    argv=st.lists(words).map(tuple),
    environment=st.lists(words).map(tuple),
    data_directory=paths,
    shares=st.lists(st.builds(PlannedShare, host_path=paths)).map(tuple),
    seed=st.none() | st.builds(SeedMachine, directory=paths),
)
plans = st.builds(
    Plan,
    data_root=st.sampled_from([*KINDS]),
    fallback=st.sampled_from(Fallback),
    start=st.sampled_from(StartKind),
    timeout_seconds=st.floats(1, 86400),
    warnings=st.lists(words).map(tuple),
    own=machines,
)


@given(plans)
def test_a_plan_survives_json(plan: VmPlan) -> None:
    assert vm_plan(plan_from_json(json.loads(json.dumps(plan_to_json(plan))))) == plan


def test_a_plan_that_was_read_may_be_written_before_its_backend_has_seen_it() -> None:
    values = json.loads(json.dumps(plan_to_json(plan_of(DataRootKind.BLOCK))))
    assert plan_to_json(plan_from_json(values)) == values


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"later": 1},
        {"data_root": "zfs"},
        {"fallback": "native"},
        {"cpus": True},
        {"cpus": "2"},
        {"image": None},
        {"image": {"reference": "x"}},
        {"warnings": "none"},
        {"own": None},
        {"own": {}},
    ],
    ids=str,
)
def test_a_plan_of_another_version_is_told_as_such(change: dict[str, object]) -> None:
    values = {**plan_to_json(plan_of(DataRootKind.BLOCK)), **change}
    with pytest.raises(PlanOutdated, match="the plan was made by another version of kata-dind"):
        vm_plan(plan_from_json(values))


@pytest.mark.parametrize(
    "change",
    [{"filesystem": "ntfs"}, {"shares": [{"name": "x"}]}, {"guest_os": None}, {"argv": None}],
    ids=["file system", "share", "no path", "no argv"],
)
def test_a_plan_whose_own_part_is_another_is_outdated(change: dict[str, object]) -> None:
    values = plan_to_json(plan_of(DataRootKind.BLOCK))
    for part in (values["own"], values["own"]["runs_on"], values["own"]["asked"]):
        part.update({name: value for name, value in change.items() if name in part})
    with pytest.raises(PlanOutdated):
        vm_plan(plan_from_json(values))


def test_a_plan_that_lacks_a_field_or_everything_is_outdated() -> None:
    values = plan_to_json(plan_of(DataRootKind.BLOCK))
    del values["cpus"]
    for broken in (values, {}):
        with pytest.raises(PlanOutdated):
            plan_from_json(broken)
