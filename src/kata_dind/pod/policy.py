"""What the administrator decides about repairs: a YAML file, parsed once into frozen models.

Every field has a default that holds without a file. Its keys are in camelCase, as Kubernetes' are. A wrong field is
one SpecError that names it.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import re
import sys
from collections.abc import Mapping
from enum import StrEnum
from fnmatch import translate
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from kata_dind.complaint import Refused, shown, spec_error
from kata_dind.errors import SpecError
from kata_dind.pod.model import Program
from kata_dind.pod.names import SUBDOMAIN_SIGNS, is_subdomain
from kata_dind.pod.quantity import quantity, quantity_bytes
from kata_dind.pod.sizes import LEAST_BYTES, MOST_BYTES
from kata_dind.vocabulary import DataRootKind

_KATA_VERSION = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}(\.[0-9]{1,4})?", re.ASCII)
_PROGRAM_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){0,2}", re.ASCII)
_REGISTRY_HOST = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?(:[0-9]{1,5})?", re.ASCII)
_ARCHITECTURE = re.compile(r"[a-z0-9]{2,16}", re.ASCII)
_LONGEST_PATTERN = 512

WELL_KNOWN_REGISTRIES = (
    *("docker.io", "ghcr.io", "quay.io", "gcr.io", "*.gcr.io", "*.pkg.dev", "public.ecr.aws"),
    *("registry.gitlab.com", "mcr.microsoft.com", "registry.k8s.io"),
)
"""Public registries, which learn of a lookup no more than of a pull."""

MOST_LOOKUP_SECONDS = 20
"""An API server waits at most 30 s for a webhook, and then counts it as failed."""


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


def _checked_pattern(text: str) -> str:
    if not text or not text.isprintable() or any(character.isspace() for character in text):
        raise ValueError(f"{shown(text)} is not a name or pattern; use one like kata-*")
    if len(text) > _LONGEST_PATTERN:
        raise ValueError(f"{shown(text)} is too long; use at most {_LONGEST_PATTERN} characters")
    return text


def _checked_name(text: str) -> str:
    if text and not is_subdomain(text):
        raise ValueError(f"{shown(text)} is not {SUBDOMAIN_SIGNS}")
    return text


def _checked_kata_version(text: str) -> str:
    if text and _KATA_VERSION.fullmatch(text) is None:
        raise ValueError(f"{shown(text)} is not a version of Kata; use two or three numbers, like 4.1.0")
    return text


def _checked_program_version(text: str) -> str:
    if text and _PROGRAM_VERSION.fullmatch(text) is None:
        raise ValueError(f"{shown(text)} is not a version; use up to three numbers, like 27.5.1")
    return text


def _checked_size(text: str) -> str:
    size_bytes = quantity_bytes(text)
    if size_bytes is None:
        raise ValueError(f"{shown(text)} is not a size; use a quantity of Kubernetes, like 20Gi")
    if size_bytes < LEAST_BYTES:
        raise ValueError(f"{shown(text)} is too small; use at least {quantity(LEAST_BYTES)}")
    if size_bytes > MOST_BYTES:
        raise ValueError(f"{shown(text)} is too large; use at most {MOST_BYTES >> 40}Ti")
    return text


def _checked_mirror(text: str) -> str:
    # What dockerd itself refuses would keep each repaired daemon from starting.
    rule = "use one like https://mirror.example"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f"{shown(text)} is not a URL; {rule}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not _is_plain(text):
        raise ValueError(f"{shown(text)} is not a URL of a registry; {rule}")
    if parts.path not in ("", "/") or any(sign in text for sign in "?#@"):
        raise ValueError(f"{shown(text)} has more than a host and a port, which dockerd refuses; {rule}")
    return text


def _checked_host(text: str) -> str:
    if _REGISTRY_HOST.fullmatch(text) is None:
        raise ValueError(f"{shown(text)} is not a host of a registry; use one like registry.example:5000")
    return text


def _checked_architecture(text: str) -> str:
    if text and _ARCHITECTURE.fullmatch(text) is None:
        raise ValueError(f"{shown(text)} is not an architecture; use one like amd64 or arm64")
    return text


def _checked_reference(text: str) -> str:
    if text and (text.startswith("-") or not _is_plain(text) or len(text) > _LONGEST_PATTERN):
        raise ValueError(f"{shown(text)} is not an image; use a reference, like registry.example/kata-dind:1.0")
    return text


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _off(value: object) -> object:
    """YAML 1.1 reads the word `off` as a boolean."""
    return "off" if value is False else value


_Pattern = Annotated[str, AfterValidator(_checked_pattern)]
_Name = Annotated[str, AfterValidator(_checked_name)]
_Answer = Annotated[Answer, BeforeValidator(_off)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, data: object) -> object:
        """Leave out a field that has nothing behind its colon: as in Kubernetes, it has its default."""
        if not isinstance(data, Mapping) or None not in data.values():
            return data
        names = {to_camel(name) for name in cls.model_fields}
        return {key: value for key, value in data.items() if value is not None or key not in names}


class RuntimeClass(_Model):
    """What the RuntimeClasses of one name or pattern can do; what is left out comes from the handler's table."""

    match: _Pattern
    """A name, or a pattern such as `kata-*`."""
    kata: bool = True
    """False for those that a later pattern would match, but that aren't Kata's."""
    handler: _Name = ""
    """The handler's name, if it isn't the class's, as in `kata-qemu`."""
    version: Annotated[str, AfterValidator(_checked_kata_version)] = ""
    """Kata's version, as in `4.1.0`."""
    empty_dir: EmptyDirMode | None = None
    """What the handler's configuration has as `emptydir_mode`."""
    sharing: Sharing | None = None
    """What the handler's configuration has as `shared_fs`."""
    snapshotter: Snapshotter | None = None
    """Containerd's, for this handler."""
    virtiofs_fit: bool = False
    """virtiofsd runs with what overlayfs needs (`--xattr --modcaps=+sys_admin`)."""
    enable_annotations: tuple[_Pattern, ...] = ()
    """Hypervisor annotations that the handler obeys, as in `virtio_fs_extra_args`; names or patterns."""
    block_storage_class: _Name = ""
    """A storage class whose volumes may be had with `volumeMode: Block`."""
    direct_assigned: tuple[_Pattern, ...] = ()
    """Storage classes whose file systems Kata mounts in the guest as block devices; names or patterns."""

    @model_validator(mode="after")
    def _fits_the_version(self) -> RuntimeClass:
        since = {EmptyDirMode.BLOCK_PLAIN: (4, 0), EmptyDirMode.BLOCK_ENCRYPTED: (3, 28)}
        least = since.get(self.empty_dir) if self.empty_dir is not None else None
        if least is not None and self.version and version_numbers(self.version) < least:
            came = ".".join(map(str, least))
            raise Refused(f"'{self.empty_dir}' is not in Kata {self.version}; it came with {came}", field="emptyDir")
        return self


