"""How users name an image: a reference in a registry, an OCI layout, or an archive of `docker save`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from kata_dind.errors import SpecError

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_REGISTRY_REFERENCE = re.compile(
    rf"(?:(?P<host>{_HOST})/)?(?P<name>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_ALLOWED = "allowed are NAME[:TAG], HOST[:PORT]/NAME[:TAG], oci:DIRECTORY[:TAG] and docker-archive:FILE[:NAME:TAG]"


@dataclass(frozen=True)
class Reference:
    """An image in the place that it can be copied from."""

    text: str
    """The reference in its one spelling: with a tag, and with absolute paths."""
    source: str
    """The reference as skopeo spells it."""
    host: str = ""
    """The registry's host and port; empty when the reference names none."""
    path: Path | None = None
    """The directory or file; None for an image in a registry."""

    @property
    def is_loopback(self) -> bool:
        """Whether the image lies in a registry on this machine, which Docker, too, trusts without TLS."""
        name = self.host.rpartition(":")[0] if re.search(r":\d+$", self.host) else self.host
        try:
            return ipaddress.ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return name == "localhost"


def parse_reference(text: str, *, relative_to: Path) -> Reference:
    """Parse the REFERENCE of `image pull`. Raises SpecError, which names the allowed forms."""
    kind, colon, rest = text.partition(":")
    if kind in ("oci", "docker-archive") and colon:
        return _parse_file(kind, rest, relative_to=relative_to)
    match = _REGISTRY_REFERENCE.fullmatch(text.removeprefix("docker://"))
    if match is None or not _is_possible_host(match["host"]):
        raise SpecError(f"REFERENCE: {text!r} is not an image reference; {_ALLOWED}", id="image.reference-invalid")
    bare = text.removeprefix("docker://")
    plain = bare if match["tag"] or match["digest"] else f"{bare}:latest"
    # A digest is enough, and skopeo takes no tag beside it.
    source = re.sub(r":[^:/@]+@", "@", plain)
    return Reference(plain, f"docker://{source}", match["host"] or "")


def _is_possible_host(host: str | None) -> bool:
    # As in Docker, a first part without a dot or a port is the beginning of a name, which has no capitals.
    return host is None or host == "localhost" or "." in host or ":" in host or host == host.lower()


def _parse_file(kind: str, rest: str, *, relative_to: Path) -> Reference:
    name, _, tag = rest.partition(":")
    if not name:
        raise SpecError(f"REFERENCE: {kind}: names no path; {_ALLOWED}", id="image.reference-invalid")
    path = relative_to / Path(name).expanduser()
    if not (path.is_dir() if kind == "oci" else path.is_file()):
        what = "an OCI layout's directory" if kind == "oci" else "an archive"
        raise SpecError(f"REFERENCE: {kind}:{rest}: {path} is not {what}", id="image.file-missing")
    text = f"{kind}:{path}{':' if tag else ''}{tag}"
    return Reference(text, text, path=path)
