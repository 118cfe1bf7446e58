"""What the user asked for: frozen models, parsed once, at the edge, by `parse_spec`.

Pure: no I/O, and the host is not looked at. Whether a host path exists, the host has the memory, or a name is free is
checked by the backend. Every refusal is a `SpecError` of one line: the field as the user typed it, the value, and the
values that are allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import ErrorDetails

from kata_dind.errors import SpecError
from kata_dind.vocabulary import (
    BACKEND_MODULES,
    Accelerator,
    BackendName,
    DataRootKind,
    Fallback,
    Filesystem,
    NetworkMode,
)

__all__ = [
    "DEFAULT_SIZE",
    "Accelerator",
    "BackendName",
    "DataRootKind",
    "Fallback",
    "Filesystem",
    "NetworkMode",
    "SandboxSpec",
    "Share",
    "option_name",
    "parse_disk_size",
    "parse_name",
    "parse_share",
    "parse_size",
    "parse_spec",
    "require_same",
    "spec_from_json",
    "spec_to_json",
]

DEFAULT_SIZE = "20G"
DEFAULT_CPUS = 2
DEFAULT_MEMORY = "2G"

_NAME_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", re.ASCII)
_SIZE_PATTERN = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGT])(?:i?B|i)?", re.ASCII | re.IGNORECASE)
_UNIT_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MIB = 1 << 20

# The largest file of ext4 (4 KiB blocks), which is also far beyond any host's memory.
_MAXIMUM_BYTES = 16 << 40
_MINIMUM_SIZE_BYTES = 64 * _MIB
_MINIMUM_MEMORY_BYTES = 256 * _MIB

_NAME_RULE = "use 1 to 40 of a-z, 0-9 and -, beginning and ending with a letter or digit"
_SIZE_RULE = "use a number and a unit, like 512M or 20G"
_SHARE_RULE = "use HOST:GUEST or HOST:GUEST:ro, like ./src:/src:ro"

# A value must stand in the same word as its flag: a flag without a value would take the next word.
_FLAG_PATTERN = re.compile(r"--([a-z0-9][a-z0-9-]*)(?:=.*)?", re.ASCII)
_FLAG_RULE = "use --NAME or --NAME=VALUE, like --registry-mirror=https://mirror.example"
_FLAGS_OF_OURS = {
    "host": "the sandbox's endpoint is the way to dockerd",
    "data-root": "choose what lies under it by --data-root",
    "graph": "choose what lies under it by --data-root",
    "config-file": "share the file as /etc/docker/daemon.json instead",
}

# A share on one of these would hide files that dockerd and the image's own programs need.
_GUESTS_OWN = frozenset(
    PurePosixPath(path)
    for path in (
        *("/", "/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/run", "/sbin", "/tmp", "/usr", "/var"),
        *("/usr/bin", "/usr/lib", "/usr/local", "/usr/local/bin", "/usr/sbin", "/usr/share", "/var/lib", "/var/run"),
    )
)
# Nothing may be mounted inside these either; and overlayfs refuses a data root on a share.
_GUESTS_TREES = tuple(
    PurePosixPath(path) for path in ("/dev", "/proc", "/sys", "/var/lib/docker", "/var/lib/kata-dind")
)


class _Refused(ValueError):
    """The user asked for something that has another fault than a wrong value; `id` names the fault."""

    def __init__(self, message: str, *, id: str) -> None:
        super().__init__(message)
        self.id = id


def parse_size(text: str) -> int:
    """Parse `512M`, `1.5G`, `20GiB` into bytes; units are powers of 1024. Raises ValueError with a whole sentence."""
    match = _SIZE_PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; {_SIZE_RULE}")
    number, unit = match.groups()
    size_bytes = int(Decimal(number) * _UNIT_BYTES[unit.upper()])
    if size_bytes == 0:
        raise ValueError(f"{text!r} is not a size above zero; {_SIZE_RULE}")
    return size_bytes


def parse_name(text: str, *, field: str = "name") -> str:
    """Return a sandbox's name as it is, or raise SpecError."""
    try:
        return _checked_name(text)
    except ValueError as error:
        raise SpecError(f"{field}: {error}", id="spec.wrong-value") from error


