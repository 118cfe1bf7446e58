"""Which files of the host a request to dockerd asks for, and which of them it may have. Pure.

The guest can't reach what is not shared, so this keeps nothing secret. It is here since dockerd, which finds nothing
under such a path, would make an empty directory and say that all is well.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

_CREATES = re.compile(r"(?:/v[0-9.]+)?/(containers|volumes)/create")

_MOST_LINKS = 40
"""Linux follows no more links in a path."""

ALWAYS_THE_GUESTS = (
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/dev",
    "/proc",
    "/sys",
    "/lib/modules",
    "/var/lib/docker",
    "/etc/localtime",
    "/etc/timezone",
)
"""Paths that mean the daemon's own, whatever the host has there: a tree each, or a file."""

USUALLY_THE_GUESTS = ("/run", "/var/run", "/boot", "/usr/src")
"""The same, where the guest has something under the path."""


class Shared(NamedTuple):
    """A share: a directory or a file of the host, and where dockerd sees it."""

    host_path: str
    guest_path: str


class Answer(StrEnum):
    """What is known of a bind's source."""

    ALLOWED = "allowed"
    NOT_SHARED = "not-shared"
    """The host has it, and the guest is not to take another file for it."""
    ASK_GUEST = "ask-guest"
    """It is allowed if the guest has it."""


class Found(StrEnum):
    """What the host has under a path."""

    NOTHING = "nothing"
    SOCKET = "socket"
    SOMETHING = "something"


class Refused(NamedTuple):
    """A source that a bind can't have; `leads_to` is where it leads if it is a link."""

    source: str
    leads_to: str
    found: Found


def may_bind(method: str, path: str) -> bool:
    """Tell whether a request can ask for files of the host, and so has to wait for a decision."""
    return method == "POST" and _CREATES.fullmatch(path) is not None


def asked_sources(path: str, body: bytes) -> list[str]:
    """Return the paths that a request wants to bind; none for a body that dockerd will refuse itself."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return []
    match = _CREATES.fullmatch(path)
    found = _of_volume(asked) if match and match[1] == "volumes" else _of_container(asked)
    return [*dict.fromkeys(_clean(source) for source in found)]


def judge(
    source: str, shares: Sequence[Shared], *, on_host: Callable[[str], Found], link: Callable[[str], str | None]
) -> tuple[Answer, str]:
    """Say what is known of a source, and where it leads if it is a link in a share; else the source itself.

    `on_host` looks for a path of the host, and `link` reads one that is a link.
    """
    path = followed(source, shares, link)
    if share_of(path, shares) is not None or path == "/" or _is_below(path, ALWAYS_THE_GUESTS):
        return Answer.ALLOWED, path
    if _is_below(path, USUALLY_THE_GUESTS) or on_host(path) is Found.NOTHING:
        return Answer.ASK_GUEST, path
    return Answer.NOT_SHARED, path


def followed(path: str, shares: Sequence[Shared], link: Callable[[str], str | None]) -> str:
    """Follow the links in shares, as the guest does. Its own links are not known here, and lead from guest to guest."""
    seen, waiting, links = "/", path.strip("/").split("/"), 0
    while waiting:
        name = waiting.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            seen = posixpath.dirname(seen)
            continue
        here = posixpath.join(seen, name)
        share = share_of(here, shares)
        target = link(_on_host(here, share)) if share and here != share.guest_path else None
        if target is None or links == _MOST_LINKS:
            seen = here
            continue
        links += 1
        seen = "/" if target.startswith("/") else seen
        waiting[:0] = target.split("/")
    return seen


def share_of(path: str, shares: Sequence[Shared]) -> Shared | None:
    """Return the share that a path of the guest lies in."""
    return next((share for share in shares if _is_below(path, [share.guest_path])), None)


def refusal(name: str, refused: Sequence[Refused]) -> str:
    """Return what a client is told instead of what dockerd would answer: why, and the line to run."""
    return "\n".join(_sentence(name, each) for each in refused)


def shares_of(spec: Mapping[str, Any]) -> list[Shared]:
    """Return the shares in a sandbox's spec.json."""
    return [Shared(share["host_path"], share["guest_path"]) for share in spec.get("shares") or ()]


