from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.pod.handlers import Runtime, runtime_of
from kata_dind.pod.model import Backing, VolumeMount
from kata_dind.pod.policy import EmptyDirMode, Policy, RuntimeClass, Sharing, Snapshotter
from kata_dind.pod.volumes import (
    backing_at,
    backing_of,
    claim_in_reach,
    clean_path,
    find_claim,
    find_claim_template,
    find_mount,
    find_volume,
    mount_above,
    mounts_below,
)

ROOT = "/var/lib/docker"
SHARED, PLAIN, ENCRYPTED = EmptyDirMode.SHARED_FS, EmptyDirMode.BLOCK_PLAIN, EmptyDirMode.BLOCK_ENCRYPTED


def runtime(name: str = "kata-qemu", **fields: Any) -> Runtime:
    found = runtime_of(name, {}, Policy(runtime_classes=(RuntimeClass(match=name, **fields),)))
    assert found is not None
    return found


def spec_with(source: dict[str, Any], *, mount: dict[str, Any] | None = None, device: bool = False) -> dict[str, Any]:
    entry = {"name": "data", "devicePath" if device else "mountPath": ROOT, **(mount or {})}
    container = {"name": "dind", "volumeDevices" if device else "volumeMounts": [entry]}
    return {"containers": [container], "volumes": [{"name": "data", **source}]}


def backing(
    source: dict[str, Any],
    found: Runtime,
    *,
    mount: dict[str, Any] | None = None,
    device: bool = False,
    claims: Sequence[Mapping[str, Any]] = (),
) -> tuple[Backing, str]:
    spec = spec_with(source, mount=mount, device=device)
    at = find_mount(spec, spec["containers"][0], ROOT, claims)
    assert at is not None
    return backing_of(spec, at, found, claims)


KATA_4 = runtime(version="4.1.0")
KATA_3 = runtime(version="3.32.0")
UNVERSIONED = runtime()
BLOCK_PLAIN = runtime(version="4.1.0", empty_dir=PLAIN)
DIRECT = runtime("kata-qemu-runtime-rs", version="4.1.0", direct_assigned=("direct-*",))


def ephemeral(**spec: Any) -> dict[str, Any]:
    return {"ephemeral": {"volumeClaimTemplate": {"spec": spec}}}


