"""`kata-dind stop`: shut sandboxes down; their data roots stay."""

from __future__ import annotations

from typing import Annotated

from kata_dind.cli.options import Names, option, seconds, takes_session
from kata_dind.cli.output import progress
from kata_dind.cli.session import Session

Timeout = Annotated[
    float,
    option(
        "--timeout",
        variable="STOP_TIMEOUT",
        metavar="SECONDS",
        parser=seconds,
        help_text="How long to wait; a guest that hangs is forced by itself within a minute.",
    ),
]


@takes_session
def stop(session: Session, names: Names, *, timeout: Timeout = 60) -> None:
    """Shut sandboxes down; what a data root keeps stays."""
    sandboxes = [session.sandboxes.require_sandbox(name) for name in dict.fromkeys(names)]
    with progress(session) as shown:
        for sandbox in sandboxes:
            sandbox.stop(timeout_seconds=timeout, report=shown.report)
