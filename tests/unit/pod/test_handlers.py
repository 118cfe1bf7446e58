from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.pod.handlers import ANNOTATIONS, KATA_4_1_CLASSES, Runtime, Shim, Vmm, find_handler, runtime_of
from kata_dind.pod.policy import EmptyDirMode, Policy, RuntimeClass, Sharing, Snapshotter, parse_policy

GO, RS = Shim.GO, Shim.RS
QEMU, CLH = Vmm.QEMU, Vmm.CLOUD_HYPERVISOR
SHARED, PLAIN, ENCRYPTED = EmptyDirMode.SHARED_FS, EmptyDirMode.BLOCK_PLAIN, EmptyDirMode.BLOCK_ENCRYPTED
FS, INLINE, NONE = Sharing.VIRTIO_FS, Sharing.INLINE_VIRTIO_FS, Sharing.NONE


def runtime(name: str, annotations: dict[str, object] | None = None, **fields: Any) -> Runtime:
    policy = Policy(runtime_classes=(RuntimeClass(match=name, **fields),))
    found = runtime_of(name, annotations or {}, policy)
    assert found is not None
    return found


# Kata 4.1's list of shims, and what the configuration files of that release give each.
TABLE = {
    "kata-clh": (CLH, GO, FS, SHARED),
    "kata-clh-runtime-rs": (CLH, RS, FS, SHARED),
    "kata-clh-azure": (CLH, GO, FS, SHARED),
    "kata-clh-azure-runtime-rs": (CLH, RS, FS, SHARED),
    "kata-dragonball": (Vmm.DRAGONBALL, RS, INLINE, SHARED),
    "kata-fc": (Vmm.FIRECRACKER, GO, NONE, SHARED),
    "kata-openvmm-azure-runtime-rs": (Vmm.OPENVMM, RS, FS, SHARED),
    "kata-qemu": (QEMU, GO, FS, SHARED),
    "kata-qemu-runtime-rs": (QEMU, RS, FS, SHARED),
    "kata-qemu-coco-dev": (QEMU, GO, NONE, ENCRYPTED),
    "kata-qemu-coco-dev-runtime-rs": (QEMU, RS, NONE, ENCRYPTED),
    "kata-qemu-nvidia-cpu": (QEMU, GO, FS, SHARED),
    "kata-qemu-nvidia-cpu-runtime-rs": (QEMU, RS, NONE, PLAIN),
    "kata-qemu-nvidia-gpu": (QEMU, GO, FS, SHARED),
    "kata-qemu-nvidia-gpu-runtime-rs": (QEMU, RS, NONE, PLAIN),
    "kata-qemu-nvidia-gpu-snp": (QEMU, GO, NONE, ENCRYPTED),
    "kata-qemu-nvidia-gpu-snp-runtime-rs": (QEMU, RS, NONE, ENCRYPTED),
    "kata-qemu-nvidia-gpu-tdx": (QEMU, GO, NONE, ENCRYPTED),
    "kata-qemu-nvidia-gpu-tdx-runtime-rs": (QEMU, RS, NONE, ENCRYPTED),
    "kata-qemu-se": (QEMU, GO, NONE, ENCRYPTED),
    "kata-qemu-se-runtime-rs": (QEMU, RS, NONE, ENCRYPTED),
    "kata-qemu-snp": (QEMU, GO, NONE, ENCRYPTED),
    "kata-qemu-snp-runtime-rs": (QEMU, RS, NONE, ENCRYPTED),
    "kata-qemu-tdx": (QEMU, GO, NONE, ENCRYPTED),
    "kata-qemu-tdx-runtime-rs": (QEMU, RS, NONE, ENCRYPTED),
    "kata-remote": (Vmm.REMOTE, GO, NONE, SHARED),
}


@pytest.mark.parametrize("name", TABLE)
def test_each_of_katas_handlers_is_known(name: str) -> None:
    found = runtime(name, version="4.1.0")
    assert (found.vmm, found.shim, found.sharing, found.empty_dir) == TABLE[name]
    assert found.confidential == (found.empty_dir is ENCRYPTED)
    assert "not one of Kata's own" not in found.because


