"""`kata-dind ls`: the sandboxes of this user."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kata_dind.cli.options import Json, takes_session
from kata_dind.cli.output import human_duration, human_size, print_json, print_table, printable
from kata_dind.cli.session import Session

if TYPE_CHECKING:
    from kata_dind.sandbox.api import SandboxSummary

_HEADER = ("NAME", "STATE", "DOCKER", "DATA ROOT", "VOLUME", "ACCELERATOR", "IMAGE", "PORTS", "UPTIME", "DISK")

_MOST_PORTS = 4


@takes_session
def ls(session: Session, *, json: Json = False) -> None:
    """List the sandboxes; with --quiet, only their names."""
    summaries = session.sandboxes.list_sandboxes()
    if json:
        print_json([dataclasses.asdict(summary) for summary in summaries])
    elif session.quiet:
        print("".join(f"{summary.name}\n" for summary in summaries), end="")
    else:
        print_table(_HEADER, [_row(summary) for summary in summaries])
        for summary in summaries:
            if summary.problem:
                print(printable(f"kata-dind: {summary.name}: {summary.problem}"), file=sys.stderr)


def _row(summary: SandboxSummary) -> tuple[str, ...]:
    words = (summary.name, summary.state, summary.docker_version, summary.data_root, summary.volume)
    return (
        *(str(word or "-") for word in (*words, summary.accelerator, summary.image, short_ports(summary.ports))),
        human_duration(summary.uptime_seconds),
        human_size(summary.disk_bytes),
    )


def short_ports(ports: Iterable[Mapping[str, Any]]) -> str:
    """Name the first few ports: by the number where that is 127.0.0.1's, else with the address; UDP is told."""
    names = [_short(port) for port in ports]
    return ", ".join([*names[:_MOST_PORTS], *(["…"] if len(names) > _MOST_PORTS else [])])


def _short(port: Mapping[str, Any]) -> str:
    first = next(iter(port["addresses"]), "?")
    number = str(port["port"]) if first == "127.0.0.1" else f"{first}:{port['port']}"
    return number if port["protocol"] == "tcp" else f"{number}/{port['protocol']}"
