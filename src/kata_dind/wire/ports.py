"""What is said about published ports: a guest's lines, and the answers to them. Pure.

The guest asks about a port before a container may have it, and waits for the answer; `close` follows when the port is
not published any more. A new stream first gets every port there is, then how many that were. One that is published
already can't be refused any more.

    guest → {"id": 1, "open": {"protocol", "host_address", "port", …}, "published": false}    {"id": 1, "close": true}
            {"all": 0}
    host  → {"id": 1, "ok": true}    {"id": 1, "error": "why not"}
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any, NamedTuple


class PublishedPort(NamedTuple):
    """A port of a container as its user has published it."""

    protocol: str
    """tcp, udp or sctp."""
    host_address: str
    """The address that the user has published it on, in the guest: mostly 0.0.0.0, and then again ::."""
    port: int
    container_address: str
    container_port: int
    retried: bool = False
    """Whether dockerd tries another number by itself when one that it has chosen is refused."""


class Asked(NamedTuple):
    """A port is about to be published, or is published already."""

    number: int
    port: PublishedPort
    is_published: bool


class Unpublished(NamedTuple):
    """A port is not published any more, or not wanted any more."""

    number: int


class AllTold(NamedTuple):
    """The guest has told of all ports that were published before."""

    published: int


PortEvent = Asked | Unpublished | AllTold


def parse_port_event(line: bytes) -> PortEvent:
    """Parse a line of the guest's. Raises ValueError for one that makes no sense, since a guest may send anything."""
    try:
        message: dict[str, Any] = json.loads(line)
        if "all" in message:
            return AllTold(_number(message["all"]))
        number = _number(message["id"])
        if message.get("close"):
            return Unpublished(number)
        return Asked(number, _port(message["open"]), message.get("published") is True)
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not about a port: {line[:200]!r}") from error


def answer_line(number: int, error: str = "") -> bytes:
    """Return the line that grants a port, or refuses it with a reason."""
    return json.dumps({"id": number, "error": error} if error else {"id": number, "ok": True}).encode() + b"\n"


def _port(fields: dict[str, Any]) -> PublishedPort:
    protocol = fields["protocol"]
    if protocol not in ("tcp", "udp", "sctp"):
        raise ValueError(f"{protocol!r} is not a protocol of ports")
    return PublishedPort(
        protocol,
        str(ipaddress.ip_address(fields["host_address"])),
        _number(fields["port"], most=0xFFFF),
        str(ipaddress.ip_address(fields["container_address"])),
        _number(fields["container_port"], most=0xFFFF),
        fields.get("retried") is True,
    )


def _number(value: object, *, most: int = 1 << 53) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r} is not a number from 0 to {most}")
    return value