class DataRoot(_Model):
    """What a data root is made of by a repair, if the pod doesn't say."""

    kind: DataRootKind = DataRootKind.AUTO
    """With `auto`, each pod gets the best that its RuntimeClass can have."""
    size: Annotated[str, AfterValidator(_checked_size)] = "20Gi"
    """A Kubernetes quantity: of a loop file, a memory data root, or a claim."""


class ImageRule(_Model):
    """What an image of one's own runs, which its name doesn't tell."""

    match: _Pattern
    """An image reference, or a pattern such as `registry.example/ci/*-dind:*`."""
    program: Program | None = None
    """None: it is no daemon, whatever its name says."""
    version: Annotated[str, AfterValidator(_checked_program_version)] = ""
    """The program's, as in `27.5.1`."""
    entrypoint: tuple[str, ...] = ()
    """What it runs without a command; empty if unknown, and then it gets no wrapper."""
    user: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    """The user id of the image."""


class Certificate(_Model):
    """The certificates by which repaired daemons know a registry, as Docker has them in /etc/docker/certs.d/HOST.

    They come from a ConfigMap or a Secret, which has to be in the namespace of the pod: its keys are the names of the
    files, such as `ca.crt`.
    """

    host: Annotated[str, AfterValidator(_checked_host)]
    """The registry, with its port if it isn't 443, as in `registry.example:5000`."""
    config_map: _Name = ""
    """The name of a ConfigMap."""
    secret: _Name = ""
    """The name of a Secret."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Certificate:
        if bool(self.config_map) == bool(self.secret):
            raise ValueError("it needs the name of a ConfigMap or of a Secret; use configMap or secret, one of them")
        return self


class Registry(_Model):
    """Whether and how a registry is asked what an image runs, where neither its name nor the policy tells."""

    lookup: bool = False
    """Whether registries are asked at all."""
    allowed: tuple[_Pattern, ...] = WELL_KNOWN_REGISTRIES
    """The registries that may be asked: HOST, HOST:PORT or HOST/REPOSITORY, or patterns of those."""
    timeout_seconds: Annotated[float, Field(gt=0, le=MOST_LOOKUP_SECONDS)] = 3
    """How long all lookups of one pod may take together."""
    mirrors: tuple[Annotated[str, AfterValidator(_checked_mirror)], ...] = ()
    """What is asked before Docker Hub."""
    insecure: tuple[Annotated[str, AfterValidator(_checked_host)], ...] = ()
    """Registries that are asked over http."""
    architecture: Annotated[str, AfterValidator(_checked_architecture)] = ""
    """Of the nodes, as in `arm64`; if it is empty, amd64 or what there is."""
    pull_secrets: bool = False
    """Whether the webhook reads the pull secrets of pods, for which it needs the right to read Secrets."""


class Guards(_Model):
    """What a pod is warned of, or refused for; all off by default."""

    shared_kernel: _Answer = Answer.OFF
    """A privileged daemon outside of a VM."""
    no_boundary: _Answer = Answer.OFF
    """A Kata whose version is no boundary for privileged containers (GHSA-2gv2-cffp-j227 and its kin)."""
    host_docker: _Answer = Answer.OFF
    """The node's Docker, by its socket or its data root."""
    open_annotations: _Answer = Answer.OFF
    """virtio_fs_extra_args in a pod's annotations."""


