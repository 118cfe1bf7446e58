"""The source of packages: a release, a mirror, apt's options."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from kata_dind.errors import HostError

_UBUNTU_SUITES = frozenset(
    ("focal", "jammy", "noble", "oracular", "plucky", "questing", "resolute"),
)


@dataclass(frozen=True)
class PackageSource:
    """A release's packages; without a mirror, mmdebstrap's own mirrors for the release are used."""

    suite: str
    mirror: str | None = None
    apt_options: tuple[str, ...] = ()
    """Lines of apt.conf, such as `Acquire::http::Proxy "http://proxy:3142";`."""

    @property
    def is_ubuntu(self) -> bool:
        """Whether the release is one of Ubuntu's, where Docker is in `universe`."""
        return self.suite in _UBUNTU_SUITES


def default_source(*, mirror: str | None = None, apt_options: tuple[str, ...] = ()) -> PackageSource:
    """Return the host's own release as a source. Raises HostError when the host is neither Debian nor Ubuntu."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    return PackageSource(host_suite(release), mirror, apt_options)


def host_suite(release: Mapping[str, str]) -> str:
    """Return the code name in an os-release. Raises HostError when it is not one of Debian's or Ubuntu's."""
    suite = release.get("VERSION_CODENAME", "")
    if release.get("ID") in ("debian", "ubuntu") and suite:
        return suite
    # Older releases of Debian's testing and unstable have no code name here.
    raise HostError(
        f"this host ({release.get('PRETTY_NAME', 'unknown')}) is not a Debian or Ubuntu release with a code name",
        id="host.release-unknown",
        hint="name a release: --suite trixie",
    )


def debian_architecture(machine: str) -> str:
    """Translate uname's word for a processor into Debian's. Raises HostError for one that we don't build for."""
    try:
        return {"x86_64": "amd64", "aarch64": "arm64"}[machine]
    except KeyError:
        raise HostError(
            f"machines of type {machine} are not supported; x86_64 and aarch64 are", id="host.processor-unsupported"
        ) from None