def test_the_list_of_classes_is_that_of_kata_4_1() -> None:
    assert set(KATA_4_1_CLASSES) == set(TABLE)
    assert len(KATA_4_1_CLASSES) == 26


@pytest.mark.parametrize(
    ("name", "vmm", "shim"),
    [
        ("kata-qemu-debug", QEMU, GO),
        ("kata-qemu-runtime-rs-devkit", QEMU, RS),
        ("kata-qemu-runtime-rs-team-a", QEMU, RS),
        ("kata-qemu-team-a-runtime-rs", QEMU, RS),
        ("kata-clh-blue", CLH, GO),
        ("kata-qemu-dind", QEMU, GO),
        ("kata-qemu-selinux", QEMU, GO),  # which is not `se` with something behind it
        ("qemu", QEMU, GO),
        # Of 3.x, and AKS' own.
        ("kata-cloud-hypervisor", CLH, RS),
        ("kata-stratovirt", Vmm.STRATOVIRT, GO),
        ("kata-mshv-vm-isolation", CLH, GO),
        ("kata-vm-isolation", CLH, GO),
    ],
)
def test_variants_and_suffixes_are_what_they_stand_for(name: str, vmm: Vmm, shim: Shim) -> None:
    found = find_handler(name)
    assert found is not None
    assert (found.vmm, found.shim, found.confidential) == (vmm, shim, False)


@pytest.mark.parametrize("name", ["kata-qemu-sev", "kata-qemu-snp-debug", "kata-cc-isolation", "kata-cc", "kata-tdx"])
def test_confidential_handlers_are_left_alone(name: str) -> None:
    assert "confidential handler" in runtime(name).left_alone


@pytest.mark.parametrize("name", ["kata-fc", "kata-remote", "kata-fc-blue", "kata-peerpods", "my-firecracker"])
def test_handlers_that_share_nothing_are_left_alone(name: str) -> None:
    assert "shares no directories" in runtime(name).left_alone


@pytest.mark.parametrize(
    "name",
    ["kata", "kata-qemu", "kata-dragonball", "kata-qemu-nvidia-gpu", "kata-qemu-nvidia-gpu-runtime-rs", "kata-x"],
)
def test_the_others_are_not_left_alone(name: str) -> None:
    assert not runtime(name).left_alone


def test_what_shares_nothing_is_repaired_if_the_policy_gives_it_a_disk() -> None:
    assert runtime("kata-qemu", sharing=NONE).left_alone
    assert not runtime("kata-qemu", sharing=NONE, empty_dir=PLAIN).left_alone
    assert not runtime("kata-qemu", sharing=NONE, block_storage_class="fast").left_alone
    assert runtime("kata-fc", empty_dir=PLAIN).left_alone


@pytest.mark.parametrize(("version", "shim"), [("", None), ("3.32", GO), ("4.0", RS), ("4.1.0", RS)])
def test_the_class_kata_is_gos_before_4_and_rusts_since(version: str, shim: Shim | None) -> None:
    assert runtime("kata", version=version).shim is shim


def test_a_handler_that_nobody_knows_has_the_defaults_and_says_so() -> None:
    found = runtime("kata-dind")
    assert (found.vmm, found.shim, found.sharing, found.empty_dir) == (None, None, FS, SHARED)
    assert found.because == (
        "the RuntimeClass `kata-dind` is not one of Kata's own handlers, so the defaults of Kata are assumed; "
        "its version is not in the policy"
    )


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("kata-cc", "but by its name it is confidential"),
        ("peerpods", "but by its name it runs a remote hypervisor"),
        ("my-firecracker", "but by its name it runs Firecracker"),
    ],
)
def test_what_is_told_by_a_name_alone_is_said(name: str, guess: str) -> None:
    assert f"is not one of Kata's own handlers, {guess}; its version" in runtime(name).because