# One line per row of what volumes become: the source, the runtime, the backing, and a part of the sentence.
ROWS: list[tuple[dict[str, Any], Runtime, Backing, str]] = [
    ({"emptyDir": {}}, KATA_4, Backing.VIRTIOFS, "the emptyDir `data` is a directory of the node, which Kata shares"),
    ({"emptyDir": None}, KATA_4, Backing.VIRTIOFS, "the emptyDir `data`"),
    ({}, KATA_4, Backing.VIRTIOFS, "the emptyDir `data`"),  # Kubernetes' default for a volume without a source
    ({"emptyDir": {}}, UNVERSIONED, Backing.VIRTIOFS, "; before Kata 4.0 it is a directory in the root of the sandbox"),
    ({"emptyDir": {}}, KATA_3, Backing.GUEST_ROOT, "a share or a disk by containerd's snapshotter"),
    (
        {"emptyDir": {}},
        runtime(version="3.32.0", snapshotter=Snapshotter.DEVMAPPER),
        Backing.DISK,
        "a block device by the devmapper snapshotter",
    ),
    (
        {"emptyDir": {}},
        runtime(version="3.32.0", snapshotter=Snapshotter.OVERLAYFS),
        Backing.VIRTIOFS,
        "in the root of the sandbox, as before Kata 4.0, which Kata shares by virtio-fs",
    ),
    (
        {"emptyDir": {}},
        BLOCK_PLAIN,
        Backing.DISK,
        "an ext4 disk that Kata makes (block-plain), with one inode for each",
    ),
    ({"emptyDir": {"sizeLimit": "5Gi"}}, BLOCK_PLAIN, Backing.DISK, "block-plain"),
    ({"emptyDir": {}}, runtime("kata-qemu-nvidia-gpu-runtime-rs", version="4.0.0"), Backing.DISK, "block-plain"),
    ({"emptyDir": {}}, runtime("kata-qemu-tdx"), Backing.DISK, "encrypted ext4 disk"),
    ({"emptyDir": {}}, runtime(sharing=Sharing.VIRTIO_9P, version="4.1"), Backing.VIRTIOFS, "shares by 9p"),
    ({"emptyDir": {}}, runtime("kata-dragonball", version="4.1"), Backing.VIRTIOFS, "shares by virtio-fs"),
    ({"emptyDir": {}}, runtime("kata-fc"), Backing.MEMORY, "a directory in the memory of the guest"),
    (
        {"emptyDir": {}},
        runtime("kata-qemu-runtime-rs", sharing=Sharing.NONE),
        Backing.GUEST_ROOT,
        "a directory in the root of the sandbox",
    ),
    ({"emptyDir": {}}, runtime("kata-x", sharing=Sharing.NONE), Backing.UNKNOWN, "where is not known"),
    ({"emptyDir": {"medium": "Memory"}}, KATA_4, Backing.MEMORY, "a tmpfs in the memory of the guest"),
    ({"emptyDir": {"medium": "Memory"}}, BLOCK_PLAIN, Backing.MEMORY, "Kata ignores its sizeLimit"),
    ({"emptyDir": {"medium": "HugePages-2Mi"}}, KATA_4, Backing.UNFIT, "huge pages"),
    ({"emptyDir": {"medium": "Disk"}}, KATA_4, Backing.UNKNOWN, "the medium `Disk`, which is not known"),
    (
        {"persistentVolumeClaim": {"claimName": "cache"}},
        KATA_4,
        Backing.VIRTIOFS,
        "the claim `cache` is a file system of the node, which Kata shares by virtio-fs",
    ),
    (
        {"persistentVolumeClaim": {"claimName": "cache"}},
        DIRECT,
        Backing.VIRTIOFS,
        "; its storage class, which is not in the pod, may be one that Kata assigns directly",
    ),
    (ephemeral(storageClassName="direct-ssd"), DIRECT, Backing.DISK, "the storage class `direct-ssd`"),
    (ephemeral(storageClassName="nfs"), DIRECT, Backing.VIRTIOFS, "the ephemeral claim `data` is a file system"),
    (ephemeral(), DIRECT, Backing.VIRTIOFS, "the ephemeral claim `data` is a file system"),
    (ephemeral(volumeMode="Block"), KATA_4, Backing.UNKNOWN, "is a device, but is mounted like a directory"),
    ({"csi": {"driver": "x.csi"}}, KATA_4, Backing.VIRTIOFS, "a file system that `x.csi` mounts on the node"),
    (
        {"hostPath": {"path": "/mnt/docker"}},
        KATA_4,
        Backing.HOST,
        "the hostPath `/mnt/docker` is a directory of the node, which Kata shares by virtio-fs, and other pods may use",
    ),
    ({"hostPath": {"path": "/mnt", "type": "DirectoryOrCreate"}}, KATA_4, Backing.HOST, "a directory of the node"),
    ({"hostPath": {"path": "/mnt", "type": "Directory"}}, KATA_4, Backing.HOST, "a directory of the node"),
    ({"hostPath": {"path": "/dev/sdb", "type": "BlockDevice"}}, KATA_4, Backing.RAW, "a block device of the node"),
    ({"hostPath": {"path": "/x", "type": "BlockDevice"}}, KATA_4, Backing.RAW, "with disable_block_device_use = false"),
    ({"hostPath": {"path": "/x", "type": "BlockDevice"}}, runtime(version="3.25.0"), Backing.RAW, "that is mounted"),
    (
        {"hostPath": {"path": "/x", "type": "BlockDevice"}},
        runtime("kata-qemu-runtime-rs", version="4.1.0"),
        Backing.RAW,
        "that is mounted",
    ),
    ({"hostPath": {"path": "/dev/fuse", "type": "CharDevice"}}, KATA_4, Backing.UNFIT, "its type is CharDevice"),
    ({"hostPath": {"path": "/x", "type": "Socket"}}, KATA_4, Backing.UNFIT, "its type is Socket"),
    ({"hostPath": {"path": "/x", "type": "FileOrCreate"}}, KATA_4, Backing.UNFIT, "its type is FileOrCreate"),
    ({"hostPath": {"path": "/dev"}}, KATA_4, Backing.UNKNOWN, "what the guest itself has there"),
    ({"hostPath": {"path": "/dev/../dev//shm/"}}, KATA_4, Backing.UNKNOWN, "the hostPath `/dev/shm`"),
    ({"hostPath": {"path": "/device"}}, KATA_4, Backing.HOST, "a directory of the node"),
    ({"configMap": {"name": "x"}}, KATA_4, Backing.UNFIT, "a ConfigMap, whose files are read-only"),
    ({"secret": {"secretName": "x"}}, KATA_4, Backing.UNFIT, "a Secret"),
    ({"projected": {}}, KATA_4, Backing.UNFIT, "a projected volume"),
    ({"downwardAPI": {}}, KATA_4, Backing.UNFIT, "a downward API volume"),
    ({"image": {"reference": "x"}}, KATA_4, Backing.UNFIT, "is an image"),
    ({"nfs": {"server": "x", "path": "/"}}, KATA_4, Backing.VIRTIOFS, "an NFS directory that the node mounts, which"),
    ({"awsElasticBlockStore": {}}, KATA_4, Backing.VIRTIOFS, "an EBS disk that the node mounts"),
    ({"nfs": {}}, runtime("kata-fc"), Backing.MEMORY, "which Kata copies into the memory of the guest"),
    ({"newThing": {}}, KATA_4, Backing.UNKNOWN, "of the kind `newThing`, which is not known"),
    ({"emptyDir": {}, "hostPath": {"path": "/x"}}, KATA_4, Backing.UNKNOWN, "more than one source"),
]


