"""`kata-dind rm`: remove sandboxes with everything in them."""

from __future__ import annotations

from typing import Annotated

from kata_dind.cli.options import Names, flag, takes_session
from kata_dind.cli.output import progress
from kata_dind.cli.session import Session

Force = Annotated[bool, flag("--force", "-f", variable="RM_FORCE", help_text="Remove sandboxes that are running, too.")]


@takes_session
def rm(session: Session, names: Names, *, force: Force = False) -> None:
    """Remove sandboxes and their own data roots; volumes stay."""
    sandboxes = [session.sandboxes.require_sandbox(name) for name in dict.fromkeys(names)]
    with progress(session) as shown:
        for sandbox in sandboxes:
            sandbox.remove(force=force, report=shown.report)
