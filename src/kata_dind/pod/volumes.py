"""The volume at a data root, and what Kata makes of it in the guest.

Source: Kata's `crates/resource/src/volume/mod.rs` and `virtcontainers/container.go` at 4.1.0; Kubernetes' API types.
"""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kata_dind.pod.handlers import Runtime, Shim
from kata_dind.pod.model import Backing, Pointer, VolumeMount
from kata_dind.pod.policy import EmptyDirMode, Sharing, Snapshotter
from kata_dind.pod.reading import containers_of, items, mapping, text, volumes_of
from kata_dind.pod.sentences import listed, quoted

Claims = Sequence[Mapping[str, Any]]
"""The volumeClaimTemplates of the object that makes the pod, and PersistentVolumeClaims in reach (`claim_in_reach`)."""

_IN_REACH = "persistentVolumeClaimInReach"

Answer = tuple[Backing, str]

IMAGE_VOLUMES = frozenset(
    (
        *("/var/lib/docker", "/home/rootless/.local/share/docker"),
        *("/var/lib/buildkit", "/home/user/.local/share/buildkit"),
        *("/var/lib/dagger", "/tmp/earthly"),
    )
)
"""The directories for which images with these programs declare a VOLUME, so that only a mount at exactly there counts.

Source: `isInCRIMounts` in containerd's `container_create.go`; the Dockerfiles.
"""

_FILES_OF_THE_API = {
    "configMap": "a ConfigMap",
    "secret": "a Secret",
    "projected": "a projected volume",
    "downwardAPI": "a downward API volume",
    "image": "an image",
}
_MOUNTED_BY_THE_NODE = {
    "nfs": "an NFS directory",
    "iscsi": "an iSCSI disk",
    "rbd": "a Ceph block device",
    "cephfs": "a CephFS directory",
    "glusterfs": "a GlusterFS directory",
    "azureDisk": "an Azure disk",
    "azureFile": "an Azure file share",
    "awsElasticBlockStore": "an EBS disk",
    "gcePersistentDisk": "a GCE disk",
    "vsphereVolume": "a vSphere disk",
    "cinder": "a Cinder disk",
    "fc": "a Fibre Channel disk",
    "flexVolume": "a flex volume",
    "portworxVolume": "a Portworx volume",
    "scaleIO": "a ScaleIO volume",
    "storageos": "a StorageOS volume",
    "quobyte": "a Quobyte volume",
    "photonPersistentDisk": "a Photon disk",
    "flocker": "a Flocker data set",
    "gitRepo": "a Git repository",
}


@functools.lru_cache(maxsize=1024)
def clean_path(path: str) -> str:
    """Return a path as containerd compares it: absolute, without `.`, `..`, doubled or trailing slashes."""
    return posixpath.normpath("/" + path.lstrip("/"))


def find_mount(
    spec: Mapping[str, Any], container: Mapping[str, Any], path: str, claim_templates: Claims = ()
) -> VolumeMount | None:
    """Return what a container mounts at exactly this path, or None. Of duplicates, the last."""
    at = _at(_entries(container), clean_path(path))
    return _mount(spec, container, at, claim_templates) if at else None


def mount_above(
    spec: Mapping[str, Any], container: Mapping[str, Any], path: str, claim_templates: Claims = ()
) -> VolumeMount | None:
    """Return the nearest mount whose directory has the path somewhere below it, or None."""
    above = _above(_entries(container), clean_path(path))
    return _mount(spec, container, above, claim_templates) if above else None


def mounts_below(container: Mapping[str, Any], path: str) -> list[str]:
    """Return the paths below this one at which a container mounts something."""
    return _below(_entries(container), clean_path(path))


def find_volume(spec: Mapping[str, Any], name: str) -> tuple[Pointer, Mapping[str, Any]] | None:
    """Return a volume of a pod by its name; of duplicates, the last."""
    found = [entry for entry in volumes_of(spec) if entry[1].get("name") == name]
    return found[-1] if found else None