@pytest.mark.parametrize(("source", "found", "expected", "sentence"), ROWS)
def test_what_a_volume_becomes(source: dict[str, Any], found: Runtime, expected: Backing, sentence: str) -> None:
    answer = backing(source, found)
    assert answer[0] is expected
    assert sentence in answer[1]


@pytest.mark.parametrize(
    ("name", "version", "is_said"),
    [
        ("kata-qemu", "3.25.0", False),
        ("kata-qemu", "3.26.0", True),
        ("kata-qemu", "", True),
        ("kata-qemu-runtime-rs", "4.1.0", False),
        ("kata-qemu-runtime-rs", "", False),
    ],
)
def test_block_devices_of_the_node_are_off_in_gos_runtime_since_3_26(name: str, version: str, is_said: bool) -> None:
    found = runtime(name, version=version)
    sentence = backing({"hostPath": {"path": "/x", "type": "BlockDevice"}}, found)[1]
    assert ("disable_block_device_use" in sentence) is is_said


@pytest.mark.parametrize(
    ("source", "found", "expected"),
    [
        ({"emptyDir": {"medium": "Memory"}}, KATA_4, Backing.VIRTIOFS),  # kata#1728
        ({"emptyDir": {}}, BLOCK_PLAIN, Backing.VIRTIOFS),
        (ephemeral(storageClassName="direct-ssd"), DIRECT, Backing.VIRTIOFS),
        ({"persistentVolumeClaim": {"claimName": "x"}}, DIRECT, Backing.VIRTIOFS),
        ({"hostPath": {"path": "/x"}}, KATA_4, Backing.HOST),
    ],
)
@pytest.mark.parametrize("key", ["subPath", "subPathExpr"])
def test_a_sub_path_is_a_directory_of_the_node(
    source: dict[str, Any], found: Runtime, expected: Backing, key: str
) -> None:
    assert backing(source, found, mount={key: "docker"})[0] is expected


@pytest.mark.parametrize(
    ("source", "mount"),
    [
        ({"emptyDir": {"medium": "Memory"}}, {"readOnly": True}),
        ({"persistentVolumeClaim": {"claimName": "x", "readOnly": True}}, {}),
        ({"csi": {"driver": "x", "readOnly": True}}, {}),
    ],
)
def test_nothing_read_only_holds_a_data_root(source: dict[str, Any], mount: dict[str, Any]) -> None:
    assert backing(source, KATA_4, mount=mount) == (Backing.UNFIT, "the volume `data` is mounted read-only")


