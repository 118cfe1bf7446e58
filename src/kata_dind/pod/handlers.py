"""Kata's handlers: what each shim is, and what the class of a pod can do by the policy, the table and the version.

Source: kata-deploy's list of shims at 4.1.0, and those of 3.x that it has no more.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from kata_dind.pod.policy import EmptyDirMode, Policy, RuntimeClass, Sharing, Snapshotter, matches, version_numbers
from kata_dind.pod.reading import mapping, text
from kata_dind.pod.sentences import quoted

ANNOTATIONS = "io.katacontainers.config.hypervisor."
"""What the names of the annotations begin with that change a hypervisor's configuration."""


class Vmm(StrEnum):
    """The programs that run Kata's virtual machines, as people call them."""

    QEMU = "QEMU"
    CLOUD_HYPERVISOR = "Cloud Hypervisor"
    DRAGONBALL = "Dragonball"
    FIRECRACKER = "Firecracker"
    OPENVMM = "OpenVMM"
    STRATOVIRT = "StratoVirt"
    REMOTE = "a remote hypervisor"


class Shim(StrEnum):
    """The two implementations of Kata's runtime."""

    GO = "go"
    RS = "rs"


@dataclass(frozen=True, slots=True)
class Handler:
    """A row of the table: one of Kata's handlers."""

    vmm: Vmm | None
    shim: Shim | None
    """None if it depends on Kata's version."""
    sharing: Sharing = Sharing.VIRTIO_FS
    confidential: bool = False
    block_hotplug: bool = True
    """A block device can be plugged into a machine that runs."""
    is_nvidia: bool = False
    """By the Rust runtime of 4.0 and later it shares nothing, and makes a disk of each emptyDir."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the RuntimeClass of a pod can do, as far as it is known."""

    name: str
    """Of the RuntimeClass."""
    handler: str
    version: tuple[int, ...]
    """Of three numbers; empty if the policy doesn't give it."""
    vmm: Vmm | None
    shim: Shim | None
    sharing: Sharing
    empty_dir: EmptyDirMode
    """What a plain emptyDir becomes."""
    guest_empty_dir: bool
    """With shared-fs, a plain emptyDir is a directory in the root of the sandbox (Kata before 4.0)."""
    snapshotter: Snapshotter | None
    virtiofs_fit: bool
    """Overlay works on the share."""
    confidential: bool
    block_hotplug: bool
    block_storage_class: str
    direct_assigned: tuple[str, ...]
    because: str
    """Clauses: which handler it is, where that comes from, and what had to be assumed."""

    @property
    def shares(self) -> bool:
        """Tell whether the guest sees directories of the node."""
        return self.sharing is not Sharing.NONE

    @property
    def version_text(self) -> str:
        """Return `Kata 4.1.0`, or `Kata` if the version isn't known."""
        return "Kata " + ".".join(map(str, self.version)) if self.version else "Kata"

    @property
    def loop_works(self) -> bool:
        """Tell whether its guest kernel can mount a loop disk: that of 3.13 can't (kata#10808)."""
        return self.version[:2] != (3, 13)

    @property
    def left_alone(self) -> str:
        """Return why its pods are not repaired, in a clause; empty if they are."""
        if self.confidential:
            return f"the pods of the confidential handler {quoted(self.handler)} are left as they are"
        if self.vmm in (Vmm.FIRECRACKER, Vmm.REMOTE) or not (self.shares or self._has_disks):
            named = quoted(self.handler)
            return f"the handler {named} shares no directories with its guest, so its pods are left as they are"
        return ""

    @property
    def _has_disks(self) -> bool:
        return self.empty_dir is EmptyDirMode.BLOCK_PLAIN or bool(self.block_storage_class)

    def is_before(self, *version: int) -> bool:
        """Tell whether the version is known and earlier than another."""
        return bool(self.version) and self.version < version

    def assigns(self, storage_class: str) -> bool:
        """Tell whether the file systems of a storage class come into the guest as block devices."""
        return bool(storage_class) and any(matches(pattern, storage_class) for pattern in self.direct_assigned)


