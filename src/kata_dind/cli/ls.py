"""`kata-dind ls`: the sandboxes of this user."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

from kata_dind.cli.options import Json, takes_session
from kata_dind.cli.output import human_duration, human_size, print_json, print_table, printable
from kata_dind.cli.session import Session

if TYPE_CHECKING:
    from kata_dind.sandbox.api import SandboxSummary

_HEADER = ("NAME", "STATE", "DOCKER", "DATA ROOT", "VOLUME", "ACCELERATOR", "IMAGE", "UPTIME", "DISK")


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
        *(str(word or "-") for word in (*words, summary.accelerator, summary.image)),
        human_duration(summary.uptime_seconds),
        human_size(summary.disk_bytes),
    )