@pytest.mark.parametrize(
    ("source", "expected", "sentence"),
    [
        (
            {"persistentVolumeClaim": {"claimName": "disk"}},
            Backing.RAW,
            "the claim `disk` is a block device at `/var/lib/docker`, without a file system",
        ),
        (ephemeral(volumeMode="Block"), Backing.RAW, "the ephemeral claim `data` is a block device"),
        (ephemeral(), Backing.UNKNOWN, "is a file system, but is taken as a device"),
        ({"emptyDir": {}}, Backing.UNKNOWN, "is not a claim, so that Kubernetes refuses it as a device"),
    ],
)
def test_devices(source: dict[str, Any], expected: Backing, sentence: str) -> None:
    answer = backing(source, KATA_4, device=True)
    assert answer[0] is expected
    assert sentence in answer[1]


def test_a_machine_that_may_not_plug_in_disks_is_said() -> None:
    openvmm = runtime("kata-openvmm-azure-runtime-rs")
    source = {"persistentVolumeClaim": {"claimName": "disk"}}
    assert backing(source, openvmm, device=True)[1].endswith(", if OpenVMM can plug it in, which is not known")


def claim_template(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec}


def test_a_claim_template_is_a_volume_and_knows_its_class() -> None:
    container = {"volumeMounts": [{"name": "data", "mountPath": ROOT}]}
    spec = {"containers": [container]}
    claims = (claim_template("other"), claim_template("data", storageClassName="direct-ssd"))
    mount = find_mount(spec, container, ROOT, claims)
    assert mount is not None
    assert mount.volume_pointer is None
    assert backing_of(spec, mount, DIRECT, claims)[0] is Backing.DISK
    assert backing_of(spec, mount, KATA_4, claims) == (
        Backing.VIRTIOFS,
        "the claim of the template `data` is a file system of the node, which Kata shares by virtio-fs",
    )
    annotations = {"volume.beta.kubernetes.io/storage-class": "direct-old"}
    legacy = {"metadata": {"name": "data", "annotations": annotations}, "spec": {}}
    assert backing_of(spec, mount, DIRECT, (legacy,))[0] is Backing.DISK


def test_a_claim_template_takes_the_place_of_a_volume_of_its_name() -> None:
    answer = backing({"emptyDir": {"medium": "Memory"}}, KATA_4, claims=(claim_template("data"),))
    assert answer[0] is Backing.VIRTIOFS


def test_a_claim_of_the_same_file_tells_its_class_by_its_claim_name() -> None:
    source = {"persistentVolumeClaim": {"claimName": "cache"}}
    claim = claim_template("cache", storageClassName="direct-ssd", volumeMode="Filesystem")
    assert backing(source, DIRECT, claims=(claim_in_reach(claim),)) == (
        Backing.DISK,
        "the claim `cache` has the storage class `direct-ssd`, whose file systems Kata mounts in the guest",
    )
    other = claim_in_reach(claim_template("other", storageClassName="direct-ssd"))
    assert backing(source, DIRECT, claims=(other,))[0] is Backing.VIRTIOFS
    block = claim_in_reach(claim_template("cache", volumeMode="Block"))
    assert backing(source, KATA_4, device=True, claims=(block,))[0] is Backing.RAW
    # It makes no volume of its name, as a template would.
    memory = {"emptyDir": {"medium": "Memory"}}
    assert backing(memory, DIRECT, claims=(claim_in_reach(claim_template("data")),))[0] is Backing.MEMORY
    assert find_claim((claim_in_reach(claim_template("")), claim), "") is None


def test_a_block_claim_template_is_a_device() -> None:
    answer = backing({}, KATA_4, device=True, claims=(claim_template("data", volumeMode="Block"),))
    assert answer[0] is Backing.RAW


def test_a_mount_of_a_volume_that_is_not_there_is_unknown() -> None:
    spec: dict[str, Any] = {"containers": [{"volumeMounts": [{"name": "data", "mountPath": ROOT}]}]}
    mount = find_mount(spec, spec["containers"][0], ROOT)
    assert mount is not None
    assert mount.volume_pointer is None
    assert backing_of(spec, mount, KATA_4) == (
        Backing.UNKNOWN,
        "there is no volume `data` in the pod, although `/var/lib/docker` mounts it",
    )


