"""What the user asked for: frozen models, parsed once, at the edge, by `parse_spec`.

Pure: no I/O, and the host is not looked at. Whether a host path exists, the host has the memory, or a name is free is
checked by the backend. Every refusal is a `SpecError` of one line: the field as the user typed it, the value, and the
values that are allowed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

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

from kata_dind.complaint import Location, Refused, spec_error
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
_HANDLER_PATTERN = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?", re.ASCII)
_SIZE_PATTERN = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGT])(?:i?B|i)?", re.ASCII | re.IGNORECASE)
_UNIT_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MIB = 1 << 20

# The largest file of ext4 (4 KiB blocks), which is also far beyond any host's memory.
_MAXIMUM_BYTES = 16 << 40
_DNS_PORT = 53
_MINIMUM_SIZE_BYTES = 64 * _MIB
_MINIMUM_MEMORY_BYTES = 256 * _MIB

_NAME_RULE = "use 1 to 40 of a-z, 0-9 and -, beginning and ending with a letter or digit"
_SIZE_RULE = "use a number and a unit, like 512M or 20G"
_SHARE_RULE = "use PATH, HOST:GUEST or HOST:GUEST:ro, like ./src:/src:ro"

# A value must stand in the same word as its flag: a flag without a value would take the next word.
_FLAG_PATTERN = re.compile(r"--([a-z0-9][a-z0-9-]*)(?:=.*)?", re.ASCII)
_FLAG_RULE = "use --NAME or --NAME=VALUE, like --registry-mirror=https://mirror.example"
_FLAGS_OF_OURS = {
    "host": "the sandbox's endpoint is the way to dockerd",
    "data-root": "choose what lies under it by --data-root",
    "graph": "choose what lies under it by --data-root",
    "config-file": "share the file as /etc/docker/daemon.json instead",
}

_ADDRESS_RULE = "use an address of this host, like 192.168.1.5, or 0.0.0.0 for all of them"

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
    """Parse `HOST:GUEST`, or an absolute `PATH` that is the same on both sides; `:ro` may follow.

    The guest path is what follows the last colon (before `:ro`), and so has no colon in it; a host path may have some.
    Raises ValueError with a whole sentence.
    """
    body, read_only = (text[: -len(":ro")], True) if text.endswith(":ro") else (text, False)
    host, colon, guest = body.rpartition(":")
    if not colon:
        host = guest = body
        if body and not body.startswith("/"):
            raise ValueError(f"{text!r} is relative, but a path that is the same on both sides must be absolute")
    if not host or not guest:
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
        raise Refused(
            f"{name!r} outlives its sandboxes, and --data-root memory does not; leave one of them out",
            id="spec.volume-in-memory",
        )
    return _checked_name(name)


def _checked_seed(name: str, info: ValidationInfo) -> str:
    if name and info.data.get("cold"):
        raise Refused(f"{name!r} is restored, and --cold boots; leave one of them out", id="spec.seed-with-cold")
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


def _checked_addresses(addresses: tuple[str, ...]) -> tuple[str, ...]:
    checked = []
    for text in addresses:
        try:
            address = ipaddress.ip_address(text)
        except ValueError as error:
            raise ValueError(f"{text!r} is not an address; {_ADDRESS_RULE}") from error
        if address.is_multicast or "%" in text:
            raise ValueError(f"{text!r} is not an address that a port can be published on; {_ADDRESS_RULE}")
        checked.append(str(address))
    return tuple(dict.fromkeys(checked))


def _checked_handler(name: str) -> str:
    if name and not _HANDLER_PATTERN.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a handler; `kata-dind backends` lists them")
    return name


def parse_address(value: object) -> object:
    """Return the path of a socket, which may be given as other tools of containerd's take it: `unix:///PATH`.

    Raises ValueError for what is no path.
    """
    return _checked_path(value.removeprefix("unix://") if isinstance(value, str) else value)


def _checked_path(value: object) -> object:
    if isinstance(value, str | Path) and (not str(value) or "\0" in str(value)):
        raise ValueError(f"{str(value)!r} is not a path")
    return value


def _available_backend(name: object) -> object:
    if str(name) not in BACKEND_MODULES:
        use = f"use {' or '.join(BACKEND_MODULES)}"
        if name in set(BackendName):
            raise Refused(f"{str(name)!r} is not available in this installation; {use}", id="backend.not-installed")
        raise ValueError(f"{str(name)!r} is unknown; {use}")
    return name


def _parsed_shares(value: object) -> object:
    if not isinstance(value, list | tuple):
        return value
    return tuple(parse_share(share) if isinstance(share, str) else share for share in value)


def _parsed_ports(value: object) -> object:
    if not isinstance(value, list | tuple):
        return value
    return tuple(parse_port(port) if isinstance(port, str) else port for port in value)


def parse_port(text: str) -> int:
    """Parse a port's number, which is written in ASCII digits. Raises ValueError with a whole sentence."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 1 << 16):
        raise ValueError(f"{text!r} is not a port; it must be a number from 1 to 65535")
    return int(text)