def find_claim_template(claim_templates: Claims, name: str) -> Mapping[str, Any] | None:
    """Return the claim template that makes the volume of a name."""
    found = [claim for claim in claim_templates if mapping(mapping(claim).get("metadata")).get("name") == name]
    return mapping(found[-1]) if found else None


def claim_in_reach(claim: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a PersistentVolumeClaim, of the same file or the cluster, in the form that it has among claim templates.

    It is no template, so that its name counts as a `claimName` only, and not as the name of a volume.
    """
    return {_IN_REACH: claim}


def find_claim(claim_templates: Claims, name: str) -> Mapping[str, Any] | None:
    """Return the PersistentVolumeClaim of a name, if it is in reach."""
    claims = (mapping(mapping(entry).get(_IN_REACH)) for entry in claim_templates)
    return next((claim for claim in claims if name and mapping(claim.get("metadata")).get("name") == name), None)


def backing_of(
    spec: Mapping[str, Any],
    mount: VolumeMount | None,
    runtime: Runtime | None,
    claim_templates: Claims = (),
) -> Answer:
    """Return what a mount is in the guest, and why, as a clause. Without a mount: what the image's VOLUME is."""
    if runtime is None:
        return Backing.UNKNOWN, "the pod has no RuntimeClass of Kata's, so its volumes are what the node makes of them"
    if mount is None:
        return _image_volume(runtime)
    # Like the StatefulSet's controller, which puts its claims in the place of volumes of the same name.
    template = find_claim_template(claim_templates, mount.volume)
    if template is not None:
        name = f"the claim of the template {quoted(mount.volume)}"
        return _read_only_or(mount, _claimed(name, template, mount, runtime))
    found = find_volume(spec, mount.volume)
    if found is None:
        return (
            Backing.UNKNOWN,
            f"there is no volume {quoted(mount.volume)} in the pod, although {quoted(mount.mount_path)} mounts it",
        )
    claim_name = text(mapping(found[1].get("persistentVolumeClaim")).get("claimName"))
    claim = find_claim(claim_templates, claim_name)
    if claim is not None:
        return _read_only_or(mount, _claimed(f"the claim {quoted(claim_name)}", claim, mount, runtime))
    return _read_only_or(mount, _volume(found[1], mount, runtime))


def backing_at(
    spec: Mapping[str, Any],
    container: Mapping[str, Any],
    path: str,
    runtime: Runtime | None,
    claim_templates: Claims = (),
    *,
    image_volumes: frozenset[str] = IMAGE_VOLUMES,
) -> Answer:
    """Return what a data root lies on, also if no mount is exactly there, with near misses in the clause.

    A directory for which the image has a VOLUME is a mount of its own, so that a mount above does not matter; another
    one is part of the mount above it.
    """
    entries = _entries(container)
    path = clean_path(path)
    at = _at(entries, path)
    if at is not None or runtime is None:
        return backing_of(spec, _mount(spec, container, at, claim_templates) if at else None, runtime, claim_templates)
    nearest = _above(entries, path)
    above = _mount(spec, container, nearest, claim_templates) if nearest else None
    if above is not None and path not in image_volumes:
        backing, because = backing_of(spec, above, runtime, claim_templates)
        return backing, f"{quoted(clean_path(path))} lies in the mount at {quoted(above.mount_path)}, and {because}"
    backing, because = _image_volume(runtime) if path in image_volumes else _container_root(runtime)
    if above is not None:
        because += f"; the mount at {quoted(above.mount_path)} does not take the place of that VOLUME"
    if below := _below(entries, path):
        because += f"; only {listed(below)} below it {'is' if len(below) == 1 else 'are'} mounted"
    return backing, because


_Entry = tuple[Pointer, str, Mapping[str, Any]]


def _entries(container: Mapping[str, Any]) -> list[_Entry]:
    """Return pointer (in the container), clean path and entry of all mounts, devices before mounts."""
    entries: list[_Entry] = []
    for key, path_key in (("volumeDevices", "devicePath"), ("volumeMounts", "mountPath")):
        if key not in container:
            continue
        for index, entry in enumerate(items(container[key])):
            fields = mapping(entry)
            path = fields.get(path_key)
            if isinstance(path, str) and path:
                entries.append(((key, index), clean_path(path), fields))
    return entries


def _at(entries: list[_Entry], path: str) -> _Entry | None:
    found = [entry for entry in entries if entry[1] == path]
    return found[-1] if found else None


def _above(entries: list[_Entry], path: str) -> _Entry | None:
    found = [entry for entry in entries if entry[0][0] != "volumeDevices" and _is_below(path, entry[1])]
    return max(found, key=lambda entry: len(entry[1])) if found else None


def _below(entries: list[_Entry], path: str) -> list[str]:
    start = path.rstrip("/") + "/"
    return [at for _, at, _ in entries if at.startswith(start) and at != path]


def _is_below(path: str, directory: str) -> bool:
    return path != directory and path.startswith(directory.rstrip("/") + "/")


def _mount(
    spec: Mapping[str, Any],
    container: Mapping[str, Any],
    entry: _Entry,
    claim_templates: Claims,
) -> VolumeMount:
    pointer, _, fields = entry
    name = text(fields.get("name"))
    is_template = find_claim_template(claim_templates, name) is not None
    found = None if is_template else find_volume(spec, name)
    is_device = pointer[0] == "volumeDevices"
    return VolumeMount(
        volume=name,
        mount_path=text(fields.get("devicePath" if is_device else "mountPath")),
        pointer=(*_pointer_of(spec, container), *pointer),
        volume_pointer=found[0] if found else None,
        is_device=is_device,
        has_sub_path=bool(text(fields.get("subPath")) or text(fields.get("subPathExpr"))),
        read_only=fields.get("readOnly") is True or (found is not None and _is_read_only(found[1])),
    )


def _pointer_of(spec: Mapping[str, Any], container: Mapping[str, Any]) -> Pointer:
    for list_name, index, other in containers_of(spec):
        if other is container:
            return ("spec", list_name, index)
    return ()


def _is_read_only(volume: Mapping[str, Any]) -> bool:
    return any(mapping(source).get("readOnly") is True for source in volume.values())


def _read_only_or(mount: VolumeMount, answer: Answer) -> Answer:
    if mount.read_only and answer[0] is not Backing.UNFIT:
        return Backing.UNFIT, f"the volume {quoted(mount.volume)} is mounted read-only"
    return answer


def _how(runtime: Runtime) -> str:
    return {
        Sharing.VIRTIO_FS: "shares by virtio-fs",
        Sharing.INLINE_VIRTIO_FS: "shares by virtio-fs",
        Sharing.NYDUS: "shares by virtio-fs",
        Sharing.VIRTIO_9P: "shares by 9p",
        Sharing.NONE: "copies into the memory of the guest",
    }[runtime.sharing]


def _shared(what: str, runtime: Runtime, backing: Backing = Backing.VIRTIOFS) -> Answer:
    """Return what a directory of the node is in the guest."""
    return backing if runtime.shares else Backing.MEMORY, f"{what}, which Kata {_how(runtime)}"


def _image_volume(runtime: Runtime) -> Answer:
    what = "nothing is mounted there, so it is the VOLUME of the image, a directory of the node"
    backing, because = _shared(what, runtime)
    if runtime.shares or runtime.left_alone:
        return backing, because
    # Into its /run, for which systemd takes a fifth of the memory.
    return Backing.UNFIT, f"{because}, where a few images fill it up"


def _container_root(runtime: Runtime) -> Answer:
    what = "nothing is mounted there, so that it lies on the root of the container"
    match runtime.snapshotter:
        case Snapshotter.DEVMAPPER:
            return Backing.DISK, f"{what}, which is a block device by the devmapper snapshotter"
        case Snapshotter.EROFS:
            return (
                Backing.UNFIT,
                f"{what}, which is an overlay by the erofs snapshotter, and overlays don't stack there",
            )
        case Snapshotter.NYDUS:
            return (
                Backing.UNFIT,
                f"{what}, which is an overlay by the nydus snapshotter, and overlays don't stack there",
            )
        case Snapshotter.OVERLAYFS:
            return _shared(what, runtime)
    if not runtime.shares:
        return Backing.UNKNOWN, f"{what}, and what that is depends on containerd's snapshotter"
    return (
        Backing.VIRTIOFS,
        f"{what}, which Kata {_how(runtime)} unless containerd uses another snapshotter than overlayfs",
    )


def _volume(volume: Mapping[str, Any], mount: VolumeMount, runtime: Runtime) -> Answer:
    # A key without a value is a volume without that source: `emptyDir:` is one, and Kubernetes makes it an emptyDir.
    sources = [key for key, value in volume.items() if key != "name" and value is not None]
    if len(sources) > 1:
        return Backing.UNKNOWN, f"the volume {quoted(mount.volume)} has more than one source, which Kubernetes refuses"
    kind = text(sources[0]) if sources else "emptyDir"
    source = mapping(volume.get(kind))
    name = f"the volume {quoted(mount.volume)}"
    if mount.is_device and kind not in ("persistentVolumeClaim", "ephemeral"):
        return Backing.UNKNOWN, f"{name} is not a claim, so that Kubernetes refuses it as a device"
    if kind in _FILES_OF_THE_API:
        return Backing.UNFIT, f"{name} is {_FILES_OF_THE_API[kind]}, whose files are read-only"
    if kind in _MOUNTED_BY_THE_NODE:
        return _shared(f"{name} is {_MOUNTED_BY_THE_NODE[kind]} that the node mounts", runtime)
    backing_of_kind = _BY_KIND.get(kind)
    if backing_of_kind is None:
        return Backing.UNKNOWN, f"the volume {quoted(mount.volume)} is of the kind {quoted(kind)}, which is not known"
    return backing_of_kind(source, mount, runtime)


def _empty_dir(source: Mapping[str, Any], mount: VolumeMount, runtime: Runtime) -> Answer:
    name = f"the emptyDir {quoted(mount.volume)}"
    medium = text(source.get("medium"))
    if medium.startswith("HugePages"):
        return Backing.UNFIT, f"{name} is made of huge pages, to which files can't be written"
    if mount.has_sub_path:
        return _shared(f"the mount of {name} has a subPath, and that is a directory of the node", runtime)
    if medium == "Memory":
        return Backing.MEMORY, f"{name} is a tmpfs in the memory of the guest, and Kata ignores its sizeLimit"
    if medium:
        return Backing.UNKNOWN, f"{name} has the medium {quoted(medium)}, which is not known"
    return _plain_empty_dir(name, runtime)


def _plain_empty_dir(name: str, runtime: Runtime) -> Answer:
    if runtime.empty_dir is EmptyDirMode.BLOCK_PLAIN:
        return Backing.DISK, f"{name} is an ext4 disk that Kata makes (block-plain), with one inode for each 160 KiB"
    if runtime.empty_dir is EmptyDirMode.BLOCK_ENCRYPTED:
        return Backing.DISK, f"{name} is an encrypted ext4 disk that Kata makes (block-encrypted)"
    if not runtime.shares:
        return _unshared_empty_dir(name, runtime)
    if runtime.guest_empty_dir:
        return _in_sandbox_root(f"{name} is a directory in the root of the sandbox, as before Kata 4.0", runtime)
    unknown = "" if runtime.version else "; before Kata 4.0 it is a directory in the root of the sandbox"
    return Backing.VIRTIOFS, f"{name} is a directory of the node, which Kata {_how(runtime)}{unknown}"


def _unshared_empty_dir(name: str, runtime: Runtime) -> Answer:
    if runtime.shim is Shim.RS:
        return _in_sandbox_root(f"{name} is a directory in the root of the sandbox", runtime)
    if runtime.shim is Shim.GO:
        return (
            Backing.MEMORY,
            f"{name} is a directory in the memory of the guest, since Kata shares none with this handler",
        )
    return (
        Backing.UNKNOWN,
        f"{name} is a directory in the guest, but where is not known for the handler {quoted(runtime.handler)}",
    )


def _in_sandbox_root(what: str, runtime: Runtime) -> Answer:
    if runtime.snapshotter is Snapshotter.DEVMAPPER:
        return Backing.DISK, f"{what}, which is a block device by the devmapper snapshotter"
    if runtime.snapshotter is Snapshotter.OVERLAYFS and runtime.shares:
        return Backing.VIRTIOFS, f"{what}, which Kata {_how(runtime)}"
    return Backing.GUEST_ROOT, f"{what}, which is a share or a disk by containerd's snapshotter"


def _claim(source: Mapping[str, Any], mount: VolumeMount, runtime: Runtime) -> Answer:
    name = f"the claim {quoted(text(source.get('claimName')) or mount.volume)}"
    if mount.is_device:
        return _raw(name, mount, runtime)
    backing, because = _shared(f"{name} is a file system of the node", runtime)
    if runtime.direct_assigned and not mount.has_sub_path:
        because += "; its storage class, which is not in the pod, may be one that Kata assigns directly"
    return backing, because


def _ephemeral(source: Mapping[str, Any], mount: VolumeMount, runtime: Runtime) -> Answer:
    name = f"the ephemeral claim {quoted(mount.volume)}"
    return _claimed(name, mapping(source.get("volumeClaimTemplate")), mount, runtime)


def _claimed(name: str, template: Mapping[str, Any], mount: VolumeMount, runtime: Runtime) -> Answer:
    """Return what a claim is whose specification is known."""
    spec, metadata = mapping(template.get("spec")), mapping(template.get("metadata"))
    is_block = spec.get("volumeMode") == "Block"
    if mount.is_device != is_block:
        how = (
            "is a device, but is mounted like a directory" if is_block else "is a file system, but is taken as a device"
        )
        return Backing.UNKNOWN, f"{name} {how}, which Kubernetes refuses"
    if is_block:
        return _raw(name, mount, runtime)
    legacy = mapping(metadata.get("annotations")).get("volume.beta.kubernetes.io/storage-class")
    storage_class = text(legacy) or text(spec.get("storageClassName"))
    if runtime.assigns(storage_class) and not mount.has_sub_path:
        return (
            Backing.DISK,
            f"{name} has the storage class {quoted(storage_class)}, whose file systems Kata mounts in the guest",
        )
    return _shared(f"{name} is a file system of the node", runtime)


def _raw(name: str, mount: VolumeMount, runtime: Runtime) -> Answer:
    unsure = "" if runtime.block_hotplug else f", if {runtime.vmm} can plug it in, which is not known"
    return Backing.RAW, f"{name} is a block device at {quoted(mount.mount_path)}, without a file system{unsure}"


def _csi(source: Mapping[str, Any], mount: VolumeMount, runtime: Runtime) -> Answer:
    driver = quoted(text(source.get("driver")))
    return _shared(f"the volume {quoted(mount.volume)} is a file system that {driver} mounts on the node", runtime)


def _host_path(source: Mapping[str, Any], mount: VolumeMount, runtime: Runtime) -> Answer:
    path, kind = clean_path(text(source.get("path"))), text(source.get("type"))
    name = f"the hostPath {quoted(path)}"
    if kind == "BlockDevice":
        # Since 20ca4d2d79 the Go runtime plugs in no block device that is a mount.
        is_off = runtime.shim is Shim.GO and not runtime.is_before(3, 26)
        unless = ", which Kata's Go runtime plugs in with disable_block_device_use = false alone" if is_off else ""
        return Backing.RAW, f"{name} is a block device of the node, without a file system that is mounted{unless}"
    if kind in ("CharDevice", "File", "FileOrCreate", "Socket"):
        return Backing.UNFIT, f"{name} is not a directory, since its type is {kind}"
    if path == "/dev" or path.startswith("/dev/"):
        return Backing.UNKNOWN, f"{name} is what the guest itself has there, and not the node"
    backing, because = _shared(f"{name} is a directory of the node", runtime, Backing.HOST)
    return backing, f"{because}, and other pods may use it, too"


_BY_KIND: Mapping[str, Callable[[Mapping[str, Any], VolumeMount, Runtime], Answer]] = {
    "emptyDir": _empty_dir,
    "persistentVolumeClaim": _claim,
    "ephemeral": _ephemeral,
    "csi": _csi,
    "hostPath": _host_path,
}