class Share(BaseModel):
    """A directory of the host that the guest sees."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host_path: Path
    """As the user gave it; relative to the working directory of the process that parsed it."""
    guest_path: PurePosixPath
    """Absolute, without `.`, `..` or doubled slashes, and never `/`."""
    read_only: bool = False


def parse_disk_size(text: str, *, field: str) -> int:
    """Return a disk's size in bytes, in whole MiB, or raise SpecError."""
    try:
        return parse_size(_checked_size(text, least_bytes=_MINIMUM_SIZE_BYTES)) // _MIB * _MIB
    except ValueError as error:
        raise SpecError(f"{field}: {error}", id="spec.wrong-value") from error


def parse_share(text: str) -> Share:
    """Parse `HOST:GUEST` or `HOST:GUEST:ro`. Raises ValueError with a whole sentence.

    The guest path is what follows the last colon (before `:ro`), and so has no colon in it; a host path may have some.
    """
    body, read_only = (text[: -len(":ro")], True) if text.endswith(":ro") else (text, False)
    host, colon, guest = body.rpartition(":")
    if not colon or not host or not guest:
        raise ValueError(f"{text!r} is not a share; {_SHARE_RULE}")
    _refuse_control_characters(text)
    return Share(host_path=Path(host), guest_path=_guest_path(guest, share=text), read_only=read_only)


def _guest_path(guest: str, *, share: str) -> PurePosixPath:
    if guest == "rw":
        raise ValueError(f"{share!r} ends in 'rw', but a share is writable without that; {_SHARE_RULE}")
    path = PurePosixPath(guest)
    if not guest.startswith("/") or guest.startswith("//") or ".." in path.parts:
        raise ValueError(f"{share!r} has the guest path {guest!r}; it must be absolute and without '..'")
    if path in _GUESTS_OWN or any(path.is_relative_to(tree) for tree in _GUESTS_TREES):
        raise ValueError(f"{share!r} would cover the guest's own {path}; use a directory of its own, like /src")
    return path


def _refuse_control_characters(text: str) -> None:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError(f"{text!r} contains a control character")


def _checked_name(text: str) -> str:
    if not _NAME_PATTERN.fullmatch(text):
        raise ValueError(f"{text!r} is not a name; {_NAME_RULE}")
    return text


def _checked_volume(name: str, info: ValidationInfo) -> str:
    if not name:
        return name
    if info.data.get("data_root") is DataRootKind.MEMORY:
        raise _Refused(
            f"{name!r} outlives its sandboxes, and --data-root memory does not; leave one of them out",
            id="spec.volume-in-memory",
        )
    return _checked_name(name)


def _checked_seed(name: str, info: ValidationInfo) -> str:
    if name and info.data.get("cold"):
        raise _Refused(f"{name!r} is restored, and --cold boots; leave one of them out", id="spec.seed-with-cold")
    return _checked_name(name) if name else name


def _checked_size(text: str, *, least_bytes: int) -> str:
    size_bytes = parse_size(text)
    if size_bytes < least_bytes:
        raise ValueError(f"{text!r} is too small; it must be at least {least_bytes // _MIB}M")
    if size_bytes > _MAXIMUM_BYTES:
        raise ValueError(f"{text!r} is too large; it must be at most {_MAXIMUM_BYTES >> 40}T")
    return text


def _checked_reference(text: str) -> str:
    if text.startswith("-") or not text.isprintable() or any(character.isspace() for character in text):
        raise ValueError(f"{text!r} is not an image; use a reference from `kata-dind image ls`, like docker:28-dind")
    return text


def _checked_dockerd_args(arguments: tuple[str, ...]) -> tuple[str, ...]:
    for argument in arguments:
        _refuse_control_characters(argument)
        match = _FLAG_PATTERN.fullmatch(argument)
        if match is None:
            raise ValueError(f"{argument!r} is not a long flag of dockerd; {_FLAG_RULE}")
        if (name := match[1]) in _FLAGS_OF_OURS:
            raise ValueError(f"{argument!r} is set by kata-dind itself; {_FLAGS_OF_OURS[name]}")
    return arguments


def _checked_path(value: object) -> object:
    if isinstance(value, str | Path) and (not str(value) or "\0" in str(value)):
        raise ValueError(f"{str(value)!r} is not a path")
    return value


def _available_backend(name: object) -> object:
    if str(name) not in BACKEND_MODULES:
        use = f"use {' or '.join(BACKEND_MODULES)}"
        if name in set(BackendName):
            raise _Refused(f"{str(name)!r} is not available in this installation; {use}", id="backend.not-installed")
        raise ValueError(f"{str(name)!r} is unknown; {use}")
    return name