class Policy(_Model):
    """All of it."""

    runtime_classes: tuple[RuntimeClass, ...] = (RuntimeClass(match="kata"), RuntimeClass(match="kata-*"))
    """The first that matches counts; a class that none matches is not Kata's."""
    repair: bool = True
    """Whether pods without an annotation are repaired."""
    data_root: DataRoot = DataRoot()
    images: tuple[ImageRule, ...] = ()
    """What images run whose name doesn't tell; the first that matches counts."""
    containers: tuple[_Pattern, ...] = ()
    """Names, or patterns, of containers that run dockerd although nothing shows it."""
    registry_mirrors: tuple[Annotated[str, AfterValidator(_checked_mirror)], ...] = ()
    """What repaired daemons get as `--registry-mirror`."""
    certificates: tuple[Certificate, ...] = ()
    """The certificates of registries for repaired daemons."""
    delivery: Delivery = Delivery.INLINE
    delivery_image: Annotated[str, AfterValidator(_checked_reference)] = ""
    """The image that has the guest entrypoint, for the deliveries that need one."""
    disk_image: Annotated[str, AfterValidator(_checked_reference)] = "docker:29-dind"
    """The image of the init container that makes a disk, where the daemon's own has no mkfs.ext4; empty for none."""
    unrepaired: _Answer = Answer.WARN
    """What is done about a pod that is broken and can't be repaired."""
    registry: Registry = Registry()
    """Whether and how registries are asked what images run."""
    guards: Guards = Guards()

    @model_validator(mode="after")
    def _fits_together(self) -> Policy:
        if self.delivery is not Delivery.INLINE and not self.delivery_image:
            raise Refused(
                f"the delivery {self.delivery} needs an image; name one, or use inline", field="deliveryImage"
            )
        kata = [rule for rule in self.runtime_classes if rule.kata]
        if self.data_root.kind is DataRootKind.BLOCK and not any(rule.block_storage_class for rule in kata):
            raise Refused(
                "the kind block needs a storage class; give a runtime class its blockStorageClass",
                field="dataRoot.kind",
            )
        if self.data_root.kind is DataRootKind.MEMORY and "size" not in self.data_root.model_fields_set:
            raise Refused(
                "the kind memory needs a size, which is taken from the memory; use one like 4Gi", field="dataRoot.size"
            )
        hosts = [certificate.host for certificate in self.certificates]
        for index, host in enumerate(hosts):
            if host in hosts[:index]:
                raise Refused(f"{host!r} is there twice; leave one of them out", field=f"certificates[{index}].host")
        return self

    def class_of(self, name: str) -> RuntimeClass | None:
        """Return what the policy says of a RuntimeClass; None if it isn't Kata's."""
        found = self.rule_for(name)
        return found if found is not None and found.kata else None

    def image_rule_for(self, reference: str) -> ImageRule | None:
        """Return the rule that tells what an image runs."""
        return next((rule for rule in self.images if rule.match == reference or matches(rule.match, reference)), None)

    def names(self, container: str) -> bool:
        """Tell whether a container of this name runs dockerd by the policy."""
        return any(matches(pattern, container) for pattern in self.containers)

    def rule_for(self, name: str) -> RuntimeClass | None:
        """Return the rule that decides about a RuntimeClass, also if it says that the class is not Kata's."""
        return next((rule for rule in self.runtime_classes if matches(rule.match, name)), None)


