"""Which handler can do what, from containerd's status, its files in both layouts, and Kata's files of both runtimes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from kata_dind.backend.containerd.handlers import Ability, ContainerdFiles, Handler, choose_handler, parse_handlers
from kata_dind.backend.containerd.kata import KataConfiguration
from kata_dind.backend.containerd.prepare import require_handler
from kata_dind.backend.containerd.report import handler_fields
from kata_dind.backend.containerd.toml_files import TomlFile
from kata_dind.errors import ContainerdError, SpecError
from kata_dind.spec import parse_spec

ANNOTATIONS = "io.katacontainers.config.hypervisor."

# As kata-deploy writes it for containerd 1.6 to 1.7, and below for 2.x, shortened.
VERSION_2 = TomlFile(
    Path("/opt/kata/containerd/config.d/kata-deploy.toml"),
    """\
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-qemu]
runtime_type = "io.containerd.kata-qemu.v2"
runtime_path = "/opt/kata/bin/containerd-shim-kata-v2"
privileged_without_host_devices = true
pod_annotations = ["io.katacontainers.*"]
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-qemu.options]
ConfigPath = "/opt/kata/share/defaults/kata-containers/runtimes/qemu/configuration-qemu.toml"
""",
)
VERSION_3 = TomlFile(
    Path("/etc/containerd/config.toml"),
    """\
version = 3

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
""",
)

# Kata's own files at 4.1.0 have these lines, among many others.
GO_QEMU = """\
[hypervisor.qemu]
path = "/opt/kata/bin/qemu-system-x86_64"
kernel = "/opt/kata/share/kata-containers/vmlinux.container"
enable_annotations = ["enable_iommu", "kernel_params", "kernel_verity_params"]
shared_fs = "virtio-fs"
virtio_fs_extra_args = ["--thread-pool-size=1", "--announce-submounts"]
disable_block_device_use = true
[runtime]
sandbox_cgroup_only = false
emptydir_mode = "shared-fs"
"""
RUST_QEMU = """\
[hypervisor.qemu]
path = "/opt/kata/bin/qemu-system-x86_64"
kernel = "/opt/kata/share/kata-containers/vmlinux.container"
enable_annotations = ["enable_iommu", "kernel_params", "kernel_verity_params", "default_vcpus", "default_memory"]
shared_fs = "virtio-fs"
virtio_fs_extra_args = ["--thread-pool-size=1", "-o", "announce_submounts"]
[agent.kata]
[runtime]
name = "virt_container"
hypervisor_name = "qemu"
sandbox_cgroup_only = true
emptydir_mode = "shared-fs"
"""
DRAGONBALL = """\
[hypervisor.dragonball]
shared_fs = "inline-virtio-fs"
enable_annotations = []
[runtime]
name = "virt_container"
hypervisor_name = "dragonball"
"""
FIRECRACKER = """\
[hypervisor.firecracker]
path = "/opt/kata/bin/firecracker"
enable_annotations = []
[runtime]
"""
FIT = '[hypervisor.qemu]\nvirtio_fs_extra_args = ["--xattr", "--modcaps=+sys_admin"]\n'
OPEN = '[hypervisor.qemu]\nenable_annotations = ["virtio_fs_extra_args", "kernel"]\n'


def runtime(**changes: Any) -> dict[str, Any]:
    """Return a handler as containerd's status tells it."""
    return {
        "runtimeType": "io.containerd.kata-qemu.v2",
        "PodAnnotations": ["io.katacontainers.*"],
        "privileged_without_host_devices": True,
        "options": {"ConfigPath": "/opt/kata/configuration-qemu.toml"},
        **changes,
    }


def handler(name: str = "kata-qemu", *, kata: str | None = GO_QEMU, drop_in: str = "", version: str = "4.1.0",
            files: tuple[TomlFile, ...] = (VERSION_2,), **changes: Any) -> Handler:  # fmt: skip
    (found,) = parse_handlers({"containerd": {"runtimes": {name: runtime(**changes)}}}, ContainerdFiles(files))
    if kata is None:
        return dataclasses.replace(found, version=version)
    texts = [TomlFile(Path("/opt/kata/configuration-qemu.toml"), kata)]
    if drop_in:
        texts.append(TomlFile(Path("/opt/kata/config.d/50-own.toml"), drop_in))
    return dataclasses.replace(found, kata=KataConfiguration(tuple(texts)), version=version)


def abilities(found: Handler) -> str:
    return " ".join(str(ability) for ability in Ability if found.can(ability).can)