def _parsed_shares(value: object) -> object:
    if not isinstance(value, list | tuple):
        return value
    return tuple(parse_share(share) if isinstance(share, str) else share for share in value)


def _separate_shares(shares: tuple[Share, ...]) -> tuple[Share, ...]:
    for index, share in enumerate(shares):
        for other in shares[:index]:
            outer, inner = sorted((share.guest_path, other.guest_path))
            if inner.is_relative_to(outer):
                how = "twice" if inner == outer else f"inside {str(outer)!r}, which is a share as well"
                raise ValueError(f"the guest path {str(inner)!r} is used {how}; give each share a place of its own")
    return shares


@dataclass(frozen=True)
class _OnlyOn:
    """Marks a field that one backend has, and no other."""

    backend: BackendName


_Size = Annotated[str, AfterValidator(lambda text: _checked_size(text, least_bytes=_MINIMUM_SIZE_BYTES))]
_Memory = Annotated[str, AfterValidator(lambda text: _checked_size(text, least_bytes=_MINIMUM_MEMORY_BYTES))]


class SandboxSpec(BaseModel):
    """One sandbox, as asked for: the fields that the user gave, and the defaults of the others.

    A field that one backend has is marked with `_OnlyOn`; its option stands in `kata_dind.cli.options`, in the file of
    that backend.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, AfterValidator(_checked_name)]
    backend: Annotated[BackendName, BeforeValidator(_available_backend)] = BackendName.VM
    data_root: DataRootKind = DataRootKind.AUTO
    volume: Annotated[str, AfterValidator(_checked_volume)] = ""
    """The volume that contains the data root, made if it does not exist; empty for a data root of the sandbox's own."""
    size: _Size | None = None
    """The data root's. A disk is sparse, so it takes only the space that is used. None for 20G, or a volume's own size.

    A data root of the virtiofs kind has the size of the host's disk.
    """
    filesystem: Filesystem = Filesystem.EXT4
    """The data root's, for the kinds loop and block, which are disks."""
    fallback: Fallback = Fallback.NONE
    virtiofs_xattr: Annotated[bool, _OnlyOn(BackendName.VM)] = True
    """Whether the virtiofs kind gets the extended attributes that overlay needs; by Kata's default it does not."""
    cpus: Annotated[int, Field(ge=1, le=255)] = DEFAULT_CPUS
    memory: _Memory = DEFAULT_MEMORY
    image: Annotated[str, StringConstraints(max_length=512), AfterValidator(_checked_reference)] = ""
    """The dind image; empty for the default one, built from the distribution's packages."""
    kernel: Annotated[Path | None, BeforeValidator(_checked_path)] = None
    """A guest kernel; empty for Kata's or the distribution's."""
    accelerator: Annotated[Accelerator, _OnlyOn(BackendName.VM)] = Accelerator.AUTO
    network: NetworkMode = NetworkMode.NAT
    allow_link_local: Annotated[bool, _OnlyOn(BackendName.VM)] = False
    shares: Annotated[tuple[Share, ...], BeforeValidator(_parsed_shares), AfterValidator(_separate_shares)] = ()
    cold: Annotated[bool, _OnlyOn(BackendName.VM)] = False
    """Boot, even where the guest could be restored from a seed."""
    seed: Annotated[str, AfterValidator(_checked_seed), _OnlyOn(BackendName.VM)] = ""
    """The seed to start from, by its name; empty for the internal one that fits."""
    dockerd_args: Annotated[tuple[str, ...], AfterValidator(_checked_dockerd_args)] = ()
    """Additional flags for dockerd, one word each."""
    timeout_seconds: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)] = 180.0
    """For the whole start, to a passing verdict."""

    @property
    def given(self) -> frozenset[str]:
        """The names of the fields that the user gave, with any value but None; the name is not counted."""
        return frozenset(field for field in self.model_fields_set if getattr(self, field) is not None) - {"name"}

    @property
    def size_bytes(self) -> int:
        """The data root's size, in whole MiB: a disk has whole sectors."""
        return parse_size(self.size or DEFAULT_SIZE) // _MIB * _MIB

    @property
    def memory_bytes(self) -> int:
        """The guest's memory, in whole MiB."""
        return parse_size(self.memory) // _MIB * _MIB

    def settled(self, **values: Any) -> SandboxSpec:
        """Return a spec with values that the user did not type, so that they don't count as given.

        The values are not checked.
        """
        return SandboxSpec.model_construct(_fields_set=set(self.model_fields_set), **{**dict(self), **values})

    def without(self, *fields: str) -> SandboxSpec:
        """Return a spec in which some fields count as not given and have their defaults."""
        values = {name: value for name, value in self if name not in fields}
        return SandboxSpec.model_construct(_fields_set=self.model_fields_set - set(fields), **values)