def test_the_policys_entry_comes_before_the_table() -> None:
    found = runtime(
        "kata-dind",
        handler="kata-qemu-runtime-rs",
        version="4.1",
        empty_dir=PLAIN,
        sharing=Sharing.VIRTIO_9P,
        snapshotter=Snapshotter.DEVMAPPER,
        block_storage_class="fast",
        direct_assigned=("local-*",),
    )
    assert (found.name, found.handler, found.version) == ("kata-dind", "kata-qemu-runtime-rs", (4, 1, 0))
    assert (found.empty_dir, found.sharing, found.block_storage_class) == (PLAIN, Sharing.VIRTIO_9P, "fast")
    assert found.assigns("local-ssd")
    assert not found.assigns("nfs")
    assert not found.assigns("")
    assert found.because == (
        "the RuntimeClass `kata-dind` has by the policy the handler `kata-qemu-runtime-rs`, which runs QEMU by Kata's "
        "Rust runtime; its version is 4.1; the policy gives emptyDir block-plain and sharing virtio-9p and "
        "snapshotter devmapper"
    )


def test_the_first_entry_that_matches_counts() -> None:
    policy = parse_policy(
        {
            "runtimeClasses": [
                {"match": "kata-qemu", "version": "4.1.0"},
                {"match": "kata-c*", "kata": False},
                {"match": "kata-*", "version": "3.20.0"},
            ]
        }
    )
    versions = {name: runtime_of(name, {}, policy) for name in ("kata-qemu", "kata-clh", "kata-fc", "runc", "")}
    assert {name: found and found.version for name, found in versions.items()} == {
        "kata-qemu": (4, 1, 0),
        "kata-clh": None,
        "kata-fc": (3, 20, 0),
        "runc": None,
        "": None,
    }


@pytest.mark.parametrize(
    ("name", "version", "sharing", "empty_dir"),
    [
        ("kata-qemu-nvidia-gpu-runtime-rs", "3.31.0", FS, SHARED),
        ("kata-qemu-nvidia-gpu-runtime-rs", "3.32.0", FS, SHARED),
        ("kata-qemu-nvidia-gpu-runtime-rs", "4.0.0", NONE, PLAIN),
        ("kata-qemu-nvidia-gpu-runtime-rs", "", NONE, PLAIN),
    ],
)
def test_nvidias_rust_handlers_make_disks_since_4(
    name: str, version: str, sharing: Sharing, empty_dir: EmptyDirMode
) -> None:
    found = runtime(name, version=version)
    assert (found.sharing, found.empty_dir) == (sharing, empty_dir)
    assert ("from 4.0 on" in found.because) == (empty_dir is PLAIN)


@pytest.mark.parametrize(("version", "is_in_guest"), [("", False), ("3.32", True), ("4.0", False)])
def test_a_plain_empty_dir_is_in_the_guest_before_4(version: str, is_in_guest: bool) -> None:
    assert runtime("kata-qemu", version=version).guest_empty_dir is is_in_guest


@pytest.mark.parametrize(("version", "works"), [("", True), ("3.12.0", True), ("3.13.0", False), ("3.14.0", True)])
def test_loop_disks_work_but_in_3_13(version: str, works: bool) -> None:
    assert runtime("kata-qemu", version=version).loop_works is works


GO_ARGS = '["--xattr","--modcaps=+sys_admin"]'
RS_ARGS = "--xattr,--modcaps=+sys_admin"