def _sentence(name: str, refused: Refused) -> str:
    source, path = refused.source, refused.leads_to
    which = source if source == path else f"{source} leads to {path}, which"
    share = _shareable(path)
    add = f"kata-dind share add {name} {shlex.quote(share)}"
    if refused.found is Found.SOCKET:
        return (
            f"bind source path is a socket: {source} is a socket of this host, and the sandbox '{name}' "
            "can't reach those; share its files, or reach its service over the network"
        )
    if refused.found is Found.NOTHING:
        return (
            f"bind source path does not exist: {which} exists neither on this host nor in the sandbox '{name}'; "
            f"make it, then run: {add}"
        )
    if share != path:
        return (
            f"bind source path is not shared: {which} can't have the same path in the sandbox '{name}'; run: {add}, "
            f"and bind {share.rpartition(':')[2]} instead"
        )
    return f"bind source path is not shared with the sandbox '{name}': {which.removesuffix(', which')}; run: {add}"


def _shareable(path: str) -> str:
    """Return the share to ask for: the path itself, or, where the guest has its own, one with another place."""
    from kata_dind.spec import parse_share  # only a refusal needs it

    try:
        parse_share(path)
    except ValueError:
        return f"{path}:/mnt/host{path.rstrip('/').replace(':', '_')}"
    return path


def _on_host(path: str, share: Shared) -> str:
    return posixpath.normpath(posixpath.join(share.host_path, posixpath.relpath(path, share.guest_path)))


def _is_below(path: str, trees: Sequence[str]) -> bool:
    return any(path == tree or path.startswith(tree.rstrip("/") + "/") for tree in trees)


def _clean(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))  # else two slashes at the beginning would stay


# --- the API's words; Go takes the names of fields in capital and in small letters


def _field(value: object, name: str) -> Any:
    if not isinstance(value, dict):
        return None
    if name in value:
        return value[name]
    return next((found for key, found in value.items() if key.lower() == name.lower()), None)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _of_container(asked: object) -> Iterator[str]:
    host = _field(asked, "HostConfig")
    for bind in _list(_field(host, "Binds")):
        if isinstance(bind, str) and (source := _source_of(bind)):
            yield source
    for mount in _list(_field(host, "Mounts")):
        if _field(mount, "Type") == "bind":
            yield from _absolute(_field(mount, "Source"))
        elif _field(mount, "Type") == "volume":
            driver = _field(_field(mount, "VolumeOptions"), "DriverConfig")
            yield from _device(_field(driver, "Name"), _field(driver, "Options"))


def _of_volume(asked: object) -> Iterator[str]:
    yield from _device(_field(asked, "Driver"), _field(asked, "DriverOpts"))


def _source_of(bind: str) -> str:
    """Return the host's path in `SOURCE:DESTINATION[:MODE]`; empty for a volume's name, and for nonsense.

    Source: moby's volume/mounts/linux_parser.go; it takes a colon in a path for a separator, too.
    """
    parts = bind.split(":", 3)
    if len(parts) not in (2, 3) or not parts[0].startswith("/") or not parts[1].startswith("/"):
        return ""
    return parts[0]


def _device(driver: object, options: object) -> Iterator[str]:
    """Yield the device of a local volume that is a bind. Source: moby's volume/local."""
    words = str(_field(options, "o") or "").split(",")
    if driver in (None, "", "local") and ("bind" in words or "rbind" in words):
        yield from _absolute(_field(options, "device"))


def _absolute(path: object) -> Iterator[str]:
    if isinstance(path, str) and path.startswith("/"):
        yield path