_QEMU = Handler(Vmm.QEMU, Shim.GO)
_CLH = Handler(Vmm.CLOUD_HYPERVISOR, Shim.GO)
_QEMU_TEE = Handler(Vmm.QEMU, Shim.GO, Sharing.NONE, confidential=True)
_NVIDIA = Handler(Vmm.QEMU, Shim.GO, is_nvidia=True)
_NVIDIA_TEE = Handler(Vmm.QEMU, Shim.GO, Sharing.NONE, confidential=True, is_nvidia=True)

HANDLERS: Mapping[str, Handler] = {
    "clh": _CLH,
    "clh-azure": _CLH,
    "dragonball": Handler(Vmm.DRAGONBALL, Shim.RS, Sharing.INLINE_VIRTIO_FS),
    "fc": Handler(Vmm.FIRECRACKER, Shim.GO, Sharing.NONE),
    "openvmm-azure": Handler(Vmm.OPENVMM, Shim.RS, block_hotplug=False),
    "qemu": _QEMU,
    "qemu-coco-dev": _QEMU_TEE,
    "qemu-nvidia-cpu": _NVIDIA,
    "qemu-nvidia-gpu": _NVIDIA,
    "qemu-nvidia-gpu-snp": _NVIDIA_TEE,
    "qemu-nvidia-gpu-tdx": _NVIDIA_TEE,
    "qemu-se": _QEMU_TEE,
    "qemu-snp": _QEMU_TEE,
    "qemu-tdx": _QEMU_TEE,
    "remote": Handler(Vmm.REMOTE, Shim.GO, Sharing.NONE),
    # Of 3.x, or of a distribution by its own name.
    "cloud-hypervisor": Handler(Vmm.CLOUD_HYPERVISOR, Shim.RS),
    "qemu-sev": _QEMU_TEE,
    "stratovirt": Handler(Vmm.STRATOVIRT, Shim.GO),
    "mshv-vm-isolation": _CLH,  # AKS
    "vm-isolation": _CLH,  # AKS
    "cc-isolation": Handler(Vmm.CLOUD_HYPERVISOR, Shim.GO, Sharing.NONE, confidential=True),  # AKS
}
"""By the shim's name without `kata-` and `-runtime-rs`; what follows it (`-debug`, one's own suffix) is left out."""

_WITH_RS = [shim for shim in HANDLERS if shim.startswith(("clh", "qemu")) and shim != "qemu-sev"]

KATA_4_1_CLASSES: tuple[str, ...] = tuple(
    f"kata-{shim}"
    for shim in sorted(
        [*_WITH_RS, *(f"{shim}-runtime-rs" for shim in [*_WITH_RS, "openvmm-azure"]), "dragonball", "fc", "remote"]
    )
)
"""The RuntimeClasses that kata-deploy makes at 4.1.0, one for each of its 26 shims."""

_DEFAULT = Handler(Vmm.QEMU, None)
_UNKNOWN = Handler(None, None)
_BY_LENGTH = sorted(HANDLERS, key=len, reverse=True)
_CONFIDENTIAL_WORDS = frozenset(("cc", "coco", "confidential", "sev", "snp", "tdx", "tee"))
_REMOTE_WORDS = frozenset(("peerpod", "peerpods", "remote"))
_FIRECRACKER_WORDS = frozenset(("fc", "firecracker"))


def runtime_of(runtime_class: str, annotations: Mapping[str, object], policy: Policy) -> Runtime | None:
    """Return what a pod's RuntimeClass can do, with the pod's annotations; None if it isn't Kata's by the policy."""
    rule = policy.class_of(runtime_class)
    if rule is None:
        return None
    return _annotated(_class_runtime(runtime_class, rule), mapping(annotations), rule)