@pytest.mark.parametrize(
    ("found", "can"),
    [
        (handler(), "start memory loop block"),
        (handler(drop_in=FIT), "start memory loop block virtiofs"),
        (handler(drop_in=OPEN), "start memory loop block virtiofs kernel"),
        (handler(drop_in=OPEN, PodAnnotations=None), "start memory loop block"),
        (handler(version="3.13.0"), "start memory block"),
        (handler(kata=GO_QEMU.replace('"virtio-fs"', '"none"')), "start memory block"),
        (handler("kata-qemu-runtime-rs", kata=RUST_QEMU), "start memory loop block"),
        (handler("kata-dragonball", kata=DRAGONBALL), "start memory loop block"),
        (handler("kata-fc", kata=FIRECRACKER), "memory block"),
        (handler("kata-qemu-snp"), "memory loop block"),
        (handler(privileged_without_host_devices=False), "memory loop block"),
        (handler(runtimeType="io.containerd.runc.v2"), "start memory loop block"),
        (handler("my-own", runtimeType="io.containerd.kata-qemu-runtime-rs.v2", kata=RUST_QEMU),
         "start memory loop block"),
    ],
)  # fmt: skip
def test_what_a_handler_can_do(found: Handler, can: str) -> None:
    assert abilities(found) == can


@pytest.mark.parametrize(
    ("found", "ability", "change"),
    [
        (
            handler(privileged_without_host_devices=False),
            Ability.START,
            "/opt/kata/containerd/config.d/kata-deploy.toml:4: privileged_without_host_devices = true, "
            'below [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-qemu]',
        ),
        (
            handler("runc", privileged_without_host_devices=False, files=(VERSION_3,)),
            Ability.START,
            "/etc/containerd/config.toml:3: privileged_without_host_devices = true, "
            'below [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]',
        ),
        (
            handler(files=(), privileged_without_host_devices=False),
            Ability.START,
            "containerd's config.toml: privileged_without_host_devices = true, "
            'below [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-qemu]',
        ),
        (
            handler(),
            Ability.VIRTIOFS,
            '/opt/kata/configuration-qemu.toml:6: virtio_fs_extra_args = ["--thread-pool-size=1", '
            '"--announce-submounts", "--xattr", "--modcaps=+sys_admin"]',
        ),
        (
            handler(drop_in='[hypervisor.qemu]\nvirtio_fs_extra_args = ["--xattr"]\n'),
            Ability.VIRTIOFS,
            '/opt/kata/config.d/50-own.toml:2: virtio_fs_extra_args = ["--xattr", "--modcaps=+sys_admin"]',
        ),
        (
            handler(),
            Ability.KERNEL,
            "/opt/kata/configuration-qemu.toml:4: enable_annotations = "
            '["enable_iommu", "kernel_params", "kernel_verity_params", "kernel"]',
        ),
        (
            handler(drop_in='[hypervisor.qemu]\n# mine\nshared_fs = "none"\n'),
            Ability.LOOP,
            '/opt/kata/config.d/50-own.toml:3: shared_fs = "virtio-fs"',
        ),
    ],
)
def test_the_line_that_would_change_it_is_named(found: Handler, ability: Ability, change: str) -> None:
    verdict = found.can(ability)
    assert (verdict.can, verdict.change) == (False, change)
    assert verdict.why


@pytest.mark.parametrize(
    ("kata", "words"),
    [(GO_QEMU, '["--xattr", "--modcaps=+sys_admin"]'), (RUST_QEMU, "--xattr,--modcaps=+sys_admin")],
    ids=["go", "rust"],
)
def test_annotations_are_in_the_words_of_the_runtime(kata: str, words: str) -> None:
    found = handler(kata=kata, drop_in=OPEN)
    assert found.annotations_for(virtiofs=True, kernel="/boot/vmlinuz") == {
        f"{ANNOTATIONS}virtio_fs_extra_args": words,
        f"{ANNOTATIONS}kernel": "/boot/vmlinuz",
    }
    assert handler(kata=kata, drop_in=OPEN).annotations_for(virtiofs=False, kernel="") == {}
    assert handler(drop_in=FIT).annotations_for(virtiofs=True, kernel="") == {}


@pytest.mark.parametrize(
    ("version", "kata", "hole"),
    [
        ("3.30.0", RUST_QEMU, "GHSA-2gv2-cffp-j227"),
        ("3.31.0", RUST_QEMU, ""),
        ("3.30.0", GO_QEMU, ""),
        ("3.26.0", GO_QEMU.replace("hypervisor.qemu", "hypervisor.clh"), "GHSA-wwj6-vghv-5p64"),
        ("3.27.0", GO_QEMU.replace("hypervisor.qemu", "hypervisor.clh"), ""),
        ("3.30.0", GO_QEMU.replace('"enable_iommu"', '"enable_iommu", "virtio_fs_extra_args"'), "GHSA-rr59-xxvx-96qr"),
    ],
)
def test_a_known_hole_is_refused_unless_it_is_allowed(version: str, kata: str, hole: str) -> None:
    found = handler(kata=kata, version=version)
    asked = {"name": "demo", "backend": "containerd", "handler": "kata-qemu"}
    if hole:
        with pytest.raises(SpecError, match=hole) as caught:
            require_handler((found,), parse_spec(**asked))
        assert caught.value.id == "containerd.known-hole"
        with pytest.raises(ContainerdError, match="none of Kata's handlers is fit"):
            require_handler((found,), parse_spec(name="demo", backend="containerd"))
    else:
        assert require_handler((found,), parse_spec(name="demo", backend="containerd")) is found
    assert require_handler((found,), parse_spec(**asked, allow_known_holes=True)) is found


