"""Credentials for registries, from pull secrets and Docker's configuration: which ones an image gets, as kubelet does.

Pure. Source: Kubernetes' pkg/credentialprovider/keyring.go, of which the rules are, and config.go.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kata_dind.pod.policy import matches
from kata_dind.pod.reading import mapping, text
from kata_dind.registry.remote import DOCKER_HUB, RemoteImage

_LARGEST_SECRET = 1 << 20
_HUB_KEY = "index.docker.io"


@dataclass(frozen=True, slots=True)
class Credential:
    """A user of a registry."""

    user: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode("ascii")


class Keyring:
    """Credentials by what they are for."""

    def __init__(self, entries: Iterable[tuple[str, Credential]] = ()) -> None:
        found: dict[str, list[Credential]] = {}
        for place, credential in entries:
            found.setdefault(_key(place), []).append(credential)
        # Longer ones first, as what is more specific.
        self._entries = sorted(found.items(), reverse=True)

    def credentials_for(self, image: RemoteImage) -> tuple[Credential, ...]:
        """Return what may be tried for an image, in this order; nothing if only anonymous access is left."""
        found = [each for key, some in self._entries if _is_for(key, image) for each in some]
        if not found and image.registry == DOCKER_HUB:
            found = [each for key, some in self._entries if key == _HUB_KEY for each in some]
        return tuple(dict.fromkeys(found))

    def and_those_of(self, other: Keyring) -> Keyring:
        """Return a keyring with both; these stand first where both are as specific."""
        both = [(key, each) for ring in (self, other) for key, some in ring._entries for each in some]
        return Keyring(both)


NO_CREDENTIALS = Keyring()


def fingerprint(credentials: Sequence[Credential]) -> bytes:
    """Return what tells credentials apart, and does not give them away."""
    known = json.dumps([(each.user, each.password) for each in credentials]).encode()
    return hashlib.blake2b(known, digest_size=16).digest()


def entries_of_secret(secret: Mapping[str, Any]) -> Iterator[tuple[str, Credential]]:
    """Yield the credentials in a Secret of one of the two types for pulling; none for what is not one."""
    kind = text(secret.get("type"))
    if kind == "kubernetes.io/dockerconfigjson":
        yield from entries_of_config(_parsed(_value(secret, ".dockerconfigjson")))
    elif kind == "kubernetes.io/dockercfg":
        yield from _entries(_parsed(_value(secret, ".dockercfg")))


def entries_of_config(config: object) -> Iterator[tuple[str, Credential]]:
    """Yield the credentials in a config.json of Docker's."""
    yield from _entries(mapping(config).get("auths"))


def _entries(auths: object) -> Iterator[tuple[str, Credential]]:
    for place, entry in mapping(auths).items():
        credential = _credential(mapping(entry))
        if isinstance(place, str) and credential is not None:
            yield place, credential


def _credential(entry: Mapping[Any, Any]) -> Credential | None:
    user, password = text(entry.get("username")), text(entry.get("password"))
    decoded = _decoded(text(entry.get("auth")))
    if decoded and b":" in decoded:
        # A user has no colon in it, and a password may have.
        user, _, password = decoded.decode("utf-8", "replace").partition(":")
        password = password.rstrip("\0")
    return Credential(user, password) if user or password else None


def _value(secret: Mapping[str, Any], key: str) -> bytes:
    plain = text(mapping(secret.get("stringData")).get(key))
    return plain.encode() if plain else _decoded(text(mapping(secret.get("data")).get(key)))


def _decoded(value: str) -> bytes:
    if len(value) > _LARGEST_SECRET * 2:
        return b""
    try:
        return base64.b64decode("".join(value.split()))
    except ValueError:
        return b""


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content) if content else {}
    except (ValueError, RecursionError):
        return {}


def _key(place: str) -> str:
    """Return host and path of what credentials are for, without a scheme and without the version of the API."""
    bare = place.removeprefix("https://").removeprefix("http://")
    host, slash, path = bare.partition("/")
    path = slash + path
    if path.startswith(("/v1/", "/v2/")):
        path = path[3:]
    return host if path in ("", "/") else host + path


def _is_for(key: str, image: RemoteImage) -> bool:
    """Tell whether a key is for an image: each part of the host as a pattern, the same port, the path's beginning."""
    key_host, slash, key_path = key.partition("/")
    if not f"/{image.repository}".startswith(slash + key_path):
        return False
    (key_name, key_port), (name, port) = _split(key_host), _split(image.registry)
    key_parts, parts = key_name.split("."), name.split(".")
    return (
        key_port == port
        and len(key_parts) == len(parts)
        and all(matches(one.replace("[^", "[!"), other) for one, other in zip(key_parts, parts, strict=True))
    )


def _split(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and port.isdecimal() else (host, "")