@pytest.mark.parametrize(
    ("name", "extra_args", "is_fit"),
    [
        ("kata-qemu", GO_ARGS, True),
        ("kata-qemu", '["-o","xattr,modcaps=+sys_admin"]', True),
        ("kata-qemu", '["-o","xattr","-o","modcaps=+mknod:+sys_admin"]', True),
        ("kata-qemu", '["--modcaps","+sys_admin","--xattr"]', True),
        ("kata-qemu", RS_ARGS, False),  # which the Go runtime can't read
        ("kata-qemu-runtime-rs", RS_ARGS, True),
        ("kata-qemu-runtime-rs", GO_ARGS, False),
        ("kata-dind", GO_ARGS, True),  # its shim isn't known
        ("kata-dind", RS_ARGS, True),
        ("kata-qemu", '["--xattr"]', False),
        ("kata-qemu", '["--modcaps=+sys_admin"]', False),
        ("kata-qemu", '["--xattr","--modcaps=-sys_admin"]', False),
        ("kata-qemu", '["--xattr","--modcaps=+sys_admin","--xattrmap=:map::user.virtiofs.:"]', False),
        ("kata-qemu", '["--xattr', False),
        ("kata-qemu", '[["--xattr"]]', False),
        ("kata-qemu", "[" * 100_000, False),
        ("kata-qemu", "", False),
        ("kata-dragonball", RS_ARGS, False),  # has no virtiofsd
        ("kata-fc", GO_ARGS, False),
    ],
)
def test_virtiofsd_is_fit_by_an_annotation_that_is_obeyed(name: str, extra_args: str, is_fit: bool) -> None:
    annotations: dict[str, object] = {ANNOTATIONS + "virtio_fs_extra_args": extra_args}
    assert runtime(name, annotations, enable_annotations=("virtio_fs_*",)).virtiofs_fit is is_fit
    assert not runtime(name, annotations, enable_annotations=("shared_fs",)).virtiofs_fit
    found = runtime(name, annotations)
    assert not found.virtiofs_fit
    assert found.because.endswith("but the policy does not say that the handler obeys it") is is_fit


def test_the_policys_word_on_virtiofsd_holds_for_virtio_fs_alone() -> None:
    assert runtime("kata-qemu", virtiofs_fit=True).virtiofs_fit
    assert not runtime("kata-dragonball", virtiofs_fit=True).virtiofs_fit
    assert not runtime("kata-qemu", virtiofs_fit=True, sharing=Sharing.VIRTIO_9P).virtiofs_fit


def test_shared_fs_is_taken_from_an_annotation_that_is_obeyed() -> None:
    annotations: dict[str, object] = {ANNOTATIONS + "shared_fs": "virtio-9p"}
    assert runtime("kata-qemu", annotations).sharing is FS
    found = runtime("kata-qemu", annotations, enable_annotations=("shared_fs",), virtiofs_fit=True)
    assert (found.sharing, found.virtiofs_fit) == (Sharing.VIRTIO_9P, False)
    assert found.because.endswith("; an annotation of the pod sets shared_fs to virtio-9p")
    unknown: dict[str, object] = {ANNOTATIONS + "shared_fs": "nfs"}
    assert runtime("kata-qemu", unknown, enable_annotations=("shared_fs",)).sharing is FS


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.sampled_from(["kata", "kata-qemu", "kata-clh-runtime-rs", "kata-x"]),
    st.dictionaries(st.sampled_from([ANNOTATIONS + "shared_fs", ANNOTATIONS + "virtio_fs_extra_args"]), json_values)
    | json_values,
)
def test_no_annotations_are_too_odd(name: str, annotations: Any) -> None:
    policy = Policy(runtime_classes=(RuntimeClass(match="kata*", enable_annotations=("*",)),))
    found = runtime_of(name, annotations, policy)
    assert found is not None
    assert found.because.isprintable()


@given(st.text(max_size=300))
def test_any_name_of_a_class_has_a_runtime(name: str) -> None:
    found = runtime_of(name, {}, Policy(runtime_classes=(RuntimeClass(match="*"),)))
    assert found is not None
    assert found.because.isprintable()
    assert (found.left_alone or "x").isprintable()


@given(st.lists(st.text(max_size=12), max_size=5))
def test_the_two_ways_to_write_virtiofsds_arguments_say_the_same(words: list[str]) -> None:
    words = [word for word in words if not set(word) & set(", \t\n\r\x0b\x0c") and word.split() == [word]]
    words += ["--xattr", "--modcaps=+sys_admin"]
    go: dict[str, object] = {ANNOTATIONS + "virtio_fs_extra_args": json.dumps(words)}
    rs: dict[str, object] = {ANNOTATIONS + "virtio_fs_extra_args": ",".join(words)}
    enabled = ("virtio_fs_extra_args",)
    if not words[0].startswith("["):
        fits = runtime("kata-qemu", go, enable_annotations=enabled).virtiofs_fit
        assert fits == runtime("kata-qemu-runtime-rs", rs, enable_annotations=enabled).virtiofs_fit