def parse_policy(data: object) -> Policy:
    """Return the policy in a parsed YAML file; an empty file is the default policy.

    Raises SpecError with the field and what is allowed.
    """
    if data is None:
        return Policy()
    if not isinstance(data, Mapping):
        raise SpecError(f"policy: {shown(data)} is not a mapping of fields", id="spec.wrong-value")
    try:
        return Policy.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as error:
        raise spec_error(error, fields=_fields_beside, beginning="policy: ", advice=_AS_YAML) from error


_AS_YAML = {"string_type": "put it into quotes", "tuple_type": "begin each of its lines with -"}


def policy_schema() -> dict[str, Any]:
    """Return the JSON schema of a policy file, for editors; its descriptions are the docstrings of the fields."""
    schema = Policy.model_json_schema(by_alias=True)
    described = _docstrings()
    for name, model in (("Policy", schema), *schema["$defs"].items()):
        for field, properties in model.get("properties", {}).items():
            properties.pop("title", None)
            if (name, field) in described:
                properties["description"] = described[name, field]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "kata-dind policy",
        "description": "What the administrator decides about the repair of pods.",
    }


def _docstrings() -> dict[tuple[str, str], str]:
    """Return the docstrings under the fields of this file's models.

    pydantic can read them as well (`use_attribute_docstrings`), but at each import, which then takes twice as long.
    """
    tree = ast.parse(inspect.getsource(sys.modules[__name__]))
    found = {}
    for model in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for field, below in itertools.pairwise(model.body):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(docstring))),
                ):
                    found[model.name, to_camel(name)] = docstring
    return found


def version_numbers(text: str) -> tuple[int, ...]:
    """Return the three numbers of a version such as `4.1` or `4.1.0`; empty for an empty text."""
    numbers = [int(part) for part in text.split(".")] if text else []
    return tuple(numbers + [0] * (3 - len(numbers))) if numbers else ()


def matches(pattern: str, name: str) -> bool:
    """Tell whether a name fits a pattern of `*`, `?` and `[]`; case matters."""
    return _compiled(pattern).match(name) is not None


@functools.lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))


def _fields_beside(location: tuple[int | str, ...]) -> list[str]:
    models: dict[int | str, type[_Model]] = {
        "runtimeClasses": RuntimeClass,
        "dataRoot": DataRoot,
        "images": ImageRule,
        "certificates": Certificate,
        "registry": Registry,
        "guards": Guards,
    }
    model = models.get(location[0], Policy) if len(location) > 1 else Policy
    return [to_camel(name) for name in model.model_fields]