def _checked_host_ports(ports: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
    for index, port in enumerate(ports):
        parse_port(str(port))
        if port == _DNS_PORT:
            raise ValueError("53 is where the guest asks for names, which it needs; use another port")
        if port in ports[:index]:
            raise ValueError(f"{port} is given twice")
    if ports and info.data.get("network") is NetworkMode.NONE:
        raise Refused(
            f"{ports[0]} can't be reached without a network; leave out --network none or this option",
            id="spec.host-port-without-network",
        )
    return ports


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
    publish_addresses: Annotated[tuple[str, ...], AfterValidator(_checked_addresses)] = ()
    """Addresses of the host on which published ports can be reached, beside its loopback addresses."""
    host_ports: Annotated[
        tuple[int, ...], BeforeValidator(_parsed_ports), AfterValidator(_checked_host_ports), _OnlyOn(BackendName.VM)
    ] = ()
    """The ports of the host's loopback that containers reach as `host.docker.internal:PORT`."""
    shares: Annotated[tuple[Share, ...], BeforeValidator(_parsed_shares), AfterValidator(_separate_shares)] = ()
    watch: Annotated[bool, _OnlyOn(BackendName.VM)] = False
    """Whether changes that this host makes to shared files are reported by inotify in the guest."""
    cold: Annotated[bool, _OnlyOn(BackendName.VM)] = False
    """Boot, even where the guest could be restored from a seed."""
    seed: Annotated[str, AfterValidator(_checked_seed), _OnlyOn(BackendName.VM)] = ""
    """The seed to start from, by its name; empty for the internal one that fits."""
    handler: Annotated[str, AfterValidator(_checked_handler), _OnlyOn(BackendName.CONTAINERD)] = ""
    """The runtime handler of containerd; empty for the best of Kata's."""
    allow_shared_kernel: Annotated[bool, _OnlyOn(BackendName.CONTAINERD)] = False
    """Whether the handler need not run a virtual machine."""
    allow_known_holes: Annotated[bool, _OnlyOn(BackendName.CONTAINERD)] = False
    """Whether the handler may have a known way out of its virtual machine."""
    containerd_address: Annotated[Path, BeforeValidator(parse_address), _OnlyOn(BackendName.CONTAINERD)] = Path(
        "/run/containerd/containerd.sock"
    )
    """containerd's socket."""
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
    """Parse the fields that were given, by their names in `SandboxSpec`; shares may be texts for `parse_share`.

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
        raise spec_error(error, fields=lambda _: SandboxSpec.model_fields, named=_named) from error


def _named(location: Location) -> str:
    return option_name(str(location[0])) if location else "spec"


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
    "publish_addresses": "--publish-address",
    "host_ports": "--host-port",
    "dockerd_args": "--dockerd-arg",
    "timeout_seconds": "--timeout",
    "name": "name",
}