def test_without_kata_nothing_is_said() -> None:
    spec = spec_with({"emptyDir": {}})
    assert backing_of(spec, find_mount(spec, spec["containers"][0], ROOT), None)[0] is Backing.UNKNOWN


def test_an_image_volume_is_shared() -> None:
    sentence = "nothing is mounted there, so it is the VOLUME of the image, a directory of the node, which Kata "
    assert backing_of({}, None, KATA_4) == (Backing.VIRTIOFS, sentence + "shares by virtio-fs")
    assert backing_of({}, None, runtime(snapshotter=Snapshotter.DEVMAPPER))[0] is Backing.VIRTIOFS
    unfit = backing_of({}, None, runtime("kata-qemu-nvidia-gpu-runtime-rs"))
    assert unfit[0] is Backing.UNFIT
    assert unfit[1].endswith("which Kata copies into the memory of the guest, where a few images fill it up")
    assert backing_of({}, None, runtime("kata-fc")) == (
        Backing.MEMORY,
        sentence + "copies into the memory of the guest",
    )


def test_a_mount_is_found_with_all_that_is_to_know_of_it() -> None:
    mounts = [
        {"name": "sock", "mountPath": "/var/run"},
        {"name": "data", "mountPath": "/var/lib/docker", "subPath": "a"},
    ]
    container = {"name": "dind", "volumeMounts": mounts}
    spec = {
        "containers": [{"name": "main"}],
        "initContainers": [{"name": "other", "volumeMounts": mounts}, container],
        "volumes": [{"name": "sock"}, {"name": "data", "emptyDir": {}}],
    }
    assert find_mount(spec, container, ROOT) == VolumeMount(
        volume="data",
        mount_path="/var/lib/docker",
        pointer=("spec", "initContainers", 1, "volumeMounts", 1),
        volume_pointer=("spec", "volumes", 1),
        has_sub_path=True,
    )


def test_of_two_containers_that_are_equal_each_has_its_own_pointer() -> None:
    spec = {"containers": [{"volumeMounts": [{"name": "a", "mountPath": ROOT}]} for _ in range(2)]}
    pointers = [mount and mount.pointer for mount in (find_mount(spec, each, ROOT) for each in spec["containers"])]
    assert pointers == [("spec", "containers", index, "volumeMounts", 0) for index in range(2)]


@pytest.mark.parametrize(
    "path",
    [
        *("/var/lib/docker", "/var/lib/docker/", "/var//lib/docker", "//var/lib/docker", "/var/lib/./docker/."),
        *("/var/lib/x/../docker", "/../var/lib/docker", "var/lib/docker"),
    ],
)
def test_a_mount_counts_however_its_path_is_written(path: str) -> None:
    container = {"volumeMounts": [{"name": "data", "mountPath": path}]}
    mount = find_mount({"containers": [container]}, container, "/var/lib/docker/")
    assert mount is not None
    assert mount.mount_path == path


@pytest.mark.parametrize(
    "path",
    ["/var/lib", "/", "/var/lib/docker/overlay2", "/var/lib/docker2", "/var/lib/Docker", "/var/lib/docker/.. ", ""],
)
def test_a_mount_elsewhere_does_not_count(path: str) -> None:
    container = {"volumeMounts": [{"name": "data", "mountPath": path}]}
    assert find_mount({"containers": [container]}, container, ROOT) is None


def test_the_last_of_duplicates_counts() -> None:
    mounts = [{"name": "a", "mountPath": ROOT}, {"name": "b", "mountPath": ROOT + "/"}]
    container = {"volumeMounts": mounts, "volumeDevices": [{"name": "c", "devicePath": ROOT}]}
    spec = {
        "containers": [container],
        "volumes": [{"name": "b", "hostPath": {"path": "/x"}}, {"name": "b", "emptyDir": {"medium": "Memory"}}],
    }
    mount = find_mount(spec, container, ROOT)
    assert mount is not None
    assert (mount.volume, mount.volume_pointer) == ("b", ("spec", "volumes", 1))
    assert backing_of(spec, mount, KATA_4)[0] is Backing.MEMORY
    assert find_volume(spec, "b") == (("spec", "volumes", 1), {"name": "b", "emptyDir": {"medium": "Memory"}})
    assert find_claim_template([claim_template("x", a=1), claim_template("x", a=2)], "x") == claim_template("x", a=2)


