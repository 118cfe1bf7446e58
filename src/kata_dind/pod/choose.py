"""Which kind of data root a repair gives a program, and why not another. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kata_dind.pod.annotations import DATA_ROOT, SIZE
from kata_dind.pod.handlers import Runtime
from kata_dind.pod.model import Backing, Engine, Finding, Program, Root, Severity, VolumeMount
from kata_dind.pod.policy import EmptyDirMode
from kata_dind.pod.quantity import quantity, quantity_bytes
from kata_dind.pod.reading import mapping, post_start_words, text, words
from kata_dind.pod.sizes import disk_within, is_possible, limit_for
from kata_dind.pod.volumes import (
    IMAGE_VOLUMES,
    clean_path,
    find_claim_template,
    find_mount,
    find_volume,
    mount_above,
    mounts_below,
)
from kata_dind.pod.wishes import Environment, Wanted
from kata_dind.vocabulary import DataRootKind

TABLES_BYTES = 4 * 1024**3
"""What counts as used in an emptyDir that is a disk, though nothing is in it.

Kata's ext4 is as large as the node's file system, and so are its tables: 2.5 GB on one of 2.9 TB.
"""

_KINDS = {kind.value: kind for kind in DataRootKind}


class Way(StrEnum):
    """How a data root is made; the words are those of Repair.kind."""

    BLOCK_PLAIN = "block-plain"
    """A plain emptyDir, which the class makes a disk of."""
    BLOCK = "block"
    LOOP = "loop"
    MEMORY = "memory"

    @property
    def needs_wrapper(self) -> bool:
        """Tell whether the guest entrypoint has to mount it."""
        return self in (Way.BLOCK, Way.LOOP)


# Frozen classes take three times as long to make; these two live for one repair.
@dataclass(slots=True)
class Site:
    """A data root that needs a repair, with all that the choice depends on."""

    spec: Mapping[str, Any]
    container: Mapping[str, Any]
    engine: Engine
    root: Root
    runtime: Runtime
    wanted: Wanted
    environment: Environment
    claim_templates: Sequence[Mapping[str, Any]]
    can_wrap: bool
    """The command is known that the guest entrypoint has to start."""
    is_wrapped: bool
    """The guest entrypoint is there already, but not all that it needs."""

    @property
    def cover(self) -> VolumeMount | None:
        """The mount that the root lies in: at it, or above it unless the image's VOLUME is in between."""
        volumes = IMAGE_VOLUMES if self.engine.image_volumes is None else self.engine.image_volumes
        if self.root.mount is not None or clean_path(self.root.path) in volumes:
            return self.root.mount
        return mount_above(self.spec, self.container, self.root.path, self.claim_templates)

    def finding(self, id: str, message: str, hint: str = "", severity: Severity = Severity.ERROR) -> Finding:
        """Return a finding about this root's container."""
        return Finding(id, severity, message, self.engine.container, self.engine.pointer, hint)

    @property
    def named(self) -> str:
        """The container, as sentences name it."""
        return self.engine.named


@dataclass(slots=True)
class Choice:
    """What is to be made."""

    way: Way
    because: str
    """A phrase."""
    size_bytes: int = 0
    """Of the disk or the memory; 0 where Kata or the user decides."""
    limit_bytes: int = 0
    """The sizeLimit that the emptyDir with the disk needs; 0 if it stays as it is."""
    on_claim: bool = False
    """The disk lies in the data root itself, on the volume that is mounted there."""


def source_of(
    spec: Mapping[str, Any], mount: VolumeMount, claim_templates: Sequence[Mapping[str, Any]]
) -> tuple[str, Mapping[str, Any]]:
    """Return the kind of a mount's volume and its source; `template` for a claim template, empty for no volume."""
    template = find_claim_template(claim_templates, mount.volume)
    if template is not None:
        return "template", template
    found = find_volume(spec, mount.volume)
    if found is None:
        return "", {}
    sources = [(text(key), mapping(value)) for key, value in found[1].items() if key != "name" and value is not None]
    return sources[0] if sources else ("emptyDir", {})


