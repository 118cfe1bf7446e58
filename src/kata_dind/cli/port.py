"""`kata-dind port`: where on this host the published ports of a sandbox can be reached."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import typer

from kata_dind.cli import completion
from kata_dind.cli.options import DEFAULT_NAME, Json, NameOrDefault, takes_session
from kata_dind.cli.output import print_json, printable
from kata_dind.cli.session import Session
from kata_dind.errors import GuestNotReady, SpecError

_PORT = re.compile(r"([0-9]{1,5})(?:/([a-z]+))?", re.ASCII)

PortOrAll = Annotated[
    str,
    typer.Argument(
        metavar="PORT[/PROTOCOL]",
        autocompletion=completion.published_ports,
        help="A published port, as it was given to `docker run -p`; all of them if none is given.",
    ),
]


class Asked(NamedTuple):
    """A port that a user asks about."""

    port: int
    protocol: str


@takes_session
def port(session: Session, name: NameOrDefault = DEFAULT_NAME, port: PortOrAll = "", *, json: Json = False) -> None:
    """Show where on this host the ports can be reached that a sandbox's containers publish.

    Every port can be reached on the sandbox's own loopback address. It can also be reached on 127.0.0.1 and ::1, unless
    another sandbox has published the number there before.
    """
    asked = parse_port(port) if port else None
    sandbox = session.sandboxes.require_sandbox(name)
    if sandbox.state not in ("running", "unknown"):
        raise GuestNotReady(
            f"the sandbox {name!r} is {sandbox.state}", id="sandbox.not-running", hint=f"kata-dind start {name}"
        )
    ports = [known for known in sandbox.ports if asked in (None, (known["port"], known["protocol"]))]
    if asked and not ports:
        raise SpecError(
            f"no container of {name!r} publishes the port {asked.port}/{asked.protocol}",
            id="port.not-published",
            hint=f"kata-dind port {name}",
        )
    if json:
        print_json(ports)
        return
    for known in ports:
        for place in places(known):
            print(place if asked else f"{known['port']}/{known['protocol']} -> {place}")
        for warning in known["warnings"]:
            print(printable(f"kata-dind: {name}: {warning}"), file=sys.stderr)


def parse_port(text: str) -> Asked:
    """Parse `8080` or `53/udp`, or raise SpecError."""
    match = _PORT.fullmatch(text)
    if match is None or not 1 <= int(match[1]) <= 0xFFFF or match[2] not in (None, "tcp", "udp"):
        raise SpecError(f"PORT: {text!r} is not a port; use a number up to 65535, like 8080 or 53/udp",
                        id="spec.wrong-value")  # fmt: skip
    return Asked(int(match[1]), match[2] or "tcp")


def places(port: Mapping[str, Any]) -> list[str]:
    """Return where a port can be reached, as an address and a port."""
    return [f"[{address}]:{port['port']}" if ":" in address else f"{address}:{port['port']}"
            for address in port["addresses"]]  # fmt: skip