def test_near_misses_are_named() -> None:
    container = {
        "volumeMounts": [
            {"name": "a", "mountPath": "/var"},
            {"name": "b", "mountPath": "/var/lib/"},
            {"name": "c", "mountPath": "/var/lib/docker/overlay2/"},
        ]
    }
    spec = {"containers": [container], "volumes": [{"name": "b", "emptyDir": {"medium": "Memory"}}]}
    above = mount_above(spec, container, ROOT)
    assert above is not None
    assert above.volume == "b"
    assert mounts_below(container, ROOT) == ["/var/lib/docker/overlay2"]
    assert mounts_below(container, "/") == ["/var", "/var/lib", "/var/lib/docker/overlay2"]
    assert backing_at(spec, container, ROOT, KATA_4) == (
        Backing.VIRTIOFS,
        "nothing is mounted there, so it is the VOLUME of the image, a directory of the node, which Kata shares "
        "by virtio-fs; the mount at `/var/lib/` does not take the place of that VOLUME; "
        "only `/var/lib/docker/overlay2` below it is mounted",
    )


def test_a_root_without_a_volume_of_the_image_lies_in_the_mount_above() -> None:
    container = {"volumeMounts": [{"name": "a", "mountPath": "/data"}]}
    spec = {"containers": [container], "volumes": [{"name": "a", "emptyDir": {"medium": "Memory"}}]}
    backing, sentence = backing_at(spec, container, "/data/docker", KATA_4)
    assert backing is Backing.MEMORY
    assert sentence.startswith("`/data/docker` lies in the mount at `/data`, and the emptyDir `a` is a tmpfs")


@pytest.mark.parametrize(
    ("snapshotter", "expected"),
    [
        (None, Backing.VIRTIOFS),
        (Snapshotter.OVERLAYFS, Backing.VIRTIOFS),
        (Snapshotter.DEVMAPPER, Backing.DISK),
        (Snapshotter.EROFS, Backing.UNFIT),
        (Snapshotter.NYDUS, Backing.UNFIT),
    ],
)
def test_a_root_on_nothing_lies_on_the_containers_root(snapshotter: Snapshotter | None, expected: Backing) -> None:
    found = runtime(snapshotter=snapshotter)
    assert backing_at({}, {}, "/docker-graph", found)[0] is expected


def test_names_of_others_can_not_write_to_a_terminal() -> None:
    name = "a\x1b[2J\n" + "b" * 1000
    container = {"volumeMounts": [{"name": name, "mountPath": ROOT}]}
    spec = {"containers": [container], "volumes": [{"name": name, "emptyDir": {}}]}
    sentence = backing_at(spec, container, ROOT, KATA_4)[1]
    assert sentence.isprintable()
    assert len(sentence) < 300


@given(st.text(alphabet="/.a", max_size=12))
def test_a_clean_path_is_absolute_and_stays_as_it_is(path: str) -> None:
    clean = clean_path(path)
    assert clean.startswith("/")
    assert not clean.startswith("//")
    assert not {"", ".", ".."} & set(clean[1:].split("/")) or clean == "/"
    assert clean_path(clean) == clean


odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "data", ROOT, "/var", "Memory"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["name", "mountPath", "devicePath", "readOnly", "subPath", "emptyDir", "medium", "hostPath", "path", "type",
         "persistentVolumeClaim", "claimName", "ephemeral", "volumeClaimTemplate", "spec", "metadata", "csi", "nfs"]
    ), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(
    st.fixed_dictionaries({"volumes": odd | st.lists(odd, max_size=3)}),
    st.fixed_dictionaries({"volumeMounts": odd | st.lists(odd, max_size=3), "volumeDevices": odd}),
    st.lists(odd, max_size=2),
)
def test_no_pod_is_too_odd(spec: dict[str, Any], container: dict[str, Any], claims: list[Any]) -> None:
    for found in (KATA_4, KATA_3, BLOCK_PLAIN, DIRECT, None):
        backing, sentence = backing_at({**spec, "containers": [container]}, container, ROOT, found, claims)
        assert isinstance(backing, Backing)
        assert sentence.isprintable()