def choose(site: Site) -> Choice | Finding:
    """Return the way to repair a data root, or the finding that says why there is none."""
    cover = site.cover
    kind, source = source_of(site.spec, cover, site.claim_templates) if cover is not None else ("emptyDir", {})
    refusal = _refusal(site, kind)
    if refusal is not None:
        return refusal
    asked = _asked(site)
    keeps_data = kind != "emptyDir"
    if site.root.mount is None and not keeps_data:
        source = {}  # the volume is another directory's, and the data root gets one of its own
    if asked is DataRootKind.VIRTIOFS:
        return site.finding(
            "root.kind-impossible",
            f"The kind virtiofs is asked for, but overlay does not work on the share under {site.named}.",
            f"Start virtiofsd with --xattr --modcaps=+sys_admin, or allow another kind (the annotation {DATA_ROOT}).",
        )
    if keeps_data:
        return _on_claim(site, asked, kind, source)
    if asked is DataRootKind.MEMORY or text(source.get("medium")) == "Memory":
        return _memory(site, source, is_asked=asked is DataRootKind.MEMORY)
    has_device = bool(site.environment.get("DEVICE")) and not site.is_wrapped
    has_claims = bool(site.runtime.block_storage_class) and site.runtime.block_hotplug
    if _makes_disks(site) and not has_device and (asked is DataRootKind.AUTO or _is_only_disk(asked, has_claims)):
        return _block_plain(site)
    unwrappable = _unwrappable(site)
    if unwrappable is not None:
        return unwrappable
    if asked is not DataRootKind.LOOP and has_device:
        return Choice(Way.BLOCK, "KATA_DIND_DEVICE names a device")
    if asked is not DataRootKind.LOOP and has_claims:
        size = site.environment.size_bytes or site.wanted.size_bytes
        return Choice(Way.BLOCK, f"the storage class `{site.runtime.block_storage_class}` gives block devices", size)
    if asked is DataRootKind.BLOCK:
        return site.finding(
            "root.kind-impossible",
            f"The kind block is asked for, but the policy names no storage class for block devices for the "
            f"RuntimeClass `{site.runtime.name}`.",
            f"Set blockStorageClass in the policy, or allow another kind (the annotation {DATA_ROOT}).",
        )
    return _loop(site, source)


def _makes_disks(site: Site) -> bool:
    """Tell whether a plain emptyDir is a disk, and one may be added: a guest entrypoint that is there wants its own."""
    return not site.is_wrapped and site.runtime.empty_dir in (EmptyDirMode.BLOCK_PLAIN, EmptyDirMode.BLOCK_ENCRYPTED)


def _is_only_disk(asked: DataRootKind, has_claims: bool) -> bool:
    return asked is DataRootKind.BLOCK and not has_claims


_SYSTEMS = re.compile(
    "/|/(?:boot|etc|lib|lib64|run|s?bin|usr|var)|/usr/(?:local/)?(?:lib|libexec|s?bin|share)|/usr/local|/var/(?:lib|run)"
    "|/(?:dev|proc|sys)(?:/.*)?",
    re.DOTALL,
)
"""Directories without whose files nothing runs, or that the runtime mounts."""


def _refusal(site: Site, kind: str) -> Finding | None:
    root, engine = site.root, site.engine
    if ":" in root.path:
        return site.finding(
            "root.path-impossible",
            f"The data root `{root.path}` of {site.named} has a colon in it, and no volume can be mounted there.",
            "Use another path.",
        )
    if root.mount is None and _SYSTEMS.fullmatch(clean_path(root.path)):
        return site.finding(
            "root.path-impossible",
            f"The data root `{root.path}` of {site.named} is a directory of the system itself, which a volume would "
            "hide.",
            "Use another path.",
        )
    if root.backing is Backing.HOST or kind == "hostPath":
        return site.finding(
            "root.on-host",
            f"The data root `{root.path}` of {site.named} is a directory of the node, which other pods may use, too; "
            "it is left as it is.",
            "Use an emptyDir or a claim.",
        )
    if engine.covered or (not engine.by_hand and _script_mounts(site)):
        return site.finding(
            "root.script-mounts",
            f"A script of {site.named} mounts something on `{root.path}` itself, which would hide what a repair puts "
            "there.",
            "Take that mount out of the script.",
        )
    if not engine.privileged and not engine.rootless:
        return site.finding(
            "pod.not-privileged",
            f"The container {site.named} is not privileged, and without that {engine.program.product} can't "
            "mount what it needs; a repair of its data root would not help.",
            "Set securityContext.privileged: true, which in a Kata pod is about the guest alone.",
        )
    if root.backing is Backing.UNFIT and root.mount is not None:
        return site.finding(
            "root.unfit",
            f"What is mounted at `{root.path}` in {site.named} holds no data root: {root.backing_because}.",
            "Take the mount away, and the repair adds a volume.",
        )
    return None


