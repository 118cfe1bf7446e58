"""Manifests, indexes and configurations, as bytes that a registry sent: checked, and parsed into what we need. Pure.

Source: the OCI image specification (manifest.md, image-index.md, config.md), and Docker's v2 schema 2.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kata_dind.pod.model import ImageConfig
from kata_dind.pod.reading import items, mapping, text
from kata_dind.registry.unread import Unread

MOST_MANIFEST_BYTES = 4 << 20
"""As registries and clients limit it by the distribution specification."""
MOST_CONFIG_BYTES = 8 << 20
_MOST_KEPT_CHARACTERS = 128 << 10
"""What is remembered of a configuration; one of a real image has a few thousand."""

INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")

_DIGEST = re.compile(r"(sha256):[0-9a-f]{64}|(sha512):[0-9a-f]{128}")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest or an index says of another document."""

    digest: str
    size_bytes: int


def checked(body: bytes, wanted: Descriptor, *, what: str) -> bytes:
    """Return a document that has the digest and the size that were promised. Raises Unread."""
    check_digest(body, wanted.digest, what=what)
    if len(body) != wanted.size_bytes:
        raise Unread(f"{what} is not as long as its manifest says")
    return body


def check_digest(body: bytes, digest: str, *, what: str) -> None:
    """Compare a document with its digest. Raises Unread."""
    algorithm = digest.partition(":")[0]
    found = f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"
    if not hmac.compare_digest(found, digest):
        raise Unread(f"{what} does not have the digest that it was asked for by")


def is_digest(value: str) -> bool:
    """Tell whether a text is a digest that can be compared."""
    return _DIGEST.fullmatch(value) is not None


def read_manifest(body: bytes, architecture: str) -> tuple[Descriptor, bool]:
    """Return what a manifest leads to, and whether that is a manifest again, as for one platform of an index.

    Raises Unread for what is neither, and for an index that has no image for Linux, or not for this architecture.
    """
    data = _parsed(body, "its manifest")
    kind = text(data.get("mediaType"))
    is_index = kind in INDEXES or (not kind and "manifests" in data)
    # A document that is both would be read in one way here, and in another by the node (CVE-2021-41190).
    if "manifests" in data and ("config" in data or "layers" in data):
        raise Unread("its manifest is an index and an image at once")
    if is_index:
        return _of_platform(data, architecture), True
    if data.get("schemaVersion") == 1:
        raise Unread("its manifest is of Docker's old schema 1, which is not read")
    if kind and kind not in MANIFESTS:
        raise Unread("its manifest is not that of an image")
    config = mapping(data.get("config"))
    if text(config.get("mediaType")) not in _CONFIGS:
        raise Unread("it is an artifact, not an image with a configuration")
    return _descriptor(config, MOST_CONFIG_BYTES), False


def read_config(body: bytes) -> ImageConfig:
    """Return what a configuration says of the process. Raises Unread."""
    data = _parsed(body, "its configuration")
    process = mapping(data.get("config"))
    config = ImageConfig(
        entrypoint=_words(process.get("Entrypoint")),
        cmd=_words(process.get("Cmd")),
        user=text(process.get("User")),
        environment=dict(word.split("=", 1) for word in _words(process.get("Env")) if "=" in word),
        volumes=frozenset(path for path in mapping(process.get("Volumes")) if isinstance(path, str)),
        architecture=text(data.get("architecture")),
        labels={name: text(value) for name, value in mapping(process.get("Labels")).items() if isinstance(name, str)},
    )
    kept = [*config.entrypoint, *config.cmd, config.user, *config.volumes, config.architecture]
    kept += [part for pairs in (config.environment, config.labels) for pair in pairs.items() for part in pair]
    if sum(map(len, kept)) > _MOST_KEPT_CHARACTERS:
        raise Unread("its configuration is larger than that of any real image")
    return config


def _of_platform(index: Mapping[Any, Any], architecture: str) -> Descriptor:
    found: list[tuple[str, Mapping[Any, Any]]] = []
    for each in map(mapping, items(index.get("manifests"))):
        platform = mapping(each.get("platform"))
        # Attestations stand beside the images, as of an unknown platform.
        if text(platform.get("os")) in ("linux", "") and text(each.get("mediaType")) in (*MANIFESTS, ""):
            found.append((text(platform.get("architecture")), each))
    for wanted in (architecture,) if architecture else ("amd64", "arm64", ""):
        for name, each in found:
            if name == wanted:
                return _descriptor(each, MOST_MANIFEST_BYTES)
    if architecture or not found:
        raise Unread(f"it has no image for linux/{architecture}" if architecture else "it has no image for Linux")
    return _descriptor(found[0][1], MOST_MANIFEST_BYTES)


def _descriptor(data: Mapping[Any, Any], most_bytes: int) -> Descriptor:
    digest, size = text(data.get("digest")), data.get("size")
    if not is_digest(digest) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise Unread("its manifest names no digest and size that can be checked")
    if size > most_bytes:
        raise Unread(f"it has a document of {size} bytes, and {most_bytes >> 20} MiB is the most that is read")
    return Descriptor(digest, size)


def _words(value: object) -> tuple[str, ...]:
    found = items(value)
    if not all(isinstance(word, str) for word in found):
        raise Unread("its configuration has a list of words with something else in it")
    return tuple(found)


def _parsed(body: bytes, what: str) -> Mapping[Any, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise Unread(f"{what} is not JSON") from None
    if not isinstance(data, dict):
        raise Unread(f"{what} is not a JSON object")
    return data