def parse_spec(**fields: Any) -> SandboxSpec:
    """Parse the fields that were given, by their names in `SandboxSpec`; shares may be `HOST:GUEST[:ro]`.

    Raises SpecError for the first field that is wrong, or that the sandbox's backend does not have.
    """
    spec = _parsed(fields)
    for name, field in SandboxSpec.model_fields.items():
        owners = [mark.backend for mark in field.metadata if isinstance(mark, _OnlyOn)]
        if name in spec.given and owners and spec.backend not in owners:
            raise SpecError(
                f"{option_name(name)}: only the backend {owners[0]} has this option, "
                f"and this sandbox is for {spec.backend}; leave it out",
                id="spec.option-of-another-backend",
            )
    return spec


def spec_to_json(spec: SandboxSpec) -> dict[str, Any]:
    """Return a spec as JSON values, to be kept: every field, and in `given` the names of those that were given.

    Defaults are written out, since another version may have other ones.
    """
    return {**spec.model_dump(mode="json"), "given": sorted(spec.given)}


def spec_from_json(values: Mapping[str, Any]) -> SandboxSpec:
    """Read what `spec_to_json` made. Raises SpecError for an unknown field.

    Earlier versions wrote no `given`; then each field that differs from its default counts as given.
    """
    spec = _parsed({name: value for name, value in values.items() if name != "given"})
    fields = SandboxSpec.model_fields
    differing = [name for name, value in spec if value != fields[name].get_default()]
    return SandboxSpec.model_construct(_fields_set={"name", *values.get("given", differing)}, **dict(spec))


def require_same(asked: SandboxSpec, had: Mapping[str, Sequence[object]], *, of: str) -> None:
    """Raise SpecError for the first field that was given a value other than those that `had` lists for it.

    The message names the first of these values, and `of`, which has it. `auto` leaves the choice, and so always fits.
    """
    for field, values in had.items():
        value = getattr(asked, field)
        if field in asked.given and value not in values and value != "auto":
            raise SpecError(
                f"{option_name(field)}: {_shown(value)} is not what {of} has ({_shown(values[0])}); leave it out",
                id="spec.differs",
            )


def option_name(field: str) -> str:
    """Return the name that users know a field by: its option, or `name`."""
    return _OPTION_NAMES.get(field, "--" + field.replace("_", "-"))


def _parsed(fields: Mapping[str, Any]) -> SandboxSpec:
    try:
        return SandboxSpec(**fields)
    except ValidationError as error:
        _raise_spec_error(error)


def _shown(value: object) -> str:
    match value:
        case None | ():
            return "none"
        case bool():
            return "on" if value else "off"
        case tuple():
            return " ".join(_shown(item) for item in value)
        case str() | Path():
            return repr(str(value))
        case _:
            return str(value)


_OPTION_NAMES = {
    "accelerator": "--accel",
    "shares": "--share",
    "dockerd_args": "--dockerd-arg",
    "timeout_seconds": "--timeout",
    "name": "name",
}


def _raise_spec_error(error: ValidationError) -> NoReturn:
    """Turn pydantic's first complaint into one line; `from error` keeps the others for the log."""
    first = error.errors()[0]
    field = str(first["loc"][0]) if first["loc"] else "spec"
    if first["type"] == "extra_forbidden":
        allowed = ", ".join(SandboxSpec.model_fields)
        raise SpecError(
            f"{field}: there is no such field; the fields are {allowed}", id="spec.unknown-field"
        ) from error
    refusal = first.get("ctx", {}).get("error")
    id = refusal.id if isinstance(refusal, _Refused) else "spec.wrong-value"
    raise SpecError(f"{option_name(field)}: {_complaint(first)}", id=id) from error


def _complaint(details: ErrorDetails) -> str:
    """Put one of pydantic's complaints into our words: the value, and the values that are allowed."""
    context, value, message = details.get("ctx", {}), details["input"], details["msg"]
    match details["type"]:
        case "value_error":
            return str(context["error"])
        case "missing":
            return "it is required"
        case "enum":
            return f"{value!r} is unknown; use {context['expected'].replace(chr(39), '')}"
        case _:
            return f"{value!r} is not allowed; {message[:1].lower()}{message[1:]}"