def _script_mounts(site: Site) -> bool:
    """Tell whether a script in the container's words mounts something on the data root, at whatever time."""
    for word in (*words(site.container.get("command")), *words(site.container.get("args"))):
        if site.root.path in word and "mount" in word and not site.is_wrapped:
            for command in re.split(r"[\n;&|]+", word):
                parts = command.replace('"', " ").replace("'", " ").split()
                if site.root.path in parts[1:] and any(part in ("mount", "/bin/mount") for part in parts):
                    return True
    return False


def _asked(site: Site) -> DataRootKind:
    word = site.environment.get("DATA_ROOT")
    return _KINDS.get(word, site.wanted.kind)


def _unwrappable(site: Site) -> Finding | None:
    """Return why the guest entrypoint can't mount a disk there; None if it can."""
    engine = site.engine
    instead = (
        "Use a RuntimeClass whose emptyDirs are block devices (emptydir_mode = block-plain), or ask for memory with "
        f"the annotations {DATA_ROOT}: memory and {SIZE}."
    )
    if engine.rootless or (engine.user or 0) != 0:
        return site.finding(
            "root.rootless",
            f"The container {site.named} does not run as root, so no disk can be mounted in it.",
            instead,
        )
    if engine.sudo_user:
        return site.finding(
            "root.rootless",
            f"The container {site.named} runs as the user {engine.sudo_user} of its image, who starts "
            f"{engine.program.product} by sudo, so no disk can be mounted before.",
            f"Set securityContext.runAsUser: 0. Or {instead[0].lower()}{instead[1:]}",
        )
    if site.spec.get("hostUsers") is False:
        return site.finding(
            "root.user-namespace",
            f"The pod has a user namespace (hostUsers: false), in which no disk can be mounted for {site.named}.",
            instead,
        )
    if not site.can_wrap:
        return site.finding(
            "pod.entrypoint-unknown",
            f"The container {site.named} has no command, and what its image runs is not known, so the guest entrypoint "
            "can't be put in front of it.",
            "Write the command into the container, or the entrypoint into the policy (images).",
        )
    if _is_started_by_hook(site):
        return site.finding(
            "pod.started-by-hook",
            f"A postStart hook starts {engine.program.product} in {site.named}, perhaps before the guest "
            "entrypoint has mounted its disk.",
            "Start it by the container's command.",
        )
    below = next((path for path in mounts_below(site.container, site.root.path) if not _goes_along(site, path)), "")
    if below:
        return site.finding(
            "root.mounts-below",
            f"The container {site.named} mounts `{below}`, which a disk on `{site.root.path}` would hide.",
            f"{instead} Or move that mount elsewhere.",
        )
    return None


_WITHOUT_LAYERS = frozenset({"containers", "volumes"})
"""Directories in dockerd's data root that may lie on any file system."""
_DIRECTORIES = frozenset({"emptyDir", "ephemeral", "persistentVolumeClaim", "template"})


def _goes_along(site: Site, path: str) -> bool:
    """Tell whether the guest entrypoint may mount on the disk what is mounted below the data root."""
    mount = find_mount(site.spec, site.container, path, site.claim_templates)
    return (
        site.engine.program is Program.DOCKERD
        and posixpath.dirname(path) == clean_path(site.root.path)
        and posixpath.basename(path) in _WITHOUT_LAYERS
        and mount is not None
        and source_of(site.spec, mount, site.claim_templates)[0] in _DIRECTORIES
    )


def _is_started_by_hook(site: Site) -> bool:
    """Tell whether what starts the program stands in the postStart hook, and nowhere else."""
    if "lifecycle" not in site.container or not site.engine.command:
        return False
    hook = post_start_words(site.container)
    command = words(site.container.get("command")) or list(site.engine.entrypoint)
    own = [*command, *words(site.container.get("args"))]
    started = site.engine.command[0]
    return any(started in word for word in hook) and not any(started in word for word in own)


def _block_plain(site: Site) -> Choice:
    size = site.wanted.size_bytes if site.wanted.size_is_asked else 0
    limit = size + TABLES_BYTES if size else 0
    return Choice(
        Way.BLOCK_PLAIN,
        f"the RuntimeClass `{site.runtime.name}` makes a disk with ext4 of each plain emptyDir",
        limit_bytes=limit,
    )


