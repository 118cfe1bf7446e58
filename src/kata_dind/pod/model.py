"""The types that the modules of this room share: frozen, without behaviour beyond views of their own fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal, TypedDict

from kata_dind.pod.sentences import quoted
from kata_dind.vocabulary import DataRootKind, Filesystem

Pointer = tuple[str | int, ...]
"""The way to a value in a document; `("spec", "containers", 0)` is `/spec/containers/0` of RFC 6901."""

PodDict = Mapping[str, Any]
"""A pod as the API server has it: metadata and spec. Never trusted: any value may have any type."""

ConfigMaps = Mapping[str, Mapping[str, str]]
"""The data of the ConfigMaps in reach, by name: those of the same file, or none."""

NO_CONFIG_MAPS: ConfigMaps = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What the configuration of an image says of its process, as its registry has it."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""
    """A name or an id, perhaps with a group after a colon; root if empty."""
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: frozenset[str] = frozenset()
    """The directories with a VOLUME of their own."""
    architecture: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


ImageConfigs = Mapping[str, ImageConfig]
"""What is known of images beyond their names, by their references as pods have them."""

NO_IMAGE_CONFIGS: ImageConfigs = MappingProxyType({})

ContainerList = Literal["initContainers", "containers", "ephemeralContainers"]


class Operation(TypedDict, total=False):
    """An operation of a JSON patch (RFC 6902); `path` is a JSON pointer (RFC 6901)."""

    op: Literal["add", "remove", "replace", "test"]
    path: str
    value: Any


class Program(StrEnum):
    """What has a data root; the words of KATA_DIND_PROGRAM."""

    DOCKERD = "dockerd"
    BUILDKITD = "buildkitd"
    CONTAINERD = "containerd"
    DAGGER = "dagger"
    EARTHLY = "earthly"

    @property
    def product(self) -> str:
        """What people call it."""
        return _PRODUCTS[self]


def version_text(program: Program, version: tuple[int, ...]) -> str:
    """Return a version as people write it: Docker's were years and months up to 20.10, as in 18.06.1."""
    parts = [*map(str, version)]
    if program is Program.DOCKERD and len(parts) > 1 and version[0] <= 20:
        parts[1] = parts[1].zfill(2)
    return ".".join(parts)


_PRODUCTS = {
    Program.DOCKERD: "Docker",
    Program.BUILDKITD: "BuildKit",
    Program.CONTAINERD: "containerd",
    Program.DAGGER: "Dagger's engine",
    Program.EARTHLY: "Earthly's buildkitd",
}


@dataclass(frozen=True, slots=True)
class Copy:
    """What a copy of the guest entrypoint is for. What else the whole entrypoint could do, the copy refuses."""

    kind: DataRootKind
    program: Program = Program.DOCKERD
    filesystem: Filesystem = Filesystem.EXT4
    fallback: bool = False
    """Whether KATA_DIND_FALLBACK may name a storage driver."""
    containerd: bool = False
    """Whether the root of a system containerd is prepared as well."""
    mounts_below: bool = False
    """Whether what is mounted on directories of the data root is mounted there again, on the disk."""


class Launch(StrEnum):
    """How a program is started, as far as a repair must know."""

    IMAGE = "image"
    """By the image's entrypoint: the container has no command."""
    COMMAND = "command"
    """By the container's command, whose words are known."""
    SCRIPT = "script"
    """By a script in the command or in a mounted ConfigMap, as `sh -c '… dockerd &'`."""
    VARIABLE = "variable"
    """By the image's own starter, since a variable says so (`DOCKER_IN_DOCKER=start`)."""


class Backing(StrEnum):
    """What a directory lies on in the guest."""

    VIRTIOFS = "virtiofs"
    """A share with the host: overlayfs does not work on it by default."""
    MEMORY = "memory"
    """A tmpfs, or files that were copied into the guest's memory."""
    DISK = "disk"
    """A file system on a block device of the guest's own."""
    RAW = "raw"
    """A block device without a file system (volumeDevices)."""
    HOST = "host"
    """A directory of the node (hostPath), shared by virtio-fs: not this pod's alone."""
    GUEST_ROOT = "guest-root"
    """A directory of the sandbox's own root: a share or a disk, by snapshotter."""
    UNFIT = "unfit"
    """Something that holds no data root at all: read-only files, a socket, hugetlbfs."""
    UNKNOWN = "unknown"


