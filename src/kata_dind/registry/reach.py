"""Which registries may be asked, and at which addresses: the policy's rules against images that name any host. Pure.

Whoever may create a pod chooses the image, and so the host that a lookup would connect to. So only listed registries
are asked, and a name that leads to this machine, its link or a cloud's metadata service is refused unless the policy
has that very name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from kata_dind.pod.policy import Registry, matches
from kata_dind.registry.remote import DOCKER_HUB, RemoteImage, server_of, without_port

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_WILDCARDS = frozenset("*?[")
_METADATA = frozenset(
    map(ipaddress.ip_address, ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"))
)
"""Where clouds serve metadata and credentials of the machine; those of AWS over IPv6 and of Azure look like others."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_OF_ONE_NETWORK = tuple(map(ipaddress.ip_network, ("::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "fec0::/10")))
"""IPv6 addresses that may stand for any IPv4 address, as the network in between has it (RFC 4291, 7915 and 8215), and
site-local ones. For Python they are public."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that speaks the distribution protocol for a registry."""

    host: str
    """With the port if there is one."""
    is_plain: bool
    """It is asked over http."""
    is_mirror: bool = False

    @property
    def url(self) -> str:
        """The beginning of its URLs."""
        return f"{'http' if self.is_plain else 'https'}://{self.host}"


class Reach:
    """The rules of a policy."""

    def __init__(self, registry: Registry) -> None:
        self._allowed = registry.allowed
        mirrors = [urlsplit(mirror) for mirror in registry.mirrors]
        self._mirrors = [Server(parts.netloc, parts.scheme == "http", is_mirror=True) for parts in mirrors]
        self._plain = frozenset((*registry.insecure, *(server.host for server in self._mirrors if server.is_plain)))
        hosts = [pattern.partition("/")[0] for pattern in registry.allowed]
        by_name = [host for host in hosts if not _WILDCARDS.intersection(host)]
        self._named = frozenset((*by_name, *registry.insecure, *(server.host for server in self._mirrors)))

    def refusal(self, image: RemoteImage) -> str:
        """Return why an image may not be asked for; empty if it may."""
        if any(_is_about(pattern, image) for pattern in self._allowed):
            return ""
        return f"the policy does not allow to ask the registry {image.registry} (registry.allowed)"

    def servers(self, image: RemoteImage) -> Sequence[Server]:
        """Return the servers to ask, in their order: mirrors stand before Docker Hub."""
        own = Server(server_of(image.registry), self.is_plain(image.registry))
        return (*self._mirrors, own) if image.registry == DOCKER_HUB else (own,)

    def is_plain(self, host: str) -> bool:
        """Tell whether a host may be asked without TLS: on this machine, as Docker has it, or by the policy."""
        if host in self._plain:
            return True
        name = without_port(host)
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost"

    def refused_address(self, host: str, address: Address, *, image: RemoteImage) -> str:
        """Return why an address, to which a name leads, is not connected to for an image; empty if it may be."""
        if host in self._named:
            return ""
        address = _embedded(address)
        if (
            address in _METADATA
            or any(getattr(address, f"is_{kind}") for kind in _NEVER_MEANT)
            or any(address in network for network in _OF_ONE_NETWORK)
        ):
            return f"{without_port(host)} leads to {address}, which is not asked unless the policy names that host"
        if not address.is_global and not any(
            _is_about(pattern, image) and pattern.strip("*?.:/") for pattern in self._allowed
        ):
            return f"{without_port(host)} leads to the private address {address}, and the policy names no such registry"
        return ""


_NEVER_MEANT = ("link_local", "loopback", "multicast", "unspecified")


def _embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_about(pattern: str, image: RemoteImage) -> bool:
    return matches(pattern, image.name if "/" in pattern else image.registry)