def example_class(policy: Policy) -> str:
    """Return the name of a RuntimeClass of Kata's whose pods are repaired, of the first rule that has one; or none."""
    for rule in policy.runtime_classes:
        # A name that the pattern matches, and if it can be that of a common handler.
        name = re.sub(r"\[([^!\]])[^\]]*\]", r"\1", rule.match).replace("*", "qemu").replace("?", "1")
        runtime = runtime_of(name, {}, policy) if policy.class_of(name) is rule else None
        if runtime is not None and not runtime.left_alone:
            return name
    return ""


def find_handler(name: str) -> Handler | None:
    """Return the row of a handler of Kata's, by its name with or without `kata-`; None if it isn't in the table."""
    shim = name.removeprefix("kata-")
    if shim == "kata" or shim.startswith(("debug", "devkit")):
        return _DEFAULT
    base = next((row for row in _BY_LENGTH if shim == row or shim.startswith(row + "-")), None)
    if base is None:
        return None
    handler = HANDLERS[base]
    return replace(handler, shim=Shim.RS) if "-runtime-rs" in shim.removeprefix(base) else handler


@functools.lru_cache(maxsize=256)
def _class_runtime(name: str, rule: RuntimeClass) -> Runtime:
    handler_name = rule.handler or name
    known = find_handler(handler_name)
    row = known or _guessed(handler_name)
    version = version_numbers(rule.version)
    shim = row.shim
    if shim is None and version and known is not None:
        shim = Shim.GO if version < (4,) else Shim.RS
    has_disks = row.is_nvidia and shim is Shim.RS and not (version and version < (4,))
    sharing = rule.sharing or (Sharing.NONE if has_disks else row.sharing)
    return Runtime(
        name=name,
        handler=handler_name,
        version=version,
        vmm=row.vmm,
        shim=shim,
        sharing=sharing,
        empty_dir=rule.empty_dir or _default_empty_dir(row, has_disks=has_disks),
        guest_empty_dir=bool(version) and version < (4,),
        snapshotter=rule.snapshotter,
        virtiofs_fit=rule.virtiofs_fit and sharing is Sharing.VIRTIO_FS,
        confidential=row.confidential,
        block_hotplug=row.block_hotplug,
        block_storage_class=rule.block_storage_class,
        direct_assigned=rule.direct_assigned,
        because=_because(name, row, shim, rule, is_known=known is not None) + _assumed(row, rule, has_disks=has_disks),
    )


def _guessed(name: str) -> Handler:
    words = set(name.split("-"))
    if words & _CONFIDENTIAL_WORDS:
        return replace(_UNKNOWN, sharing=Sharing.NONE, confidential=True)
    if words & _REMOTE_WORDS:
        return HANDLERS["remote"]
    return HANDLERS["fc"] if words & _FIRECRACKER_WORDS else _UNKNOWN


def _default_empty_dir(row: Handler, *, has_disks: bool) -> EmptyDirMode:
    if row.confidential:
        return EmptyDirMode.BLOCK_ENCRYPTED
    return EmptyDirMode.BLOCK_PLAIN if has_disks else EmptyDirMode.SHARED_FS


def _because(name: str, row: Handler, shim: Shim | None, rule: RuntimeClass, *, is_known: bool) -> str:
    whose = f"the RuntimeClass {quoted(name)}"
    if rule.handler:
        whose += f" has by the policy the handler {quoted(rule.handler)}, which"
    if not is_known:
        guess = "so the defaults of Kata are assumed"
        if row.confidential or row.vmm is not None:
            guess = f"but by its name it {'is confidential' if row.confidential else f'runs {row.vmm}'}"
        what = f"{whose} is not one of Kata's own handlers, {guess}"
    else:
        which = {Shim.GO: " by Kata's Go runtime", Shim.RS: " by Kata's Rust runtime", None: ""}[shim]
        what = f"{whose} runs {row.vmm}{which}"
    return f"{what}; its version is {rule.version}" if rule.version else f"{what}; its version is not in the policy"


