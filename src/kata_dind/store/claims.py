"""The numbers of ports and the loopback addresses that this user's running sandboxes have, in one file of claims.

A claim ends with the process that made it. So a sandbox whose owner was killed keeps neither its ports nor its address.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from kata_dind.host.directories import state_directory
from kata_dind.host.json_files import read_json
from kata_dind.host.locks import Claims
from kata_dind.store.sandboxes import sandboxes_directory
from kata_dind.vocabulary import Transport

_NETWORKS, _HOSTS = 1 << 14, 254
"""The addresses of 127.64.0.0/10, which Linux has on its loopback interface without any setup."""
_ADDRESSES = _NETWORKS * _HOSTS

_PORTS = 1 << 16
_FIRST_ADDRESS = len(Transport) * _PORTS
"""Claims of addresses follow those of ports."""
_FIRST_ELSEWHERE = 1 << 32
"""Claims of ports of other addresses than localhost follow both."""

LOCALHOST = ("127.0.0.1", "::1")
ANY = ("0.0.0.0", "::")


class SandboxClaims:
    """What one running sandbox has claimed."""

    def __init__(self) -> None:
        self._claims = Claims(state_directory() / "claims.lock")

    def claim_address(self, directory: Path, before: str) -> str:
        """Return a loopback address that no other running sandbox of this user has: the one of before, if it is free.

        That of a new sandbox follows from its directory, so that other users' sandboxes most likely have another, too.
        """
        number = _number_of(before or likely_address(directory))
        while not self._claims.claim(_FIRST_ADDRESS + number):
            number = (number + 1) % _ADDRESSES
        return _address_of(number)

    def claim_port(self, transport: Transport, port: int, address: str) -> bool:
        """Claim a port of an address that sandboxes share; return False when another sandbox has it.

        127.0.0.1, ::1 and all addresses of the host are one claim: a number is the same sandbox's on each of them.
        """
        return self._claims.claim(_place(transport, port, address))

    def release_port(self, transport: Transport, port: int, address: str) -> None:
        """Let go of a port, and of those that are one claim with it."""
        self._claims.release(_place(transport, port, address))

    def close(self) -> None:
        """Let go of everything."""
        self._claims.close()


def sandbox_with_port(transport: Transport, port: int, address: str, *, except_for: str) -> str:
    """Return the name of the sandbox that says that it has a port of an address; empty where none does."""
    for directory in sandboxes_directory().iterdir():
        for known in read_json(directory / "status.json").get("ports", ()):
            held = known["shared"] if _is_everybodys(address) else address in known["addresses"]
            if held and (known["protocol"], known["port"]) == (transport, port) and directory.name != except_for:
                return directory.name
    return ""


def _place(transport: Transport, port: int, address: str) -> int:
    place = list(Transport).index(transport) * _PORTS + port
    return (
        place if _is_everybodys(address) else _FIRST_ELSEWHERE + zlib.crc32(address.encode()) * _FIRST_ADDRESS + place
    )


def _is_everybodys(address: str) -> bool:
    return address in LOCALHOST or address in ANY


def likely_address(directory: Path) -> str:
    """Return the loopback address that follows from a sandbox's directory."""
    return _address_of(zlib.crc32(bytes(directory)) % _ADDRESSES)


def _address_of(number: int) -> str:
    network, host = divmod(number, _HOSTS)
    return f"127.{64 + (network >> 8)}.{network & 255}.{host + 1}"


def _number_of(address: str) -> int:
    """Return the number of an address that `_address_of` made."""
    _, second, third, fourth = map(int, address.split("."))
    return (((second - 64) << 8) + third) * _HOSTS + fourth - 1