class Outcome(StrEnum):
    """What becomes of a program on its data root as the pod is written."""

    WORKS = "works"
    SLOW = "slow"
    """It runs with a storage driver that copies (vfs, native), or with a needless detour."""
    FAILS = "fails"
    """It does not start, or fails at the first pull or run."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """The mount that lies exactly on a data root, with its volume."""

    volume: str
    mount_path: str
    pointer: Pointer
    """Of the entry in volumeMounts or volumeDevices."""
    volume_pointer: Pointer | None
    """Of the entry in `/spec/volumes`; None if there is none of that name (a claim template, or a mistake)."""
    is_device: bool = False
    has_sub_path: bool = False
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Root:
    """A directory in which a program keeps its data."""

    path: str
    said_by: str
    """What names it, as in `--data-root` or `the image's default`."""
    mount: VolumeMount | None
    backing: Backing
    backing_because: str
    """A clause without a full stop: what the volume becomes under the pod's handler, and why."""
    outcome: Outcome
    outcome_because: str
    """A clause, too: what the program of this version does there, and what follows."""
    is_standalone_containerds: bool = False
    """It is the root of a containerd beside a dockerd."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A program with a data root in one container of a pod."""

    list: ContainerList
    index: int
    container: str
    """Its name; empty if it has none."""
    program: Program
    version: tuple[int, ...]
    """As far as the image's tag tells: `(27, 5, 1)`, `(27,)`; empty if it does not."""
    launch: Launch
    entrypoint: tuple[str, ...]
    """What the image runs without a command, as far as it is known; empty if it isn't."""
    command: tuple[str, ...]
    """The words that start the program, after wrappers, where they are known."""
    roots: tuple[Root, ...]
    evidence: tuple[str, ...]
    """What gave it away, a phrase each: `the image docker:27-dind is a Docker daemon`."""
    user: int | None = None
    """The user id that it runs as, if the pod or the image says so."""
    rootless: bool = False
    privileged: bool = False
    """The container is privileged, or has what the program needs of it."""
    by_hand: bool = False
    """The recipe is in it already: a disk that its own command formats and mounts on the root."""
    storage_settings: tuple[StorageSetting, ...] = ()
    """What names a storage driver, in arguments and environment; the first is the one that counts."""
    wrapped: bool = False
    """The guest entrypoint of kata-dind starts it already."""
    lacks_mkfs: bool = False
    """Its image has no mkfs.ext4."""
    sudo_user: str = ""
    """The image's user, who is not root and starts the program by sudo; empty if the pod names a user."""
    covered: bool = False
    """Its own script mounts something over the root on which it can't work, and over what a repair would put there."""
    entrypoint_is_known: bool = False
    """The image's entrypoint is `entrypoint`, also if that is empty: an image may run its command alone."""
    image_volumes: frozenset[str] | None = None
    """The directories for which the image has a VOLUME, if its registry has told."""

    @property
    def pointer(self) -> Pointer:
        """The way to the container."""
        return ("spec", self.list, self.index)

    @property
    def title(self) -> str:
        """The container's name; where it has none, its position."""
        return self.container or f"{self.list}[{self.index}]"

    @property
    def named(self) -> str:
        """The container, as sentences name it."""
        return quoted(self.title)


@dataclass(frozen=True, slots=True)
class StorageSetting:
    """An argument or variable that names a storage driver."""

    driver: str
    pointers: tuple[Pointer, ...]
    """The words of it: two for `--storage-driver vfs`; the entries of `env` for DOCKER_DRIVER."""
    is_variable: bool
    in_script: bool = False
    """It lies within a longer word, where it can't be taken out."""
    in_file: str = ""
    """The file in the container that names it, such as daemon.json; then `in_script` holds as well."""


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    """What runs here fails or loses data."""
    WARNING = "warning"
    """It is slow or fragile, or the repair can't be made here."""
    NOTE = "note"
    """Good to know; nothing to do."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say about a pod."""

    id: str
    """Stable and public, as in `root.on-share`."""
    severity: Severity
    message: str
    """A sentence, or more: with a capital or a backquote first, and a full stop. So is a hint."""
    container: str = ""
    pointer: Pointer = ()
    """What it is about, in the pod."""
    hint: str = ""
    """The next step, if there is one."""


@dataclass(frozen=True, slots=True)
class Detection:
    """What runs in a pod."""

    engines: tuple[Engine, ...] = ()
    findings: tuple[Finding, ...] = ()
    """What is to be said beyond the engines: unsure guesses, annotations that were not understood, other runtimes."""
    runtime_class: str = ""
    is_kata: bool = False


@dataclass(frozen=True, slots=True)
class Repair:
    """What is changed in a pod, and why."""

    patch: tuple[Operation, ...] = ()
    """In the pod's own pointers; empty if nothing is to be done, or can be."""
    reasons: tuple[str, ...] = ()
    """A sentence for each change."""
    findings: tuple[Finding, ...] = ()
    """What is wrong: what the patch mends, and what it can't."""
    kind: str = ""
    """The data root's kind that was chosen, empty without a patch."""
    unrepaired: bool = False
    """Something is broken that the patch does not mend."""
    gave_up: tuple[Finding, ...] = ()
    """Those of the findings that tell why."""


@dataclass(frozen=True, slots=True)
class Place:
    """A pod in a document."""

    kind: str
    """The document's, as in `Deployment`; empty for chart values."""
    name: str
    namespace: str
    pod: PodDict
    """The pod as the API server would see it, made of the document's parts, which it shares and never copies."""
    parts: tuple[tuple[Pointer, Pointer | None], ...]
    """Where a pod's pointer lies in the document: pairs of prefixes (pod, document), the longest first. None: nowhere,
    as for a container that a controller adds."""
    claim_templates: tuple[Mapping[str, Any], ...] = ()
    """The volumeClaimTemplates of the object that makes the pod: volumes of their names."""
    made_by: str = ""
    """Who makes the pod of this, if a patch of this document can't hold all of the repair; a phrase."""
    incomplete: str = ""
    """What isn't in this document (the runtime class, or the containers), in a sentence; empty if all is."""
    class_elsewhere: bool = False
    """The document has no field for the runtime class, so that the pod may well be Kata's."""
    missing: frozenset[Pointer] = frozenset()
    """Lists that the document has not, though the pod has them, from elsewhere: new entries of the pod go there."""
    doubles_dollars: bool = False
    """Something replaces `$NAME` in the document before the pod is made, and writes `$$` as `$`."""
    patch_text: tuple[Pointer, str] | None = None
    """A string of the document that is a patch of the pod spec, or can be, and what it is now (Argo's podSpecPatch):
    single fields that stand nowhere else go into it."""
