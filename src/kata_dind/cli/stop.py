"""`kata-dind stop`: shut sandboxes down, or suspend them with --save; their data roots stay."""

from __future__ import annotations

from typing import Annotated

from kata_dind.cli.options import Names, flag, option, seconds, takes_session
from kata_dind.cli.output import progress
from kata_dind.cli.session import Session

Timeout = Annotated[
    float,
    option(
        "--timeout",
        variable="STOP_TIMEOUT",
        metavar="SECONDS",
        parser=seconds,
        help_text="How long to wait for each sandbox to end. A guest that hangs is ended by force within a minute.",
    ),
]

Save = Annotated[
    bool,
    flag(
        "--save",
        variable="STOP_SAVE",
        help_text="Save the memory as well, so that the next start resumes everything that is running. "
        "This works only for sandboxes that were started from a seed.",
    ),
]


@takes_session
def stop(session: Session, names: Names, *, save: Save = False, timeout: Timeout = 60) -> None:
    """Shut sandboxes down. Their data roots stay, except those in memory."""
    sandboxes = [session.sandboxes.require_sandbox(name) for name in dict.fromkeys(names)]
    with progress(session) as shown:
        for sandbox in sandboxes:
            sandbox.stop(save=save, timeout_seconds=timeout, report=shown.report)
