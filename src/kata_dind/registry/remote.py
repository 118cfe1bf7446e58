"""Where an image lies: its registry, its repository there, and what names the image in it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kata_dind.pod.images import parse_image

DOCKER_HUB = "docker.io"
"""The registry of images that name none."""

_HUB = frozenset((DOCKER_HUB, "index.docker.io", "registry-1.docker.io"))
_HUB_SERVER = "registry-1.docker.io"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image in a registry."""

    registry: str
    """Its host, with the port if there is one: `docker.io` for Docker Hub."""
    repository: str
    """As in `library/docker`."""
    wanted: str
    """The digest if the reference has one, else the tag."""

    @property
    def name(self) -> str:
        """Registry and repository, as patterns and credentials speak of them."""
        return f"{self.registry}/{self.repository}"

    @property
    def has_digest(self) -> bool:
        """Whether the reference can never mean another image."""
        return ":" in self.wanted


def remote_image(reference: str) -> RemoteImage | None:
    """Return where a reference leads; None if it is none, or has a digest of an algorithm that nobody uses."""
    image = parse_image(reference)
    if image is None or (image.digest and not _DIGEST.fullmatch(image.digest)):
        return None
    registry, repository = image.registry.lower() or DOCKER_HUB, image.path
    if registry in _HUB:
        registry = DOCKER_HUB
        repository = repository if "/" in repository else f"library/{repository}"
    return RemoteImage(registry, repository, image.digest or image.tag or "latest")


def server_of(registry: str) -> str:
    """Return the host, with its port, that speaks for a registry."""
    return _HUB_SERVER if registry == DOCKER_HUB else registry


def without_port(host: str) -> str:
    """Return a host without its port and without the brackets of an IPv6 address."""
    bare = re.sub(r":[0-9]+$", "", host) if host.startswith("[") or host.count(":") == 1 else host
    return bare.strip("[]")