def _assumed(row: Handler, rule: RuntimeClass, *, has_disks: bool) -> str:
    """Return what the policy gives of a class, and what is assumed for want of that."""
    settings = (("emptyDir", rule.empty_dir), ("sharing", rule.sharing), ("snapshotter", rule.snapshotter))
    given = [f"{key} {value}" for key, value in settings if value is not None]
    said = f"; the policy gives {' and '.join(given)}" if given else ""
    if has_disks and rule.empty_dir is None and not row.confidential:
        said += "; by its defaults, from 4.0 on, it makes a disk of each plain emptyDir (block-plain)"
    return said


def _annotated(runtime: Runtime, annotations: Mapping[str, object], rule: RuntimeClass) -> Runtime:
    if not annotations:
        return runtime
    shared_fs = text(annotations.get(ANNOTATIONS + "shared_fs"))
    if shared_fs in set(Sharing) and _is_enabled("shared_fs", rule):
        sharing = Sharing(shared_fs)
        runtime = replace(
            runtime,
            sharing=sharing,
            virtiofs_fit=runtime.virtiofs_fit and sharing is Sharing.VIRTIO_FS,
            because=f"{runtime.because}; an annotation of the pod sets shared_fs to {shared_fs}",
        )
    extra_args = text(annotations.get(ANNOTATIONS + "virtio_fs_extra_args"))
    if extra_args and not runtime.virtiofs_fit and runtime.sharing is Sharing.VIRTIO_FS:
        fit, enabled = makes_virtiofs_fit(extra_args, runtime.shim), _is_enabled("virtio_fs_extra_args", rule)
        does = "gives virtiofsd what overlay needs" if fit else "does not give virtiofsd what overlay needs"
        but = ", but the policy does not say that the handler obeys it" if fit and not enabled else ""
        runtime = replace(
            runtime,
            virtiofs_fit=fit and enabled,
            because=f"{runtime.because}; the annotation virtio_fs_extra_args of the pod {does}{but}",
        )
    return runtime


def _is_enabled(key: str, rule: RuntimeClass) -> bool:
    return any(matches(pattern, key) for pattern in rule.enable_annotations)


def makes_virtiofs_fit(extra_args: str, shim: Shim | None) -> bool:
    """Tell whether a `virtio_fs_extra_args` lets overlay work: extended attributes, and CAP_SYS_ADMIN for `trusted.*`.

    Kata's Go runtime wants a JSON array, the Rust one words with commas between them; None takes both. A mapping of
    the attributes (`xattrmap`) makes mounts that fail later.
    """
    words = _extra_words(extra_args, shim)
    options = {word.removeprefix("--").strip() for word in words}
    sys_admin = any(
        "+sys_admin" in option.removeprefix("modcaps=").split(":")
        for option in _joined(options, words)
        if option.startswith("modcaps=")
    )
    return "xattr" in options and sys_admin and not any(option.startswith("xattrmap") for option in options)


def _extra_words(extra_args: str, shim: Shim | None) -> list[str]:
    if extra_args.lstrip().startswith("["):
        return _json_words(extra_args) if shim is not Shim.RS else []
    return re.split(r"[,\s]+", extra_args.strip()) if shim is not Shim.GO else []


def _json_words(extra_args: str) -> list[str]:
    try:
        words = json.loads(extra_args)
    except (ValueError, RecursionError):
        return []
    if not isinstance(words, list):
        return []
    return [part for word in words if isinstance(word, str) for part in word.split(",")]


def _joined(options: set[str], words: list[str]) -> set[str]:
    """Join `--modcaps +sys_admin`, which is as good as `--modcaps=+sys_admin`."""
    pairs = itertools.pairwise(words)
    return options | {f"modcaps={value}" for flag, value in pairs if flag == "--modcaps"}
