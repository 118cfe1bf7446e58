"""What the administrator decides about repairs: a YAML file, parsed once into frozen models.

Every field has a default that holds without a file. A wrong field is one SpecError that names it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from enum import StrEnum
from fnmatch import translate
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from kata_dind.pod.model import Program
from kata_dind.vocabulary import DataRootKind


class EmptyDirMode(StrEnum):
    """Kata's `emptydir_mode`: what a plain emptyDir becomes."""

    SHARED_FS = "shared-fs"
    BLOCK_PLAIN = "block-plain"
    BLOCK_ENCRYPTED = "block-encrypted"


class Sharing(StrEnum):
    """Kata's `shared_fs`: how the guest sees the host's files."""

    VIRTIO_FS = "virtio-fs"
    INLINE_VIRTIO_FS = "inline-virtio-fs"
    VIRTIO_9P = "virtio-9p"
    NYDUS = "virtio-fs-nydus"
    NONE = "none"


class Snapshotter(StrEnum):
    """Containerd's snapshotter: what the root of a sandbox lies on."""

    OVERLAYFS = "overlayfs"
    DEVMAPPER = "devmapper"
    EROFS = "erofs"
    NYDUS = "nydus"


class Delivery(StrEnum):
    """How the guest entrypoint comes into a repaired pod."""

    INLINE = "inline"
    """As an argument of `sh -c`: nothing else is needed."""
    IMAGE = "image"
    """As an image volume (Kubernetes 1.33 and later)."""
    INIT = "init"
    """Copied by an init container into an emptyDir."""


class Answer(StrEnum):
    """What is done about a pod that a guard, or a repair that is not possible, speaks of."""

    OFF = "off"
    WARN = "warn"
    DENY = "deny"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True)


class RuntimeClass(_Model):
    """What the RuntimeClasses of one name or pattern can do; what is left out comes from the handler's table."""

    match: str
    """A name, or a pattern such as `kata-*`."""
    kata: bool = True
    handler: str = ""
    """The handler's name, if it isn't the class's, as in `kata-qemu`."""
    version: str = ""
    """Kata's version, as in `4.1.0`."""
    empty_dir: EmptyDirMode | None = None
    sharing: Sharing | None = None
    snapshotter: Snapshotter | None = None
    virtiofs_fit: bool = False
    """virtiofsd runs with what overlayfs needs (`--xattr --modcaps=+sys_admin`)."""
    enable_annotations: tuple[str, ...] = ()
    """Hypervisor annotations that the handler obeys, as in `virtio_fs_extra_args`; names or patterns."""
    block_storage_class: str = ""
    """A storage class whose volumes may be had with `volumeMode: Block`."""
    direct_assigned: tuple[str, ...] = ()
    """Storage classes whose file systems Kata mounts in the guest as block devices."""


class DataRoot(_Model):
    """What a data root is made of by a repair, if the pod doesn't say."""

    kind: DataRootKind = DataRootKind.AUTO
    size: str = "20Gi"
    """A Kubernetes quantity: of a loop file, a memory data root, or a claim."""


class ImageRule(_Model):
    """What an image of one's own runs, which its name doesn't tell."""

    match: str
    """An image reference, or a pattern such as `registry.example/ci/*-dind:*`."""
    program: Program | None = None
    """None: it is no daemon, whatever its name says."""
    version: str = ""
    entrypoint: tuple[str, ...] = ()
    """What it runs without a command; empty if unknown, and then it gets no wrapper."""
    user: int | None = None


class Guards(_Model):
    """What a pod is warned of, or refused for; all off by default."""

    shared_kernel: Answer = Answer.OFF
    """A privileged daemon outside of a VM."""
    no_boundary: Answer = Answer.OFF
    """A Kata whose version is no boundary for privileged containers (GHSA-2gv2-cffp-j227 and its kin)."""
    host_docker: Answer = Answer.OFF
    """The node's Docker, by its socket or its data root."""
    open_annotations: Answer = Answer.OFF
    """virtio_fs_extra_args in a pod's annotations."""


class Policy(_Model):
    """All of it."""

    runtime_classes: tuple[RuntimeClass, ...] = (RuntimeClass(match="kata"), RuntimeClass(match="kata-*"))
    """The first that matches counts; a class that none matches is not Kata's."""
    repair: bool = True
    """Whether pods without an annotation are repaired."""
    data_root: DataRoot = DataRoot()
    images: tuple[ImageRule, ...] = ()
    containers: tuple[str, ...] = ()
    """Names, or patterns, of containers that run dockerd although nothing shows it."""
    registry_mirrors: tuple[str, ...] = ()
    delivery: Delivery = Delivery.INLINE
    delivery_image: str = ""
    """The image that has the guest entrypoint, for the deliveries that need one."""
    unrepaired: Answer = Answer.WARN
    guards: Guards = Guards()

    def class_of(self, name: str) -> RuntimeClass | None:
        """Return what the policy says of a RuntimeClass; None if it isn't Kata's."""
        found = _first_match(self.runtime_classes, name)
        return found if found is not None and found.kata else None


def parse_policy(data: Mapping[str, Any]) -> Policy:
    """Return the policy in a parsed YAML file. Raises SpecError with the field and what is allowed."""
    return Policy.model_validate(data)


def matches(pattern: str, name: str) -> bool:
    """Tell whether a name fits a pattern of `*`, `?` and `[]`; case matters."""
    return _compiled(pattern).match(name) is not None


def _first_match(rules: tuple[RuntimeClass, ...], name: str) -> RuntimeClass | None:
    return next((rule for rule in rules if matches(rule.match, name)), None)


@functools.lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))