def test_a_version_that_is_not_known_is_a_warning() -> None:
    found = handler(kata=RUST_QEMU, version="")
    assert [hole.is_sure for hole in found.holes] == [False]
    spec = parse_spec(name="demo", backend="containerd", handler="kata-qemu")
    assert require_handler((found,), spec) is found


EXTRA_ARGS_OPEN = GO_QEMU.replace('"enable_iommu"', '"enable_iommu", "virtio_fs_.*"')


@pytest.mark.parametrize(
    ("found", "sure"),
    [
        (handler(kata=EXTRA_ARGS_OPEN, version="3.30.0"), [True]),
        (handler(kata=EXTRA_ARGS_OPEN, version="4.1.0"), [False]),
        (handler(kata=EXTRA_ARGS_OPEN, version=""), [False]),
        (handler(kata=EXTRA_ARGS_OPEN, version="3.30.0", PodAnnotations=None), []),
        (handler(kata=EXTRA_ARGS_OPEN.replace('"virtio-fs"', '"none"'), version="3.30.0"), []),
        (handler(version="3.30.0"), []),
        (handler(kata=None, version="3.30.0"), [False]),
        (handler(kata=None, version="3.31.0"), []),
    ],
    ids=["before 3.31", "opened by hand", "unknown version", "not handed on", "not shared", "closed by hand",
         "unknown configuration", "unknown configuration since 3.31"],
)  # fmt: skip
def test_an_annotation_that_shares_any_directory_is_a_hole_of_the_configuration(
    found: Handler, sure: list[bool]
) -> None:
    assert [hole.is_sure for hole in found.holes] == sure
    assert all("GHSA-rr59-xxvx-96qr" in hole.fault for hole in found.holes)


def test_the_line_that_closes_a_hole_is_named() -> None:
    found = handler(kata=EXTRA_ARGS_OPEN, version="3.30.0")
    line = (
        "/opt/kata/configuration-qemu.toml:4: "
        'enable_annotations = ["enable_iommu", "kernel_params", "kernel_verity_params"]'
    )
    assert [hole["change"] for hole in handler_fields(found)["holes"]] == [line]
    with pytest.raises(SpecError) as caught:
        require_handler((found,), parse_spec(name="demo", backend="containerd", handler="kata-qemu"))
    assert caught.value.hint == f"{line}, or say --allow-known-holes"


def test_a_handler_that_runs_no_machine_must_be_allowed_although_it_is_called_kata() -> None:
    found = handler(runtimeType="io.containerd.runc.v2")
    asked = {"name": "demo", "backend": "containerd", "handler": "kata-qemu"}
    with pytest.raises(SpecError, match="does not run a virtual machine") as caught:
        require_handler((found,), parse_spec(**asked))
    assert caught.value.id == "containerd.shared-kernel"
    assert require_handler((found,), parse_spec(**asked, allow_shared_kernel=True)) is found
    with pytest.raises(ContainerdError, match="containerd has no handler of Kata's"):
        require_handler((found,), parse_spec(name="demo", backend="containerd", allow_shared_kernel=True))


def test_an_unknown_handler_is_told_with_the_known_ones() -> None:
    with pytest.raises(SpecError, match="'kata-x' is not one of containerd's, which are kata-qemu"):
        require_handler((handler(),), parse_spec(name="demo", backend="containerd", handler="kata-x"))


def test_the_best_handler_is_one_with_a_machine_and_block_devices() -> None:
    everything = [
        handler("kata-fc", kata=FIRECRACKER),
        handler("kata-dragonball", kata=DRAGONBALL),
        handler("kata-qemu"),
        handler("kata-clh", kata=GO_QEMU.replace("hypervisor.qemu", "hypervisor.clh")),
        handler("runc", runtimeType="io.containerd.runc.v2"),
    ]
    found = choose_handler(everything)
    assert found is not None
    assert found.name == "kata-qemu"


def test_the_report_tells_all() -> None:
    fields = handler_fields(handler("kata-qemu-runtime-rs", kata=RUST_QEMU, drop_in=FIT, version="3.30.0"))
    assert fields["kata"] == {
        "version": "3.30.0",
        "runtime": "rs",
        "vmm": "QEMU",
        "sharing": "virtio-fs",
        "emptydir_mode": "shared-fs",
        "configuration": ["/opt/kata/configuration-qemu.toml", "/opt/kata/config.d/50-own.toml"],
        "damaged": [],
        "kernel": "/opt/kata/share/kata-containers/vmlinux.container",
        "annotations": ["enable_iommu", "kernel_params", "kernel_verity_params", "default_vcpus", "default_memory"],
        "sandbox_cgroup_only": True,
    }
    assert fields["abilities"]["virtiofs"] == {"can": True, "why": "", "change": ""}
    assert [hole["because"] for hole in fields["holes"]] == ["this Kata is 3.30.0"]


def test_a_damaged_file_has_no_settings() -> None:
    damaged = TomlFile(Path("/x.toml"), "[hypervisor.qemu\n")
    assert damaged.is_damaged
    assert KataConfiguration((damaged,)).hypervisor == ""
    assert abilities(handler(kata="[hypervisor.qemu\n")) == "start memory loop block"