def _on_claim(site: Site, asked: DataRootKind, kind: str, source: Mapping[str, Any]) -> Choice | Finding:
    if asked in (DataRootKind.MEMORY, DataRootKind.BLOCK) and site.root.backing is not Backing.RAW:
        return site.finding(
            "root.kind-impossible",
            f"The kind {asked} is asked for, but what is on the claim under `{site.root.path}` of {site.named} would "
            "be out of sight.",
            "Take that mount away, or use the kind loop, which puts a disk on the claim.",
        )
    unwrappable = _unwrappable(site)
    if unwrappable is not None:
        return unwrappable
    if site.root.backing is Backing.RAW:
        return Choice(Way.BLOCK, "a block device is there")
    if not site.runtime.loop_works:
        return _no_loop(site)
    size = site.environment.size_bytes or (site.wanted.size_bytes if site.wanted.size_is_asked else 0)
    requested = _requested(kind, source)
    if not size and requested:
        size = disk_within(requested)
        if not is_possible(size):
            return _too_small(site, f"the claim of {quantity(requested)}")
    because = "what the volume holds has to outlive the pod, so the disk is a file on it"
    if kind == "ephemeral":
        because = "the claim is there already"
    if not size:
        because += f"; how large the claim is does not stand here, so that the annotation {SIZE} may have to say it"
    return Choice(Way.LOOP, because, size or site.wanted.size_bytes, on_claim=True)


def _requested(kind: str, source: Mapping[str, Any]) -> int:
    """Return the size that a claim asks for, if the pod shows it."""
    template = source if kind == "template" else mapping(source.get("volumeClaimTemplate"))
    resources = mapping(mapping(template.get("spec")).get("resources"))
    return quantity_bytes(mapping(resources.get("requests")).get("storage")) or 0


def _loop(site: Site, source: Mapping[str, Any]) -> Choice | Finding:
    if not site.runtime.loop_works:
        return _no_loop(site)
    because = "the class makes no disks of emptyDirs, and the policy names no storage class for block devices"
    asked = site.environment.size_bytes or (site.wanted.size_bytes if site.wanted.size_is_asked else 0)
    there = quantity_bytes(source.get("sizeLimit")) or 0
    tables = TABLES_BYTES if site.runtime.empty_dir is not EmptyDirMode.SHARED_FS else 0
    if asked:
        needed = limit_for(asked) + tables
        return Choice(Way.LOOP, because, asked, limit_bytes=needed if not there or there < needed else 0)
    size = disk_within(there) if there else site.wanted.size_bytes
    storage = mapping(mapping(site.container.get("resources")).get("limits")).get("ephemeral-storage")
    most = quantity_bytes(storage)
    if most is not None and disk_within(most) < size:
        size, because = disk_within(most), f"{because}; the container's limit of ephemeral storage is {text(storage)}"
    if not is_possible(size):
        return _too_small(site, f"{quantity(there or most or 0)} of storage")
    return Choice(Way.LOOP, because, size, limit_bytes=0 if there else limit_for(size) + tables)


def _no_loop(site: Site) -> Finding:
    return site.finding(
        "class.no-loop",
        f"The guest kernel of Kata 3.13 can't mount a loop disk (kata#10808), which is what {site.named} would need.",
        "Use another Kata, a storage class for block devices, or the annotation kata-dind.io/data-root: memory.",
    )


def _too_small(site: Site, what: str) -> Finding:
    return site.finding(
        "root.too-small",
        f"A disk for {site.named} does not fit into {what}.",
        "Give it more, such as 20Gi.",
    )


def _memory(site: Site, source: Mapping[str, Any], *, is_asked: bool) -> Choice | Finding:
    there = quantity_bytes(source.get("sizeLimit")) or 0
    if not is_asked:  # the pod's own choice, and its mount alone is wrong
        return Choice(Way.MEMORY, "the volume is meant to be memory", limit_bytes=there)
    size = site.environment.size_bytes or (site.wanted.size_bytes if site.wanted.size_is_asked else 0) or there
    if not size:
        return site.finding(
            "root.memory-without-size",
            f"A data root in memory is asked for in {site.named}, but not how large.",
            "Set the annotation kata-dind.io/size, or dataRoot.size in the policy; as much is added to the container's "
            "memory limit.",
        )
    return Choice(Way.MEMORY, "memory is asked for", size, limit_bytes=size)
