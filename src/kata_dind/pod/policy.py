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
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from kata_dind.errors import SpecError
from kata_dind.pod.model import Program
from kata_dind.pod.quantity import quantity, quantity_bytes
from kata_dind.pod.sizes import LEAST_BYTES, MOST_BYTES
from kata_dind.vocabulary import DataRootKind

_KATA_VERSION = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}(\.[0-9]{1,4})?", re.ASCII)
_PROGRAM_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){0,2}", re.ASCII)
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_REGISTRY_HOST = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?(:[0-9]{1,5})?", re.ASCII)
_LONGEST_PATTERN = 512
_LONGEST_SHOWN = 80


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


class _Refused(ValueError):
    """A fault between fields of one model; `field` is the one to change."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def _checked_pattern(text: str) -> str:
    if not text or not text.isprintable() or any(character.isspace() for character in text):
        raise ValueError(f"{_shown(text)} is not a name or pattern; use one like kata-*")
    if len(text) > _LONGEST_PATTERN:
        raise ValueError(f"{_shown(text)} is too long; use at most {_LONGEST_PATTERN} characters")
    return text


def _checked_name(text: str) -> str:
    if text and _OBJECT_NAME.fullmatch(text) is None:
        raise ValueError(f"{_shown(text)} is not a name of Kubernetes; use a-z, 0-9, - and .")
    return text


def _checked_kata_version(text: str) -> str:
    if text and _KATA_VERSION.fullmatch(text) is None:
        raise ValueError(f"{_shown(text)} is not a version of Kata; use two or three numbers, like 4.1.0")
    return text


def _checked_program_version(text: str) -> str:
    if text and _PROGRAM_VERSION.fullmatch(text) is None:
        raise ValueError(f"{_shown(text)} is not a version; use up to three numbers, like 27.5.1")
    return text


def _checked_size(text: str) -> str:
    size_bytes = quantity_bytes(text)
    if size_bytes is None:
        raise ValueError(f"{_shown(text)} is not a size; use a quantity of Kubernetes, like 20Gi")
    if size_bytes < LEAST_BYTES:
        raise ValueError(f"{_shown(text)} is too small; use at least {quantity(LEAST_BYTES)}")
    if size_bytes > MOST_BYTES:
        raise ValueError(f"{_shown(text)} is too large; use at most {MOST_BYTES >> 40}Ti")
    return text


def _checked_mirror(text: str) -> str:
    # What dockerd itself refuses would keep each repaired daemon from starting.
    rule = "use one like https://mirror.example"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f"{_shown(text)} is not a URL; {rule}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not _is_plain(text):
        raise ValueError(f"{_shown(text)} is not a URL of a registry; {rule}")
    if parts.path not in ("", "/") or any(sign in text for sign in "?#@"):
        raise ValueError(f"{_shown(text)} has more than a host and a port, which dockerd refuses; {rule}")
    return text


def _checked_host(text: str) -> str:
    if _REGISTRY_HOST.fullmatch(text) is None:
        raise ValueError(f"{_shown(text)} is not a host of a registry; use one like registry.example:5000")
    return text


def _checked_reference(text: str) -> str:
    if text and (text.startswith("-") or not _is_plain(text) or len(text) > _LONGEST_PATTERN):
        raise ValueError(f"{_shown(text)} is not an image; use a reference, like registry.example/kata-dind:1.0")
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
            raise _Refused("emptyDir", f"'{self.empty_dir}' is not in Kata {self.version}; it came with {came}")
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
    unrepaired: _Answer = Answer.WARN
    """What is done about a pod that is broken and can't be repaired."""
    guards: Guards = Guards()

    @model_validator(mode="after")
    def _fits_together(self) -> Policy:
        if self.delivery is not Delivery.INLINE and not self.delivery_image:
            raise _Refused("deliveryImage", f"the delivery {self.delivery} needs an image; name one, or use inline")
        kata = [rule for rule in self.runtime_classes if rule.kata]
        if self.data_root.kind is DataRootKind.BLOCK and not any(rule.block_storage_class for rule in kata):
            raise _Refused(
                "dataRoot.kind", "the kind block needs a storage class; give a runtime class its blockStorageClass"
            )
        if self.data_root.kind is DataRootKind.MEMORY and "size" not in self.data_root.model_fields_set:
            raise _Refused(
                "dataRoot.size", "the kind memory needs a size, which is taken from the memory; use one like 4Gi"
            )
        hosts = [certificate.host for certificate in self.certificates]
        for index, host in enumerate(hosts):
            if host in hosts[:index]:
                raise _Refused(f"certificates[{index}].host", f"{host!r} is there twice; leave one of them out")
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
        raise SpecError(f"policy: {_shown(data)} is not a mapping of fields", id="spec.wrong-value")
    try:
        return Policy.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as error:
        _raise_spec_error(error)


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


def _raise_spec_error(error: ValidationError) -> NoReturn:
    """Turn pydantic's first complaint into one line; `from error` keeps the others for the log."""
    first = error.errors()[0]
    field = _dotted(first["loc"])
    if first["type"] == "extra_forbidden":
        allowed = ", ".join(_fields_beside(first["loc"]))
        raise SpecError(
            f"policy: {field}: there is no such field; the fields are {allowed}", id="spec.unknown-field"
        ) from error
    refusal = first.get("ctx", {}).get("error")
    if isinstance(refusal, _Refused):
        field = f"{field}.{refusal.field}" if field else refusal.field
    raise SpecError(f"policy: {field}: {_complaint(first)}", id="spec.wrong-value") from error


def _dotted(location: tuple[int | str, ...]) -> str:
    """Return a place in the file as people write it, like `runtimeClasses[1].version`."""
    written = ""
    for part in location:
        if isinstance(part, int):
            written += f"[{part}]"
        else:
            name = part if part.isidentifier() else _shown(part)
            written += f".{name}" if written else name
    return written


def _fields_beside(location: tuple[int | str, ...]) -> list[str]:
    models: dict[int | str, type[_Model]] = {
        "runtimeClasses": RuntimeClass,
        "dataRoot": DataRoot,
        "images": ImageRule,
        "certificates": Certificate,
        "guards": Guards,
    }
    model = models.get(location[0], Policy) if len(location) > 1 else Policy
    return [to_camel(name) for name in model.model_fields]


def _complaint(details: ErrorDetails) -> str:
    """Put one of pydantic's complaints into our words: the value, and the values that are allowed."""
    context, value = details.get("ctx", {}), details["input"]
    match details["type"]:
        case "value_error":
            return str(context["error"])
        case "missing":
            return "it is required"
        case "enum":
            return f"{_shown(value)} is unknown; use {context['expected'].replace(chr(39), '')}"
        case "string_type":
            return f"{_shown(value)} is not a text" + ("" if _is_nested(value) else "; put it into quotes")
        case "tuple_type":
            return f"{_shown(value)} is not a list; begin each of its lines with -"
        case "bool_type" | "bool_parsing":
            return f"{_shown(value)} is unknown; use true or false"
        case "model_type" | "model_attributes_type":
            return f"{_shown(value)} is not a mapping of fields"
        case _:
            return f"{_shown(value)} is not allowed; {details['msg'][:1].lower()}{details['msg'][1:]}"


def _is_nested(value: object) -> bool:
    return value is None or isinstance(value, Mapping | list | tuple)


def _shown(value: object) -> str:
    """Return a value on one line, and not all of a long one."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; what nests as deeply
        return "it"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"
